"""Runs a whole job on a Ray cluster, from where `ray job submit` puts it.

    ray job submit --address http://HEAD:8265 --working-dir . -- python launchers/train.py
    ray job submit --address http://HEAD:8265 --working-dir launchers -- python train.py

Words after the options are overrides (`train.epochs=3`). Without --config CONFIG it runs the
packaged quick start. Give run_dir and cache_dir on storage that every node sees: a job's own
directory is deleted when its cluster goes.

The cluster is expected to ask for a token (launchers/cluster.py starts one that does);
RAY_AUTH_MODE=disabled says that it does not.
"""

import argparse
import os
import sys
from collections.abc import MutableMapping
from importlib.resources import as_file, files
from pathlib import Path

from recmind_dist.cli import main


def parse() -> tuple[Path | None, str, list[str]]:
    """Config file, how to resume, overrides."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--config", type=Path, help="YAML file; none: the quick start that comes with the package"
    )
    parser.add_argument("--resume", default="auto", choices=("auto", "must", "never"))
    parser.add_argument("overrides", nargs="*", help="key.sub=value")
    arguments = parser.parse_args()
    return arguments.config, arguments.resume, arguments.overrides


def explain(error: Exception) -> None:
    """One sentence instead of Ray's traceback where the token is the matter; other errors are
    raised again.
    """
    if type(error).__name__ != "AuthenticationError":
        raise error
    reason = str(error).splitlines()[0].rstrip(".")
    remedy = (
        "set RAY_AUTH_TOKEN_PATH to the cluster's token file, "
        "or RAY_AUTH_MODE=disabled if it has none"
    )
    print(f"error: {reason}: {remedy}", file=sys.stderr)
    sys.exit(2)


def settle(environment: MutableMapping[str, str]) -> None:
    """Sets what nothing is said of: a job runs on its cluster, never on one of its own; a cluster
    asks for a token; Ray's usage statistics are off.
    """
    environment.setdefault("RAY_ADDRESS", "auto")
    environment.setdefault("RAY_AUTH_MODE", "token")
    environment.setdefault("RAY_USAGE_STATS_ENABLED", "0")


if __name__ == "__main__":
    settle(os.environ)
    config, resume, overrides = parse()
    with as_file(files("recmind_dist.configs") / "quickstart.yaml") as quickstart:
        try:
            main(["run", str(config or quickstart), *overrides, "--resume", resume])
        except Exception as error:
            explain(error)
