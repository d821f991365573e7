"""Tables of results: models as rows, metrics as columns, the best of each column marked."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recmind_dist.report.metric_names import metric_label

DEFAULT_METRICS = ("recall@20", "ndcg@20", "recall@40", "ndcg@40")
_PLAIN_WIDTH = 160  # without a terminal rich would clip at 80 columns


def table_metrics(results: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Recall and NDCG at each cut-off of the results; the usual ones where they have none."""
    names = dict.fromkeys(name for result in results.values() for name in result["metrics"])
    cutoffs = sorted({int(k) for name in names if (k := name.partition("@")[2]).isdigit()})
    found = [f"{kind}@{k}" for k in cutoffs for kind in ("recall", "ndcg")]
    return tuple(name for name in found if name in names) or DEFAULT_METRICS


def comparison_table(
    results: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[str] | None = None,
    title: str = "",
) -> Table:
    """One row a model, one column a metric: over all users, then over those of cold items.

    The best value of a column is bold and has a star; missing values are –.

    Args:
        results: model name → content of its results.json.
        metrics: None: see `table_metrics`.
    """
    metrics = table_metrics(results) if metrics is None else metrics
    columns: dict[str, dict[str, float | None]] = {}
    for metric in metrics:
        columns[metric_label(metric)] = {
            name: result["metrics"].get(metric) for name, result in results.items()
        }
    for metric in metrics:
        columns[f"cold {metric_label(metric)}"] = {
            name: result["strata"]["cold"].get(metric) for name, result in results.items()
        }
    return _table("model", list(results), columns, title)


def strata_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Recall at the first cut-off: one row a model, one column a stratum of the held-out item's
    training degree.
    """
    metric = table_metrics(results)[0]
    strata = {name: row for result in results.values() for name, row in result["strata"].items()}
    columns = {
        f"{name}\n({row['users']} users)": {
            model: result["strata"].get(name, {}).get(metric) for model, result in results.items()
        }
        for name, row in sorted(strata.items(), key=lambda item: _stratum_order(item[0]))
    }
    return _table(f"{metric_label(metric)} by degree", list(results), columns)


def print_table(table: Table, stream: TextIO | None = None) -> None:
    """Prints with bold on a terminal, as unclipped plain text elsewhere."""
    stream = stream or sys.stdout
    width = None if stream.isatty() else _PLAIN_WIDTH
    Console(file=stream, width=width, highlight=False).print(table)


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table that ends in a newline: four decimals, numbers right, None as –."""
    rulers = [
        "---:" if all(isinstance(row[i], (int, float, type(None))) for row in rows) else "---"
        for i in range(len(headers))
    ]
    lines = [list(map(_markdown_cell, cells)) for cells in (headers, *rows)]
    lines.insert(1, rulers)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _markdown_cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _table(
    corner: str,
    models: list[str],
    columns: Mapping[str, Mapping[str, float | None]],
    title: str = "",
) -> Table:
    table = Table(box=box.SIMPLE, title=title or None, title_justify="left")
    table.add_column(corner)
    best = {}
    for label, values in columns.items():
        table.add_column(label, justify="right", no_wrap=True)
        best[label] = max((value for value in values.values() if value is not None), default=None)
    for model in models:
        cells = (_cell(values.get(model), best[label]) for label, values in columns.items())
        table.add_row(escape(model), *cells)
    return table


def _cell(value: float | None, best: float | None) -> str:
    if value is None:
        return "–"
    text = f"{value:.4f}"
    return f"[bold]{text}*[/bold]" if best is not None and text == f"{best:.4f}" else f"{text} "


def _stratum_order(name: str) -> tuple[int, int]:
    first = name.split("-")[0]
    return (0, int(first)) if first.isdigit() else (1, 0)
