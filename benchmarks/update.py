"""What does `recmind update` give against training anew, and at which share of its time?

    python benchmarks/update.py --quick     # MovieLens-100k, one seed, under 4 minutes
    python benchmarks/update.py             # and MovieLens latest-small, three seeds

A log is replayed in time: a run on the first 80 %, then steps of 5 %. After each step four policies
rank for the users of the next one whom the log knows by then: never update; fold users in; update;
train from nothing. Costs are CPU seconds of this process, which trains on one thread; text vectors
are there before.
"""

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import typer

from benchmarks.measure import RESULTS, Report, Spread
from benchmarks.text_vectors import embedded_texts, gather, silent
from benchmarks.update_replay import CUTS, Ranker, Replay
from recmind_dist.errors import DataError, RecmindError
from recmind_dist.pipeline.in_process import train_in_process
from recmind_dist.pipeline.run import DATA, Pipeline, fetch_asset
from recmind_dist.pipeline.update import update_run
from recmind_dist.pipeline.update_config import config_of_retraining
from recmind_dist.recommend.recommender import load
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import read_json
from recmind_dist.text.reuse import EmbeddedTexts
from recmind_dist.training.finished_run import read_run

POLICIES = ("never", "fold-in", "update", "retrain")
SHARED = Path("../shared/data/ml-latest-small")


@dataclass
class Policy:
    """What a policy gave, by step: NDCG@20 of each user, and CPU seconds."""

    ndcg: list[list[float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    @property
    def mean(self) -> float:
        """Over all users of all steps."""
        values = [value for step in self.ndcg for value in step]
        return sum(values) / len(values)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="one data set, one seed")] = False,
    home: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/bench-update"),
    results: Annotated[Path, typer.Option(help="folder of update.json")] = RESULTS,
) -> None:
    """Replays, updates, retrains, ranks."""
    report = Report("update", quick)
    try:
        for name in ("ml-100k",) if quick else ("ml-100k", "ml-latest-small"):
            replay = _replay(name, home.absolute())
            if replay is None:
                report.note(f"{name} left out: no {SHARED}")
                continue
            found = [replayed(replay, seed) for seed in range(1 if quick else 3)]
            _add(report, name, found)
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    _add_of_bundles(report, results)
    report.note(
        "the log's first 80 %, then steps of 5 %; NDCG@20 of the next step's events, of users and "
        "items that the log has by then; CPU seconds of one thread, without text vectors"
    )
    report.publish(results)


def _add_of_bundles(report: Report, results: Path) -> None:
    """What fold_in_bundle.py has stored of users and items that an exported bundle meets."""
    path = results / "fold_in_bundle.json"
    if path.is_file():
        stored = read_json(path, DataError)
        report.figures |= stored["figures"]
        names = " and ".join(stored["figures"])
        report.note(f"{names} are of fold_in_bundle.py, commit {stored['commit']}")


def _replay(name: str, home: Path) -> Replay | None:
    folder = DATA / name if name == "ml-100k" else SHARED
    if name == "ml-100k":
        fetch_asset(name)
    elif not folder.is_dir():
        return None
    shutil.rmtree(home / name, ignore_errors=True)
    log, items = folder / "interactions.tsv", folder / "items.jsonl"
    return Replay.make(name, log, items, home / name / "data")


def replayed(replay: Replay, seed: int) -> dict[str, Policy]:
    """All policies over all steps. Returns them by name."""
    runs = replay.home.parent / f"seed{seed}"
    vectors = _all_vectors(replay)
    config = _config(replay, runs / "base", seed)
    gather(config, vectors)
    train_in_process(config, silent)
    _export(runs / "base")
    stale, latest = load(runs / "base"), runs / "base"
    counts = replay.steps[0]["item"].value_counts().sort("count", "item", descending=True)
    popular = counts.get_column("item").to_list()
    found = {name: Policy() for name in POLICIES}
    for step in range(1, len(CUTS) - 2):
        updated, retrained = runs / f"update{step}", runs / f"retrain{step}"
        found["update"].seconds.append(_update(replay, step, latest, updated, vectors))
        anew = config_of_retraining(read_run(updated)[1], retrained)
        found["retrain"].seconds.append(_cpu(partial(train_in_process, anew, silent)))
        _export(retrained)
        latest = updated
        histories, tests = replay.histories(step), replay.tests(step)
        for name, recommender in (
            ("never", stale),
            ("fold-in", stale),
            ("update", load(updated)),
            ("retrain", load(retrained)),
        ):
            ranker = Ranker(recommender, name == "fold-in", popular)
            found[name].ndcg.append(ranker.ndcg(histories, tests))
        print(f"{replay.name}, seed {seed}, step {step}: " + _line(found), flush=True)
    return found


def _line(found: dict[str, Policy]) -> str:
    last = {name: policy.ndcg[-1] for name, policy in found.items()}
    means = (f"{name} {sum(of) / len(of):.4f}" for name, of in last.items())
    times = (f"{found[name].seconds[-1]:.1f} s" for name in ("update", "retrain"))
    return f"{', '.join(means)}; {' against '.join(times)}, {len(last['never'])} users"


def _config(replay: Replay, run_dir: Path, seed: int) -> RunConfig:
    """The defaults, with nothing held out."""
    return RunConfig.model_validate(
        {
            "run_dir": run_dir,
            "cache_dir": replay.home.parents[1] / "cache",
            "fetch": ["minilm"],
            "dataset": {
                "name": replay.name,
                "interactions": replay.log(0),
                "items": replay.items(0),
            },
            "graph": {"split": "none"},
            "train": {"seed": seed},
            "scaling": {"device": "cpu"},
        }
    )


def _export(run: Path) -> None:
    """Makes the bundle that ranks."""
    Pipeline.of_run(run, silent).export(run / "bundle")


def _all_vectors(replay: Replay) -> EmbeddedTexts:
    """Vectors of the whole catalogue, made once: what each step has is taken from them."""
    config = _config(replay, replay.home / "none", 0)
    items = config.dataset.model_copy(
        update={
            "items": config.dataset.items.model_copy(update={"path": replay.home / "items.jsonl"})
        }
    )
    return embedded_texts(config.model_copy(update={"dataset": items}))


def _update(replay: Replay, step: int, run: Path, to: Path, vectors: EmbeddedTexts) -> float:
    """CPU seconds of an update's training, its own preparation included."""
    seconds: list[float] = []

    def train(config: RunConfig, say: Callable[[str], object]) -> None:
        gather(config, vectors)
        seconds.append(_cpu(partial(train_in_process, config, silent)))

    update_run(run, to, [replay.log(step)], [replay.items(step)], say=silent, train=train)
    return seconds[0]


def _cpu(work: Callable[[], object]) -> float:
    """CPU seconds of this process while it works."""
    start = time.process_time()
    work()
    return time.process_time() - start


def _add(report: Report, name: str, found: list[dict[str, Policy]]) -> None:
    """Rows and figures of one data set, over its seeds."""
    for policy in POLICIES:
        runs = [one[policy] for one in found]
        for step in range(len(runs[0].ndcg)):
            means = tuple(sum(run.ndcg[step]) / len(run.ndcg[step]) for run in runs)
            report.add(f"{name}, {step + 1} steps on", policy, "NDCG@20", Spread(means))
        report.add(f"{name}, all steps", policy, "NDCG@20", Spread(tuple(run.mean for run in runs)))
        costs = tuple(sum(run.seconds) / len(run.ndcg) for run in runs)
        report.add(f"{name}, a step", policy, "CPU s", Spread(costs))
    ratios = [one["update"].mean / one["retrain"].mean for one in found]
    shares = [sum(one["update"].seconds) / sum(one["retrain"].seconds) for one in found]
    ratio, share = Spread(tuple(ratios)).median, Spread(tuple(shares)).median
    suffix = "" if name == "ml-100k" else f", {name}"
    report.figures[f"update_ratio{suffix}"] = ratio
    report.figures[f"update_time_share{suffix}"] = share


if __name__ == "__main__":
    typer.run(main)
