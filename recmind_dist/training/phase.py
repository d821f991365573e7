"""One phase of training: its engine, its step, its stream of step inputs."""

import math
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor

from recmind_dist import faults
from recmind_dist.distributed.zero_engine import Engine, make_engine
from recmind_dist.embedding.exchange import RowExchange
from recmind_dist.model.models import acts_between_hops, gate_parameters
from recmind_dist.model.xsimgcl import XSimGCL
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.randomness import stream_key
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.sampling.batch import StepBatches
from recmind_dist.sampling.device_loader import DeviceLoader
from recmind_dist.sampling.loader import NeighborLoader, steps_per_epoch
from recmind_dist.sampling.padded_loader import PaddedLoader, can_pad
from recmind_dist.text import TextEncoder, Texts
from recmind_dist.text.lower_states import LowerStates
from recmind_dist.training.alignment import num_anchors
from recmind_dist.training.cuda.captured_inputs import NUM_BUFFERS, CapturedInputs
from recmind_dist.training.fresh_text import FreshTextEncoder, FreshTextPicker
from recmind_dist.training.loaders import make_loader
from recmind_dist.training.loss import TrainingLoss
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.momentum import MomentumEncoder
from recmind_dist.training.prepare_step import StepPreparer
from recmind_dist.training.state import gather_dense_state
from recmind_dist.training.step import TrainingStep
from recmind_dist.training.step_input import StepInput


class Phase:
    """The warm-up (alignment alone) or the joint phase. Collective: every rank must make one.

    Args:
        name: "warmup" or "joint".
        steps_done: steps of the whole run before the next one.
    """

    def __init__(
        self,
        config: RunConfig,
        shard: ModelShard,
        exchange: RowExchange,
        name: str,
        steps_done: int,
    ) -> None:
        self.name, self.joint = name, name == "joint"
        self.config, self.shard, self.exchange = config, shard, exchange
        train, context = config.train, shard.context
        self.epochs = train.epochs if self.joint else train.warmup_epochs
        self.steps_per_epoch = steps_per_epoch(
            shard.graph, train.batch_size, train.batch_of, train.steps_per_epoch
        )
        shard.model = shard.build_dense()  # anew: ZeRO 3 leaves the last phase's sharded
        lora = config.text.lora
        self.adapts = not self.joint and lora is not None and config.model.reads_text
        fresh_texts = self._fresh_texts() if self.adapts else None
        fresh_encoder = self._fresh_encoder(fresh_texts) if self.adapts else None
        loss = TrainingLoss(
            config, shard.graph, shard.model, shard.content, fresh_encoder, exchange, context, name
        )
        self.momentum: MomentumEncoder | None = None
        if config.aligns and config.alignment.queue_size:
            self.momentum = MomentumEncoder(shard.model, config.alignment.queue_size)
        self.engine = self._make_engine(loss)
        self.step = TrainingStep(
            self.engine,
            shard.table,
            shard.text,
            self.momentum,
            context,
            nodes=torch.from_numpy(shard.nodes).to(context.device),
            seed=stream_key(train.seed, name),
            lr_factor=self._lr_factor,
            steps_done=steps_done,
            read_every=train.log_every_steps,
            captures=not config.profile,
        )
        finds_edges = not config.sampler.hide_batch_edges and not acts_between_hops(shard.model)
        self.preparer = StepPreparer(
            shard.graph,
            exchange,
            context,
            num_anchors(train.batch_size),
            self._picker(fresh_encoder, fresh_texts),
            aligns=config.aligns,
            contrasts=isinstance(shard.model, XSimGCL) and self.joint,
            finds_edges=finds_edges,
            finds_content=self.joint and shard.content is not None,
            items=shard.nodes >= shard.graph.num_users if config.only_items_have_text else None,
            on_device=shard.batches_on_device,
        )
        self._loader, self._operator = self._make_loader()
        self.captured_inputs = self._make_captured_inputs()

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    @property
    def batches_ahead(self) -> int:
        """Depth of the prefetch; 0 where a GPU makes batches under full propagation or as a CUDA
        graph: two threads would only take turns at starting its kernels.
        """
        starts_little = self._operator is not None or self.num_buffers > 0
        if (
            isinstance(self._loader, DeviceLoader)
            and starts_little
            and self.shard.context.device.type == "cuda"
        ):
            return 0
        return self.config.sampler.batches_ahead

    @property
    def num_buffers(self) -> int:
        """Buffers in which one rank's step inputs are made in turn; 0: each has memory of its own.
        The same on every rank.
        """
        replays = self.captured_inputs is not None and self.captured_inputs.replays
        return NUM_BUFFERS if replays else 0

    def step_inputs(
        self, epoch: int, first_step: int, count: int | None = None
    ) -> Iterator[StepInput]:
        """An epoch's step inputs, at most `count`, made as they are asked for.

        Collective: every rank must iterate.
        """
        if self._pads:
            assert self.captured_inputs is not None
            for step in islice(self.captured_inputs.of_epoch(epoch, first_step), count):
                faults.check("sample", self.shard.context.rank, step.step)
                yield step
            return
        batches = islice(self._batches(epoch, first_step), count)
        yield from self.preparer.prepare_steps(batches, self._operator)

    def _batches(self, epoch: int, first_step: int) -> Iterator[StepBatches]:
        """Collective: every rank must iterate."""
        for batches in self._loader.batches(epoch, first_step):
            faults.check("sample", self.shard.context.rank, batches.step)
            yield batches

    def end_phase(self) -> dict[str, Tensor]:
        """Ends the engine; returns its last dense state. Collective: every rank must call."""
        dense = gather_dense_state(self.engine, self.momentum)
        self.engine.close()
        return dense

    def _learning_rates(self, loss: TrainingLoss) -> dict[str, float]:
        """Rates other than zero.learning_rate, by the prefix of a parameter's name."""
        rates = {}
        if self.adapts and self.config.text.lora is not None:
            rates["fresh_encoder."] = self.config.text.lora.learning_rate
        gate = self.config.gate
        if gate is not None and gate.learning_rate is not None:
            gates = {id(p) for p in gate_parameters(loss.model)}
            names = (name for name, p in loss.named_parameters() if id(p) in gates)
            rates |= dict.fromkeys(names, gate.learning_rate)
        return rates

    def _make_loader(self) -> tuple[NeighborLoader, FullPropagation | None]:
        """The phase's batches and, under full propagation, the operator without held-out edges.

        Collective: every rank must call.
        """
        config, shard, context, gate = self.config, self.shard, self.shard.context, self.config.gate
        heldout, gate_edges, degree = None, None, None
        if config.heldout_gates and gate is not None:
            heldout = shard.heldout_edges(gate.heldout_share, gate.withheld_items)
            # gates learn a user's newest edge alone, of withheld items too: so they meet items
            # without edges as often as ranking does
            gate_edges = heldout
            if gate.withheld_items:
                gate_edges = shard.heldout_edges(gate.heldout_share)
            degree = shard.degrees(heldout)
        loader = make_loader(
            config,
            shard.graph,
            self.name,
            context.rank,
            context.world_size,
            shard.edges,
            held_out=heldout,
            gate_edges=gate_edges,
            degree=degree,
            device=context.device if shard.batches_on_device else None,
            padded=self._pads,
        )
        return loader, shard.operator(heldout) if config.propagates_fully else None

    def _make_engine(self, loss: TrainingLoss) -> Engine:
        """What updates the dense part. Collective: every rank must call."""
        config, device = self.config, self.shard.context.device
        rates, timeout_s = self._learning_rates(loss), config.scaling.collective_timeout_s
        return make_engine(loss, config.zero, config.train.batch_size, device, rates, timeout_s)

    def _make_captured_inputs(self) -> CapturedInputs | None:
        """What makes inputs of fixed shapes; None where batches have other ones."""
        if not isinstance(self._loader, PaddedLoader):
            return None
        prepare = self.preparer.prepare_steps
        return CapturedInputs(self._loader, prepare, self.shard.context.device)

    @property
    def _pads(self) -> bool:
        """Whether sampled batches have fixed shapes, for the sake of CUDA graphs: the same on every
        rank.
        """
        config, shard = self.config, self.shard
        return (
            self.joint
            and self.step.model_can_be_captured
            and shard.batches_on_device
            and not config.propagates_fully
            and config.loss.kind == "bpr"
            and config.train.batch_of == "pairs"
            and config.table.optimizer == "adam"
            and can_pad(config.sampler, shard.graph, config.train.batch_size, shard.context.device)
        )

    def _fresh_texts(self) -> Texts | None:
        path = self.shard.inputs.texts
        # rank 0 reads all of the file once; others map it, and read the texts that they need
        return Texts.load(path, verify=self.shard.context.rank == 0) if path is not None else None

    def _fresh_encoder(self, texts: Texts | None) -> FreshTextEncoder:
        config, whitening, device = self.config, self.shard.whitening, self.shard.context.device
        lora = config.text.lora
        assert lora is not None
        assert whitening is not None
        encoder = TextEncoder.load(config.text, device)
        if texts is not None and device.type == "cpu":
            cache = config.cache_dir / config.dataset.name
            if states := LowerStates.find(cache, config.text, texts, lora):
                encoder.use_lower_states(states)
        encoder.add_lora(lora, config.train.seed)
        return FreshTextEncoder(encoder, whitening)

    def _picker(
        self, fresh_encoder: FreshTextEncoder | None, texts: Texts | None
    ) -> FreshTextPicker | None:
        lora = self.config.text.lora
        if fresh_encoder is None or lora is None or texts is None:
            return None
        return FreshTextPicker(texts, fresh_encoder.encoder, lora.texts_per_step)

    def _lr_factor(self, step: int) -> float:
        """The schedule's multiple of the learning rates."""
        if not self.joint or self.config.train.schedule == "constant":
            return 1.0
        return 0.5 * (1.0 + math.cos(math.pi * min(step / max(self.total_steps, 1), 1.0)))
