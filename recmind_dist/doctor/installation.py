"""What is installed here: versions, devices, kernels in use, and what the missing parts cost.

Imports nothing that may be missing, so that the base install can print it.
"""

import os
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from typing import Any

from recmind_dist.extras import EXTRAS

COSTS = {
    "train": "nothing can be trained or evaluated, only bundles are ranked by",
    "serve": "no `recmind serve`",
    "faiss": "no `recmind index`",
    "gguf": "`recmind fetch smollm2` cannot convert its file",
}
"""What a missing extra costs."""
OPTIONAL = {
    "triton": "draws and Adam are slower on a GPU",
    "pyg_lib": "no sampler.backend: pyg; the default, numba, needs nothing more",
}
"""Modules of no extra, and what their absence costs."""


@dataclass(frozen=True)
class Installation:
    """What `recmind info` prints.

    Attributes:
        versions: of Python, of this package and of its direct dependencies that are here.
        devices: CPU cores that this process may use, then GPUs with their memory in GiB.
        kernels: operation → what computes it here.
        missing: extra or module → what its absence costs.
    """

    versions: dict[str, str]
    devices: list[str]
    kernels: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def installation() -> Installation:
    """Looks at this process's environment."""
    absent = {extra: names for extra in EXTRAS if (names := _absent(extra))}
    missing = {
        f"[{extra}]": f"{COSTS[extra]} ({', '.join(names)} not installed)"
        for extra, names in absent.items()
    }
    gpus = _gpus()
    missing |= {
        module: cost
        for module, cost in OPTIONAL.items()
        if not _is_here(module) and (module != "triton" or gpus)
    }
    threads = f"{len(os.sched_getaffinity(0))} CPU cores of {os.cpu_count()}"
    return Installation(dict(_versions()), [threads, *gpus], _kernels(bool(gpus)), missing)


def _absent(extra: str) -> list[str]:
    return [module for module in EXTRAS[extra] if not _is_here(module)]


def _is_here(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):  # half removed
        return False


def _versions() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} on {platform.platform()}"
    yield "recmind-dist", version("recmind-dist")
    names = (_name(line) for line in requires("recmind-dist") or [] if "dev" not in line)
    for name in dict.fromkeys(names):
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        yield name, _torch_version() if name == "torch" and _is_here(name) else found


def _torch_version() -> str:
    """With its build, as 2.14.1+cu130, which the metadata of PyPI's wheels leaves out."""
    import torch

    return str(torch.__version__)


def _name(requirement: str) -> str:
    """ "ray" of "ray[default,train]<3,>=2.60; extra == 'train'"."""
    for end, letter in enumerate(requirement):
        if not (letter.isalnum() or letter in "-_."):
            return requirement[:end]
    return requirement


def _gpus() -> list[str]:
    if not _is_here("torch"):
        return []
    import torch

    found = []
    for at in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        card = torch.cuda.get_device_properties(at)
        found.append(f"GPU {at}: {card.name}, {card.total_memory / 2**30:.0f} GiB")
    return found


def _kernels(has_gpu: bool) -> dict[str, str]:
    """What computes the operations of kernels/; nothing without torch."""
    if not _is_here("torch"):
        return {}
    import torch

    cuda = torch.version.cuda
    on_gpu = "Triton" if _is_here("triton") else "torch"
    return {
        "torch": f"built with CUDA {cuda}" if cuda else "built without CUDA",
        "sums of gathered rows": "cuSPARSE" if has_gpu else "torch embedding_bag",
        "draws of neighbours and negatives": on_gpu if has_gpu else "numba",
        "row-wise Adam": on_gpu if has_gpu else "numba",
    }
