"""`recmind audit`: reads evaluated runs and says who gains and who loses, and what is shown."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from recmind_dist.errors import ConfigError, StoreError
from recmind_dist.evaluation.audit import (
    LIFT,
    AuditedLists,
    item_gaps,
    mean_history,
    user_gaps,
)
from recmind_dist.evaluation.gaps import Gap, corrected, of_mean, paired
from recmind_dist.evaluation.groups import (
    ACTIVITY,
    POPULARITY,
    check_groups,
    item_groups,
    user_groups,
)
from recmind_dist.evaluation.list_details import describe_lists
from recmind_dist.evaluation.ranking import evaluate_embeddings
from recmind_dist.evaluation.settings import EvaluationSettings, GroupSettings
from recmind_dist.graph import Graph
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import check_seal, write_json
from recmind_dist.training.finished_run import load_best, read_inputs, read_run
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.types import Say

METRICS = ("recall", "ndcg", "popularity", "tail")
BY_USER = (*METRICS, "novelty")
"""Of the curve, what each user has a value of."""
PENALTIES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
"""Of `penalty_curve`."""


@dataclass(frozen=True)
class AuditedRun:
    """An evaluated run on disk, its data, and its cut-off."""

    run: RunDirectory
    config: RunConfig
    graph: Graph
    k: int

    @staticmethod
    def open(path: Path, say: Say) -> "AuditedRun":
        """Raises ConfigError or StoreError."""
        run, config = read_run(path)
        if config.trains:
            graph = read_inputs(run).graph
        else:
            graph = Pipeline(config, say).prepare()
        return AuditedRun(run, config, Graph.open(graph), config.evaluation.ks[0])

    def lists(self) -> AuditedLists:
        """Raises StoreError: the run is not evaluated, or was by a version without lists."""
        path, remedy = self.run.per_user, f"run `recmind evaluate {self.run.path}`"
        if not path.is_file():
            raise StoreError(f"{path}: missing: {remedy}")
        check_seal(path, remedy)
        columns = {name: f"{name}@{self.k}" for name in METRICS}
        missing = [c for c in ("items", *columns.values()) if c not in pl.read_parquet_schema(path)]
        if missing:
            raise StoreError(f"{path}: has no column {missing[0]!r}: {remedy}")
        frame = pl.read_parquet(path, columns=["user", "items", *columns.values()])
        lists = frame["items"].cast(pl.List(pl.Int64)).list.head(self.k)
        users = frame["user"].to_numpy()
        return AuditedLists(
            users,
            np.array(lists.to_list(), np.int64).reshape(len(users), -1),
            {name: frame[column].to_numpy() for name, column in columns.items()},
            mean_history(self.graph, users),
        )


def audit(
    run_dir: Path,
    against: Path | None = None,
    users: Sequence[str] = (),
    items: Sequence[str] = (),
    curve: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Content of audit.json, which is written into the run.

    Args:
        against: another evaluated run on the same data.
        users, items: columns that make groups; default: those of the run's evaluation.groups, else
            activity and popularity.
        curve: rank again with penalties on popularity; see `penalty_curve`.
    Raises:
        ConfigError: a column is missing, has one value, or all its groups are too small.
        StoreError: a run is not evaluated, or the two are on other data or users.
    """
    own = AuditedRun.open(run_dir, say)
    settings = _groups(own.config.evaluation.groups, users, items)
    a, b = own.lists(), None
    split = own.run.read_results()["split"]
    check_groups(own.graph, settings, split)
    if against is not None:
        b = _lists_beside(own, a, AuditedRun.open(against, say))
    found: dict[str, Any] = {
        "run": str(run_dir),
        "against": None if against is None else str(against),
        "k": own.k,
        "users": len(a.users),
        "all": _of_all(a, b),
        "user_groups": {
            groups.name: user_gaps(a, b, groups, (*METRICS, LIFT), settings.min_users)
            for groups in user_groups(own.graph, settings.users)
        },
        "item_groups": {
            groups.name: item_gaps(a, b, groups, own.graph, split, settings.min_users)
            for groups in item_groups(own.graph, settings.items)
        },
        "curve": penalty_curve(own, say) if curve else [],
    }
    values: dict[str, Any] = plain_gaps(found)
    write_json(own.run.audit, values)
    return values


def plain_gaps(values: Any) -> Any:
    """The same with gaps as plain data."""
    if isinstance(values, Gap):
        return values.to_json()
    if isinstance(values, dict):
        return {name: plain_gaps(value) for name, value in values.items()}
    return [plain_gaps(value) for value in values] if isinstance(values, list) else values


def _groups(settings: GroupSettings, users: Sequence[str], items: Sequence[str]) -> GroupSettings:
    return settings.model_copy(
        update={
            "users": tuple(users) or settings.users or (ACTIVITY,),
            "items": tuple(items) or settings.items or (POPULARITY,),
        }
    )


def _lists_beside(own: AuditedRun, a: AuditedLists, other: AuditedRun) -> AuditedLists:
    if other.graph.key != own.graph.key:
        raise StoreError(
            f"{other.run.path}: on other data or another split than {own.run.path}: give a run on "
            "the same graph"
        )
    b = AuditedRun(other.run, other.config, other.graph, own.k).lists()
    if not np.array_equal(a.users, b.users):
        raise StoreError(f"{other.run.path}: other users than {own.run.path}: evaluate both again")
    return b


def _of_all(a: AuditedLists, b: AuditedLists | None) -> list[dict[str, Any]]:
    """A row a metric: its mean over all users and, beside another run, what it is above its."""
    everyone, rows = np.ones(len(a.users), np.bool_), []
    for metric in (*METRICS, LIFT):
        mine = a.sample(metric, everyone)
        row: dict[str, Any] = {"metric": metric, **of_mean(mine)}
        if b is not None:
            row["against_run"] = paired(mine - b.sample(metric, everyone))
        rows.append(row)
    return corrected(rows, ["against_run"])


def penalty_curve(own: AuditedRun, say: Say = print) -> list[dict[str, Any]]:
    """`curve_of` the run's best checkpoint, on one rank alone.

    Raises ConfigError: nothing was trained.
    """
    if not own.config.trains:
        raise ConfigError(
            f"{own.run.path}: variant {own.config.variant} trains no vectors: leave --curve out"
        )
    inputs = read_inputs(own.run)
    context = Pipeline(own.config, say).evaluation_context(inputs)
    model, cursor = load_best(own.config, inputs, own.run, context)
    split = own.run.read_results()["split"]
    return curve_of(model, cursor.norm_exponent, split, own.k)


def curve_of(model: ModelShard, exponent: float, split: str, k: int) -> list[dict[str, Any]]:
    """A row a penalty: accuracy and what is shown, of what users have each with its paired change
    against no penalty. The catalogue is ranked once for each, on one rank alone.
    """
    vectors, context = model.final_embeddings(), model.context
    settings = EvaluationSettings(ks=(k,), metric=f"ndcg@{k}")
    rows: list[dict[str, Any]] = []
    base: dict[str, Any] = {}
    for penalty in PENALTIES:
        found = evaluate_embeddings(
            vectors.final,
            model.graph,
            split,
            settings,
            context,
            exponent,
            model.rows,
            vectors.nodes,
            penalty=penalty,
            keep_lists=True,
        )
        details = describe_lists(found, model.graph, split, settings, context, model.rows)
        means, per_user = found.metrics | details.lists, found.per_user | details.per_user
        base = base or per_user
        row: dict[str, Any] = {"penalty": penalty}
        for name in (*BY_USER, "coverage", "gini"):
            row[name] = means[f"{name}@{k}"]
        for name in BY_USER:
            row[f"{name}_change"] = paired(per_user[f"{name}@{k}"] - base[f"{name}@{k}"])
        rows.append(row)
    return corrected(rows, [f"{name}_change" for name in BY_USER])
