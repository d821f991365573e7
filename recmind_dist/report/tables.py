"""Tables of results, with 95 % intervals; a best value is marked where it is significant."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recmind_dist.report.metric_names import CATALOGUE, LISTS, metric_label

DEFAULT_METRICS = ("recall@20", "ndcg@20", "recall@40", "ndcg@40")
_PLAIN_WIDTH = 160  # without a terminal rich would clip at 80 columns


COLD = "cold "
"""Before the name of a metric over users of cold items."""


@dataclass(frozen=True)
class Evidence:
    """What the users of a run say of its means.

    Attributes:
        half: half the width of a mean's 95 % interval, by "recall@20" and "cold recall@20".
        best: those of them that are significantly above every other model's.
    """

    half: dict[str, float] = field(default_factory=dict)
    best: frozenset[str] = frozenset()


def table_metrics(results: Mapping[str, Mapping[str, Any]], chosen: str = "") -> tuple[str, ...]:
    """Recall and NDCG at each cut-off of the results; the usual ones where they have none.

    Args:
        chosen: a metric that is shown besides, if the results have it.
    """
    names = dict.fromkeys(name for result in results.values() for name in result["metrics"])
    cutoffs = sorted({int(k) for name in names if (k := name.partition("@")[2]).isdigit()})
    found = [f"{kind}@{k}" for k in cutoffs for kind in ("recall", "ndcg")]
    found += [] if chosen in found else [chosen]
    return tuple(name for name in found if name in names) or DEFAULT_METRICS


def comparison_table(
    results: Mapping[str, Mapping[str, Any]],
    metrics: Sequence[str] | None = None,
    title: str = "",
    evidence: Mapping[str, Evidence] | None = None,
) -> Table:
    """One row a model, one column a metric: over all users, then over those of cold items.

    Below a value is ± half its 95 % interval; one that is significantly above all others of
    its column is bold and has a star; missing values are –.

    Args:
        results: model name → content of its results.json.
        metrics: None: see `table_metrics`.
        evidence: by model; None: neither intervals nor stars.
    """
    metrics = table_metrics(results) if metrics is None else metrics
    names = [*metrics, *(COLD + metric for metric in metrics)]
    headers = [metric_label(name).replace(" ", "\n") for name in names]
    table = _empty_table(title, "model", headers)
    for model, result in results.items():
        known = (evidence or {}).get(model, Evidence())
        cells = []
        for name in names:
            cold = name.startswith(COLD)
            values = result["strata"]["cold"] if cold else result["metrics"]
            value = values.get(name.removeprefix(COLD))
            cells.append(_cell(value, known.half.get(name), name in known.best, "\n"))
        table.add_row(escape(model), *cells)
    return table


def lists_table(
    results: Mapping[str, Mapping[str, Any]], half: Mapping[str, Mapping[str, float]] | None = None
) -> Table:
    """One row a model, one column a metric of lists at the first cut-off.

    Args:
        half: half the 95 % intervals over users, by model and metric. Coverage and Gini have none.
    """
    names = list_metrics(results)
    headers = [metric_label(name).replace(" ", "\n") for name in names]
    table = _empty_table("What the lists are like", "model", headers)
    for model, result in results.items():
        known = (half or {}).get(model, {})
        values = [(result.get("lists", {}).get(name), known.get(name)) for name in names]
        table.add_row(escape(model), *(_list_cell(x, of_x) for x, of_x in values))
    return table


def list_metrics(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of the metrics of lists at the first cut-off that some model has."""
    k = table_metrics(results)[0].partition("@")[2]
    found = {name for result in results.values() for name in result.get("lists", {})}
    return [f"{kind}@{k}" for kind in (LISTS | CATALOGUE) if f"{kind}@{k}" in found]


def _list_cell(value: float | None, half: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if half is None else f"{value:.4g}\n±{half:.2g}"


def group_tables(results: Mapping[str, Mapping[str, Any]]) -> list[Table]:
    """A table a column of `evaluation.groups`: recall at the first cut-off, by group and model."""
    metric, tables = table_metrics(results)[0], []
    first = next(iter(results.values())).get("groups", {})
    for column, groups in ((c, g) for side in first.values() for c, g in side.items()):
        title = f"{metric_label(metric)} by {column}"
        table = _empty_table(title, column, ["users", *results])
        for label, row in groups.items():
            cells = (_group_cell(result, column, label, metric) for result in results.values())
            table.add_row(escape(label), str(row["users"]), *cells)
        tables.append(table)
    return tables


def _group_cell(result: Mapping[str, Any], column: str, label: str, metric: str) -> str:
    for side in result.get("groups", {}).values():
        if found := side.get(column, {}).get(label):
            value = found["metrics"][metric]
            return _cell(value["mean"], (value["high"] - value["low"]) / 2)
    return _cell(None)


def print_rows(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Prints a table of texts and numbers, its first column at the left."""
    table = _empty_table(title, headers[0], headers[1:])
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    print_table(table)


def strata_table(
    results: Mapping[str, Mapping[str, Any]], half: Mapping[str, Mapping[str, float]] | None = None
) -> Table:
    """Recall at the first cut-off: one row a model, one column a stratum of the held-out item's
    training degree.

    Args:
        half: half the 95 % intervals over users, by model and stratum.
    """
    metric = table_metrics(results)[0]
    strata = {name: row for result in results.values() for name, row in result["strata"].items()}
    names = sorted(strata, key=_stratum_order)
    headers = [f"{name}\n({strata[name]['users']} users)" for name in names]
    table = _empty_table("", f"{metric_label(metric)} by degree", headers)
    for model, result in results.items():
        known = (half or {}).get(model, {})
        values = (result["strata"].get(name, {}).get(metric) for name in names)
        cells = (
            _cell(x, known.get(name), between="\n") for name, x in zip(names, values, strict=True)
        )
        table.add_row(escape(model), *cells)
    return table


def print_table(table: Table, stream: TextIO | None = None) -> None:
    """Prints with bold on a terminal, as plain text elsewhere, and never clips a figure: where a
    terminal is too narrow rows become columns, or lines run on.
    """
    stream = stream or sys.stdout
    width = None if stream.isatty() else _PLAIN_WIDTH
    console = Console(file=stream, width=width, highlight=False)
    room = console.width
    if _width(table, console) > room >= _width(turned := _turned(table), console):
        table = turned
    console.width = max(room, _width(table, console))
    console.print(table)


def _width(table: Table, console: Console) -> int:
    """Columns that a table takes where it has all the room it wants."""
    return console.measure(table, options=console.options.update(max_width=10_000)).maximum


def _turned(table: Table) -> Table:
    """A table whose columns are the rows."""
    corner, *others = table.columns
    turned = Table(box=box.SIMPLE, title=table.title, title_justify="left")
    turned.add_column(corner.header)
    for cell in corner.cells:
        turned.add_column(cell, justify="right", no_wrap=True)
    for column in others:
        cells = (str(cell).replace("\n", " ") for cell in (column.header, *column.cells))
        turned.add_row(*cells)
    return turned


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


def _empty_table(title: str, corner: str, headers: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE, title=escape(title) or None, title_justify="left")
    table.add_column(escape(corner), no_wrap=" " not in corner)
    for header in headers:
        table.add_column(escape(header), justify="right", no_wrap=True)
    return table


def _cell(
    value: float | None, half: float | None = None, best: bool = False, between: str = " "
) -> str:
    """A mean and, behind `between`, half its interval."""
    if value is None:
        return "–"
    text = f"[bold]{value:.4f}*[/bold]" if best else f"{value:.4f} "
    return text if half is None else f"{text}{between}±{half:.4f} "


def _stratum_order(name: str) -> tuple[int, int]:
    first = name.split("-")[0]
    return (0, int(first)) if first.isdigit() else (1, 0)
