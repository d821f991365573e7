"""The page of one run, or of several side by side."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from recmind_dist.report_page.about import data_section, runs_section, settings_section
from recmind_dist.report_page.accuracy import results_section
from recmind_dist.report_page.examples import examples_section
from recmind_dist.report_page.gates import gates_section
from recmind_dist.report_page.groups import audit_section, groups_section
from recmind_dist.report_page.html import page, text
from recmind_dist.report_page.runs import read_runs
from recmind_dist.report_page.strata import strata_section
from recmind_dist.report_page.training import (
    losses_section,
    speed_section,
    traffic_section,
    validation_section,
)
from recmind_dist.report_page.vectors import vectors_section
from recmind_dist.storage import write_bytes

_HEADING = re.compile(r'<h2 id="(\w+)">(.*?)</h2>')


def write_report(paths: Sequence[Path], out: Path, num_examples: int = 6) -> int:
    """Writes one HTML file, whole or not at all. Returns its bytes.

    Args:
        paths: run directories; the first is compared with the others.
        num_examples: users whose recommendations are shown.
    Raises:
        ConfigError, DataError, StoreError: see `read_runs`.
    """
    runs = read_runs(paths)
    sections = [
        results_section(runs),
        strata_section(runs),
        groups_section(runs),
        audit_section(runs),
        gates_section(runs),
        vectors_section(runs),
        examples_section(runs, num_examples) if num_examples else "",
        losses_section(runs),
        validation_section(runs),
        speed_section(runs),
        traffic_section(runs),
        data_section(runs, bool(num_examples)),
        runs_section(runs),
        settings_section(runs),
    ]
    title = f"{runs[0].config.dataset.name}: {', '.join(run.label for run in runs)}"
    data = page(title, _lead(sections), [part for part in sections if part]).encode()
    out.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(out, data)
    return len(data)


def _lead(sections: Sequence[str]) -> str:
    """When it was made, and links to the sections."""
    links = "".join(
        f'<li><a href="#{name}">{title}</a></li>'
        for name, title in _HEADING.findall("".join(sections))
    )
    made = datetime.now(UTC).isoformat(" ", "minutes").removesuffix("+00:00")
    return (
        f"<p>Written by <code>recmind report</code>, {text(made)} UTC.</p>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav>'
    )
