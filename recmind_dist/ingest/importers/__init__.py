"""Publishers' data sets → Parquet and a config, a file for each publisher."""

from recmind_dist.ingest.importers.amazon2018 import AMAZON2018
from recmind_dist.ingest.importers.amazon2023 import AMAZON2023
from recmind_dist.ingest.importers.goodreads import GOODREADS
from recmind_dist.ingest.importers.hm import HM
from recmind_dist.ingest.importers.importer import Importer
from recmind_dist.ingest.importers.lastfm import LASTFM
from recmind_dist.ingest.importers.mind import MIND
from recmind_dist.ingest.importers.movielens import MOVIELENS
from recmind_dist.ingest.importers.retailrocket import RETAILROCKET
from recmind_dist.ingest.importers.run import import_files, import_sources
from recmind_dist.ingest.importers.steam import STEAM
from recmind_dist.ingest.importers.yelp import YELP

IMPORTERS = {
    importer.name: importer
    for importer in (
        *(AMAZON2023, AMAZON2018, YELP, MOVIELENS, STEAM),
        *(GOODREADS, LASTFM, RETAILROCKET, HM, MIND),
    )
}

__all__ = ["IMPORTERS", "Importer", "import_files", "import_sources"]
