"""Metrics user by user against ranx (an oracle checked against trec_eval), identities between them,
and ties.
"""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recmind_dist.evaluation import rank_items
from recmind_dist.evaluation.metrics import ranking_metrics

KS = (1, 5, 20, 40)
MOST_HELD = (1, 3, 60)
_RANX = """
import json, ranx, sys
answers = []
for case in json.load(sys.stdin):
    qrels, run = ranx.Qrels(case["qrels"]), ranx.Run(case["run"])
    kinds = ("recall", "ndcg", "hit_rate", "mrr", "map", "precision")
    names = [f"{name}@{k}" for k in case["ks"] for name in kinds]
    found = ranx.evaluate(qrels, run, names, return_mean=False)
    answers.append({name: values.tolist() for name, values in found.items()})
print(json.dumps(answers))
"""


def case_for_ranx(ranked: np.ndarray, held: list[list[int]]) -> dict[str, Any]:
    """Scores fall with the place in the ranking."""
    return {
        "ks": KS,
        "qrels": {
            f"u{user:03d}": {f"i{item}": 1 for item in items} for user, items in enumerate(held)
        },
        "run": {
            f"u{user:03d}": {f"i{item}": 100.0 - j for j, item in enumerate(row)}
            for user, row in enumerate(ranked)
        },
    }


@pytest.fixture(scope="module")
def theirs() -> dict[int, dict[str, list[float]]]:
    """ranx's metrics of each user, by the most held-out items of a case."""
    if importlib.util.find_spec("ranx") is None:
        pytest.skip("ranx is the oracle of this test: install the dev extra")
    # compiling its metrics takes a minute, running them nothing
    plain = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _RANX],
        input=json.dumps([case_for_ranx(*case(most_held, most_held)) for most_held in MOST_HELD]),
        env=plain,
        capture_output=True,
        text=True,
        check=True,
    )
    answers = [
        {name.replace("hit_rate", "hitrate"): values for name, values in answer.items()}
        for answer in json.loads(done.stdout)
    ]
    return dict(zip(MOST_HELD, answers, strict=True))


def case(seed: int, most_held: int) -> tuple[np.ndarray, list[list[int]]]:
    """Random rankings of 40 of 70 items, and 1 to `most_held` held-out items a user."""
    drawn = np.random.default_rng(seed)
    ranked = np.stack([drawn.permutation(70)[:40] for _ in range(50)])
    return ranked, [
        sorted(drawn.permutation(70)[: drawn.integers(1, most_held + 1)].tolist())
        for _ in range(50)
    ]


def metrics(ranked: np.ndarray, held: list[list[int]]) -> dict[str, np.ndarray]:
    return ranking_metrics(
        ranked, np.cumsum([0, *map(len, held)]), np.concatenate(held), KS
    ).per_user


@pytest.mark.parametrize("most_held", MOST_HELD)
def test_every_user_agrees_with_ranx(
    most_held: int, theirs: dict[int, dict[str, list[float]]]
) -> None:
    ours = metrics(*case(most_held, most_held))
    assert set(ours) == set(theirs[most_held])
    for name, values in theirs[most_held].items():
        assert ours[name] == pytest.approx(np.array(values)), name


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.sampled_from([1, 4, 60]))
def test_identities_between_metrics(seed: int, most_held: int) -> None:
    ranked, held = case(seed, most_held)
    found = metrics(ranked, held)
    for k in KS:
        recall, ndcg, hit, mrr = (
            found[f"{name}@{k}"] for name in ("recall", "ndcg", "hitrate", "mrr")
        )
        assert (mrr <= hit).all()
        assert (recall <= hit).all()
        assert ((ndcg > 0) == (hit > 0)).all()
        if most_held == 1:
            assert (ndcg <= recall).all()
            assert (recall == hit).all()
            assert (mrr <= ndcg).all()
    for name in ("recall", "hitrate", "mrr"):
        assert (np.diff([found[f"{name}@{k}"] for k in KS], axis=0) >= 0).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 30), st.integers(1, 9), st.integers(1, 40))
def test_ties_go_to_the_lower_id_whatever_the_blocks(
    seed: int, user_block: int, item_block: int
) -> None:
    drawn = np.random.default_rng(seed)
    h_users = torch.from_numpy(drawn.integers(0, 2, (9, 3)).astype(np.float32))
    # sums of whole numbers: exact ties
    h_items = torch.from_numpy(drawn.integers(0, 2, (40, 3)).astype(np.float32))
    seen = np.arange(10, dtype=np.int64)
    seen_items = drawn.integers(0, 40, 9)
    found, _ = rank_items(
        h_users, h_items, 12, seen, seen_items, user_block=user_block, item_block=item_block
    )
    scores = (h_users @ h_items.T).numpy()
    for user in range(9):
        order = [
            int(i) for i in np.lexsort((np.arange(40), -scores[user])) if i != seen_items[user]
        ]
        assert found[user].tolist() == order[:12]
