"""Parts of the page: text made safe, tables, figures with their table, sections."""

from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from recmind_dist.report.printable import printable

Cell = Any
"""A number, a text, or None."""


def text(value: object) -> str:
    """Foreign text for HTML: markup is text, and nothing reverses or hides the line."""
    return escape(printable(value))


def number(value: Cell) -> str:
    """A cell as people read it: four decimals, thousands apart, None as –."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return text(value)
    if isinstance(value, int) or (value == int(value) and abs(value) >= 1000):
        return f"{int(value):,}"
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.1f}"


def table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A table that scrolls by itself where the screen is narrow. The first column heads its row."""
    kinds = [_kind([row[at] for row in rows]) for at in range(len(headers))]
    head = "".join(
        f'<th scope="col"{kind}>{text(header)}</th>'
        for header, kind in zip(headers, kinds, strict=True)
    )
    lines = []
    for first, *rest in rows:
        cells = zip(rest, kinds[1:], strict=True)
        tail = "".join(f"<td{kind}>{number(value)}</td>" for value, kind in cells)
        lines.append(f'<tr><th scope="row"{kinds[0]}>{number(first)}</th>{tail}</tr>')
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _kind(column: Sequence[Cell]) -> str:
    """Numbers stand to the right, figures and intervals in one line."""
    known = [value for value in column if value is not None]
    if known and all(isinstance(value, int | float) for value in known):
        return ' class="number"'
    whole = any("±" in str(x) or " … " in str(x) or str(x).endswith("%") for x in known)
    return ' class="whole"' if whole else ""


def figure(svg: str, caption: str, headers: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A drawing, then the numbers that it is made of."""
    return (
        f"<figure>{svg}<figcaption>{text(caption)}</figcaption><details><summary "
        f'aria-label="Numbers of {text(caption)}">Numbers</summary>'
        f"{table(caption, headers, rows)}</details></figure>"
    )


def figures(parts: Sequence[str]) -> str:
    """Figures beside each other where there is room."""
    return f'<div class="figures">{"".join(parts)}</div>' if parts else ""


def section(name: str, title: str, parts: Sequence[str]) -> str:
    """A part of the page under a heading; nothing where it is empty."""
    body = "".join(parts)
    if not body:
        return ""
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{text(title)}</h2>{body}</section>'


def note(sentence: str) -> str:
    """A paragraph."""
    return f"<p>{text(sentence)}</p>"


def page(title: str, lead: str, sections: Sequence[str]) -> str:
    """The whole file: no script, nothing from elsewhere."""
    style = (files("recmind_dist.report_page") / "style.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(title)}</title><style>\n{style}</style></head>\n"
        f"<body><header><h1>{text(title)}</h1>{lead}</header>"
        f"<main>{chr(10).join(sections)}</main></body></html>\n"
    )
