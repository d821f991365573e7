"""The model in plain torch: text view, gates, propagation, losses, queue. No Ray, no collectives, no sampling."""

from typing import TYPE_CHECKING

from recmind_dist.lazy import lazy_exports
from recmind_dist.model.settings import (
    AlignmentSettings,
    ContrastSettings,
    FallbackSettings,
    GateSettings,
    LossSettings,
    ModelSettings,
)

if TYPE_CHECKING:
    from recmind_dist.model.gated_lightgcn import GatedLightGCN, Learn, MeanOfStates, Views, score
    from recmind_dist.model.queue import KeyQueue
    from recmind_dist.model.text_view import TextRows, TextView

__all__ = [
    "AlignmentSettings", "ContrastSettings", "FallbackSettings", "GateSettings", "GatedLightGCN", "KeyQueue", "Learn",
    "LossSettings", "MeanOfStates", "ModelSettings", "TextRows", "TextView", "Views", "score",
]  # fmt: skip

_HOMES = dict.fromkeys(("GatedLightGCN", "Learn", "MeanOfStates", "Views", "score"), "gated_lightgcn")
_HOMES |= {"KeyQueue": "queue", "TextRows": "text_view", "TextView": "text_view"}
__getattr__ = lazy_exports(__name__, _HOMES)
