"""How fast is a full-catalogue evaluation? Users/s against matmul + top-k, and against RecBole.

    python benchmarks/evaluate.py --quick    # under 4 minutes

Users and items of Gowalla with random vectors: speed does not depend on what they say.
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import numpy as np
import torch
import typer

from benchmarks.contenders.process import ContenderProcess
from benchmarks.environments import RECBOLE
from benchmarks.interactions import Interactions, atomic_files, load
from benchmarks.measure import Report, Side, interleave
from recmind_dist.errors import RecmindError
from recmind_dist.evaluation.metrics import ranking_metrics
from recmind_dist.evaluation.topk import rank_items
from recmind_dist.types import IntArray

K, DIM = 20, 64
LIMIT_SHAPES = ((1024, 1 << 30), (1024, 16_384), (256, 1 << 30), (64, 1 << 30))
"""Users and items of a block: the limit is the fastest of these."""


def main(
    quick: bool = typer.Option(False, help="fewer rounds, under 4 minutes"),
    threads: int = typer.Option(1, help="threads of torch, the same for all"),
) -> None:
    """Ranks all items for all users by random vectors, D 64, top 20, training items masked."""
    torch.set_num_threads(threads)
    report, pairs = Report("evaluate", quick), load()
    rounds = 3 if quick else 7
    seen, held = (_by_user(pairs, part) for part in (pairs.train, pairs.test))
    torch.manual_seed(0)
    h_users, h_items = torch.randn(pairs.num_users, DIM), torch.randn(pairs.num_items, DIM)
    share = slice(0, pairs.num_users // 4 if quick else pairs.num_users)
    part = h_users[share]
    indptr = seen[0][: len(part) + 1]
    limits: dict[str, Side] = {
        f"matmul + topk, {u} x {min(i, pairs.num_items)}": (
            lambda u=u, i=i: len(part) / _matmul_topk_s(part, h_items, u, i)  # type: ignore[misc]
        )
        for u, i in LIMIT_SHAPES
    }
    contenders: dict[str, Side] = {
        "recmind rank_items": lambda: (
            len(part) / _seconds(lambda: rank_items(part, h_items, K, indptr, seen[1]))
        ),
        **limits,
    }
    found = interleave(contenders, rounds)
    limit = max((found[name] for name in limits), key=lambda spread: spread.median)
    for name, spread in found.items():
        report.add(f"{pairs.name}, top {K}", name, "users/s", spread, limit.median)
    report.figures["fraction_of_limit"] = found["recmind rank_items"].over(limit).median
    report.figures["vs_recbole"] = _against_recbole(
        report, pairs, h_users, h_items, seen, held, threads, 2 if quick else 5
    )
    report.publish()


def _against_recbole(
    report: Report,
    pairs: Interactions,
    h_users: torch.Tensor,
    h_items: torch.Tensor,
    seen: tuple[IntArray, IntArray],
    held: tuple[IntArray, IntArray],
    threads: int,
    rounds: int,
) -> float | None:
    """Users/s of ranking and metrics together, over RecBole's, whose vectors are computed once."""
    try:
        python = RECBOLE.python()
    except RecmindError as error:
        report.note(f"vs_recbole is null: {error}")
        return None
    folder, files = atomic_files(pairs)

    def ours() -> Any:
        ranked, _ = rank_items(h_users, h_items, K, *seen)
        return ranking_metrics(ranked.numpy(), *held, (K,))

    words = (threads, folder, files, 2048, 3, DIM, 1024)
    with ContenderProcess("run_recbole.py", *words, python=python) as recbole:
        found = interleave(
            {
                "recmind, with metrics": lambda: pairs.num_users / _seconds(ours),
                "RecBole 1.2.1": lambda: pairs.num_users / recbole.ask("evaluate")["seconds"],
            },
            rounds,
        )
    for name, spread in found.items():
        report.add(f"{pairs.name}, top {K} and metrics", name, "users/s", spread)
    report.note(
        "RecBole scores 1,024 users at once here; "
        "with its default eval_batch_size it takes them one by one"
    )
    return found["recmind, with metrics"].over(found["RecBole 1.2.1"]).median


def _matmul_topk_s(
    h_users: torch.Tensor, h_items: torch.Tensor, user_block: int, item_block: int
) -> float:
    """Seconds of matmul and torch.topk of each block, without masks, merging or a rule for ties."""
    buffer = torch.empty(user_block * min(item_block, len(h_items)))
    start = time.perf_counter()
    for users in h_users.split(user_block):
        for items in h_items.split(item_block):
            scores = buffer[: len(users) * len(items)].view(len(users), len(items))
            torch.matmul(users, items.T, out=scores)
            scores.topk(K, dim=1)
    return time.perf_counter() - start


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _by_user(pairs: Interactions, part: IntArray) -> tuple[IntArray, IntArray]:
    """Items of each user as CSR."""
    order = np.lexsort((part[:, 1], part[:, 0]))
    indptr = np.searchsorted(part[order, 0], np.arange(pairs.num_users + 1))
    return indptr, part[order, 1]


if __name__ == "__main__":
    typer.run(main)
