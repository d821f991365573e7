"""recmind_dist: RecMind (arXiv:2509.06286) trained on graphs that outgrow one machine.

from recmind_dist import Pipeline, load
Pipeline.from_yaml("configs/quickstart.yaml").run()
load("runs/quickstart").recommend(user_id=1, k=10)
"""

import sys
from typing import TYPE_CHECKING

from recmind_dist.lazy import lazy_exports

if TYPE_CHECKING:
    from recmind_dist.graph import Graph
    from recmind_dist.model.lightgcn import LightGCN
    from recmind_dist.pipeline.run import Pipeline
    from recmind_dist.recommend.recommender import load
    from recmind_dist.sampling.loader import NeighborLoader

if sys.platform == "win32":
    raise ImportError("recmind_dist runs on Linux: on Windows install it in WSL (`wsl --install`)")

__all__ = ["Graph", "LightGCN", "NeighborLoader", "Pipeline", "load"]

_HOMES = {  # imported when asked for: the command line's light commands need no torch
    "Graph": "graph",
    "NeighborLoader": "sampling.loader",
    "LightGCN": "model.lightgcn",
    "Pipeline": "pipeline.run",
    "load": "recommend.recommender",
}

__getattr__ = lazy_exports(__name__, _HOMES)
