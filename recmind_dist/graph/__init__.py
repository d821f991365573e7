"""Interactions → a graph on disk: splits, CSR in both directions, partition, rows of each rank."""

from recmind_dist.graph.edge_rows import EdgeRows, prepare_rows
from recmind_dist.graph.ownership import row_bounds
from recmind_dist.graph.prepare import prepare_graph
from recmind_dist.graph.settings import GraphSettings
from recmind_dist.graph.store import Graph, HeldOut

__all__ = [
    "EdgeRows",
    "Graph",
    "GraphSettings",
    "HeldOut",
    "prepare_graph",
    "prepare_rows",
    "row_bounds",
]
