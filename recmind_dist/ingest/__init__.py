"""Raw files of many layouts → one data set: readers, quarantine, filters, fetch, synthetic data."""

from recmind_dist.ingest.dataset import dataset_summary, ingest_dataset
from recmind_dist.ingest.fetch import ASSETS, fetch
from recmind_dist.ingest.settings import DatasetSettings, LogColumns, LogSettings, TableSettings
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
