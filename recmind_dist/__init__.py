"""recmind_dist: RecMind (arXiv:2509.06286) trained on graphs that outgrow one machine.

from recmind_dist import Trainer, load
Trainer.from_yaml("configs/quickstart.yaml").run()
load("runs/quickstart").recommend(user_id=1, k=10)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recmind_dist.export import load
    from recmind_dist.graph import Graph
    from recmind_dist.model import GatedLightGCN
    from recmind_dist.sampling import NeighborLoader
    from recmind_dist.training import Trainer

__all__ = ["GatedLightGCN", "Graph", "NeighborLoader", "Trainer", "load"]

_HOMES = {  # imported when asked for: the command line's light commands need no torch
    "Graph": "graph",
    "NeighborLoader": "sampling",
    "GatedLightGCN": "model",
    "Trainer": "training",
    "load": "export",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
