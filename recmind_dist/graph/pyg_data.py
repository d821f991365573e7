"""The graph as `torch_geometric.data.HeteroData`.

Legend: U users, I items, E training edges.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

if TYPE_CHECKING:
    from recmind_dist.graph.store import Graph

RATES = ("user", "rates", "item")
RATED_BY = ("item", "rev_rates", "user")  # PyG's ToUndirected names a reverse edge type so


def hetero_data_of_graph(graph: "Graph", split: str | None) -> HeteroData:
    """See `Graph.to_hetero_data`."""
    users, num_edges = graph.num_users, graph.num_edges
    degree = torch.from_numpy(np.array(graph.degree))
    data = HeteroData()
    data["user"].num_nodes, data["item"].num_nodes = users, graph.num_items
    data["user"].degree, data["item"].degree = degree[:users], degree[users:]
    rates = _edge_index(graph.indptr[: users + 1], graph.indices[:num_edges], users)
    time_rank = torch.from_numpy(np.array(graph.time_rank, dtype=np.int64))
    data[RATES].edge_index, data[RATES].time_rank = rates, time_rank
    data[RATED_BY].edge_index, data[RATED_BY].time_rank = rates.flip(0), time_rank
    if split is not None:
        held_out = graph.held_out(split)
        data[RATES].edge_label_index = _edge_index(held_out.indptr, held_out.indices, users)
        data[RATES].edge_label = torch.ones(held_out.num_edges)
    return data


def _edge_index(indptr: np.ndarray, indices: np.ndarray, num_users: int) -> Tensor:
    """Users and items, each from 0, of CSR rows over global ids. Shape: int64 [2, edges]."""
    user = np.repeat(np.arange(num_users), np.diff(indptr))
    item = np.asarray(indices, dtype=np.int64) - num_users
    return torch.from_numpy(np.stack([user, item]))
