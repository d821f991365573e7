"""A side's end of the line: orders in and answers out, one JSON object a line. Standard library alone.

Peers run in environments of their own, so this file may import nothing that is not Python's.
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
os.dup2(2, 1)  # at import: what libraries print while they are imported is no answer either


def confine(threads: int) -> None:
    """Gives this process as many cores as `threads`, whatever pools its libraries start. Call before they are imported."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[:threads])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"):
        os.environ[name] = str(threads)


def serve(prepare: Callable[[], dict[str, Work]]) -> None:
    """Prepares, says so, and then does what each line asks: {"do": name, …} → {…, "seconds", "peak_mib"}.

    What libraries print goes to standard error.
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
    """The greatest resident memory of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins with what the parent had when it forked
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
