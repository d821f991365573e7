"""Every tensor that a rank keeps, by name, with its device: `python -m tests.device_walk DIRECTORY
cpu|cuda` prints them.

In a process of its own, because DeepSpeed takes one device a process.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental import _config as symbolic

from recmind_dist.distributed.context import DistContext
from recmind_dist.launch.in_process import join_group_of_one
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.momentum import MomentumEncoder
from recmind_dist.training.phase import Phase
from recmind_dist.training.trainer import Trainer
from tests.training_runs import config_of, make_inputs


def tensors_of(thing: Any, name: str, met: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Tensors in objects of this package, in modules, and in what holds them; each object once."""
    if isinstance(thing, Tensor):
        yield name, thing
        return
    if id(thing) in met:
        return
    met.add(id(thing))
    inside: dict[Any, Any] = {}
    if isinstance(thing, nn.Module):
        inside = {**dict(thing.named_parameters()), **dict(thing.named_buffers())}
    elif isinstance(thing, Mapping):
        inside = {
            str(key) if isinstance(key, str | tuple) else number: v
            for number, (key, v) in enumerate(thing.items())
        }
    elif isinstance(thing, list | tuple):
        inside = dict(enumerate(thing))
    elif type(thing).__module__.startswith("recmind_dist.") and hasattr(thing, "__dict__"):
        inside = vars(thing)
    for key, value in inside.items():
        yield from tensors_of(value, f"{name}.{key}", met)


def parts_of(model: ModelShard, keys: MomentumEncoder) -> dict[str, Any]:
    """What a rank has of the model, without engine and optimizer of the dense part."""
    assert model.text is not None
    return {
        "table": model.table,
        "text rows": model.text,
        "dense": model.model,
        "momentum": keys.model,
        "queues": keys.queues,
        "propagation": model.operator(),
    }


def config_for(home: Path, device: str) -> RunConfig:
    """Gates inside the layers, absent texts, alignment with a queue."""
    return config_of(home, f"run-{device}", scaling={"device": device}, train={"epochs": 1})


def kept(parts: dict[str, Any]) -> dict[str, str]:
    """Name → device."""
    met: set[int] = set()
    return {
        name: str(t.device)
        for part, held in parts.items()
        for name, t in tensors_of(held, part, met)
    }


def at_rest(home: Path, device: str) -> dict[str, str]:
    """Of a rank that has trained nothing, on any device that holds shapes, `meta` too."""
    config = config_for(home, "cpu")
    model = ModelShard(config, make_inputs(home), DistContext.alone(device))
    # which rows are items is content, that `meta` has none of: all, as far as devices go
    with symbolic.patch(meta_nonzero_assume_all_nonzero=True):
        keys = MomentumEncoder(model.model, config.alignment.queue_size)
        return kept(parts_of(model, keys))


def in_training(home: Path, device: str) -> dict[str, str]:
    """Of a rank in its joint phase, after two steps."""
    config, inputs = config_for(home, device), make_inputs(home)
    context, run = join_group_of_one(config, device), RunDirectory(config.run_dir)
    run.create()
    worker = Trainer(config, inputs, context, run, "walkwalk", lambda _: None, "never")
    worker.shard.initialise()
    phase = Phase(worker.config, worker.shard, worker.exchange, "joint", worker.cursor.steps_done)
    steps = list(islice(phase.step_inputs(0, 0), 2))
    for step in steps:
        phase.step.run(step)
    worker.shard.final_embeddings()
    assert phase.momentum is not None
    found = parts_of(worker.shard, phase.momentum)
    found |= {
        "final propagation": worker.shard._propagation,
        "objective": phase.engine.module,
        "step": steps[-1],
    }
    found |= {"exchange": worker.exchange, "engine": phase.engine._flat}
    adam = [
        {k: v for k, v in phase.engine._adam.state[flat].items() if k != "step"}
        for flat in phase.engine._flat
    ]
    found |= {"adam": adam, "training step": [phase.step.nodes, phase.engine.broken_gradients()]}
    devices = kept(found)
    worker.checkpointer.close()
    phase.engine.close()
    return devices


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(in_training(Path(sys.argv[1]), sys.argv[2])))
