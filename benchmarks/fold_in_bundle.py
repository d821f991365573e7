"""What do users and items lose that a bundle meets after training?

    python benchmarks/fold_in_bundle.py --quick     # MovieLens-100k, one seed
    python benchmarks/fold_in_bundle.py             # and Amazon-Beauty, three seeds

A fifth of the users and a tenth of the items are left out of one run and are in another. Into the
bundle of the first come the items, by `recmind upsert` with their texts and at most three
interactions each, as the second run has them; then the users, folded in from their training
histories. `fold_in_ratio`: Recall@20 of these users' test items, folded in against trained.
`upsert_ratio`: Recall@40 of the items' other interactions by known users, among the whole
catalogue, against training with the items.
"""

import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import numpy as np
import polars as pl
import typer

from benchmarks.measure import RESULTS, Report, Spread
from benchmarks.text_vectors import embedded_texts, gather
from recmind_dist.errors import RecmindError
from recmind_dist.pipeline.in_process import train_in_process
from recmind_dist.pipeline.run import Pipeline, fetch_asset
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.fold_in import FoldIn, Histories
from recmind_dist.recommend.ranking import top_items
from recmind_dist.recommend.upsert import upsert
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text.reuse import EmbeddedTexts

BEAUTY = Path("../shared/data/amazon-beauty")
LEFT_OUT_USERS, LATER_ITEMS, MOST_KEPT = 0.2, 0.1, 3
PAIR = ("user", "item")


@dataclass(frozen=True)
class Parts:
    """The pairs of a log, oldest first: user and item.

    Attributes:
        train: to the last interaction but two of each user, and what later items keep.
        valid, test: a user's last but one and last.
        kept, held: of the later items, at most three each, and all others.
        users: those left out.
        items: those that come later.
    """

    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    kept: pl.DataFrame
    held: pl.DataFrame
    users: list[str]
    items: list[str]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="one data set, one seed")] = False,
    seeds: Annotated[list[int] | None, typer.Option("--seed", help="default: 0, 1, 2")] = None,
    home: Annotated[Path, typer.Option(help="folder of the runs")] = Path("runs/fold_in_bundle"),
    results: Annotated[Path, typer.Option(help="folder of fold_in_bundle.json")] = RESULTS,
) -> None:
    """Trains twice a seed and data set, exports, upserts, folds in, ranks."""
    report = Report("fold_in_bundle", quick)
    seeds = seeds or ([0] if quick else [0, 1, 2])
    try:
        data = {"ml-100k": fetch_asset("ml-100k").absolute()}
        fetch_asset("minilm")
        if not quick and BEAUTY.is_dir():
            data["amazon-beauty"] = BEAUTY.absolute()
        elif not quick:
            report.note(f"amazon-beauty left out: no {BEAUTY}")
        for name, files in data.items():
            vectors = embedded_texts(config_of_all(name, files, home.absolute()))
            found = [
                one_seed(name, files, home.absolute() / f"{name}-{s}", s, vectors) for s in seeds
            ]
            add(report, name, found)
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error
    report.publish(results)


def add(report: Report, data: str, found: list[dict[str, float]]) -> None:
    """Rows of a data set, and ratios over all its seeds."""
    spread = {key: Spread(tuple(one[key] for one in found)) for key in found[0]}
    for what, later, trained in (
        ("fold_in", "folded in", "trained"),
        ("upsert", "upserted", "trained with"),
    ):
        for side in (later, trained):
            report.add(f"{data}: {what}", side, "recall", spread[side])
        report.figures[f"{what}_ratio"] = min(
            report.figures.get(f"{what}_ratio") or np.inf,
            float(np.mean(spread[later].values) / np.mean(spread[trained].values)),
        )
    report.note(
        f"{data}: {found[0]['users']:.0f} users left out and {found[0]['items']:.0f} items later "
        f"at each of {len(found)} seeds; {found[0]['pairs']:.0f} held-out pairs of the items"
    )


def config_of_all(name: str, files: Path, home: Path) -> RunConfig:
    """All items of a data set, whose texts all runs take their vectors from."""
    return RunConfig.model_validate(
        {
            "run_dir": home / f"{name}-texts",
            "dataset": {
                "name": name,
                "interactions": files / "interactions.tsv",
                "items": files / "items.jsonl",
            },
            "text": {"model": "models/minilm"},
        }
    )


def one_seed(
    name: str, files: Path, home: Path, seed: int, vectors: EmbeddedTexts
) -> dict[str, float]:
    """Recall of all four, and how many users, items and pairs they are of."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    items = pl.read_ndjson(files / "items.jsonl", infer_schema_length=None)
    items = items.with_columns(pl.col("id").cast(pl.String))
    parts = split(read_log(files / "interactions.tsv"), items["id"].to_list(), seed)
    with_all = bundle_of(name, parts, items, home / "all", seed, vectors)
    rest = without(parts)
    known = items.filter(~pl.col("id").is_in(parts.items))
    bundle = bundle_of(name, rest, known, home / "some", seed, vectors, text_model=True)
    items.filter(pl.col("id").is_in(parts.items)).write_ndjson(home / "later.jsonl")
    parts.kept.with_row_index("time").write_csv(home / "kept.tsv", separator="\t")
    upsert(bundle, home / "later.jsonl", home / "kept.tsv")
    bundle = Bundle.open(bundle.path)
    out = parts.test.filter(pl.col("user").is_in(parts.users))
    held = parts.held.filter(~pl.col("user").is_in(parts.users))
    return {
        "folded in": recall(bundle, parts, out, 20),
        "trained": recall(with_all, parts, out, 20),
        "upserted": recall(bundle, parts, held, 40),
        "trained with": recall(with_all, parts, held, 40),
        "users": float(len(parts.users)),
        "items": float(len(parts.items)),
        "pairs": float(held.height),
    }


def read_log(path: Path) -> pl.DataFrame:
    """Distinct pairs, the oldest first."""
    log = pl.read_csv(path, separator="\t", infer_schema=False)
    times = [name for name in ("time", "timestamp", "order") if name in log.columns]
    log = log.with_row_index("row").sort(pl.col(times[0]).cast(pl.Float64), "row")
    return log.select(PAIR).unique(maintain_order=True)


def split(log: pl.DataFrame, items: list[str], seed: int) -> Parts:
    """Draws users and items, and cuts each user's log."""
    rng = np.random.default_rng(seed)
    later = rng.choice(items, int(LATER_ITEMS * len(items)), replace=False).tolist()
    of_later, warm = (
        log.filter(pl.col("item").is_in(later)),
        log.filter(~pl.col("item").is_in(later)),
    )
    keeps = dict(zip(later, rng.integers(0, MOST_KEPT + 1, len(later)).tolist(), strict=True))
    place = of_later.with_columns(
        at=pl.int_range(pl.len()).over("item"), most=pl.col("item").replace_strict(keeps)
    )
    kept = place.filter(pl.col("at") < pl.col("most")).select(PAIR)
    held = place.filter(pl.col("at") >= pl.col("most")).select(PAIR)
    age = warm.with_columns(
        age=pl.int_range(pl.len(), 0, -1).over("user") - 1, count=pl.len().over("user")
    ).with_columns(age=pl.when(pl.col("count") < 3).then(2).otherwise(pl.col("age")))
    valid, test = (age.filter(pl.col("age") == k).select(PAIR) for k in (1, 0))
    train = age.filter(pl.col("age") >= 2).select(PAIR)
    users = test["user"].unique(maintain_order=True).to_list()
    out = rng.choice(users, int(LEFT_OUT_USERS * len(users)), replace=False).tolist()
    known = train["user"].unique().to_list()
    held = held.filter(pl.col("user").is_in(known))
    return Parts(pl.concat([train, kept]), valid, test, kept, held, out, later)


def without(parts: Parts) -> Parts:
    """Neither the users nor the items."""
    seen = ~pl.col("user").is_in(parts.users) & ~pl.col("item").is_in(parts.items)
    frames = (parts.train, parts.valid, parts.test, parts.kept, parts.held)
    return Parts(*(frame.filter(seen) for frame in frames), parts.users, parts.items)


def bundle_of(
    name: str,
    parts: Parts,
    items: pl.DataFrame,
    home: Path,
    seed: int,
    vectors: EmbeddedTexts,
    text_model: bool = False,
) -> Bundle:
    """Trains the defaults on these pairs and items, and exports."""
    home.mkdir()
    for split_name in ("train", "valid", "test"):
        frame = getattr(parts, split_name).with_row_index("time")
        frame.write_csv(home / f"{split_name}.tsv", separator="\t")
    items.write_ndjson(home / "items.jsonl")
    paths = {"interactions": "train.tsv", "valid": "valid.tsv", "test": "test.tsv"}
    data = {key: home / path for key, path in paths.items()}
    config = RunConfig.model_validate(
        {
            "run_dir": home / "run",
            "cache_dir": home.parent / "cache",
            "dataset": {"name": name, "items": home / "items.jsonl", **data},
            "graph": {"split": "given"},
            "text": {"model": "models/minilm"},
            "train": {"seed": seed},
        }
    )
    gather(config, vectors)
    run = train_in_process(config)
    Pipeline.of_run(run.path).export(home / "bundle", text_model)
    return Bundle.open(home / "bundle")


def recall(bundle: Bundle, parts: Parts, wanted: pl.DataFrame, k: int) -> float:
    """Mean Recall@k over the users of `wanted` pairs, by training histories of all that the bundle
    knows; training and validation items are not ranked.
    """
    at, rows = bundle.item_position, bundle.users.position
    place = pl.col("item").replace_strict(at, default=None, return_dtype=pl.Int64)
    pairs = wanted.with_columns(place=place).group_by("user", maintain_order=True).agg("place")
    users = pairs["user"].to_list()
    histories = _by_user(parts.train.with_columns(place=place), users)
    hidden = _by_user(pl.concat([parts.train, parts.valid]).with_columns(place=place), users)
    known = [user in rows for user in users]
    base = None
    if all(known):
        base = bundle.users.base(np.array([rows[user] for user in users]))
    assert all(known) or not any(known)
    vectors = FoldIn(bundle)(Histories.of(histories), base)
    found, _ = top_items(vectors, bundle.item_vectors, k, [np.array(h) for h in hidden])
    shares = [
        len(set(top) & set(places)) / len(places)
        for top, places in zip(found.tolist(), pairs["place"].to_list(), strict=True)
    ]
    return float(np.mean(shares))


def _by_user(frame: pl.DataFrame, users: list[str]) -> list[list[int]]:
    lists = dict(frame.group_by("user", maintain_order=True).agg("place").iter_rows())
    return [lists.get(user, []) for user in users]


if __name__ == "__main__":
    typer.run(main)
