"""What benchmarks compare, a script each (`run_*.py`), run in a process of its own."""
