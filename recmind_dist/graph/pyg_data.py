"""The graph as `torch_geometric.data.HeteroData` (U users, I items, E training edges)."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData

if TYPE_CHECKING:
    from recmind_dist.graph.store import Graph

RATES = ("user", "rates", "item")
RATED_BY = ("item", "rev_rates", "user")  # the name that PyG's ToUndirected gives reverse edges


def hetero_data_of_graph(graph: "Graph", split: str | None) -> HeteroData:
    """See `Graph.to_hetero_data`."""
    num_users = graph.num_users
    degree = torch.from_numpy(np.array(graph.degree))
    rates = _edge_index(graph.indptr[: num_users + 1], graph.indices[: graph.num_edges], num_users)
    time_rank = torch.from_numpy(np.array(graph.time_rank, dtype=np.int64))
    data = HeteroData()
    data["user"].num_nodes = num_users
    data["user"].degree = degree[:num_users]
    data["item"].num_nodes = graph.num_items
    data["item"].degree = degree[num_users:]
    data[RATES].edge_index = rates
    data[RATES].time_rank = time_rank
    data[RATED_BY].edge_index = rates.flip(0)
    data[RATED_BY].time_rank = time_rank
    if split is not None:
        held_out = graph.held_out(split)
        data[RATES].edge_label_index = _edge_index(held_out.indptr, held_out.indices, num_users)
        data[RATES].edge_label = torch.ones(held_out.num_edges)
    return data


def _edge_index(indptr: np.ndarray, indices: np.ndarray, num_users: int) -> Tensor:
    """CSR rows of users as local ids of users and items. Shape: int64 [2, edges]."""
    user = np.repeat(np.arange(num_users), np.diff(indptr))
    item = np.asarray(indices, dtype=np.int64) - num_users
    return torch.from_numpy(np.stack([user, item]))
