"""Studies over many runs: tuning on validation, and the paper's experiments, each a command with a
table and a figure.
"""
