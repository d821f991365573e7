"""Ranks, the row-sharded table and its exchange, the DeepSpeed engine of the dense part."""

from typing import TYPE_CHECKING

from recmind_dist.lazy import lazy_exports
from recmind_dist.parallel.settings import ScalingSettings, TableSettings, ZeroSettings

if TYPE_CHECKING:
    from recmind_dist.parallel.exchange import ExchangePlan, RowExchange, all_gather_rows
    from recmind_dist.parallel.ranks import Ranks
    from recmind_dist.parallel.table import ShardedTable

__all__ = [
    "ExchangePlan", "Ranks", "RowExchange", "ScalingSettings", "ShardedTable", "TableSettings", "ZeroSettings",
    "all_gather_rows",
]  # fmt: skip

_HOMES = dict.fromkeys(("ExchangePlan", "RowExchange", "all_gather_rows"), "exchange")
_HOMES |= {"Ranks": "ranks", "ShardedTable": "table"}
__getattr__ = lazy_exports(__name__, _HOMES)
