"""One rank of a training run: phase after phase, epoch after epoch, saved and validated on the way."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from recmind_dist.checkpoint import attempt_name
from recmind_dist.checkpoint.agreement import agree_on_checkpoint
from recmind_dist.checkpoint.fingerprint import fingerprint_rows, fingerprint_whole
from recmind_dist.checkpoint.mirror import Mirror
from recmind_dist.checkpoint.reader import Checkpoint
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.distributed.accelerator import import_deepspeed
from recmind_dist.distributed.context import DistContext
from recmind_dist.distributed.zero_engine import make_engine
from recmind_dist.embedding.exchange import RowExchange
from recmind_dist.errors import CheckpointError
from recmind_dist.evaluation.ranking import evaluate_embeddings
from recmind_dist.kernels.memory import keep_freed_memory
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.randomness import stream_key
from recmind_dist.report import MetricsLog, RunDirectory
from recmind_dist.report.metrics_log import Heartbeat
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.batch import StepBatches
from recmind_dist.sampling.loader import NeighborLoader, steps_per_epoch
from recmind_dist.sampling.prefetch import Prefetcher
from recmind_dist.text import TextEncoder, Texts, save_adapter
from recmind_dist.training import faults
from recmind_dist.training.finite_checks import check_finite_state, run_guarded
from recmind_dist.training.fresh_text import FreshTextEncoder, FreshTextPicker
from recmind_dist.training.loaders import make_loader
from recmind_dist.training.loss import TrainingLoss
from recmind_dist.training.model_shard import Inputs, ModelShard
from recmind_dist.training.profile import StepProfile, named
from recmind_dist.training.state import (
    Cursor,
    gather_dense_state,
    load_dense_state,
    load_table,
    refuse_other_run,
)
from recmind_dist.training.step import MomentumEncoder, StepPreparer, TrainingStep
from recmind_dist.training.step_input import StepInput

log = logging.getLogger(__name__)
Report = Callable[[dict[str, Any]], None]
HEARTBEAT_S = 10.0
"""Seconds between the heartbeats that rank 0 writes to metrics.jsonl."""


class Trainer:
    """What runs on one rank, under Ray Train or by itself. Every rank must make one.

    Args:
        attempt: the same on every rank, fresh at each start of the workers; report: called by every
        rank after a commit;
        resume: "auto", "must" or "never".
    """

    def __init__(
        self,
        config: RunConfig,
        inputs: Inputs,
        context: DistContext,
        run: RunDirectory,
        attempt: str,
        report: Report,
        resume: str = "auto",
        allow_mismatch: bool = False,
    ) -> None:
        keep_freed_memory()
        import_deepspeed(
            context.device
        )  # before a library that the model or its texts need imports it for any GPU
        self.config, self.context, self.run = config, context, run
        self.attempt, self.report = attempt, report
        self.profile = StepProfile(run.path, context.rank, config.profile)
        self.parts = ModelShard(config, inputs, context)
        self.exchange = RowExchange(self.parts.bounds, context, self.parts.table.weight)
        self.metrics = MetricsLog(run.metrics) if context.rank == 0 else None
        self.checkpointer = Checkpointer(
            run.checkpoints,
            context.rank,
            context.world_size,
            self.parts.row_range,
            self.parts.graph.num_nodes,
            config.checkpoint,
            Mirror.of(config.storage_uri, run.path),
        )
        self.checkpoint = self._find(resume, allow_mismatch)
        self.cursor = Cursor.from_info(self.checkpoint.info) if self.checkpoint else self._start()

    def train(self, phases: tuple[str, ...]) -> Cursor:
        """Trains until the run has left `phases`. Every rank must call."""
        self._log(
            "start",
            phase=self.cursor.phase,
            epoch=self.cursor.epoch,
            steps_done=self.cursor.steps_done,
            world_size=self.context.world_size,
            device=str(self.context.device),
            exchange=self.context.row_transport.kind,
            attempt=self.attempt,
        )
        if self.checkpoint is not None:
            load_table(self.checkpoint, self.parts.table)
            table = self.parts.table
            rows = self.context.sum_uint64(fingerprint_rows(table.rows(), table.start))
            self._log(
                "loaded",
                checkpoint=self.checkpoint.name,
                world_size=self.context.world_size,
                rows=f"{rows:016x}",
            )
        else:
            self.parts.initialise()
        dense = self.checkpoint.dense() if self.checkpoint is not None else None
        with self.checkpointer, Heartbeat(self.metrics, HEARTBEAT_S, self._place):
            while self.cursor.phase in phases:
                dense = self._train_phase(dense)
            self._report(self.checkpointer.wait())
        return self.cursor

    def _train_phase(self, dense: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """Runs the cursor's phase to its end, from the dense state of a checkpoint or of the phase
        before; returns its own. Every rank must call.
        """
        phase = Phase(self, self.cursor.phase)
        if dense is not None:
            load_dense_state(dense, phase.engine, phase.keys)
            whole = fingerprint_whole(gather_dense_state(phase.engine, phase.keys))
            self._log(
                "loaded",
                phase=phase.name,
                world_size=self.context.world_size,
                dense=f"{whole:016x}",
            )
        else:
            self._save(phase)  # a run that dies in its first epoch has something to go on from
        while self.cursor.phase == phase.name:
            self._train_epoch(phase)
        dense = gather_dense_state(phase.engine, phase.keys)
        phase.close()
        return dense

    def _train_epoch(self, phase: "Phase") -> None:
        """Trains what is left of the cursor's epoch, validates, saves. Every rank must call."""
        cursor, start = self.cursor, time.perf_counter()
        patience_s = (
            2 * self.config.scaling.collective_timeout_s
        )  # the thread's own exchanges time out first
        batches = named(phase.prepared_steps(cursor.epoch, cursor.step_in_epoch), "sample")
        first, _ = (
            cursor.step_in_epoch,
            self.context.traffic.take(),
        )  # validation's, before the thread adds this epoch's
        losses: dict[str, float] = {}  # stays empty where a larger batch left the epoch no step
        steps = Prefetcher(batches, self.config.sampler.batches_ahead, timeout_s=patience_s)
        for prepared in self.profile.follow(iter(steps), phase.name):
            faults.check("step", self.context.rank, cursor.steps_done)
            losses = run_guarded(phase.step.run, prepared, self.run.path, self.context, phase.name)
            cursor.step_in_epoch += 1
            cursor.steps_done += 1
            cursor.score = None
            if (prepared.step + 1) % self.config.train.log_every_steps == 0:
                done = {
                    "step": prepared.step + 1,
                    "total": phase.total_steps,
                    "epoch": cursor.epoch,
                    "epochs": phase.epochs,
                }
                self._log("step", phase=phase.name, **done, **losses, **phase.step.staleness())
            every = self.config.checkpoint.every_steps
            if (
                every
                and cursor.steps_done % every == 0
                and cursor.step_in_epoch < phase.steps_per_epoch
            ):
                self._save(phase)
        self._log_traffic(phase.name, cursor.step_in_epoch - first)
        seconds = time.perf_counter() - start
        stall = 100.0 * steps.stall_s / max(seconds, 1e-9)
        self._log(
            "epoch",
            phase=phase.name,
            epoch=cursor.epoch,
            seconds=seconds,
            sampler_stall_percent=stall,
            loss=losses.get("loss"),
        )
        cursor.epoch, cursor.step_in_epoch = cursor.epoch + 1, 0
        self._validate(phase)
        self._end_epoch(phase)

    def _log_traffic(self, phase: str, steps: int) -> None:
        """Bytes that a rank has sent to others a step, by kind: the mean over ranks, and the most
        of
        any. Every rank must call.
        """
        taken = self.context.traffic.take()
        table = torch.zeros(
            self.context.world_size, len(taken), dtype=torch.float64, device=self.context.device
        )
        table[self.context.rank] = torch.tensor(list(taken.values()), dtype=torch.float64) / max(
            steps, 1
        )
        sent = self.context.all_reduce(table).cpu()
        mean = {
            f"{kind}_bytes": round(value)
            for kind, value in zip(taken, sent.mean(0).tolist(), strict=True)
        }
        self._log(
            "traffic",
            phase=phase,
            epoch=self.cursor.epoch,
            **mean,
            most_bytes=round(float(sent.sum(1).max())),
        )

    def _validate(self, phase: "Phase") -> None:
        """Judges the epoch's model where it is time to. Every rank must call."""
        cursor, settings = self.cursor, self.config.evaluation
        due = cursor.epoch % settings.every_epochs == 0 or cursor.epoch == phase.epochs
        if phase.name != "joint" or not due or not self.parts.graph.held_out("valid").num_edges:
            return
        with phase.engine.gathered_parameters():
            vectors, parts = self.parts.final_embeddings(), self.parts
            found = evaluate_embeddings(
                vectors.h, parts.graph, "valid", settings, self.context, rows=parts.rows
            )
        cursor.score, cursor.norm_exponent, cursor.metrics = (
            found.metrics[settings.metric],
            found.norm_exponent,
            found.metrics,
        )
        better = cursor.best is None or cursor.score > cursor.best
        cursor.bad_validations = 0 if better else cursor.bad_validations + 1
        cursor.best = cursor.score if better else cursor.best
        self._log(
            "validation", epoch=cursor.epoch, norm_exponent=found.norm_exponent, **found.metrics
        )

    def _end_epoch(self, phase: "Phase") -> None:
        """Saves, and goes to the next phase where this one is over. Every rank must call."""
        cursor, patience = self.cursor, self.config.train.patience
        stop_early = phase.name == "joint" and 0 < patience <= cursor.bad_validations
        if cursor.epoch >= phase.epochs or stop_early:
            if phase.adapts:
                self._save_adapter(phase)
            cursor.phase, cursor.epoch = (
                ("joint", 0) if phase.name == "warmup" else ("done", cursor.epoch)
            )
        self._save(phase)

    def _save_adapter(self, phase: "Phase") -> None:
        """Rank 0 writes the adapters. Every rank must call."""
        state = phase.engine.gather_parameters("fresh_encoder.encoder.backbone.")
        lora = self.config.text.lora
        if self.context.rank == 0 and lora is not None:
            save_adapter(
                self.run.path / "adapter",
                {name: value.cpu() for name, value in state.items()},
                lora,
            )
        self.context.barrier()

    def _save(self, phase: "Phase") -> None:
        """Begins a checkpoint. Every rank must call."""
        dense = gather_dense_state(phase.engine, phase.keys)
        rows = self.parts.table.rows()
        check_finite_state(rows, dense, self.context, self.cursor.steps_done)
        info = {
            "cursor": self.cursor.to_info(),
            "score": self.cursor.score,
            "identity": self.parts.identity,
        }
        info["config"] = self.parts.config.model_dump(mode="json")
        info["inputs"] = (
            self.parts.inputs.to_json()
        )  # for `recmind doctor`, which makes config.yaml and inputs.json of them
        lead = self.context.rank == 0
        name = attempt_name(self.cursor.steps_done, self.attempt)
        self._report(self.checkpointer.wait())
        self.checkpointer.save(name, rows, dense if lead else None, info if lead else None)

    def _report(self, committed: list[str]) -> None:
        """Tells Ray, which waits for all workers, what is committed. Every rank must call."""
        for name in committed:
            faults.check("report", self.context.rank, self.cursor.steps_done)
            self._log("checkpoint", name=name)
        self.report(
            {
                "checkpoint": committed[-1] if committed else "",
                "step": self.cursor.steps_done,
                **self.cursor.metrics,
            }
        )

    def _start(self) -> Cursor:
        exponent = self.config.evaluation.norm_exponent or 0.0
        return Cursor(phase="warmup" if self.config.warms_up else "joint", norm_exponent=exponent)

    def _find(self, resume: str, allow_mismatch: bool) -> Checkpoint | None:
        """The checkpoint to go on from, the same on every rank. Every rank must call."""
        if resume == "never":
            return None
        found = agree_on_checkpoint(
            self.run.checkpoints, "last", self.context, self.parts.bounds.tolist()
        )
        if found is None and resume == "must":
            raise CheckpointError(
                f"{self.run.checkpoints}: nothing to resume: start with --resume auto or never"
            )
        if found is not None and not allow_mismatch:
            refuse_other_run(found, self.parts.identity)
        return found

    def _place(self) -> dict[str, Any]:
        return {
            "phase": self.cursor.phase,
            "epoch": self.cursor.epoch,
            "steps_done": self.cursor.steps_done,
        }

    def _log(self, kind: str, **fields: Any) -> None:
        if self.metrics is not None:
            self.metrics.log(kind, **fields)


class Phase:
    """What lives as long as a phase does: engine, momentum keys, step, and the stream of prepared
    batches. Every rank must make one.
    """

    def __init__(self, worker: Trainer, name: str) -> None:
        config, parts = worker.config, worker.parts
        self.name, self.config, self.worker = name, config, worker
        self.joint = name == "joint"
        parts.model = parts.build_dense()  # ZeRO 3 leaves an old phase's module in pieces
        self.epochs = config.train.epochs if self.joint else config.train.warmup_epochs
        self.steps_per_epoch = steps_per_epoch(
            parts.graph,
            config.train.batch_size,
            config.train.batch_of,
            config.train.steps_per_epoch,
        )
        self.adapts = (
            not self.joint and config.text.lora is not None and parts.whitening is not None
        )
        fresh = self._fresh_encoder() if self.adapts else None
        training_loss = TrainingLoss(
            parts.model,
            fresh,
            worker.exchange,
            worker.context,
            config.loss,
            config.alignment,
            num_users=parts.graph.num_users,
            num_items=parts.graph.num_items,
            heldout_gates=config.heldout_gates,
            joint=self.joint,
            full=config.propagates_fully,
            gate_tail_exponent=config.model.gate.tail_exponent,
            seed=config.train.seed,
        )
        self.keys = (
            MomentumEncoder(parts.model, config.alignment.queue_size, config.alignment.momentum)
            if training_loss.aligns and config.alignment.queue_size
            else None
        )
        rates = (
            {"fresh_encoder.": config.text.lora.learning_rate}
            if self.adapts and config.text.lora
            else {}
        )
        if config.model.gate.learning_rate is not None:
            gates = ("model.gates.", "model.mix.")
            rates |= dict.fromkeys(gates, config.model.gate.learning_rate)
        self.engine = make_engine(
            training_loss, config.zero, config.train.batch_size, worker.context.device, rates
        )
        self.step = TrainingStep(
            self.engine,
            parts.table,
            parts.text,
            self.keys,
            worker.context,
            hide_share=config.model.fallback.hide_share,
            nodes=torch.from_numpy(parts.nodes).to(worker.context.device),
            seed=stream_key(config.train.seed, name),
            lr_factor=self._lr_factor,
            steps_done=worker.cursor.steps_done,
        )
        self.planner = StepPreparer(
            parts.graph,
            worker.exchange,
            worker.context,
            config.alignment.anchors,
            self._picker(fresh),
            finds_edges=not config.sampler.hide_batch_edges
            and not len(parts.model.gates)
            and config.loss.contrast.kind == "none"
            and config.model.base == "table",
        )
        self._loader, self._operator = self._make_loader()

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def prepared_steps(
        self, epoch: int, first_step: int, count: int | None = None
    ) -> Iterator[StepInput]:
        """Batches of an epoch, at most `count`, ready for a step; iterated in the prefetching
        thread.
        Every rank must iterate.
        """
        yield from self.planner.prepare(
            islice(self._batches(epoch, first_step), count), self._operator
        )

    def _batches(self, epoch: int, first_step: int) -> Iterator[StepBatches]:
        """Every rank must iterate."""
        for batches in self._loader.batches(epoch, first_step):
            faults.check("sample", self.worker.context.rank, batches.step)
            yield batches

    def close(self) -> None:
        """Ends the phase's engine."""
        self.engine.close()

    def _make_loader(self) -> tuple[NeighborLoader, FullPropagation | None]:
        """The phase's batches and, under full propagation, the operator without the held-out edges.
        Every rank must call.
        """
        config, parts, context = self.config, self.worker.parts, self.worker.context
        gate = config.model.gate
        held_out, gate_edges = None, None
        if config.heldout_gates:
            held_out = parts.held_out(gate.heldout_share, gate.withheld_items)
            # of the withheld items, too, only what is a user's newest: as often as an item without
            # edges is met
            gate_edges = parts.held_out(gate.heldout_share)
        loader = make_loader(
            config,
            parts.graph,
            self.name,
            context.rank,
            context.world_size,
            parts.edges,
            held_out=held_out,
            gate_edges=gate_edges,
            gate_degree=parts.degrees(held_out) if config.propagates_fully else None,
        )
        return loader, parts.operator(held_out) if config.propagates_fully else None

    def _fresh_encoder(self) -> FreshTextEncoder:
        config, parts = self.config, self.worker.parts
        assert config.text.lora is not None
        assert parts.whitening is not None
        encoder = TextEncoder.load(config.text, parts.context.device)
        encoder.add_lora(config.text.lora, config.train.seed)
        return FreshTextEncoder(encoder, parts.whitening)

    def _picker(self, fresh: FreshTextEncoder | None) -> FreshTextPicker | None:
        if fresh is None or self.config.text.lora is None or self.worker.parts.inputs.texts is None:
            return None
        texts = Texts.load(self.worker.parts.inputs.texts)
        return FreshTextPicker(texts, fresh.encoder, self.config.text.lora.texts_per_step)

    def _lr_factor(self, step: int) -> float:
        if not self.joint or self.config.train.schedule == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * min(step / max(self.total_steps, 1), 1.0)))
