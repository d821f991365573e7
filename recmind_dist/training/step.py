"""One training step: sample → fetch rows → forward → losses → backward → return rows → update →
enqueue.
"""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.profiler import record_function

from recmind_dist.distributed.context import DistContext
from recmind_dist.embedding.exchange import RowExchange
from recmind_dist.embedding.table import ShardedTable
from recmind_dist.graph import Graph
from recmind_dist.kernels.unique import unique_inverse
from recmind_dist.model import GatedLightGCN, KeyQueue, TextRows
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.randomness import stream_key
from recmind_dist.sampling.batch import Batch, StepBatches
from recmind_dist.training import faults
from recmind_dist.training.finite_checks import check_finite_losses
from recmind_dist.training.fresh_text import FreshTextPicker
from recmind_dist.training.loss import VIEWS, LossTerms, TrainingLoss, anchor_stride
from recmind_dist.training.step_input import StepInput
from recmind_dist.training.text_features import TextFeatures, degree_feature

if TYPE_CHECKING:  # DeepSpeed is for workers: the driver need not wait for it
    from recmind_dist.distributed.zero_engine import Engine


class StepPreparer:
    """Makes a batch ready for a step in the prefetching thread: degree features, the exchange's
    plan, fresh texts.

    Args:
        row_of_node: [N] the partition's permutation; picker: in the warm-up with adapters; anchors:
        alignment.anchors;
        finds_edges: whether the edges of a batch's rows are found ahead, too. Full propagation
        needs them where it does nothing to a state between hops; it must hide none, as it does so
        in place.
    """

    def __init__(
        self,
        graph: Graph,
        exchange: RowExchange,
        context: DistContext,
        anchors: int,
        picker: FreshTextPicker | None,
        finds_edges: bool = False,
    ) -> None:
        self._finds_edges = finds_edges
        self._graph, self._exchange, self._context, self._anchors, self._picker = (
            graph,
            exchange,
            context,
            anchors,
            picker,
        )
        self._max_degree = int(graph.degree.max())

    def prepare(
        self, batches: Iterable[StepBatches], operator: FullPropagation | None = None
    ) -> Iterator[StepInput]:
        """Steps of these batches. Every rank must iterate, step by step: ids are exchanged.

        Where rows are asked for through shared memory, a batch's ids are sent before the next one
        is sampled and read after it, so that no rank waits for another's sampling.

        Args:
            operator: of the steps, under full propagation.
        """
        asked: list[Callable[[], StepInput]] = []
        ready: list[StepInput] = []  # nothing here holds a step once it was given away
        for following in batches:
            ready += [asked.pop()() for _ in asked[:]]
            asked.append(self._start(following, operator))
            if not self._context.lookup_transport.is_async:
                ready.append(asked.pop()())
            if ready:
                yield ready.pop()
        if asked:
            yield asked.pop()()

    def _start(
        self, batches: StepBatches, operator: FullPropagation | None
    ) -> Callable[[], StepInput]:
        """Says which rows a step needs. Every rank must call, and must call what it returns."""
        main, gate, device = batches.main, batches.gate, self._context.device
        nodes, main_index, gate_index = main.n_id.numpy(), None, None
        if gate is not None:
            nodes, where = unique_inverse(
                np.concatenate([nodes, gate.n_id.numpy()]), self._graph.num_nodes
            )
            index = torch.from_numpy(where).to(device)
            main_index, gate_index = index[: len(main.n_id)], index[len(main.n_id) :]
        lookup = self._exchange.start_lookup(np.asarray(self._graph.row_of_node)[nodes])
        stride = anchor_stride(main.global_batch_size, self._anchors)

        def prepare() -> StepInput:
            plan = self._exchange.wait_lookup(lookup)
            hidden = operator.positions(main.masked_edges.numpy()) if operator else None
            return StepInput(
                step=batches.step,
                main=main.to(device),
                gate=gate.to(device) if gate else None,
                plan=plan,
                main_index=main_index,
                gate_index=gate_index,
                main_feature=self._feature(main),
                gate_feature=self._feature(gate) if gate else None,
                fresh=self._picker.pick(main, stride) if self._picker else None,
                operator=operator,
                hidden=hidden,
                edges=operator.edges_from(plan.local_rows)
                if operator and self._finds_edges
                else None,
            )

        return prepare

    def _feature(self, batch: Batch) -> Tensor:
        return degree_feature(batch.degree, self._max_degree).to(self._context.device)


class MomentumEncoder:
    """Slow copies of projection and gates that make the queue's keys, and the queues. Source:
    arXiv:1911.05722.
    """

    def __init__(self, model: GatedLightGCN, queue_size: int, momentum: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.momentum = momentum
        device = next(model.parameters()).device
        self.queues = {view: KeyQueue(queue_size, model.embedding_dim, device) for view in VIEWS}

    def follow(self, parameters: dict[str, Tensor]) -> None:
        """k ← m k + (1 − m) q for every parameter of the copy."""
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.lerp_(parameters[name].to(p.device), 1 - self.momentum)

    def enqueue(self, loss_terms: LossTerms, pairs: Tensor, anchors: int, step: int) -> None:
        """Puts the step's gathered keys into the queues, in the order of the global batch."""
        ids = pairs[:, :: anchor_stride(pairs.shape[1], anchors)]
        for view, keys in loss_terms.keys.items():
            self.queues[view].enqueue(keys, ids[0 if view.startswith("user") else 1], step)


class TrainingStep:
    """What a rank does with one prepared batch.

    Args:
        hide_share: share of the nodes with text whose text is hidden, so that the fallback learns;
        nodes: [n] global ids of this rank's rows; seed: of the run; steps_done: of all phases,
        before this one's next.
    """

    def __init__(
        self,
        engine: "Engine",
        table: ShardedTable,
        text: TextFeatures | None,
        keys: MomentumEncoder | None,
        context: DistContext,
        *,
        hide_share: float,
        nodes: Tensor,
        seed: int,
        lr_factor: Callable[[int], float],
        steps_done: int = 0,
    ) -> None:
        self.engine, self.table, self.text, self.keys, self.context = (
            engine,
            table,
            text,
            keys,
            context,
        )
        self.hide_share, self.nodes, self.seed, self.lr_factor = hide_share, nodes, seed, lr_factor
        none = {view: KeyQueue(0, table.dim, context.device) for view in VIEWS}
        self._queues = keys.queues if keys else none
        self.steps_done = steps_done

    @property
    def training_loss(self) -> TrainingLoss:
        module = self.engine.module
        assert isinstance(module, TrainingLoss)
        return module

    def run(self, step: StepInput) -> dict[str, float]:
        """One step; returns the global batch's loss terms. Every rank must call."""
        rows = step.rows
        with record_function("recmind::gather"):
            text_u = self._text_rows(step)
            read_in_place = text_u is None and step.operator is None  # see `SampledForward`
            e_uD = (
                self.table.grad_placeholder(len(step.plan.local_rows))
                if read_in_place
                else self.table.gather(rows)
            )
        with record_function("recmind::forward"):
            values = self.engine(step, e_uD, text_u, self.keys and self.keys.model, self._queues)
        loss_terms = self.training_loss.loss_terms
        loss_terms.terms = dict(
            zip(loss_terms.terms, values, strict=True)
        )  # the tensors that carry ZeRO's hooks
        with record_function("recmind::backward"):
            self.engine.backward(loss_terms.total)
        grad = (
            e_uD.grad if e_uD.grad is not None else e_uD.new_zeros(e_uD.shape)
        )  # llm_only reads no row
        faults.check("gradient", self.context.rank, self.steps_done, grad)
        losses = check_finite_losses(
            loss_terms.terms, grad, self.engine.broken_gradients(), self.context, step.step
        )
        with record_function("recmind::update"):
            order = None if isinstance(rows, slice) else step.plan.order
            # the engine scaled this rank's loss for DeepSpeed's average
            self.table.update(
                rows, grad, self.lr_factor(step.step), order, divisor=self.context.world_size
            )
            self.engine.step(self.lr_factor(step.step))
        self.context.traffic.add("dense", self.engine.bytes_a_step)
        if self.keys is not None:
            with record_function("recmind::queue"):
                self.keys.follow(self.engine.gather_parameters("model."))
                self.keys.enqueue(
                    loss_terms,
                    step.main.global_pairs,
                    self.training_loss.alignment.anchors,
                    self.steps_done,
                )
        self.steps_done += 1
        return losses

    def staleness(self) -> dict[str, float]:
        """Mean age of the queue's keys in steps; nothing without a queue."""
        return (
            {"queue_staleness": self.keys.queues["item_text"].staleness(self.steps_done)}
            if self.keys
            else {}
        )

    def _text_rows(self, step: StepInput) -> TextRows | None:
        if self.text is None or not self.training_loss.model.uses_text:
            return None
        key = stream_key(self.seed, "step", step.step)
        whole = step.operator is not None and not self.training_loss.model.settings.users_have_text
        rows = step.operator.items if step.operator is not None and whole else step.rows
        return self.text.select(rows, self.hide_share, key, self.nodes[rows])
