"""What holds for all tests: one thread a process, here and in every child, before torch reads it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
