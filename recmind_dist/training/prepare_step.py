"""A step's input, made ahead of it in the prefetching thread."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recmind_dist.distributed.context import DistContext
from recmind_dist.embedding.exchange import LookupPlan, RowExchange
from recmind_dist.features.text_features import degree_feature
from recmind_dist.graph import Graph
from recmind_dist.kernels.unique import unique_inverse, unique_inverse_torch
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.sampling.batch import Batch, StepBatches
from recmind_dist.sampling.owners import Owners
from recmind_dist.training.alignment import anchor_stride, counts_of_every_nth, every_nth
from recmind_dist.training.fresh_text import FreshTextPicker
from recmind_dist.training.step_input import StepInput
from recmind_dist.types import BoolArray, IntArray


class StepPreparer:
    """Adds to a batch what a step needs: the lookup's plan, degree features, fresh texts.

    Args:
        anchors: pairs of the global batch that are aligned in a step.
        aligns: whether every rank needs the ids of the anchors of all.
        contrasts: whether every rank needs those of all pairs: XSimGCL's contrast, whose work grows
            with the global batch.
        picker: in the warm-up with adapters.
        finds_edges: whether the edges of a batch's rows are found ahead. Full propagation uses them
            where nothing happens between hops and no edge is hidden.
        finds_content: whether content views are looked up, of sampled nodes whose gates learn.
        items: [n] which rows of this rank are items, where only their texts are read.
        on_device: batches are made on the rank's device.
    """

    def __init__(
        self,
        graph: Graph,
        exchange: RowExchange,
        context: DistContext,
        anchors: int,
        picker: FreshTextPicker | None,
        *,
        aligns: bool = False,
        contrasts: bool = False,
        finds_edges: bool = False,
        finds_content: bool = False,
        items: BoolArray | None = None,
        on_device: bool = False,
    ) -> None:
        self._graph, self._exchange, self._context = graph, exchange, context
        self._anchors, self._picker, self._finds_edges = anchors, picker, finds_edges
        self._aligns, self._contrasts, self._finds_content = aligns, contrasts, finds_content
        self._owners = Owners(graph, exchange.bounds, context)
        self._items = None if items is None else torch.from_numpy(items).to(context.device)
        self._max_degree = int(graph.degree.max())
        self._last_feature = torch.empty(0), torch.empty(0)
        self._row_of_node: Tensor | None = None
        if on_device:
            self._row_of_node = torch.from_numpy(np.array(graph.row_of_node)).to(context.device)

    def prepare_steps(
        self, batches: Iterable[StepBatches], operator: FullPropagation | None = None
    ) -> Iterator[StepInput]:
        """Inputs of the steps of these batches.

        Collective: every rank must iterate, step by step, because ids are exchanged. Over an
        asynchronous transport a batch's ids leave before the next one is sampled and arrive after
        it, so that no rank waits for another's sampling.

        Args:
            operator: of the steps, under full propagation.
        """
        # lists of one: a name would keep the last step's tensors in memory while it is trained on
        started: list[Callable[[], StepInput]] = []
        ready: list[StepInput] = []
        for following in batches:
            if started:
                ready.append(started.pop()())
            started.append(self._start(following, operator))
            if not self._context.lookup_transport.is_async:
                ready.append(started.pop()())
            if ready:
                yield ready.pop()
        if started:
            yield started.pop()()

    def _start(
        self, batches: StepBatches, operator: FullPropagation | None
    ) -> Callable[[], StepInput]:
        """Starts the exchange of ids.

        Collective: every rank must call, and call what it returns.
        """
        main, gate, device = batches.main, batches.gate, self._context.device
        nodes, main_index, gate_index = main.n_id, None, None
        if gate is not None and gate.n_id is not nodes:
            nodes, both = self._distinct(torch.cat([nodes, gate.n_id]))
            both = both.to(device)
            main_index, gate_index = both[: len(main.n_id)], both[len(main.n_id) :]
        stride = anchor_stride(main.global_batch_size, self._anchors)
        anchor_pairs = self._gather_pairs(main, stride) if self._aligns else None
        all_pairs = self._gather_pairs(main, 1) if self._contrasts else None
        masked = None
        if operator is not None and main.masked_edges is not None:
            masked = self._masked_here(main)
        wait_plan = self._start_lookup(nodes, operator)

        def finish() -> StepInput:
            plan = wait_plan()
            hidden, edges, content_plan = None, None, None
            if operator is None and self._finds_content:
                mixed = gate or main
                content_plan = self._start_lookup(mixed.n_id[: mixed.num_targets])()
            if operator is not None:
                if masked is not None:
                    hidden = operator.positions(masked.to(device))
                edges = operator.edges_from(plan.local_rows) if self._finds_edges else None
            return StepInput(
                step=batches.step,
                main=main.to(device),
                gate=gate.to(device) if gate else None,
                plan=plan,
                main_index=main_index,
                gate_index=gate_index,
                main_feature=self._feature(main),
                gate_feature=self._feature(gate) if gate else None,
                fresh=self._picker.pick(_on_host(main), stride) if self._picker else None,
                operator=operator,
                hidden=hidden,
                edges=edges,
                content_plan=content_plan,
                items=self._items_among(plan) if operator is None else None,
                anchor_pairs=anchor_pairs,
                all_pairs=all_pairs,
            )

        return finish

    def _gather_pairs(self, batch: Batch, stride: int) -> Tensor:
        """Users and items of every stride-th pair of the global batch, [2, pairs].

        Collective: every rank must call.
        """
        world_size, total = self._context.world_size, batch.global_batch_size
        first = total * self._context.rank // world_size
        own = batch.pairs[:, every_nth(first, stride)]
        if world_size == 1:
            return own.to(self._context.device)
        counts = counts_of_every_nth(total, stride, world_size)
        ids = np.ascontiguousarray(own.T.cpu().numpy().astype(np.int32))
        gathered = self._owners.all_gather(ids, counts).astype(np.int64)
        return torch.from_numpy(np.ascontiguousarray(gathered.T)).to(self._context.device)

    def _masked_here(self, batch: Batch) -> Tensor:
        """Edges of the global batch with an end among this rank's rows.

        Collective: every rank must call.
        """
        edges = batch.masked_edges
        assert edges is not None
        if self._context.world_size == 1:
            return edges
        order, counts = self._owners.sort(batch.pairs.flatten().cpu().numpy())
        sent = np.tile(edges.cpu().numpy(), 2)[order]
        return torch.from_numpy(np.unique(self._owners.all_to_all(sent, counts)[0]))

    def _items_among(self, plan: LookupPlan) -> Tensor | None:
        """Which of the rows that anybody needs are items. Shape: [items]."""
        if self._items is None:
            return None
        return self._items[plan.local_rows].nonzero().squeeze(1)

    def _feature(self, batch: Batch) -> Tensor:
        degree, feature = self._last_feature
        if batch.degree is not degree:  # the same for all batches whose seeds are all nodes
            feature = degree_feature(batch.degree, self._max_degree).to(self._context.device)
            self._last_feature = batch.degree, feature
        return feature

    def _distinct(self, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Distinct nodes, ascending, and the place of each node among them."""
        size = self._graph.num_nodes
        if self._row_of_node is not None:
            return unique_inverse_torch(nodes, size)[:2]
        found, inverse = unique_inverse(nodes.numpy(), size)
        return torch.from_numpy(found), torch.from_numpy(inverse)

    def _start_lookup(
        self, nodes: Tensor, operator: FullPropagation | None = None
    ) -> Callable[[], LookupPlan]:
        """Starts the exchange of ids. Collective: every rank must call, and call what it returns.

        Args:
            nodes: distinct, where batches are made.
            operator: of the step, under full propagation.
        """
        if self._context.world_size == 1:
            plan = self._plan_alone(nodes, operator)
            return lambda: plan
        rows = self._rows(nodes)
        return partial(self._exchange.wait_lookup, self._exchange.start_lookup(rows))

    def _plan_alone(self, nodes: Tensor, operator: FullPropagation | None) -> LookupPlan:
        """The plan of one rank alone."""
        if self._row_of_node is not None and operator is not None:  # see `DeviceLoader`
            return self._exchange.plan_on_device(operator.everywhere)
        if self._row_of_node is not None:
            return self._exchange.plan_on_device(self._row_of_node[nodes])
        return self._exchange.plan_lookup(self._rows(nodes))

    def _rows(self, nodes: Tensor) -> IntArray:
        rows: IntArray = np.asarray(self._graph.row_of_node)[nodes.cpu().numpy()]
        return rows


def _on_host(batch: Batch) -> Batch:
    """With what `FreshTextPicker` reads on the host."""
    return replace(batch, input_id=batch.input_id.cpu(), pairs=batch.pairs.cpu())
