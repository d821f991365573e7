"""Run directories as `recmind run` leaves them, written by its own writers, without training."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks.random_bundle import RandomBundle
from recmind_dist.report import MetricsLog, RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import write_sealed

NUM_USERS = 60
HOSTILE = "<img src=x onerror=document.title='hit'> & <b>bold</b>"


def make_reported_run(
    home: Path,
    variant: str = "recmind",
    evaluated: bool = True,
    first_title: str = HOSTILE,
    **config: Any,
) -> Path:
    """A run of three epochs of ten steps on two ranks; of an evaluated one with a bundle too.

    Args:
        first_title: of the bundle's first item.
        config: over the usual settings.
    """
    data = {"name": "toy", "interactions": "log.csv", "items": "items.csv"}
    values = {"dataset": data, "train": {"epochs": 3, "seed": 5}, **config}
    run = RunDirectory(home / variant)
    run.create()
    settings = RunConfig.model_validate({"run_dir": run.path, "variant": variant, **values})
    run.write_config(settings.model_dump(mode="json"))
    with MetricsLog(run.metrics, clock=lambda: 1.7e9) as log:
        _log(log, steps=30 if evaluated else 14, better=variant == "recmind")
    if evaluated:
        _evaluate(run, settings)
        RandomBundle(NUM_USERS, 90, dim=8, history=6, first_title=first_title).write(run.bundle)
    return run.path


def _log(log: MetricsLog, steps: int, better: bool) -> None:
    for step in (1, 2):  # each phase counts from 1
        at = {"phase": "warmup", "epoch": 0, "epochs": 1, "total": 2}
        log.log("step", **at, step=step, loss=3.0, queue_staleness=1.0)
    log.log("epoch", phase="warmup", epoch=0, seconds=1.0, sampler_stall_percent=9.0)
    place: dict[str, Any] = {"phase": "joint"}
    log.log("start", **place, epoch=0, steps_done=0, world_size=2, device="cpu")
    for step in range(1, steps + 1):
        epoch = (step - 1) // 10
        at = {**place, "epoch": epoch}
        terms = {"rank": 1 / step, "gate": 0.5 / step, "regularization": 0.0, "loss": 1.5 / step}
        log.log("step", **at, step=step, total=30, epochs=3, queue_staleness=float(step), **terms)
        if step % 10 == 0:
            log.log("traffic", **at, rows_bytes=4_000_000, ids_bytes=1000, dense_bytes=10**6)
            speed = {"seconds": 2.0 + epoch, "sampler_stall_percent": 5.0, "peak_memory_mb": 512.0}
            log.log("epoch", **at, **speed, loss=1.5 / step)
            recall = 0.1 * (epoch + 1) + 0.1 * better
            scores = {"recall@20": recall, "ndcg@20": recall / 2}
            log.log("validation", epoch=epoch + 1, norm_exponent=0.0, **scores)


def _evaluate(run: RunDirectory, settings: RunConfig) -> None:
    rng = np.random.default_rng(1)
    hits = (rng.random(NUM_USERS) < (0.6 if settings.variant == "recmind" else 0.2)).astype(float)
    degree = np.arange(NUM_USERS) % 9
    frame = pl.DataFrame(
        {"user": np.arange(NUM_USERS), "degree": degree, "recall@20": hits, "ndcg@20": hits / 2}
    )
    out = io.BytesIO()
    frame.write_parquet(out)
    write_sealed(run.per_user, out.getvalue())
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
            "variant": settings.variant,
            "seed": settings.train.seed,
            "commit": "0123456789abcdef",
            "split": "test",
            "metrics": _metrics(hits),
            "strata": {
                name: {"users": int(at.sum()), **_metrics(hits[at])} for name, at in bins.items()
            },
            "groups": {
                "users": {"gender": {"F": _group(hits[::2]), "M": _group(hits[1::2])}},
                "items": {"genre": {"Drama <b>": _group(hits[:40])}},
            },
            "gate": gate if settings.gate is not None else [],
        }
    )


def _group(hits: np.ndarray) -> dict[str, Any]:
    means = _metrics(hits).items()
    metrics = {name: {"mean": x, "low": x - 0.1, "high": x + 0.1} for name, x in means}
    return {"users": len(hits), "metrics": metrics}


def _metrics(hits: np.ndarray) -> dict[str, float]:
    return {"recall@20": float(hits.mean()), "ndcg@20": float(hits.mean() / 2)}
