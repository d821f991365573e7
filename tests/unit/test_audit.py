"""`make audit`: what it says of pinned versions, and that it ends at once where nobody can be
asked.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

AUDIT = Path(__file__).parents[2] / ".ci" / "audit.py"
NOBODY = "http://127.0.0.1:1"


def audit(*words: str, service: str = NOBODY) -> str:
    """What the command says; it never fails."""
    env = {**os.environ, "RECMIND_OSV": service, "RECMIND_PYPI": service}
    command = [sys.executable, str(AUDIT), *words]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=200, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_where_no_service_answers_the_report_is_one_line() -> None:
    said = audit()
    assert said.startswith("audit: not done: no service tells known faults here (127.0.0.1:1")
    assert "\n" not in said


class Ignorant(BaseHTTPRequestHandler):
    """An index that knows packages and nothing of faults, as a mirror does."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"info": {}}).encode())

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Ignorant)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_mirror_without_a_list_of_faults_does_not_pass_for_a_clean_bill(mirror: str) -> None:
    assert audit(service=mirror).startswith("audit: not done: no service tells known faults")


RANGE = """
id: PYSEC-2026-{number}
affected:
- package: {{name: {name}, ecosystem: PyPI}}
  ranges:
  - type: ECOSYSTEM
    events: [{events}]
  versions: [{versions}]
"""


def test_a_checkout_of_the_advisories_is_read_without_asking_anybody(tmp_path: Path) -> None:
    spans = [
        ("{introduced: '0'}", ""),
        ("{introduced: '0'}, {fixed: '1.0'}", ""),
        ("{introduced: '999'}", ""),
        ("{introduced: '0'}, {fixed: '1.0'}, {introduced: '1.5'}, {fixed: '999'}", ""),
        ("{introduced: '999'}", "'%s'"),
        ("{introduced: '0'}, {last_affected: '1.0'}", ""),
    ]
    pins = dict(
        line.split("==")
        for line in (AUDIT.parents[1] / "constraints.txt").read_text().splitlines()[2:]
    )
    home = tmp_path / "vulns" / "numpy"
    home.mkdir(parents=True)
    for number, (events, versions) in enumerate(spans):
        listed = versions.replace("%s", pins["numpy"])
        text = RANGE.format(number=number, name="NumPy", events=events, versions=listed)
        (home / f"PYSEC-2026-{number}.yaml").write_text(text)
    head, *rest = audit("--advisories", str(tmp_path)).splitlines()
    assert head.startswith("audit: 3 known faults in ")
    assert [line.split(": ")[1] for line in rest] == [
        "PYSEC-2026-0",
        "PYSEC-2026-3",
        "PYSEC-2026-4",
    ]


def test_a_directory_without_advisories_is_said_so(tmp_path: Path) -> None:
    assert audit("--advisories", str(tmp_path)).startswith(
        f"audit: not done: {tmp_path}: no vulns/"
    )
