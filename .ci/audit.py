"""A report on known faults in the pinned dependencies. Never a failure: the lists change without
us.

    python .ci/audit.py [--advisories DIR] [--home DIR]

Asks osv.dev through pip-audit (in an environment of its own below --home) or, where that cannot be
reached, PyPI. Both are tried for a few seconds; where neither answers the report is one line that
says so. With --advisories, a checkout of https://github.com/pypa/advisory-database, nobody is
asked.
"""

import argparse
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
# has known faults, so an honest service has something to say of it
PROBE = {"name": "pip", "version": "9.0.0"}
SERVICES = {
    "osv": os.environ.get("RECMIND_OSV", "https://api.osv.dev") + "/v1/query",
    "pypi": os.environ.get("RECMIND_PYPI", "https://pypi.org")
    + f"/pypi/{PROBE['name']}/{PROBE['version']}/json",
}
PROBE_S, REQUEST_S, INSTALL_S, AUDIT_S = 5, 5, 120, 120


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--advisories", type=Path)
    parser.add_argument("--home", type=Path, default=ROOT / ".venv")
    chosen = parser.parse_args()
    pins = dict(pinned(ROOT / "constraints.txt"))
    try:
        print(
            by_advisories(pins, chosen.advisories)
            if chosen.advisories
            else by_service(pins, chosen.home)
        )
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        print(f"audit: not done: {str(error).splitlines()[0]}")


def pinned(path: Path) -> Iterator[tuple[str, Version]]:
    """Names and versions of the pins."""
    for line in path.read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            wanted = Requirement(line)
            [version] = wanted.specifier
            yield canonicalize_name(wanted.name), Version(version.version)


def by_service(pins: dict[str, Version], home: Path) -> str:
    """pip-audit's report, or the sentence that no service can be reached."""
    service = next((name for name in SERVICES if answers(name)), None)
    if service is None:
        hosts = ", ".join(url.split("/")[2] for url in SERVICES.values())
        return f"audit: not done: no service tells known faults here ({hosts}): see --advisories"
    tool = home / "audit" / "bin" / "pip-audit"
    if not tool.exists():
        subprocess.run(
            [sys.executable, "-m", "venv", str(tool.parents[1])], check=True, timeout=INSTALL_S
        )
        install = [str(tool.with_name("pip")), "install", "--quiet", "pip-audit"]
        subprocess.run(install, check=True, timeout=INSTALL_S)
    words = [
        "--requirement",
        str(ROOT / "constraints.txt"),
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
    ]
    words += [
        "--progress-spinner",
        "off",
        "--timeout",
        str(REQUEST_S),
        "--vulnerability-service",
        service,
    ]
    done = subprocess.run(
        [str(tool), *words], capture_output=True, text=True, check=False, timeout=AUDIT_S
    )
    if not done.stdout.startswith("{"):
        raise ValueError(
            f"pip-audit gave no report: {(done.stderr.strip().splitlines() or ['no word'])[-1]}"
        )
    rows = json.loads(done.stdout)["dependencies"]
    skipped = [row["name"] for row in rows if "skip_reason" in row]
    found = [
        (row["name"], row["version"], vuln["id"]) for row in rows for vuln in row.get("vulns", ())
    ]
    return report(found, len(rows) - len(skipped), len(pins), f"{service} through pip-audit")


def answers(service: str) -> bool:
    """Whether a service tells the known faults of a version that has some."""
    data = None
    if service == "osv":
        package = {
            "version": PROBE["version"],
            "package": {"name": PROBE["name"], "ecosystem": "PyPI"},
        }
        data = json.dumps(package).encode()
    # addresses of ours: https, or a test's own
    request = urllib.request.Request(SERVICES[service], data, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=PROBE_S) as answer:  # noqa: S310
            told = json.load(answer)
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and bool(told.get("vulns") or told.get("vulnerabilities"))


def by_advisories(pins: dict[str, Version], directory: Path) -> str:
    """The report by a checkout of PyPA's advisory database."""
    files = sorted((directory / "vulns").glob("*/*.yaml"))
    if not files:
        raise ValueError(
            f"{directory}: no vulns/*/*.yaml: give a checkout of pypa/advisory-database"
        )
    found = []
    for file in files:
        if canonicalize_name(file.parent.name) not in pins:
            continue
        advisory = YAML(typ="safe").load(file)
        for part in advisory.get("affected", ()):
            name = canonicalize_name(part["package"]["name"])
            if name in pins and not advisory.get("withdrawn") and affects(part, pins[name]):
                found.append((name, str(pins[name]), advisory["id"]))
    return report(
        found,
        len(pins),
        len(pins),
        f"{len(files)} advisories, newest {max(files, key=_number).stem}",
    )


def _number(file: Path) -> list[int]:
    """Year and number of an advisory's id."""
    return [int(part) for part in file.stem.split("-") if part.isdigit()]


def affects(part: dict[str, Any], version: Version) -> bool:
    """Whether an advisory names a version, in its list or by its ranges."""
    if str(version) in part.get("versions", ()):
        return True
    for span in part.get("ranges", ()):
        inside = False
        for event in span["events"] if span["type"] == "ECOSYSTEM" else ():
            if "introduced" in event:
                inside |= version >= Version(event["introduced"])
            elif "fixed" in event:
                inside &= version < Version(event["fixed"])
            elif "last_affected" in event:
                inside &= version <= Version(event["last_affected"])
        if inside:
            return True
    return False


def report(found: list[tuple[str, str, str]], audited: int, pins: int, source: str) -> str:
    """One line for each known fault, and one for all."""
    lines = [f"  {name} {version}: {fault}" for name, version, fault in sorted(set(found))]
    head = f"audit: {len(lines)} known faults in {audited} of {pins} pinned packages, by {source}"
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
