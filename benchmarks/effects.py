"""What is each part of RecMind worth? One part less or more than the defaults, user by user.

Runs are those of `benchmarks/defaults.py --effects`, in results/effects.json; nothing is trained
here.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.baselines_compare import compare_stored
from benchmarks.measure import RESULTS, rounded
from benchmarks.rank_store import RankStore
from recmind_dist.config.yaml import load_yaml
from recmind_dist.errors import DataError
from recmind_dist.report.tables import markdown_table
from recmind_dist.storage import read_json, write_json

PLAN = Path(__file__).with_name("defaults.yaml")
HISTORIES = ("train", "train+valid")
METRICS = ("recall@20", "ndcg@20", "recall@40")
OURS = "recmind"
_HEAD = (
    "## Effect of each part\n\n"
    "`python benchmarks/defaults.py beauty yelp ml-100k --effects`: the defaults with one part less"
    " or more (defaults.yaml), nothing else\n"
    "changed and nothing searched again. 95 % intervals by paired bootstrap over users and seeds,"
    " bold where they leave zero out, not\n"
    "corrected for their number. Devices: {device}; commits: {commit}.\n"
)


def write_effects(folder: Path = RESULTS) -> None:
    """Writes effects_comparisons.json, where there are runs; a few minutes on one core."""
    store = RankStore(folder, "effects")
    if store.rows():
        found = {"benchmark": "effects", "comparisons": rounded(compare_effects(store))}
        write_json(_file(folder), found)


def compare_effects(store: RankStore, resamples: int = 2000) -> list[dict[str, Any]]:
    """dataset, model, over, history, metric and the fields of Comparison, of all that is stored."""
    stored = {(row["dataset"], row["model"], row["history"]): row for row in store.rows()}
    overs = {
        (model, over)
        for model, line in load_yaml(PLAN).values["effects"].items()
        for over in (OURS, line.get("over", OURS))
    }
    found = []
    for dataset, model, history in stored:
        for over in sorted(over for name, over in overs if name == model != over):
            if (dataset, over, history) not in stored:
                continue
            row = {"dataset": dataset, "model": model, "over": over, "history": history}
            for metric in METRICS:
                own = compare_stored(store, model, store, over, dataset, history, metric, resamples)
                found.append(row | {"metric": metric} | asdict(own))
    return found


def effects_section(folder: Path) -> list[str]:
    """A table by history; nothing where nothing was compared."""
    if not _file(folder).is_file():
        return []
    compared = read_json(_file(folder), DataError)["comparisons"]
    runs = RankStore(folder, "effects").rows()
    values = {
        name: ", ".join(dict.fromkeys(str(run[name]) for run in runs))
        for name in ("device", "commit")
    }
    return [_HEAD.format(**values), *(_table(compared, history) for history in HISTORIES)]


def _table(compared: list[dict[str, Any]], history: str) -> str:
    says = {name: line["says"] for name, line in load_yaml(PLAN).values["effects"].items()}
    by_effect: dict[tuple[str, str, str], dict[str, dict[str, Any]]] = {}
    for row in compared:
        if row["history"] == history:
            key = row["dataset"], row["model"], row["over"]
            by_effect.setdefault(key, {})[row["metric"]] = row
    header = ("data", f"part, history {history}", "over", "seeds", *METRICS)
    lines = [
        [
            dataset,
            says[model],
            says[over],
            min(row["seeds"] for row in metrics.values()),
            *(_cell(metrics[metric]) for metric in METRICS),
        ]
        for (dataset, model, over), metrics in by_effect.items()
    ]
    return markdown_table(header, lines)


def _cell(row: dict[str, Any]) -> str:
    gain, low, high = (100 * row[name] for name in ("gain", "low", "high"))
    text = f"{gain:+.1f} % ({low:+.1f} … {high:+.1f})"
    return f"{row['a']:.4f}: " + (f"**{text}**" if low * high > 0 else text)


def _file(folder: Path) -> Path:
    return folder / "effects_comparisons.json"
