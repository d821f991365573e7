"""`recmind …`: thin commands over the rooms, a file for each group of them."""

# each adds its commands
from recmind_dist.cli import (
    audit,
    bundles,
    cache,
    configs,
    doctor,
    experiment,
    importer,
    info,
    init,
    log,
    recommend,
    report,
    serve,
    tune,
    update,
)
from recmind_dist.cli.app import main

__all__ = [
    "audit",
    "bundles",
    "cache",
    "configs",
    "doctor",
    "experiment",
    "importer",
    "info",
    "init",
    "log",
    "main",
    "recommend",
    "report",
    "serve",
    "tune",
    "update",
]
