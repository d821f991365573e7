"""Imported once by the fork server of tests/processes.py: it imports what DeepSpeed would import at
its first engine, and loads what numba has compiled, which all ranks would do again. In a fresh
checkout one process compiles, not every rank of the first test.

What that is, a child finds out: it trains two small runs, and tells.
"""

import gc
import multiprocessing
import sys
from collections.abc import Iterator
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numba.core.dispatcher import Dispatcher

RUNS: dict[str, dict[str, Any]] = {
    "paper": {},
    "recmind": {
        "model": {"kind": "recmind", "embedding_dim": 8, "views": "all", "recent_decay": 0.5},
        "sampler": {"propagation": "full", "num_neighbors": [-1, -1], "hide_batch_edges": False},
        "alignment": {"weight": 0},
    },
}
PACKAGES = ("deepspeed", "recmind_dist", "safetensors")


def compiled_loops() -> Iterator[tuple[str, str, Any]]:
    """(module, name, loop) of those that numba has compiled for some types of arguments."""
    for module, names in [(name, vars(m)) for name, m in sys.modules.items()]:
        if module.startswith("recmind_dist"):
            for name, value in names.items():
                if isinstance(value, Dispatcher) and value.signatures:
                    yield module, name, value


def train_and_tell(connection: Connection) -> None:
    """Trains on one rank. Sends names of modules, and (module, name, types of arguments)."""
    from recmind_dist.launch.in_process import join_group_of_one, train_phases
    from tests.training_runs import config_of, make_inputs

    before = set(sys.modules)
    with TemporaryDirectory() as directory:
        home = Path(directory)
        inputs = make_inputs(home)
        for name, changes in RUNS.items():
            config = config_of(home, name, **changes, train={"epochs": 1})
            context = join_group_of_one(config, "cpu")
            phases = ("warmup", "joint")
            train_phases(config, inputs, phases, context, "never", False, lambda _: None)
    new = [name for name in sys.modules.keys() - before if name.partition(".")[0] in PACKAGES]
    loops = [(m, n, types) for m, n, loop in compiled_loops() for types in loop.signatures]
    connection.send((sorted(new), loops))


def load() -> None:
    """Imports and loads here what a child has told; polars, which may not be forked, stays unused
    here.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=train_and_tell, args=(sender,))
    child.start()
    sender.close()
    modules, loops = receiver.recv()
    child.join()
    for name in modules:
        import_module(name)
    for module, name, types in loops:
        loop = getattr(import_module(module), name)
        if types not in loop.signatures:  # as those are whose types the source names
            loop.compile(types)  # from numba's cache
    gc.collect()
    gc.freeze()  # else each child's collections would walk, and so copy, all that was imported


load()
