"""Ranks items by a bundle: known users, histories, filters. Needs no torch."""
