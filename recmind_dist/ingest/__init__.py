"""From files of many layouts to one: readers, quarantine of bad rows, filters, fetchers, a
synthetic generator.
"""

from recmind_dist.ingest.dataset import ingest_dataset
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
    "fetch",
    "ingest_dataset",
    "synthesize",
]
