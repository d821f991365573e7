"""Benchmarks: one command a question. See benchmarks/README.md."""
