"""Metrics of lists user by user against RecTools, in an environment of its own: its dependencies
are not ours. `.ci/rectools` makes it and runs this file; `RECTOOLS_PYTHON` names the interpreter,
and without it these tests are skipped.
"""

import json
import os
import subprocess

import numpy as np
import pytest
import torch

from recmind_dist.evaluation.list_metrics import (
    POPULARITY_METRICS,
    ItemFacts,
    coverage,
    diversity,
    popularity_metrics,
    slots,
)
from recmind_dist.evaluation.metrics import ranking_metrics

USERS, ITEMS, KS = 40, 60, (1, 5, 20)
_RECTOOLS = """
import json, sys
import numpy as np, pandas as pd
from rectools import Columns
from rectools import metrics as m
from rectools.metrics.distances import PairwiseDistanceCalculator
case = json.load(sys.stdin)
x = np.array(case["vectors"])
class Cosine(PairwiseDistanceCalculator):
    def _get_distances_for_item_pairs(self, left, right):
        return 1 - (x[np.asarray(left)] * x[np.asarray(right)]).sum(1)
def frame(rows, ranked=False):
    table = pd.DataFrame(
        [(u, i, r) for u, items in enumerate(rows) for r, i in enumerate(items, 1)],
        columns=[Columns.User, Columns.Item, Columns.Rank],
    )
    return table if ranked else table[[Columns.User, Columns.Item]]
lists, held, log = frame(case["ranked"], True), frame(case["held"]), frame(case["log"])
catalog, found = range(len(x)), {}
for k in case["ks"]:
    per_user = {
        "recall": m.Recall(k).calc_per_user(lists, held),
        "precision": m.Precision(k).calc_per_user(lists, held),
        "map": m.MAP(k).calc_per_user(lists, held),
        "mrr": m.MRR(k).calc_per_user(lists, held),
        "hitrate": m.HitRate(k).calc_per_user(lists, held),
        "novelty": m.MeanInvUserFreq(k).calc_per_user(lists, log),
        "popularity": m.AvgRecPopularity(k).calc_per_user(lists, log),
        "serendipity": m.Serendipity(k).calc_per_user(lists, held, log, catalog),
        "ild": m.IntraListDiversity(k, Cosine()).calc_per_user(lists),
    }
    found |= {f"{name}@{k}": values.sort_index().tolist() for name, values in per_user.items()}
    found[f"coverage@{k}"] = m.CatalogCoverage(k, normalize=True).calc(lists, catalog)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def case() -> dict[str, list[list[float]]]:
    """Item k < 40 is in the histories of k users: none are equally popular, as RecTools
    ranks these otherwise.
    """
    drawn = np.random.default_rng(7)
    counts = [k if k < USERS else 0 for k in range(ITEMS)]
    log: list[list[int]] = [[] for _ in range(USERS)]
    for item, count in enumerate(counts):
        for user in drawn.permutation(USERS)[:count]:
            log[user].append(item)
    x = drawn.normal(size=(ITEMS, 8))
    return {
        "log": [items or [1] for items in log],
        "ranked": [drawn.permutation(ITEMS)[: max(KS)].tolist() for _ in range(USERS)],
        "held": [sorted(drawn.permutation(ITEMS)[:4].tolist()) for _ in range(USERS)],
        "vectors": (x / np.linalg.norm(x, axis=1, keepdims=True)).tolist(),
    }


@pytest.fixture(scope="module")
def theirs(case: dict[str, list[list[float]]]) -> dict[str, list[float]]:
    python = os.environ.get("RECTOOLS_PYTHON")
    if not python:
        pytest.skip("RECTOOLS_PYTHON is not set: run .ci/rectools")
    words = [python, "-W", "ignore", "-c", _RECTOOLS]
    given = json.dumps(case | {"ks": KS})
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, input=given, capture_output=True, text=True, check=True, env=env)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


def test_every_user_agrees_with_rectools(
    case: dict[str, list[list[float]]], theirs: dict[str, list[float]]
) -> None:
    ranked = torch.tensor(case["ranked"])
    held = np.array(case["held"])
    accuracy = ranking_metrics(
        ranked.numpy(), np.arange(USERS + 1) * held.shape[1], held.ravel(), KS
    ).per_user
    degree = np.bincount(np.concatenate(case["log"]).astype(int), minlength=ITEMS)
    facts = ItemFacts.of(degree, USERS, ranked.device)
    hits = torch.from_numpy((ranked.numpy()[:, :, None] == held[:, None]).any(2))
    x = torch.tensor(case["vectors"])
    spread = diversity(ranked, [(torch.arange(ITEMS), x)], x.shape[1], KS)
    for column, k in enumerate(KS):
        values = popularity_metrics(ranked, hits, facts, k).numpy()
        ours = dict(zip(POPULARITY_METRICS, values.T, strict=True))
        del ours["tail"]  # RecTools has none
        ours |= {"ild": spread[:, column].numpy()}
        ours |= {n: accuracy[f"{n}@{k}"] for n in ("recall", "precision", "map", "mrr", "hitrate")}
        for name, of_users in ours.items():
            np.testing.assert_allclose(of_users, theirs[f"{name}@{k}"], atol=1e-6, err_msg=name)
        assert coverage(slots(ranked, ITEMS, k)) == theirs[f"coverage@{k}"]
