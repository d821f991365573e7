"""Ranks items for a user of a finished run."""
