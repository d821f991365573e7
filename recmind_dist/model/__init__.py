"""The model in plain torch: text view, gates, propagation, losses, queue. No Ray, no collectives,
no sampling.
"""

from typing import TYPE_CHECKING

from recmind_dist.lazy import lazy_exports
from recmind_dist.model.settings import (
    INIT_SCALE,
    AlignmentSettings,
    ContrastSettings,
    FallbackSettings,
    GateSettings,
    LossSettings,
    ModelSettings,
)

if TYPE_CHECKING:
    from recmind_dist.model.gated_lightgcn import (
        GatedLightGCN,
        MeanOfStates,
        NodeEmbeddings,
        Trainable,
        score,
    )
    from recmind_dist.model.queue import KeyQueue
    from recmind_dist.model.text_view import TextRows, TextView

__all__ = [
    "INIT_SCALE",
    "AlignmentSettings",
    "ContrastSettings",
    "FallbackSettings",
    "GateSettings",
    "GatedLightGCN",
    "KeyQueue",
    "LossSettings",
    "MeanOfStates",
    "ModelSettings",
    "NodeEmbeddings",
    "TextRows",
    "TextView",
    "Trainable",
    "score",
]

_HOMES = dict.fromkeys(
    ("GatedLightGCN", "Trainable", "MeanOfStates", "NodeEmbeddings", "score"), "gated_lightgcn"
)
_HOMES |= {"KeyQueue": "queue", "TextRows": "text_view", "TextView": "text_view"}
__getattr__ = lazy_exports(__name__, _HOMES)
