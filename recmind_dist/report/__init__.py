"""What users read of a run: metrics log, progress, tables, results, run directory."""

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
