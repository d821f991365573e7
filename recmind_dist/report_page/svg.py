"""Line and bar charts as inline SVG, coloured by the page's style and readable without colour.

Points are in the units of the data; `_Frame` maps them to the drawing.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recmind_dist.report_page.html import text

WIDTH, HEIGHT = 460, 280
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 12, 44
LETTER, MOST_LETTERS = 7, 14
"""Width of a letter on the x axis; letters of a name that stands aslant."""
DASHES = ("", "7 4", "2 4", "10 4 2 4", "4 2", "1 3")
COLOURS = 6

Point = tuple[float, float]
Line = Sequence[Point]
Bands = Mapping[str, Sequence[tuple[float, float, float]]]
"""Name of a line → (x, low, high)."""


@dataclass(frozen=True)
class Axes:
    """What the axes are called, and names for whole x where these are groups."""

    title: str
    x: str
    y: str
    groups: tuple[str, ...] = ()


def line_chart(axes: Axes, lines: Mapping[str, Line], bands: Bands | None = None) -> str:
    """Lines with a legend above; a band where `bands` has the line's name.

    Args:
        lines: by name; an empty one takes its colour along, so that a name has the same in figures
            beside each other.
    """
    bands = bands or {}
    xs = [x for line in lines.values() for x, _ in line]
    ys = [y for line in lines.values() for _, y in line]
    ys += [y for band in bands.values() for _, low, high in band for y in (low, high)]
    frame = _Frame.around(axes, xs, ys, len(lines))
    drawn = [frame.axes(axes)]
    for place, (name, line) in enumerate(lines.items()):
        shape = _band(frame, bands.get(name, ())) + _line(frame, line, place, name)
        drawn.append(f'<g class="s{place % COLOURS}">{shape}</g>')
    summary = "; ".join(f"{name}: {_summary(line)}" for name, line in lines.items() if line)
    names = [name if line else None for name, line in lines.items()]
    return _svg(axes, frame.height, "".join([*drawn, _legend(names)]), summary)


def bar_chart(axes: Axes, bars: Mapping[str, Sequence[float | None]]) -> str:
    """Bars beside each other, a cluster for each of `axes.groups`."""
    values = [value for row in bars.values() for value in row if value is not None]
    xs = [-0.5, len(axes.groups) - 0.5]
    frame = _Frame.around(axes, xs, [0.0, *values], len(bars))
    wide = 0.8 / max(len(bars), 1)
    drawn = [frame.axes(axes)]
    for place, (name, row) in enumerate(bars.items()):
        shapes = []
        for group, value in enumerate(row):
            if value is None:
                continue
            left = frame.x(group - 0.4 + wide * place)
            top, base = sorted((frame.y(value), frame.y(0.0)))
            width = frame.x(wide) - frame.x(0) - 1
            about = text(f"{name}, {axes.groups[group]}: {value:.4g}")
            shapes.append(
                f'<rect class="mark" x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" '
                f'height="{base - top:.1f}"><title>{about}</title></rect>'
            )
        drawn.append(f'<g class="s{place % COLOURS}">{"".join(shapes)}</g>')
    summary = f"{', '.join(bars)} by {axes.x}; numbers in the table below"
    return _svg(axes, frame.height, "".join([*drawn, _legend(list(bars), box=True)]), summary)


@dataclass(frozen=True)
class _Frame:
    """The ranges of both axes, and where the drawing begins below the legend."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    top: float
    whole: bool
    """Whether every x is a whole number."""
    slant: float
    """Room below for names of groups that stand aslant; 0: they stand upright."""

    @staticmethod
    def around(axes: Axes, xs: Sequence[float], ys: Sequence[float], names: int) -> "_Frame":
        x_low, x_high = (min(xs), max(xs)) if xs else (0.0, 1.0)
        y_low, y_high = (min(ys), max(ys)) if ys else (0.0, 1.0)
        if axes.groups:
            x_low, x_high = -0.5, len(axes.groups) - 0.5
        if x_low == x_high:
            x_low, x_high = x_low - 0.5, x_high + 0.5
        room = (y_high - y_low) * 0.05 or abs(y_high) * 0.05 or 0.5
        y_low = 0.0 if 0 <= y_low <= (y_high - y_low) else y_low - room
        top = TOP + (20.0 * names if names > 1 else 0.0)
        whole = all(x == round(x) for x in xs)
        return _Frame(x_low, x_high, y_low, y_high + room, top, whole, _slant(axes.groups))

    @property
    def height(self) -> float:
        return self.top + HEIGHT + self.slant

    @property
    def base(self) -> float:
        """Where the x axis is."""
        return self.top + HEIGHT - BOTTOM

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return self.base - share * (HEIGHT - BOTTOM)

    def axes(self, axes: Axes) -> str:
        """Grid, ticks and names."""
        drawn = []
        for tick in _ticks(self.y_low, self.y_high):
            at = self.y(tick)
            drawn.append(
                f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
                f'<text class="axis" x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">'
                f"{_short(tick)}</text>"
            )
        middle, height = (LEFT + WIDTH - RIGHT) / 2, (self.top + self.base) / 2
        for x, name in self._x_ticks(axes.groups):
            place = f'x="{self.x(x):.1f}" y="{self.base + 17:.1f}" text-anchor="middle"'
            if self.slant:
                below = f"translate({self.x(x) + 4:.1f} {self.base + 14:.1f})"
                place = f'transform="{below} rotate(-40)" text-anchor="end"'
            drawn.append(f'<text class="axis" {place}>{text(name)}</text>')
        drawn.append(
            f'<text x="{middle}" y="{self.height - 6:.1f}" text-anchor="middle">{text(axes.x)}'
            f'</text><text transform="translate(14 {height:.1f}) rotate(-90)" '
            f'text-anchor="middle">{text(axes.y)}</text>'
        )
        return "".join(drawn)

    def _x_ticks(self, groups: tuple[str, ...]) -> list[tuple[float, str]]:
        if not groups:
            ticks = _ticks(self.x_low, self.x_high)
            if self.whole:  # steps and epochs: none stands between two of them
                ticks = [tick for tick in ticks if tick == round(tick)]
            return [(tick, _short(tick)) for tick in ticks]
        names = [
            name if len(name) <= MOST_LETTERS or not self.slant else f"{name[: MOST_LETTERS - 1]}…"
            for name in groups
        ]
        every = max(1, math.ceil(len(groups) * 2 * LETTER / (WIDTH - LEFT - RIGHT)))
        return [(place, names[place]) for place in range(0, len(names), every)]


def _slant(groups: Sequence[str]) -> float:
    """0 where the names of groups have room beside each other."""
    longest = max(map(len, groups), default=0)
    if len(groups) * (longest + 1) * LETTER <= WIDTH - LEFT - RIGHT:
        return 0.0
    return min(longest, MOST_LETTERS) * LETTER * math.sin(math.radians(40))


def _line(frame: _Frame, line: Line, place: int, name: str) -> str:
    if not line:
        return ""
    points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in line)
    drawn = (
        f'<polyline class="line" stroke-dasharray="{DASHES[place % COLOURS]}" points="{points}"/>'
    )
    if len(line) > 60:  # marks would touch each other
        return drawn
    marks = (
        f'<circle class="mark" cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="3"><title>'
        f"{text(f'{name}: {_short(x)}, {y:.4g}')}</title></circle>"
        for x, y in line
    )
    return drawn + "".join(marks)


def _band(frame: _Frame, band: Sequence[tuple[float, float, float]]) -> str:
    if len(band) < 2:
        return ""
    edge = [(x, high) for x, _, high in band] + [(x, low) for x, low, _ in reversed(band)]
    points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in edge)
    return f'<polygon class="band" points="{points}"/>'


def _legend(names: Sequence[str | None], box: bool = False) -> str:
    """Nothing of a single name; None: no line of it."""
    if len(names) < 2:
        return ""
    drawn = []
    for row, (place, name) in enumerate((k, name) for k, name in enumerate(names) if name):
        at = TOP + 20 * row + 4
        mark = f'<rect class="mark" x="{LEFT}" y="{at - 5}" width="24" height="10"/>'
        if not box:
            mark = (
                f'<line class="line" stroke-dasharray="{DASHES[place % COLOURS]}" '
                f'x1="{LEFT}" x2="{LEFT + 24}" y1="{at}" y2="{at}"/>'
            )
        drawn.append(
            f'<g class="s{place % COLOURS}">{mark}</g><text x="{LEFT + 32}" y="{at + 4}">'
            f"{text(name)}</text>"
        )
    return "".join(drawn)


def _svg(axes: Axes, height: float, body: str, summary: str) -> str:
    about = f"{axes.y} against {axes.x}. {summary}"
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{text(axes.title)}">'
        f"<title>{text(axes.title)}</title><desc>{text(about)}</desc>{body}</svg>"
    )


def _summary(line: Line) -> str:
    (first, began), (last, ended) = line[0], line[-1]
    return f"{began:.4g} at {_short(first)}, {ended:.4g} at {_short(last)}"


def _ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers within the range: 1, 2 or 5 times a power of ten apart."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw)
    first = math.ceil(low / step)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    if abs(value) >= 1e6:
        return f"{value:.3g}"
    return f"{value:,.0f}" if value == round(value) else f"{value:.4g}"
