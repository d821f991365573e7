"""What users read of a run: metrics log, progress, tables, results, run directory."""

from typing import TYPE_CHECKING

from recmind_dist.lazy import lazy_exports

if TYPE_CHECKING:
    from recmind_dist.report.metrics_log import MetricsLog, read_metrics
    from recmind_dist.report.progress import Progress
    from recmind_dist.report.results import Results, folded_results
    from recmind_dist.report.run_directory import RunDirectory
    from recmind_dist.report.tables import comparison_table, print_table, strata_table

__all__ = [
    "MetricsLog",
    "Progress",
    "Results",
    "RunDirectory",
    "comparison_table",
    "folded_results",
    "print_table",
    "read_metrics",
    "strata_table",
]

_HOMES = {
    "MetricsLog": "metrics_log",
    "Progress": "progress",
    "Results": "results",
    "RunDirectory": "run_directory",
    "comparison_table": "tables",
    "folded_results": "results",
    "print_table": "tables",
    "read_metrics": "metrics_log",
    "strata_table": "tables",
}
__getattr__ = lazy_exports(__name__, _HOMES)  # printing a recommendation needs no pydantic
