"""What the paper leaves open, answered: stores what experiments found and writes docs/findings.md.

    python benchmarks/findings.py --store runs/x/experiment-texts   # what it found
    python benchmarks/findings.py --write                           # the page, from what is stored

Stored are tables and sentences, not runs: benchmarks/results/experiments/<data set>-<name>.json.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import typer

from benchmarks.measure import RESULTS, ROOT, commit
from recmind_dist.errors import DataError, RecmindError
from recmind_dist.report.tables import markdown_table
from recmind_dist.storage import read_json, write_bytes, write_json

STORE = RESULTS / "experiments"
PAGE = ROOT / "docs" / "findings.md"
KEYS = ("name", "dataset", "title", "claim", "answer", "follows", "tables", "notes")
_HEAD = (
    "# Findings\n\n"
    "What the paper names as untested, by `recmind experiment` ([experiments.md](experiments.md)). "
    "Written by\n`python benchmarks/findings.py --write` from benchmarks/results/experiments; do "
    "not edit.\n"
)


def main(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="directories of experiments, with table.json")
    ] = None,
    store: Annotated[bool, typer.Option("--store", help="keep what they found")] = False,
    write: Annotated[bool, typer.Option("--write", help="write docs/findings.md")] = False,
) -> None:
    """Stores findings, or writes the page from stored ones."""
    try:
        if store:
            for path in runs or []:
                print(f"stored: {store_findings(path)}")
        if write or not store:
            write_bytes(PAGE, page(read_store()).encode())
            print(f"written: {PAGE}")
    except RecmindError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from error


def store_findings(home: Path, into: Path = STORE) -> Path:
    """Keeps table.json of an experiment's directory in place of what was there.

    Raises:
        DataError: there is none, or it is of an experiment that says not of which data it is.
    """
    path = home / "table.json"
    if not path.is_file():
        raise DataError(f"{path}: not there: run `recmind experiment` first")
    found = _checked(path)
    into.mkdir(parents=True, exist_ok=True)
    target = into / f"{found['dataset']}-{found['name']}.json"
    write_json(target, {**found, "commit": commit()})
    return target


def read_store(store: Path = STORE) -> list[dict[str, Any]]:
    """All stored findings, by file name. Raises DataError: there are none, or one is damaged."""
    found = [_checked(path) for path in sorted(store.glob("*.json"))]
    if not found:
        raise DataError(f"{store}: nothing is stored: give directories and --store")
    return found


def page(stored: list[dict[str, Any]]) -> str:
    """docs/findings.md."""
    summary = [
        [found["title"], found["dataset"], found["answer"], found["follows"]] for found in stored
    ]
    headers = ("question", "data", "seen", "what follows")
    return "\n".join([_HEAD, markdown_table(headers, summary), *map(_section, stored)])


def _section(found: dict[str, Any]) -> str:
    tables = []
    for table in found["tables"]:
        rows = table["rows"]
        headers = tuple(rows[0]) if rows else ()
        cells = [list(row.values()) for row in rows]
        tables.append(f"#{table['caption']}\n\n{markdown_table(headers, cells)}")
    return "\n".join(
        [
            f"## {found['title']}: {found['dataset']}\n",
            f"The paper expects: {found['claim']}\n",
            f"Seen: {found['answer']}\n",
            f"What follows: {found['follows']}\n",
            "".join(f"- {note}\n" for note in found["notes"]),
            *tables,
            f"Commit {str(found.get('commit'))[:12]}.\n",
        ]
    )


def _checked(path: Path) -> dict[str, Any]:
    found = read_json(path, DataError)
    lacking = [key for key in KEYS if not isinstance(found, dict) or not found.get(key)]
    if lacking:
        raise DataError(
            f"{path}: no {lacking[0]}: only what `recmind experiment priors|gate|transfer|texts` "
            "writes is kept"
        )
    assert isinstance(found, dict)
    return found


if __name__ == "__main__":
    typer.run(main)
