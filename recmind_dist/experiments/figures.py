"""The figures of the experiments, by matplotlib without a display."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

Curve = Sequence[tuple[float, float, float]]
"""(x, middle, half the height of the band)."""


def draw_curves(curves: Mapping[str, Curve], title: str, x_label: str, y_label: str) -> Figure:
    """Lines with a band of one standard deviation."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        x, middle, half = (np.array(values, dtype=float) for values in zip(*points, strict=True))
        axes.plot(x, middle, marker="o", markersize=3, label=name)
        axes.fill_between(x, middle - half, middle + half, alpha=0.2)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.legend()
    return figure


def draw_bars(
    panels: Mapping[str, Mapping[str, tuple[float | None, float | None, float | None]]],
    title: str,
    x_label: str,
) -> Figure:
    """A panel per key, a horizontal bar per row: (value, low, high), with an error bar if known."""
    rows = max(len(bars) for bars in panels.values())
    figure = Figure(figsize=(4.8 * len(panels), 1.2 + 0.45 * rows), layout="constrained")
    for i, (panel, bars) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), i)
        for k, (value, low, high) in enumerate(bars.values()):
            if value is None:
                continue
            known = low is not None and high is not None
            error = [[max(value - low, 0)], [max(high - value, 0)]] if known else None  # type: ignore[operator]
            axes.barh(k, value, xerr=error, capsize=3)
        axes.set_yticks(range(len(bars)), list(bars))
        axes.invert_yaxis()
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set(title=panel, xlabel=x_label)
    figure.suptitle(title)
    return figure


def draw_bins(
    panels: Mapping[str, Mapping[str, Sequence[tuple[str, float, float, float]]]],
    title: str,
    y_label: str,
) -> Figure:
    """A panel per key, a line per model: (bin, median, p10, p90) over the degree bins."""
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.0 * lines), layout="constrained")
    for i, (panel, models) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(lines, columns, i)
        names = list(dict.fromkeys(point[0] for points in models.values() for point in points))
        for model, points in models.items():
            x = [names.index(point[0]) for point in points]
            middle, low, high = (np.array([point[k] for point in points]) for k in (1, 2, 3))
            axes.plot(x, middle, marker="o", markersize=3, label=model)
            axes.fill_between(x, low, high, alpha=0.15)
        axes.set_xticks(range(len(names)), names, rotation=45, fontsize=7)
        axes.set(title=panel, ylabel=y_label, ylim=(0, 1))
        if i == 1:
            axes.legend(fontsize=7)
    figure.suptitle(title)
    return figure
