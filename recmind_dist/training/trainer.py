"""The training loop of one rank: load → step → validate → save."""

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from recmind_dist import faults
from recmind_dist.checkpoint import attempt_name
from recmind_dist.checkpoint.agreement import agree_on_checkpoint, open_together
from recmind_dist.checkpoint.fingerprint import fingerprint_rows, fingerprint_whole
from recmind_dist.checkpoint.mirror import Mirror
from recmind_dist.checkpoint.reader import Checkpoint
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.distributed.accelerator import import_deepspeed, use_deterministic_operations
from recmind_dist.distributed.context import DistContext
from recmind_dist.embedding.exchange import RowExchange
from recmind_dist.errors import CheckpointError
from recmind_dist.evaluation.ranking import Evaluation, evaluate_embeddings
from recmind_dist.evaluation.sample import sampled_users, users_with_held_out
from recmind_dist.kernels.memory import freed_memory_given_back, keep_freed_memory, peak_memory_mb
from recmind_dist.model.models import gate_parameters
from recmind_dist.report import MetricsLog, RunDirectory
from recmind_dist.report.metrics_log import Heartbeat
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.prefetch import Prefetcher
from recmind_dist.text import save_adapter
from recmind_dist.training.cuda.side_stream import SideStream, make_stream
from recmind_dist.training.finite_checks import check_finite_state, writing_ids
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.out_of_memory import saying_what_is_large
from recmind_dist.training.phase import Phase
from recmind_dist.training.profile import StepProfile, named
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.state import (
    Cursor,
    cursor_of,
    gather_dense_state,
    load_dense_state,
    load_table,
    refuse_other_run,
)
from recmind_dist.training.step_input import StepInput
from recmind_dist.training.warm_start import WarmStart, dense_state_at_start
from recmind_dist.types import IntArray

log = logging.getLogger(__name__)
Report = Callable[[dict[str, Any]], None]
HEARTBEAT_S = 10.0
"""Seconds between the heartbeats that rank 0 writes to metrics.jsonl."""


class Trainer:
    """One rank of a run, under Ray Train or by itself. Collective: every rank must make one.

    Args:
        inputs: the prepared stores.
        attempt: the same on every rank, new at each start of the workers.
        report: called by every rank at each save and at the end, with what is newly committed.
        resume: "auto", "must" or "never".
        allow_mismatch: continue a checkpoint that was made under other settings.
    """

    def __init__(
        self,
        config: RunConfig,
        inputs: RunStores,
        context: DistContext,
        run: RunDirectory,
        attempt: str,
        report: Report,
        resume: str = "auto",
        allow_mismatch: bool = False,
    ) -> None:
        # DeepSpeed chooses its device at its first import: here, before another library imports it
        import_deepspeed(context.device)
        if config.train.deterministic and context.device.type == "cuda":
            use_deterministic_operations()
        self.config, self.context, self.run = config, context, run
        self.attempt, self.report = attempt, report
        self.profile = StepProfile(run.path, context.rank, config.profile)
        self.shard = ModelShard(config, inputs, context)
        # not before: what the shard is made with is several times what it holds
        keep_freed_memory()
        wire_dtype = getattr(torch, config.scaling.wire_dtype)
        table = self.shard.table.weight
        self.exchange = RowExchange(self.shard.bounds, context, table, wire_dtype)
        self.metrics = MetricsLog(run.metrics) if context.rank == 0 else None
        self.checkpointer = Checkpointer(
            run.checkpoints,
            context.rank,
            context.world_size,
            self.shard.row_range,
            self.shard.graph.num_nodes,
            config.checkpoint,
            Mirror.of(config.storage_uri, run.path),
        )
        self.checkpoint = self._find_checkpoint(resume, allow_mismatch)
        self.cursor = self._new_cursor()
        if self.checkpoint is not None:
            self.cursor = cursor_of(self.checkpoint, config.train.epochs)
        max_users, seed = config.evaluation.max_users, config.graph.seed
        self._sample = sampled_users(self.shard.graph, "valid", max_users, seed)
        self._losses: dict[str, float] = {}
        self._stream = make_stream(context.device)

    def train(self, phases: tuple[str, ...]) -> Cursor:
        """Trains until the run has left `phases`. Collective: every rank must call."""
        dense = self._load_rows()
        with self.checkpointer, Heartbeat(self.metrics, HEARTBEAT_S, self._position):
            while self.cursor.phase in phases:
                phase = self._begin_phase(dense)
                while self.cursor.phase == phase.name:
                    steps = self._steps(phase)
                    for step in steps:
                        with (
                            writing_ids(self.run.path, self.context, phase.name),
                            saying_what_is_large(step, self.shard.table.dim),
                        ):
                            self._losses = phase.step.run(step)
                        self._count(step, phase)
                        if self._save_is_due(phase):
                            self._save(phase)
                    self._end_epoch()
                    self._validate(phase)
                    self._leave_finished_phase(phase)
                    self._save(phase)
                dense = phase.end_phase()
            self._report(self.checkpointer.wait())
        return self.cursor

    def _load_rows(self) -> dict[str, Tensor] | None:
        """Fills this rank's rows; returns a checkpoint's dense state. Collective: every rank must
        call.
        """
        self._log(
            "start",
            **self._position(),
            world_size=self.context.world_size,
            device=str(self.context.device),
            exchange=self.context.row_transport.kind,
            attempt=self.attempt,
        )
        if self.checkpoint is None:
            self.shard.initialise()
            return self._start_from_another_run()
        table = self.shard.table
        load_table(self.checkpoint, table)
        rows = self.context.sum_uint64(fingerprint_rows(table.rows(), table.start))
        name, world_size = self.checkpoint.name, self.context.world_size
        self._log("loaded", checkpoint=name, world_size=world_size, rows=f"{rows:016x}")
        return self.checkpoint.dense()

    def _start_from_another_run(self) -> dict[str, Tensor] | None:
        """Carries an update's rows over; returns the dense state. None in a run from nothing.

        Collective: every rank must call.
        """
        if self.shard.inputs.start is None:
            return None
        start = WarmStart.open(self.shard.inputs.start)
        checkpoint = open_together(start.checkpoint, self.context)
        self.shard.carry_over(checkpoint, start)
        self._log("carried over", checkpoint=str(checkpoint.path))
        self.cursor.norm_exponent = Cursor.from_info(checkpoint.info).norm_exponent
        model = self.shard.model
        gates = {id(p) for p in gate_parameters(model)}
        names = [name for name, p in model.named_parameters() if id(p) in gates]
        at_rest = names if self.config.updates else []
        return dense_state_at_start(checkpoint.dense(), at_rest, self.config)

    def _begin_phase(self, dense: dict[str, Tensor] | None) -> Phase:
        """The cursor's phase. Collective: every rank must call.

        Args:
            dense: state of a checkpoint, or of the phase before; None at the start of a run.
        """
        phase = Phase(
            self.config, self.shard, self.exchange, self.cursor.phase, self.cursor.steps_done
        )
        is_start = self.checkpoint is None and self.cursor.steps_done == 0
        if dense is not None:
            load_dense_state(dense, phase.engine, phase.momentum)
        if is_start:
            self._save(phase)  # so that a run that dies in its first epoch can resume
        if dense is None:
            return phase
        whole = fingerprint_whole(gather_dense_state(phase.engine, phase.momentum))
        world_size = self.context.world_size
        self._log("loaded", phase=phase.name, world_size=world_size, dense=f"{whole:016x}")
        return phase

    def _steps(self, phase: Phase) -> Iterator[StepInput]:
        """The remaining steps of the epoch, prepared ahead. Logs the epoch at its end.

        Collective: every rank must iterate.
        """
        self._losses = {}  # stays empty if a resume with a larger batch left no step
        first, start = self.cursor.step_in_epoch, time.perf_counter()
        self.context.traffic.take()  # drops what validation sent, before this epoch is counted
        buffers = phase.num_buffers
        side_stream = SideStream[StepInput](self._stream, buffers)
        inputs = side_stream.make(named(phase.step_inputs(self.cursor.epoch, first), "sample"))
        # an exchange that hangs in the thread times out first, and its error is the one shown
        timeout_s = 2 * self.config.scaling.collective_timeout_s
        assert not (buffers and phase.batches_ahead), "made ahead, a buffer would still be in use"
        steps = Prefetcher(inputs, phase.batches_ahead, timeout_s=timeout_s)
        for step in self.profile.follow(side_stream.take(steps), phase.name):
            faults.check("step", self.context.rank, self.cursor.steps_done)
            yield step
        self._read_losses(phase)
        done = self.cursor.step_in_epoch - first  # fewer than an epoch has, after a restart
        place = {"phase": phase.name, "epoch": self.cursor.epoch, "steps": done}
        self._log_traffic(place)
        seconds = time.perf_counter() - start
        stalled = steps.stall_s if self._stream is None else side_stream.stall_s
        self._log(
            "epoch",
            **place,
            seconds=seconds,
            sampler_stall_percent=100.0 * stalled / max(seconds, 1e-9),
            loss=self._losses.get("loss"),
            peak_memory_mb=peak_memory_mb(self.context.device),
        )

    def _read_losses(self, phase: Phase) -> None:
        """Reads losses that are still on the GPU. Collective: every rank must call."""
        with writing_ids(self.run.path, self.context, phase.name):
            self._losses = phase.step.checks.read() or self._losses

    def _count(self, step: StepInput, phase: Phase) -> None:
        cursor = self.cursor
        cursor.step_in_epoch += 1
        cursor.steps_done += 1
        cursor.score = None
        if (step.step + 1) % self.config.train.log_every_steps == 0:
            self._log(
                "step",
                phase=phase.name,
                step=step.step + 1,
                total=phase.total_steps,
                epoch=cursor.epoch,
                epochs=phase.epochs,
                **self._losses,
                **phase.step.staleness(),
            )

    def _save_is_due(self, phase: Phase) -> bool:
        """Whether to save within the epoch, the same on every rank."""
        within = self.cursor.step_in_epoch < phase.steps_per_epoch
        every = self.config.checkpoint.every_steps
        return bool(every) and self.cursor.steps_done % every == 0 and within

    def _end_epoch(self) -> None:
        self.cursor.epoch += 1
        self.cursor.step_in_epoch = 0

    def _validate(self, phase: Phase) -> None:
        """Ranks the validation items, if it is due. Collective: every rank must call."""
        cursor, settings = self.cursor, self.config.evaluation
        due = cursor.epoch % settings.every_epochs == 0 or cursor.epoch == phase.epochs
        if phase.name != "joint" or not due or not self.shard.graph.held_out("valid").num_edges:
            return
        found = self._evaluate(phase, None, self._sample)
        cursor.score = found.metrics[settings.metric]
        cursor.norm_exponent, cursor.metrics = found.norm_exponent, found.metrics
        better = cursor.best is None or cursor.score > cursor.best
        cursor.bad_validations = 0 if better else cursor.bad_validations + 1
        cursor.best = cursor.score if better else cursor.best
        of_users = len(users_with_held_out(self.shard.graph, "valid"))
        sampled = {} if self._sample is None else {"users": len(self._sample), "of_users": of_users}
        about = {"epoch": cursor.epoch, "norm_exponent": found.norm_exponent, **sampled}
        self._log("validation", **about, **found.metrics)

    def _validate_whole(self, phase: Phase) -> None:
        """Validates over all users where validations take a sample. Nothing but the log reads it.
        Collective: every rank must call.
        """
        if self.config.evaluation.whole_at_end and self._sample is not None:
            found = self._evaluate(phase, self.cursor.norm_exponent, None)
            self._log("whole_validation", epoch=self.cursor.epoch, **found.metrics)

    def _evaluate(
        self, phase: Phase, norm_exponent: float | None, users: IntArray | None
    ) -> Evaluation:
        """Metrics on the validation items of these users. Collective: every rank must call."""
        if is_large := not self.config.propagates_fully:
            self.context.give_back_boxes()
        with freed_memory_given_back(is_large):
            with phase.engine.gathered_parameters():
                vectors = self.shard.final_embeddings(users)
            return evaluate_embeddings(
                vectors.final,
                self.shard.graph,
                "valid",
                self.config.evaluation,
                self.context,
                norm_exponent,
                self.shard.rows,
                vectors.nodes,
                users,
            )

    def _leave_finished_phase(self, phase: Phase) -> None:
        """Moves on to the next phase if this one is over. Collective: every rank must call."""
        cursor, patience = self.cursor, self.config.train.patience
        stops_early = phase.name == "joint" and 0 < patience <= cursor.bad_validations
        if cursor.epoch < phase.epochs and not stops_early:
            return
        if phase.adapts:
            self._save_adapter(phase)
        if phase.name == "warmup":
            cursor.phase, cursor.epoch = "joint", 0
        else:
            self._validate_whole(phase)
            cursor.phase = "done"

    def _save_adapter(self, phase: Phase) -> None:
        """Rank 0 writes the adapters. Collective: every rank must call."""
        state = phase.engine.gather_parameters("fresh_encoder.encoder.backbone.")
        lora = self.config.text.lora
        if self.context.rank == 0 and lora is not None:
            on_host = {name: value.cpu() for name, value in state.items()}
            save_adapter(self.run.path / "adapter", on_host, lora)
        self.context.barrier()

    def _save(self, phase: Phase) -> None:
        """Begins a checkpoint. Collective: every rank must call."""
        self._read_losses(phase)
        dense = gather_dense_state(phase.engine, phase.momentum)
        rows = self.shard.table.rows()
        check_finite_state(rows, dense, self.context, self.cursor.steps_done)
        info = {
            "cursor": self.cursor.to_info(),
            "score": self.cursor.score,
            "identity": self.shard.identity,
            # `recmind doctor` rebuilds config.yaml and inputs.json from these
            "config": self.config.model_dump(mode="json"),
            "inputs": self.shard.inputs.to_json(),
        }
        is_first = self.context.rank == 0
        name = attempt_name(self.cursor.steps_done, self.attempt)
        self._report(self.checkpointer.wait())
        self.checkpointer.save(name, rows, dense if is_first else None, info if is_first else None)

    def _report(self, committed: list[str]) -> None:
        """Reports committed checkpoints to Ray, which waits for all workers. Collective: every
        rank must call.
        """
        for name in committed:
            faults.check("report", self.context.rank, self.cursor.steps_done)
            self._log("checkpoint", name=name)
        last = committed[-1] if committed else ""
        self.report({"checkpoint": last, "step": self.cursor.steps_done, **self.cursor.metrics})

    def _new_cursor(self) -> Cursor:
        exponent = self.config.evaluation.norm_exponent or 0.0
        return Cursor(phase="warmup" if self.config.has_warmup else "joint", norm_exponent=exponent)

    def _find_checkpoint(self, resume: str, allow_mismatch: bool) -> Checkpoint | None:
        """The checkpoint to go on from, the same on every rank.

        Collective: every rank must call.
        """
        if resume == "never":
            return None
        directory, bounds = self.run.checkpoints, self.shard.bounds.tolist()
        found = agree_on_checkpoint(directory, "last", self.context, bounds)
        if found is None and resume == "must":
            raise CheckpointError(
                f"{directory}: nothing to resume: start with --resume auto or never"
            )
        if found is not None and not allow_mismatch:
            refuse_other_run(found, self.shard.identity)
        return found

    def _log_traffic(self, place: dict[str, Any]) -> None:
        """Bytes that a rank has sent a step, by kind: the mean over ranks, and the most of any.

        Collective: every rank must call.
        """
        sent, context = self.context.traffic.take(), self.context
        shape, steps = (context.world_size, len(sent)), max(place["steps"], 1)
        table = torch.zeros(shape, dtype=torch.float64, device=context.device)
        table[context.rank] = torch.tensor(list(sent.values()), dtype=table.dtype) / steps
        table = context.all_reduce(table).cpu()
        means = zip(sent, table.mean(0).tolist(), strict=True)
        by_kind = {f"{kind}_bytes": round(value) for kind, value in means}
        self._log("traffic", **place, **by_kind, most_bytes=round(float(table.sum(1).max())))

    def _position(self) -> dict[str, Any]:
        cursor = self.cursor
        return {"phase": cursor.phase, "epoch": cursor.epoch, "steps_done": cursor.steps_done}

    def _log(self, kind: str, **fields: Any) -> None:
        if self.metrics is not None:
            self.metrics.log(kind, **fields)
