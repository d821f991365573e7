"""Ranks, the row-sharded table and its exchange, the DeepSpeed engine of the dense part."""

from recmind_dist.parallel.exchange import ExchangePlan, RowExchange, all_gather_rows
from recmind_dist.parallel.ranks import Ranks
from recmind_dist.parallel.settings import ScalingSettings, TableSettings, ZeroSettings
from recmind_dist.parallel.table import ShardedTable

__all__ = [
    "ExchangePlan", "Ranks", "RowExchange", "ScalingSettings", "ShardedTable", "TableSettings", "ZeroSettings", "all_gather_rows",
]  # fmt: skip
