"""Compares models user by user, from the per_user.parquet of their runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl

from recmind_dist.errors import StoreError
from recmind_dist.evaluation.degree_bins import COLD_MAX, strata_bins
from recmind_dist.evaluation.gaps import corrected, paired
from recmind_dist.evaluation.group_differences import RankedUsers, differences_by_group
from recmind_dist.evaluation.settings import GroupSettings
from recmind_dist.evaluation.significance import Comparison, Float64Array, paired_bootstrap
from recmind_dist.graph import Graph
from recmind_dist.report import RunDirectory
from recmind_dist.report.metric_names import metric_label
from recmind_dist.report.results import FOLDED
from recmind_dist.report.tables import COLD, Evidence
from recmind_dist.storage import check_seal
from recmind_dist.types import BoolArray, IntArray

MACRO_LOW = (0, 1, 4, 8, 16)
"""Lowest degree of each stratum of the macro-average: 0, 1–3, 4–7, 8–15, 16 and more."""
RESAMPLES = 2000
Over = Literal["users", "cold", "strata"]
Users = Over | BoolArray
"""Who counts; an array says it of every user of the graph, [U]."""


def read_users(
    runs: Sequence[RunDirectory], metric: str
) -> tuple[Float64Array, IntArray, IntArray | None]:
    """A metric of all runs of one model.

    Returns:
        the metric [S, U], the users' nodes [U], and the degree of each user's held-out item [U],
            None if some user has several.
    Raises:
        StoreError: a file is missing or lacks the metric, or the runs have different users.
    """
    frames = [_read(run, [metric]) for run in runs]
    if not frames:
        raise StoreError("no run to read: train and evaluate the model first")
    users = frames[0].get_column("user")
    for run, frame in zip(runs, frames, strict=True):
        if not frame.get_column("user").equals(users):
            raise _other_users(run, runs[0])
    values = np.stack([frame.get_column(metric).to_numpy() for frame in frames])
    return values, users.to_numpy(), _degree(frames[0])


def compare(
    a: Sequence[RunDirectory],
    b: Sequence[RunDirectory],
    metric: str,
    over: Users = "users",
) -> Comparison | None:
    """Compares model a with model b.

    Args:
        metric: `folded_recall@20` is of histories with the validation item.
        over: all users, those of cold items (degree ≤ 3), the macro-average over strata, or
            those that an array says
    Returns:
        None if there are no degrees (some user has several held-out items), or no cold items.
    """
    a_SU, users, degree = read_users(a, metric)
    b_SU, b_users, _ = read_users(b, metric)
    if not np.array_equal(users, b_users):
        raise _other_users(b[0], a[0])
    groups = None
    if isinstance(over, np.ndarray):
        groups = np.where(over[users], 0, -1)
        if not over[users].any():
            return None
    elif over != "users":
        if degree is None or not len(degree):
            return None
        groups = np.where(degree <= COLD_MAX, 0, -1)
        if over == "strata":
            groups = np.digitize(degree, MACRO_LOW) - 1
        if not (groups >= 0).any():
            return None
    return paired_bootstrap(a_SU, b_SU, groups_U=groups)


def share_of_gain(
    a: Sequence[RunDirectory],
    full: Sequence[RunDirectory],
    base: Sequence[RunDirectory],
    metric: str,
    users_U: BoolArray,
) -> tuple[float, float, float] | None:
    """The share that model a has of the gain of `full` over `base`, (a − base) / (full − base), and
    its 95 % interval: users, the same for all three, and seeds are drawn with replacement.

    Args:
        users_U: which users of the graph count, [U].
    Returns:
        None where `full` gains nothing, or there are no runs or no such users.
    """
    if not (a and full and base):
        return None
    metrics, users, _ = zip(*(read_users(runs, metric) for runs in (a, full, base)), strict=True)
    counted = [values[:, users_U[users[0]]] for values in metrics]
    if not counted[0].shape[1]:
        return None
    mine, whole, least = (float(values.mean()) for values in counted)
    if whole <= least:
        return None
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        who = rng.integers(0, counted[0].shape[1], counted[0].shape[1])
        one, all_, none = (v[rng.integers(0, len(v), len(v))][:, who].mean() for v in counted)
        drawn.append((one - none) / (all_ - none) if all_ > none else np.nan)
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return (mine - least) / (whole - least), float(low), float(high)


def gains(
    ours: RunDirectory, theirs: RunDirectory, metrics: Sequence[str]
) -> dict[str, Comparison]:
    """How far one run is above another, by metric. Empty where nobody has a held-out item.

    Raises:
        StoreError: as `read_users`.
    """
    found = {}
    for metric in metrics:
        if not len(read_users([ours], metric)[1]):
            return {}
        compared = compare([ours], [theirs], metric)
        assert compared is not None, "all users are compared"
        found[metric] = compared
    return found


def gain_line(ours: RunDirectory, theirs: RunDirectory, metrics: Sequence[str]) -> str:
    """ "Recall@20 +34.1 % (27.5 … 41.2), …, 943 users": `gains`, with 95 % intervals over users.
    Empty where there are none.
    """
    parts, users = [], 0
    for metric, found in gains(ours, theirs, metrics).items():
        users = found.users
        gain = f"{metric_label(metric)} {found.a:.4f} against {found.b:.4f}"
        if found.gain is not None and found.low is not None and found.high is not None:
            low, high = 100 * found.low, 100 * found.high
            gain = f"{metric_label(metric)} {100 * found.gain:+.1f} % ({low:.1f} … {high:.1f})"
        parts.append(gain)
    if not parts:
        return ""
    return f"{', '.join(parts)}: 95 % intervals over the same {users:,} users, one seed"


def evidence_of(
    runs: Mapping[str, RunDirectory], metrics: Sequence[str], prefix: str = ""
) -> dict[str, Evidence]:
    """For a table: intervals over users, and which model is significantly the best in a column, by
    paired t-tests against every other one over the same users (Holm), one seed each.

    Args:
        runs: by model. None is the best where they have different users.
        prefix: `FOLDED` for histories with the validation item.
    Raises:
        StoreError: as `read_users`.
    """
    half: dict[str, dict[str, float]] = {name: {} for name in runs}
    best: dict[str, set[str]] = {name: set() for name in runs}
    columns = [prefix + metric for metric in metrics]
    frames = {name: _read(run, columns) for name, run in runs.items()} if metrics else {}
    degrees = {name: _degree(frame) for name, frame in frames.items()}
    paired_users = bool(frames) and _have_the_same_users(frames)
    for metric in metrics:
        by_column = {metric: {name: _values(f, prefix + metric) for name, f in frames.items()}}
        by_column[COLD + metric] = {
            name: by_column[metric][name][degree <= COLD_MAX]
            for name, degree in degrees.items()
            if degree is not None
        }
        for column, values in by_column.items():
            for name, x_U in values.items():
                if len(x_U) > 1:
                    half[name][column] = half_of_mean(x_U)
            if paired_users and (leader := _leader(values)) is not None:
                best[leader].add(column)
    return {name: Evidence(half[name], frozenset(best[name])) for name in runs}


def half_of_mean(values: Float64Array) -> float:
    """Half the width of a mean's 95 % interval."""
    found = paired(values)
    return (found.high - found.low) / 2


def halves_of_lists(run: RunDirectory, metrics: Sequence[str]) -> dict[str, float]:
    """`half_of_mean` of those metrics that a run has by user: all but coverage and Gini."""
    present = columns_of(run)
    if not (known := [metric for metric in metrics if metric in present]):
        return {}
    frame = _read(run, known)
    return {metric: half_of_mean(frame.get_column(metric).to_numpy()) for metric in known}


def halves_of_strata(run: RunDirectory, metric: str) -> dict[str, float]:
    """`half_of_mean` of a metric by stratum of the held-out item's training degree ("4-7", "cold"),
    where it has two users; empty where some user has several held-out items.

    Raises:
        StoreError: as `read_users`.
    """
    values_SU, _, degree = read_users([run], metric)
    if degree is None or not len(degree):
        return {}
    found = {}
    for name, low, high in strata_bins(int(degree.max())):
        inside = (degree >= low) & (degree <= high)
        if inside.sum() > 1:
            found[name] = half_of_mean(values_SU[0][inside])
    return found


def ranked_users(run: RunDirectory, metrics: Sequence[str]) -> RankedUsers:
    """What a run found for its users, with their lists.

    Raises:
        StoreError: as `read_users`; or a version without lists wrote the file.
    """
    frame = _read(run, ["items", *metrics])
    users = frame.get_column("user").to_numpy()
    slots = np.array(frame.get_column("items").explode(), np.int64)
    lists = slots.reshape(len(users), len(slots) // max(len(users), 1))
    values = {metric: frame.get_column(metric).to_numpy() for metric in metrics}
    return RankedUsers(users, lists, values)


def compare_groups(
    a: RunDirectory,
    b: RunDirectory,
    graph: Path,
    groups: GroupSettings,
    metrics: Sequence[str],
) -> list[dict[str, Any]]:
    """`differences_by_group` of two evaluated runs on one graph. Nothing without groups or users.

    Args:
        graph: its directory.
    Raises:
        ConfigError: a column is missing, or has one value or too many.
        StoreError: as `ranked_users`; the runs have different users; no graph is there.
    """
    if not (groups.users or groups.items):
        return []
    ours, theirs = ranked_users(a, metrics), ranked_users(b, metrics)
    if not np.array_equal(ours.users, theirs.users):
        raise _other_users(b, a)
    if not len(ours.users):
        return []
    split, opened = a.read_results()["split"], Graph.open(graph, edges=False)
    return differences_by_group(ours, theirs, opened, split, groups, metrics)


def columns_of(run: RunDirectory) -> list[str]:
    """Names of per_user.parquet's columns; none where it is missing or damaged."""
    try:
        check_seal(run.per_user, "evaluate the run again")
        return list(pl.read_parquet_schema(run.per_user))
    except (StoreError, OSError, pl.exceptions.PolarsError):
        return []


def _leader(values: Mapping[str, Float64Array]) -> str | None:
    """The model that is significantly above all others, if one is."""
    if len(values) < 2 or min(map(len, values.values())) < 2:
        return None
    first = max(values, key=lambda name: values[name].sum())
    others = [name for name in values if name != first]
    rows = [{"gap": paired(values[first] - values[name])} for name in others]
    significant = (row["gap"].significant for row in corrected(rows, ["gap"]))
    return first if all(significant) else None


def seen(found: Comparison | None, expected: Literal["above", "below"]) -> str:
    """Whether a is above or below b as expected: "yes", "no, the opposite" or "not significant"."""
    if found is None:
        return "not measured"
    if not found.significant:
        return found.verdict
    return "yes" if (found.a > found.b) == (expected == "above") else "no, the opposite"


def verdict_of(found: Comparison | None) -> str:
    """ "above (p = …)", "below (…)" or "not significant (…)"."""
    if found is None:
        return "not measured"
    if not found.significant:
        return found.verdict
    return f"{'above' if found.a > found.b else 'below'} ({found.verdict})"


def spread(
    runs: Sequence[RunDirectory], metric: str, stratum: str | None = None
) -> tuple[float | None, float | None]:
    """Mean and standard deviation over runs of a metric of results.json; None without values.

    Args:
        metric: `folded_recall@20` is of histories with the validation item.
    """
    values = []
    folded, metric = metric.startswith(FOLDED), metric.removeprefix(FOLDED)
    for results in (run.read_results() for run in runs):
        if folded:
            results = results.get("folded") or {"metrics": {}, "strata": {}}
        metrics = results["strata"].get(stratum, {}) if stratum else results["metrics"]
        if metrics.get(metric) is not None:
            values.append(metrics[metric])
    mean = float(np.mean(values)) if values else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None


def _have_the_same_users(frames: Mapping[str, pl.DataFrame]) -> bool:
    first, *others = [frame.get_column("user") for frame in frames.values()]
    return all(first.equals(other) for other in others)


def _values(frame: pl.DataFrame, metric: str) -> Float64Array:
    return frame.get_column(metric).to_numpy()


def _other_users(run: RunDirectory, than: RunDirectory) -> StoreError:
    return StoreError(
        f"{run.per_user}: other users than {than.per_user}: compare runs of one data set"
    )


def _degree(frame: pl.DataFrame) -> IntArray | None:
    """Of each user's held-out item; None if some user has several."""
    degree = frame.get_column("degree")
    return None if degree.null_count() else degree.to_numpy()


def _read(run: RunDirectory, columns: Sequence[str]) -> pl.DataFrame:
    """Users in node order, with their degree and these columns. Raises StoreError."""
    if run.per_user.is_file():
        check_seal(run.per_user, f"run `recmind evaluate {run.path}`")
    try:
        frame = pl.read_parquet(run.per_user, columns=["user", "degree", *columns])
    except FileNotFoundError as error:
        raise StoreError(f"{run.per_user}: missing: run `recmind evaluate {run.path}`") from error
    except (OSError, pl.exceptions.PolarsError) as error:
        sentence = str(error).splitlines()[0][:120]
        raise StoreError(
            f"{run.per_user}: no {', '.join(columns)} can be read ({sentence}): run `recmind "
            f"evaluate {run.path}`"
        ) from error
    return frame.sort("user")
