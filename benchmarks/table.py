"""Puts the figures of the last runs, as they stand in results/, into README.md between its two
markers.
"""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that the file runs as a script too

from benchmarks.measure import RESULTS
from recmind_dist.errors import RecmindError

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- last run -->", "<!-- end of last run -->"


def main() -> None:
    """Rewrites README.md."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    README.write_text(
        filled(README.read_text(), [run for run in runs if "rows" in run and "machine" in run])
    )


def filled(text: str, runs: list[dict[str, Any]]) -> str:
    """The page with a row for each figure of each run.

    Raises:
        RecmindError: a marker is missing.
    """
    if BEGIN not in text or END not in text:
        raise RecmindError(f"{README}: no {BEGIN} … {END}: put both markers back")
    head, rest = text.split(BEGIN, 1)
    return head + "\n".join([BEGIN, "", *_table(runs), "", END]) + rest.split(END, 1)[1]


def _table(runs: list[dict[str, Any]]) -> list[str]:
    if not runs:
        return ["No run is kept in results/."]
    lines = [
        "| benchmark | figure | value | commit | machine, load at the end |",
        "|---|---|---|---|---|",
    ]
    for run in runs:
        measured = run["machine"]
        machine = f"{measured['cpu']}, {measured['cores']} cores, {measured['load_1min']}"
        name = run["benchmark"] + (" (quick)" if run["quick"] else "")
        for figure, value in run["figures"].items():
            shown = (
                "–"
                if value is None
                else f"{value:.4g}"
                if isinstance(value, float | int)
                else value
            )
            lines.append(f"| {name} | {figure} | {shown} | {run['commit'] or '–'} | {machine} |")
    notes = [f"- {run['benchmark']}: {note}" for run in runs for note in run["notes"]]
    return [*lines, "", *notes]


if __name__ == "__main__":
    main()
