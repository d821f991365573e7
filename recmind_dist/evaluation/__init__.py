"""Full ranking of the catalogue, its metrics, strata by degree, gate statistics, and popularity."""

from typing import TYPE_CHECKING

from recmind_dist.evaluation.degree_bins import degree_bins
from recmind_dist.evaluation.popularity import rank_popular
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.lazy import lazy_exports

if TYPE_CHECKING:
    from recmind_dist.evaluation.gates import gate_statistics
    from recmind_dist.evaluation.metrics import RankingMetrics, ranking_metrics
    from recmind_dist.evaluation.strata import strata_metrics
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

_HOMES = {
    "RankingMetrics": "metrics",
    "gate_statistics": "gates",
    "rank_items": "topk",
    "ranking_metrics": "metrics",
    "strata_metrics": "strata",
}
__getattr__ = lazy_exports(__name__, _HOMES)  # scipy and torch
