"""Raw files of many layouts → one data set: readers, quarantine, filters, fetch, synthetic data."""

from typing import TYPE_CHECKING

from recmind_dist.ingest.fetch import ASSETS, fetch
from recmind_dist.ingest.settings import DatasetSettings, LogColumns, LogSettings, TableSettings
from recmind_dist.lazy import lazy_exports

if TYPE_CHECKING:
    from recmind_dist.ingest.dataset import dataset_summary, ingest_dataset
    from recmind_dist.ingest.synthetic import SyntheticSettings, synthesize

__all__ = [
    "ASSETS",
    "DatasetSettings",
    "LogColumns",
    "LogSettings",
    "SyntheticSettings",
    "TableSettings",
    "dataset_summary",
    "fetch",
    "ingest_dataset",
    "synthesize",
]

# need numba, which reading an item file does not
_HOMES = {
    "dataset_summary": "dataset",
    "ingest_dataset": "dataset",
    "SyntheticSettings": "synthetic",
    "synthesize": "synthetic",
}
__getattr__ = lazy_exports(__name__, _HOMES)
