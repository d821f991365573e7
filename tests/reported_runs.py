"""Run directories as `recmind run` leaves them, written by its own writers, without training."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.random_bundle import RandomBundle
from recmind_dist.distributed.context import DistContext
from recmind_dist.evaluation.list_details import ListDetails, describe_lists
from recmind_dist.evaluation.metrics import ranking_metrics
from recmind_dist.evaluation.ranking import Evaluation, csr_of_rows
from recmind_dist.graph import Graph, GraphSettings, prepare_graph
from recmind_dist.ingest import DatasetSettings, ingest_dataset
from recmind_dist.report import MetricsLog, RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import write_sealed_json
from recmind_dist.training.evaluate import gather_per_user, what_was_read, write_per_user
from recmind_dist.training.run_stores import RunStores

NUM_USERS = 60
K = 20
HOSTILE = "<img src=x onerror=document.title='hit'> & <b>bold</b>"
GROUPS = {"users": ["gender"], "items": ["genre"]}


@cache
def _dataset() -> tuple[Path, Path]:
    """What all these runs are on, and its cache: users u00 … u59, of whom each has six items in
    training, one for validation and one for the test: of genre Drama for 40 users, War for 20. Of
    the log one row is malformed, one has no item, one is a repeat; one item's text stands under
    another spelling.
    """
    home = Path(tempfile.mkdtemp(prefix="reported-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    lines = ["user,item,time", "u00,i10,soon", "u01,NA,3"]
    for user in range(NUM_USERS):
        test = user if user < 40 else 60 + (user - 40)
        others = np.random.default_rng(user).permutation(90)
        newest = [*others[others != test][:7], test]
        lines += [f"u{user:02},i{item:02},{100 * user + t}" for t, item in enumerate(newest)]
    lines.append(f"{lines[3].rpartition(',')[0]},9000000")
    (home / "log.csv").write_text("\n".join(lines) + "\n")
    genres = ["Drama <b>" if item < 60 else "War" for item in range(90)]
    names = [f"i{item:02}" if item != 85 else "I85" for item in range(90)]
    titles = [f"{name},title {name},{genre}" for name, genre in zip(names, genres, strict=True)]
    (home / "items.csv").write_text("\n".join(["id,title,genre", *titles]) + "\n")
    users = [f"u{user:02},{'FM'[user % 2]}" for user in range(NUM_USERS)]
    (home / "users.csv").write_text("\n".join(["id,gender", *users]) + "\n")
    settings = DatasetSettings.model_validate(
        {"name": "toy", "interactions": home / "log.csv", "missing": ["NA"], "max_bad_rows": 1}
        | {side: home / f"{side}.csv" for side in ("items", "users")}
    )
    return ingest_dataset(settings, home / "cache"), home / "cache"


def reported_graph(**settings: Any) -> Graph:
    """The graph of these runs.

    Args:
        settings: of `graph`.
    """
    dataset, cache = _dataset()
    return Graph.open(prepare_graph(dataset, GraphSettings.model_validate(settings), cache))


def make_reported_run(
    home: Path,
    variant: str = "recmind",
    evaluated: bool = True,
    first_title: str = HOSTILE,
    **config: Any,
) -> Path:
    """A run of three epochs of ten steps on two ranks, which went on after a restart at step 16; of
    an evaluated one with a bundle too. Variants but recmind have neither gates nor a queue.

    Args:
        first_title: of the bundle's first item.
        config: over the usual settings.
    """
    data = {"name": "toy", "interactions": "log.csv", "items": "items.csv"}
    values = {
        "dataset": data,
        "train": {"epochs": 3, "seed": 5},
        "evaluation": {"ks": [K], "groups": GROUPS},
        **config,
    }
    run = RunDirectory(home / variant)
    run.create()
    settings = RunConfig.model_validate({"run_dir": run.path, "variant": variant, **values})
    run.write_config(settings.model_dump(mode="json"))
    graph = reported_graph(**values.get("graph", {}))
    with MetricsLog(run.metrics, clock=lambda: 1.7e9) as log:
        _log(log, steps=30 if evaluated else 14, better=variant == "recmind")
    write_sealed_json(run.path / "inputs.json", RunStores(graph.path).to_json())
    if evaluated:
        _evaluate(run, settings)
        seed = 0 if variant == "recmind" else 1
        bundle = RandomBundle(NUM_USERS, 90, 8, history=6, seed=seed, first_title=first_title)
        bundle.write(run.bundle)
    return run.path


def _log(log: MetricsLog, steps: int, better: bool) -> None:
    for step in (1, 2):  # each phase counts from 1
        at = {"phase": "warmup", "epoch": 0, "epochs": 1, "total": 2}
        log.log("step", **at, step=step, loss=3.0, **({"queue_staleness": 1.0} if better else {}))
    place: dict[str, Any] = {"phase": "warmup", "epoch": 0, "steps": 2}
    speed = {"seconds": 1.0, "sampler_stall_percent": 9.0, "peak_memory_mb": 256.0}
    log.log("epoch", **place, **speed, loss=3.0)
    place = {"phase": "joint"}
    worker = {"world_size": 2, "device": "cpu", "exchange": "shared memory", "attempt": "a"}
    log.log("start", **place, epoch=0, steps_done=0, **worker)
    for step in range(1, steps + 1):
        epoch = (step - 1) // 10
        at = {**place, "epoch": epoch}
        terms = {"rank": 1 / step, "regularization": 0.0, "loss": 1.5 / step}
        terms |= {"gate": 0.5 / step, "queue_staleness": float(step)} if better else {}
        log.log("step", **at, step=step, total=30, epochs=3, **terms)
        if step % 10 == 0:
            at["steps"] = 4 if epoch == 1 else 10
            sent = {"ids_bytes": 1000, "rows_bytes": 4_000_000, "gradients_bytes": 3_000_000}
            sent |= {"queue_bytes": 0, "dense_bytes": 14_400 if epoch == 1 else 12_000}
            log.log("traffic", **at, **sent, most_bytes=9_000_000)
            speed = {"seconds": 2.0 + epoch, "sampler_stall_percent": 5.0, "peak_memory_mb": 512.0}
            log.log("epoch", **at, **speed, loss=1.5 / step)
            recall = 0.1 * (epoch + 1) + 0.1 * better
            scores = {"recall@20": recall, "ndcg@20": recall / 2}
            log.log("validation", epoch=epoch + 1, norm_exponent=0.0, **scores)


def _evaluate(run: RunDirectory, settings: RunConfig) -> None:
    rng = np.random.default_rng(1)
    hits = (rng.random(NUM_USERS) < (0.6 if settings.variant == "recmind" else 0.2)).astype(float)
    degree = np.arange(NUM_USERS) % 9
    found, details = _ranked(hits, degree.astype(float), settings)
    write_per_user(gather_per_user(found, DistContext.alone(), None, details), run)
    bins = {
        "0": degree == 0,
        "1-3": (degree > 0) & (degree < 4),
        "4-7": (degree > 3) & (degree < 8),
    }
    bins |= {"8-15": degree > 7, "cold": degree < 4}
    gate = [
        {"layer": layer, "side": side, "degree_bin": name, "count": 9}
        | {"mean": 0.4, "median": 0.4 + 0.1 * layer, "p10": 0.3, "p90": 0.6}
        for layer in (0, 1)
        for side in ("user", "item")
        for name in ("0", "1-3", "4-7")
    ]
    gate.append({"layer": 0, "side": "user", "spearman": -0.5, "count": 27})
    run.write_results(
        {
            "dataset": settings.dataset.name,
            "dataset_key": reported_graph().manifest["dataset_key"],
            "variant": settings.variant,
            "seed": settings.train.seed,
            "commit": "0123456789abcdef",
            "split": "test",
            "metrics": found.metrics,
            "strata": {
                name: {"users": int(at.sum()), **_metrics(hits[at])} for name, at in bins.items()
            },
            "groups": {
                "users": {"gender": {"F": _group(hits[::2]), "M": _group(hits[1::2])}},
                "items": {"genre": {"Drama <b>": _group(hits[:40])}},
            },
            "lists": details.lists,
            "gate": gate if settings.gate is not None else [],
            "data": what_was_read(reported_graph()),
        }
    )


def _ranked(
    hits: np.ndarray, degree: np.ndarray, settings: RunConfig
) -> tuple[Evaluation, ListDetails]:
    """Random lists, which have the held-out item at the third place where there is a hit: NDCG is
    half of it.
    """
    graph, rng = reported_graph(), np.random.default_rng(settings.train.seed)
    users, held = np.arange(NUM_USERS), graph.held_out("test")
    indptr, items = csr_of_rows(held.indptr, held.indices, users, graph.num_users)
    lists = np.empty((NUM_USERS, K), np.int32)
    for user, item in enumerate(items):
        others = rng.permutation(graph.num_items)
        lists[user] = others[others != item][:K]
        lists[user, 2] = item if hits[user] else lists[user, 2]
    metrics = ranking_metrics(lists.astype(np.int64), indptr, items, [K])
    per_user = {"user": users.astype(float), "degree": degree, **metrics.per_user}
    found = Evaluation(metrics.means(), {}, per_user=per_user, lists=lists)
    context = DistContext.alone()
    return found, describe_lists(found, graph, "test", settings.evaluation, context)


def _group(hits: np.ndarray) -> dict[str, Any]:
    means = _metrics(hits).items()
    metrics = {name: {"mean": x, "low": x - 0.1, "high": x + 0.1} for name, x in means}
    return {"users": len(hits), "metrics": metrics}


def _metrics(hits: np.ndarray) -> dict[str, float]:
    return {"recall@20": float(hits.mean()), "ndcg@20": float(hits.mean() / 2)}
