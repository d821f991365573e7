"""Ranking of the full catalogue and its worth: metrics, strata by degree, gate statistics, popularity baseline."""

from typing import TYPE_CHECKING, Any

from recmind_dist.evaluation.gates import gate_statistics
from recmind_dist.evaluation.metrics import RankingMetrics, ranking_metrics
from recmind_dist.evaluation.popularity import rank_popular
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.evaluation.strata import degree_bins, strata_metrics

if TYPE_CHECKING:
    from recmind_dist.evaluation.topk import rank_items

__all__ = [
    "EvaluationSettings",
    "RankingMetrics",
    "degree_bins",
    "gate_statistics",
    "rank_items",
    "rank_popular",
    "ranking_metrics",
    "strata_metrics",
]


def __getattr__(name: str) -> Any:
    if name == "rank_items":  # needs torch, which takes seconds to import
        from recmind_dist.evaluation.topk import rank_items

        return rank_items
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
