"""How fast is a full-catalogue evaluation? Users/s against matmul + top-k, and against RecBole.

    python benchmarks/evaluate.py --quick          # under 4 minutes
    python benchmarks/evaluate.py --device cuda    # seconds; writes results/cuda-evaluate.json

Users and items of Gowalla with random vectors: speed does not depend on what they say. On a GPU the
whole evaluation is measured too, with metrics and strata by degree; RecBole is not.
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
from benchmarks.interactions import Interactions, atomic_files, graph_of, load
from benchmarks.measure import Report, Side, interleave
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import RecmindError
from recmind_dist.evaluation.metrics import ranking_metrics
from recmind_dist.evaluation.ranking import evaluate_embeddings, seen_items
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.evaluation.topk import rank_items
from recmind_dist.types import IntArray

K, DIM = 20, 64
LIMIT_SHAPES = ((1024, 1 << 30), (1024, 16_384), (256, 1 << 30), (64, 1 << 30))
"""Users and items of a block: the limit is the fastest of these."""
GPU_LIMIT_BLOCKS = (1024, 4096, 8192)
"""Users of a block of all items, on a GPU."""


def main(
    quick: bool = typer.Option(False, help="fewer rounds, under 4 minutes"),
    threads: int = typer.Option(1, help="threads of torch, the same for all"),
    device: str = typer.Option("cpu", help="cpu or cuda"),
) -> None:
    """Ranks all items for all users by random vectors, D 64, top 20, training items masked."""
    torch.set_num_threads(threads)
    if device == "cuda":
        there = torch.device(device)
        report = on_device(Report("cuda-evaluate", quick), load(), there)
        report.figures["card"] = torch.cuda.get_device_name(there)
        report.publish()
        return
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


def on_device(report: Report, pairs: Interactions, device: torch.device) -> Report:
    """Ranking alone, the limit of ranking, and whole evaluations, of all users."""
    graph, context = graph_of(pairs), DistContext.alone(str(device))
    torch.manual_seed(0)
    h = torch.randn(graph.num_nodes, DIM).to(device)
    users, items = h[: graph.num_users], h[graph.num_users :]
    seen = seen_items(graph, "test", 0, graph.num_users)
    settings = EvaluationSettings(norm_exponent=0.0)

    def users_per_s(work: Any) -> Side:
        return lambda: len(users) / _seconds(work, device)

    contenders = {
        "recmind rank_items": users_per_s(lambda: rank_items(users, items, K, *seen)),
        "evaluation": users_per_s(lambda: evaluate_embeddings(h, graph, "test", settings, context)),
    }
    for block in GPU_LIMIT_BLOCKS:
        contenders[f"matmul + topk, {block} x {len(items)}"] = users_per_s(
            lambda block=block: _matmul_topk_s(users, items, block, len(items))
        )
    found = interleave(contenders, 3 if report.quick else 7, warm=2)
    limit = max(spread.median for name, spread in found.items() if name.startswith("matmul"))
    for name, spread in found.items():
        top = f"top {max(settings.ks)}, metrics, strata" if name == "evaluation" else f"top {K}"
        report.add(f"{pairs.name}, {top}", name, "users/s", spread, limit)
    ranking = found["recmind rank_items"].median
    report.figures["users_per_s"] = found["evaluation"].median
    report.figures["ranking_users_per_s"] = ranking
    report.figures["fraction_of_limit"] = ranking / limit
    return report


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
    buffer = h_users.new_empty(user_block * min(item_block, len(h_items)))
    start = time.perf_counter()
    for users in h_users.split(user_block):
        for items in h_items.split(item_block):
            scores = buffer[: len(users) * len(items)].view(len(users), len(items))
            torch.matmul(users, items.T, out=scores)
            scores.topk(K, dim=1)
    return time.perf_counter() - start


def _seconds(work: Any, device: torch.device | None = None) -> float:
    """Of the whole work, a GPU's too."""
    start = time.perf_counter()
    work()
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _by_user(pairs: Interactions, part: IntArray) -> tuple[IntArray, IntArray]:
    """Items of each user as CSR."""
    order = np.lexsort((part[:, 1], part[:, 0]))
    indptr = np.searchsorted(part[order, 0], np.arange(pairs.num_users + 1))
    return indptr, part[order, 1]


if __name__ == "__main__":
    typer.run(main)
