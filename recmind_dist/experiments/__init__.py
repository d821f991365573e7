"""Studies over many runs: tuning on validation, and the paper's experiments."""
