"""`recmind …`: thin commands over the rooms, a file for each group of them."""

from recmind_dist.cli import cache, doctor, experiment, recommend, tune  # each adds its command
from recmind_dist.cli.app import main

__all__ = ["cache", "doctor", "experiment", "main", "recommend", "tune"]
