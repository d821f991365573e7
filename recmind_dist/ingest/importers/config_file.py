"""The config beside imported tables: at most fifteen lines that `recmind run` takes unedited."""

import json
import re
from pathlib import Path

from recmind_dist.ingest.importers.importer import Importer

LARGE = 20_000_000  # interactions from which a log is prepared in blocks
MEMORY_MB = 2048


def data_name(folder: Path) -> str:
    """A data set's name made of a folder's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.absolute().name).lstrip("._-")
    return name[:64] or "data"


def config_text(importer: Importer, to: Path, tables: set[str], rows: int) -> str:
    """The YAML text.

    Args:
        to: where the tables are, as configs name files: relative to the current directory.
        rows: of the log.
    """
    name = data_name(to)
    lines = [
        f"# {importer.title}, written by `{importer.command}`. Paths: from where that was run.",
        f"run_dir: {quoted(f'runs/{name}')}",
        "dataset:",
        f"  name: {quoted(name)}",
        f"  interactions: {quoted(f'{to}/interactions.parquet')}",
    ]
    lines += [
        f"  {side}: {quoted(f'{to}/{side}.parquet')}"
        for side in ("items", "users")
        if side in tables
    ]
    if rows > LARGE:
        lines.append(f"  memory_mb: {MEMORY_MB}  # prepares the log in blocks")
    lines += [f"  # {remark}" for remark in importer.remarks]
    if "items" in tables and importer.template:
        lines += [
            "fetch: [minilm]",
            "text:",
            "  model: models/minilm",
            f"  item_template: {quoted(importer.template)}",
        ]
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A YAML scalar: plain where it can be, else in double quotes."""
    plain = re.fullmatch(r"[A-Za-z/][\w./-]*", text) and text.lower() not in {
        *("y", "n", "yes", "no", "on", "off", "true", "false", "null"),
    }
    return text if plain else json.dumps(text, ensure_ascii=False)
