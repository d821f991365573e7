"""Serves a bundle over HTTP: ranks, folds in, explains, swaps bundles. Needs no torch."""
