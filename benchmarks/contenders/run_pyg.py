# ruff: noqa: E402  (threads are confined before the libraries that start them are imported)
"""PyG's LightGCN, trained as its documentation does: each step propagates over the whole graph.

Words: threads, folder, batch, layers, dim.
"""

import sys
import time
from pathlib import Path
from typing import Any

from protocol import Work, confine, serve

THREADS = int(sys.argv[1])
confine(THREADS)

import numpy as np
import torch
from torch_geometric.nn import LightGCN


def prepare() -> dict[str, Work]:
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    folder, batch, layers, dim = Path(sys.argv[2]), *map(int, sys.argv[3:6])
    pairs = []
    for line in (folder / "train.txt").read_text().splitlines():
        user, *items = map(int, line.split())
        pairs += [(user, item) for item in items]
    train = torch.from_numpy(np.array(pairs).T.copy())
    num_users, num_items = int(train[0].max()) + 1, int(train[1].max()) + 1
    train[1] += num_users
    edge_index = torch.cat([train, train.flip(0)], 1)
    model = LightGCN(num_users + num_items, dim, layers)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def steps(order: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        for _ in range(order["count"]):
            chosen = train[:, torch.randint(train.shape[1], (batch,))]
            negatives = torch.randint(num_users, num_users + num_items, (batch,))
            labels = torch.cat([chosen, torch.stack([chosen[0], negatives])], 1)
            optimizer.zero_grad()
            positive, negative = model(edge_index, labels).chunk(2)
            loss = model.recommendation_loss(
                positive, negative, node_id=labels.unique(), lambda_reg=1e-4
            )
            loss.backward()
            optimizer.step()
            loss.item()
        return {"seconds": time.perf_counter() - start, "pairs": batch * order["count"]}

    return {"steps": steps}


serve(prepare)
