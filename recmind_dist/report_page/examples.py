"""Examples: what some users had, and what each run would give them, from the runs' bundles."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recmind_dist.errors import RecmindError
from recmind_dist.recommend.recommender import Recommender, load
from recmind_dist.report_page.html import note, section, text
from recmind_dist.report_page.runs import ReportedRun

HISTORY = 10
K = 10
LONGEST = 100
"""Letters of a title; a data set may have whole descriptions there."""


def examples_section(runs: Sequence[ReportedRun], count: int, seed: int = 0) -> str:
    """Drawn users, with the newest of their items and the best K of each run.

    An item that no other run recommends to the user is bold.

    Args:
        count: users, drawn by `seed` from those of the first bundle.
    """
    opened: dict[str, Recommender] = {}
    missing = []
    for run in runs:
        if not run.config.trains:
            continue  # popularity and texts alone have no bundle
        try:
            opened[run.label] = _load(run.directory.path)
        except RecmindError as error:
            missing.append(note(f"No examples of {run.label}: {error}"))
    if not opened:
        return section("examples", "Examples", missing)
    users = _drawn(next(iter(opened.values())), count, seed)
    about = note(
        f"{len(users)} users drawn by lot. The whole history counts, the items held out for "
        "evaluation among it, and is not recommended again. Bold: recommended by one run alone."
    )
    shown = [_user(opened, user) for user in users]
    return section("examples", "Examples", [*missing, about, *shown])


def _load(path: Path) -> Recommender:
    recommender = load(path)
    _ = recommender.bundle.users.ids, recommender.bundle.item_ids  # which may be damaged
    return recommender


def _drawn(recommender: Recommender, count: int, seed: int) -> list[str]:
    ids = recommender.bundle.users.ids
    rows = np.random.default_rng(seed).choice(len(ids), min(count, len(ids)), replace=False)
    return [ids[row] for row in rows]


def _user(opened: dict[str, Recommender], user: str) -> str:
    first = next(iter(opened.values()))
    row = first.bundle.users.position[user]
    [history] = first.bundle.users.histories(np.array([row]))
    newest = [_name(first, int(item)) for item in history[-HISTORY:][::-1]]
    best: dict[str, list[str] | str] = {}
    for label, recommender in opened.items():
        try:
            ranking = recommender.rank(recommender.profile(user), K)
        except RecmindError as error:
            best[label] = str(error)
            continue
        best[label] = [_name(recommender, int(item)) for item in ranking.positions[0] if item >= 0]
    lists = [_list(f"newest of {len(history)} items", newest, set(newest))]
    for label, names in best.items():
        if isinstance(names, str):
            lists.append(f"<div><h4>{text(label)}</h4>{note(names)}</div>")
            continue
        others = {n for other, its in best.items() if other != label for n in its}
        lists.append(_list(label, names, others if len(best) > 1 else set(names)))
    return f'<h3>User {text(user)}</h3><div class="lists">{"".join(lists)}</div>'


def _name(recommender: Recommender, item: int) -> str:
    bundle = recommender.bundle
    name = bundle.titles[item] or bundle.item_ids[item]
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


def _list(title: str, names: Sequence[str], others: set[str]) -> str:
    only = ' class="only"'
    items = "".join(f"<li{'' if name in others else only}>{text(name)}</li>" for name in names)
    return f"<div><h4>{text(title)}</h4><ol>{items}</ol></div>"
