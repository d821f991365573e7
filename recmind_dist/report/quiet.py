"""`--quiet`, as an environment variable, so that child processes know of it."""

import os

QUIET_VARIABLE = "RECMIND_QUIET"


def is_quiet() -> bool:
    """Whether only results, warnings and errors are printed."""
    return os.environ.get(QUIET_VARIABLE, "0") not in ("", "0")
