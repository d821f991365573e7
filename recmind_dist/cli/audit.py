"""`recmind audit`: gaps between groups of users and of items."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from recmind_dist.cli.app import Json, Run, app, aside, say, show, show_json

Columns = list[str] | None


@app.command()
def audit(
    run_dir: Run,
    against: Annotated[
        Path | None, typer.Option(help="another evaluated run on the same data", show_default=False)
    ] = None,
    users: Annotated[
        Columns,
        typer.Option(help="column of the users' file, or activity; several times; else the run's"),
    ] = None,
    items: Annotated[
        Columns,
        typer.Option(
            help="column of the items' file, or popularity; several times; else the run's"
        ),
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="rank again with penalties on popularity")
    ] = False,
    as_json: Json = False,
) -> None:
    """Who gains and who loses: gaps between groups of users, what is shown of which items. Writes
    audit.json into the run.
    """
    from recmind_dist.pipeline.audit import audit as examine

    found = examine(run_dir, against, users or (), items or (), curve, aside if as_json else say)
    if as_json:
        show_json(found)
        return
    _print(found)


def _print(found: Mapping[str, Any]) -> None:
    from recmind_dist.report.tables import print_rows

    k, beside = found["k"], found["against"] is not None
    change = ["change"] if beside else []
    print_rows(
        f"{found['run']}, {found['users']} users, lists of {k}"
        + (f"; change: above {found['against']}" if beside else ""),
        ["all users", "mean", *change],
        [
            [row["metric"], _mean(row), *_gaps(row, ["against_run"] * beside)]
            for row in found["all"]
        ],
    )
    kinds = ["gap", "gap_against", "change"] if beside else ["gap"]
    for name, rows in found["user_groups"].items():
        print_rows(
            f"users by {name}: gap to the others",
            [name, "users", "metric", "mean", *kinds],
            [
                [row["group"], row["users"], row["metric"], _mean(row), *_gaps(row, kinds)]
                for row in rows
            ],
        )
    kinds = ["against_relevance", "against_catalogue", *(["against_run"] * beside)]
    for name, rows in found["item_groups"].items():
        shares = ("catalogue", "relevance", "exposure")
        print_rows(
            f"items by {name}: exposure above relevance, above the share of the catalogue",
            [name, "items", *shares, *kinds],
            [
                [row["group"], row["items"], *(f"{row[s]:.4f}" for s in shares), *_gaps(row, kinds)]
                for row in rows
            ],
        )
    _print_curve(found["curve"])
    show("intervals are 95 %, over users; *: significant, corrected within a column of a table")


def _print_curve(rows: Sequence[Mapping[str, Any]]) -> None:
    from recmind_dist.report.tables import print_rows

    if not rows:
        return
    kept = ("recall", "ndcg", "popularity", "tail", "coverage", "gini", "novelty")
    print_rows(
        "evaluation.popularity_penalty: what it costs, what it shows",
        ["penalty", *kept[:2], "ndcg_change", *kept[2:]],
        [
            [
                f"{row['penalty']:g}",
                *(f"{row[name]:.4f}" for name in kept[:2]),
                _gap(row["ndcg_change"]),
                *(f"{row[name]:.4g}" for name in kept[2:]),
            ]
            for row in rows
        ],
    )


def _mean(row: Mapping[str, float]) -> str:
    return f"{row['mean']:.3g} ({row['low']:.3g} … {row['high']:.3g})"


def _gaps(row: Mapping[str, Any], kinds: Sequence[str]) -> list[str]:
    return [_gap(row[kind]) if kind in row else "" for kind in kinds]


def _gap(gap: Mapping[str, Any]) -> str:
    star = "*" if gap["significant"] else " "
    return f"{gap['gap']:+.3g} ({gap['low']:+.3g} … {gap['high']:+.3g}){star}"
