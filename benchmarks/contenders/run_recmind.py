# ruff: noqa: E402  (threads are confined before the libraries that start them are imported)
"""This project's trainer: single steps, or a whole training with Recall@20 on test after epochs.

Words: threads, config, override …
"""

import sys
import time
from pathlib import Path
from typing import Any

from protocol import Work, confine, serve

THREADS = int(sys.argv[1])
confine(THREADS)

import contextlib

import torch

from benchmarks.timed_training import Reached, TimedTrainer
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import RecmindError
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.prefetch import Prefetcher
from recmind_dist.training.phase import Phase
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.trainer import Trainer


def prepare() -> dict[str, Work]:
    torch.set_num_threads(THREADS)
    config = load_run_config(Path(sys.argv[2]), sys.argv[3:]).absolute()
    pipeline = Pipeline(config, lambda _: None)
    inputs = RunStores(pipeline.prepare().absolute())
    config = pipeline.config  # with what follows from the data
    stepper = Stepper(config, inputs)

    def fit(order: dict[str, Any]) -> dict[str, Any]:
        run = RunDirectory(config.run_dir)
        run.create()
        words = (config, inputs, DistContext.alone(), run, "benchmark", lambda _: None, "never")
        worker = TimedTrainer(*words, until=order["until"], every=order["every"])
        with contextlib.suppress(Reached):
            worker.train(("warmup", "joint"))
        return {"curve": worker.curve}

    return {"steps": stepper.steps, "fit": fit}


class Stepper:
    """A run that is entered and left step by step."""

    def __init__(self, config: RunConfig, inputs: RunStores) -> None:
        self.config, self.inputs, self.batches = config, inputs, None  # type: ignore[var-annotated]

    def steps(self, order: dict[str, Any]) -> dict[str, Any]:
        """Trains on `count` batches. Sampler stall in seconds beside the time of it all."""
        if self.batches is None:
            self._start()
        pairs, start, stalled = 0, time.perf_counter(), self.batches.stall_s
        for _ in range(order["count"]):
            prepared = next(self.stream)
            self.phase.step.run(prepared)
            pairs += prepared.main.global_batch_size
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "pairs": pairs, "stall_s": self.batches.stall_s - stalled}

    def _start(self) -> None:
        run = RunDirectory(self.config.run_dir)
        run.create()
        worker = Trainer(
            self.config, self.inputs, DistContext.alone(), run, "benchmark", lambda _: None, "never"
        )
        worker.shard.initialise()
        if self.config.train.batch_of != "pairs":
            raise RecmindError("train.batch_of is not pairs: only pairs are counted")
        self.phase = Phase(
            worker.config, worker.shard, worker.exchange, "joint", worker.cursor.steps_done
        )
        everything = (step for epoch in range(1 << 20) for step in self.phase.step_inputs(epoch, 0))
        self.batches = Prefetcher(everything, self.config.sampler.batches_ahead)
        self.stream = iter(self.batches)


if __name__ == "__main__":
    serve(prepare)
