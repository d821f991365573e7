"""What holds for all tests: one thread a process and child, set before torch reads it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
