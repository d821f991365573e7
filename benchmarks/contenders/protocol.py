"""The contender's end of the line to its benchmark: orders in, answers out, a JSON object a line.

Some contenders run in environments of their own, so this file imports only the standard library.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[dict[str, Any]], dict[str, Any]]

_ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # done at import, since libraries print while they are imported, too


def confine(threads: int) -> None:
    """Confines this process to `threads` cores and its libraries' thread pools to as many threads.

    Call before the libraries are imported: they read these variables then.
    """
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])
    for library in ("OMP", "MKL", "OPENBLAS", "NUMEXPR"):
        os.environ[f"{library}_NUM_THREADS"] = str(threads)


def serve(prepare: Callable[[], dict[str, Work]]) -> None:
    """Prepares, says that it is ready, then carries out one order a line until its input ends.

    An order is {"do": name, …}; its answer {…, "seconds", "peak_mib"}. What libraries print goes to
    standard error.

    Args:
        prepare: returns a function for each name that an order may have.
    """
    works = prepare()
    print(json.dumps({"ready": True, "base_mib": peak_mib()}), file=_ANSWERS, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        start = time.perf_counter()
        answer = works[order["do"]](order)
        answer.setdefault("seconds", time.perf_counter() - start)
        print(json.dumps({**answer, "peak_mib": peak_mib()}), file=_ANSWERS, flush=True)


def peak_mib() -> float:
    """Peak resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins with what the parent had when it forked
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
