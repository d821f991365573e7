"""One training step of one rank: `TrainingStep.run`.

Legend: u rows of this shard that the step touches, n rows of this shard, D dims.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from recmind_dist import faults
from recmind_dist.distributed.context import DistContext
from recmind_dist.embedding.table import ShardedTable
from recmind_dist.features.text_features import TextFeatures
from recmind_dist.model.lightgcn import LightGCN
from recmind_dist.model.queue import KeyQueue
from recmind_dist.model.text_view import TextRows
from recmind_dist.randomness import stream_key
from recmind_dist.training.alignment import VIEWS
from recmind_dist.training.cuda.captured_step import CapturedGradients, Gradients
from recmind_dist.training.finite_checks import StepChecks, sum_losses
from recmind_dist.training.loss import LossTerms, TrainingLoss
from recmind_dist.training.momentum import MomentumEncoder
from recmind_dist.training.profile import region
from recmind_dist.training.step_input import StepInput

if TYPE_CHECKING:  # DeepSpeed is for workers: the driver need not wait for its import
    from recmind_dist.distributed.zero_engine import Engine


class TrainingStep:
    """What a rank does with one prepared batch.

    Args:
        engine: DeepSpeed's, around a `TrainingLoss`.
        table: this rank's rows.
        text: text vectors of this rank's rows, where the model reads texts.
        momentum: the copy whose keys are enqueued, where there is a queue.
        nodes: [n] global ids of this rank's rows.
        seed: of the phase's random streams.
        lr_factor: step → multiple of the learning rates.
        steps_done: steps of the whole run before the next one.
        read_every: steps between readings of losses, on a GPU.
        captures: whether a CUDA graph may find gradients, where it can. Under torch's profiler
            one ended with a segmentation fault on an H200.
    """

    def __init__(
        self,
        engine: "Engine",
        table: ShardedTable,
        text: TextFeatures | None,
        momentum: MomentumEncoder | None,
        context: DistContext,
        *,
        nodes: Tensor,
        seed: int,
        lr_factor: Callable[[int], float],
        steps_done: int = 0,
        read_every: int = 1,
        captures: bool = True,
    ) -> None:
        assert isinstance(engine.module, TrainingLoss)
        self.engine, self.loss = engine, engine.module
        self.table, self.text, self.momentum, self.context = table, text, momentum, context
        self.nodes, self.seed = nodes, seed
        self.lr_factor, self.steps_done = lr_factor, steps_done
        self._captures = captures
        self.checks = StepChecks(read_every if context.device.type != "cpu" else 1)
        self.find_gradients: Callable[[StepInput], Gradients] = self.run_gradients
        if self.model_can_be_captured:
            self.find_gradients = CapturedGradients(self.run_gradients)
        no_keys = {view: KeyQueue(0, table.dim, context.device) for view in VIEWS}
        self._queues = momentum.queues if momentum else no_keys

    @property
    def model_can_be_captured(self) -> bool:
        """Plain LightGCN of one rank: no dense part, nothing drawn in a step, no texts."""
        on_one_gpu = self.context.device.type == "cuda" and self.context.world_size == 1
        plain = type(self.loss.model) is LightGCN
        plain &= self._captures and not torch.are_deterministic_algorithms_enabled()
        return on_one_gpu and plain

    def run(self, step: StepInput) -> dict[str, float]:
        """One step. Returns the global batch's loss terms; on a GPU the last ones that were read.

        Collective: every rank must call.
        """
        found = self.find_gradients(step)
        losses = self.checks.take(found, step)
        with region("update"):
            self._update(step, found.rows)
        with region("queue"):
            self._enqueue(step, found.keys)
        self.steps_done += 1
        return losses

    def run_gradients(self, step: StepInput) -> Gradients:
        """Forward and backward, before any update. Collective: every rank must call."""
        with region("gather"):
            e_uD, text_u = self._gather_rows(step)
        with region("forward"):
            loss_terms = self._forward(step, e_uD, text_u)
        with region("backward"):
            self.engine.backward(loss_terms.total)
        grad_uD, broken = self._row_gradient(e_uD), self.engine.broken_gradients()
        sums = sum_losses(loss_terms.terms, grad_uD, broken, self.context)
        return Gradients(tuple(loss_terms.terms), sums, grad_uD, loss_terms.keys)

    def _gather_rows(self, step: StepInput) -> tuple[Tensor, TextRows | None]:
        """Rows of the table, as a leaf that takes gradient, and their texts."""
        text_u = self._text_rows(step)
        if text_u is None and step.operator is None:  # the forward pass reads the table itself
            return self.table.grad_placeholder(len(step.plan.local_rows)), None
        return self.table.gather(step.rows), text_u

    def _text_rows(self, step: StepInput) -> TextRows | None:
        model = self.loss.model
        if self.text is None or not hasattr(model, "text_view"):
            return None
        rows = step.rows_with_text(self.loss.users_have_text)
        key = stream_key(self.seed, "step", step.step)
        return self.text.select(rows, key, self.nodes[rows])

    def _forward(self, step: StepInput, e_uD: Tensor, text_u: TextRows | None) -> LossTerms:
        """Collective: every rank must call."""
        key_model = self.momentum.model if self.momentum is not None else None
        values = self.engine(step, e_uD, text_u, key_model, self._queues)
        loss_terms = self.loss.loss_terms
        # the tensors that came out of the engine carry ZeRO's hooks
        loss_terms.terms = dict(zip(loss_terms.terms, values, strict=True))
        return loss_terms

    def _row_gradient(self, e_uD: Tensor) -> Tensor:
        """The gradient of the rows, zero where no loss reads them. Chaos tests spoil it here."""
        grad_uD = e_uD.grad if e_uD.grad is not None else e_uD.new_zeros(e_uD.shape)
        faults.check("gradient", self.context.rank, self.steps_done, grad_uD)
        return grad_uD

    def _update(self, step: StepInput, grad_uD: Tensor) -> None:
        """Updates rows and dense parameters. Collective: every rank must call."""
        lr_factor = self.lr_factor(step.step)
        order = None if isinstance(step.rows, slice) else step.plan.order
        # the engine scaled this rank's loss by the number of ranks, for DeepSpeed's average
        divisor = self.context.world_size
        given = step.rows, grad_uD, lr_factor, order, divisor
        self.table.update(*given, num_valid=step.main.num_nodes)
        self.engine.step(lr_factor)
        self.context.traffic.add("dense", self.engine.bytes_a_step)

    def _enqueue(self, step: StepInput, keys: dict[str, Tensor]) -> None:
        """Updates the momentum copy and enqueues its keys. Collective: every rank must call."""
        if self.momentum is None:
            return
        self.momentum.follow(self.engine.gather_parameters("model."))
        if step.anchor_pairs is not None:
            self.momentum.enqueue(keys, step.anchor_pairs, self.steps_done)

    def staleness(self) -> dict[str, float]:
        """Mean age of the queue's keys in steps; nothing without a queue."""
        if self.momentum is None:
            return {}
        return {"queue_staleness": self.momentum.queues["item_text"].staleness(self.steps_done)}
