"""Examines and repairs what a run has written."""
