"""DeepSpeed ZeRO for the dense part; its state fits any world size and stage."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recmind_dist import faults
from recmind_dist.distributed.accelerator import environment, import_deepspeed
from recmind_dist.distributed.context import collective
from recmind_dist.distributed.settings import ZeroSettings
from recmind_dist.distributed.traffic import ring_bytes

_ADAM_STATE = ("exp_avg", "exp_avg_sq")


class DenseEngine:
    """A module under DeepSpeed with torch's Adam as client optimizer.

    Parameters without `requires_grad` do not change. Collective: every rank must make the same
    calls.

    Args:
        module: its forward takes a tensor with gradient and returns a tensor or a tuple of them;
            ZeRO 3's hooks see nothing else.
        settings: ZeRO stage and optimizer.
        batch_size: global, for DeepSpeed's config.
        device: CPU runs on gloo, CUDA on NCCL.
        learning_rates: prefix of a parameter's name → its rate. Default: that of the settings.
        timeout_s: after which a collective of DeepSpeed's fails, on the first engine of a process.
    """

    def __init__(
        self,
        module: nn.Module,
        settings: ZeroSettings,
        batch_size: int,
        device: torch.device,
        learning_rates: dict[str, float] | None = None,
        timeout_s: int = 300,
    ) -> None:
        self._deepspeed = import_deepspeed(device)
        _join_deepspeed(self._deepspeed, device, timeout_s)
        self.module, self.settings = module, settings
        self.named = _trainable(module)
        groups: dict[float, list[nn.Parameter]] = {}
        for name, p in self.named:
            rate = next(
                (r for prefix, r in (learning_rates or {}).items() if name.startswith(prefix)), None
            )
            groups.setdefault(rate or settings.learning_rate, []).append(p)
        self._learning_rates = list(groups)
        optimizer = torch.optim.Adam(
            [{"params": parameters, "lr": rate} for rate, parameters in groups.items()]
        )
        if settings.stage == 3:
            # gates are read outside their own forward: all parts stay gathered during a step
            self._deepspeed.utils.set_z3_leaf_modules(module, [type(module)])
        world_size = dist.get_world_size()
        config = {
            "train_batch_size": max(batch_size // world_size, 1) * world_size,
            "train_micro_batch_size_per_gpu": max(batch_size // world_size, 1),
            "gradient_clipping": 0.0,  # DeepSpeed's own default is 1.0
            "zero_allow_untested_optimizer": True,
            # small shares, small buckets: the defaults reserve gigabytes
            "zero_optimization": {
                "stage": settings.stage,
                "reduce_bucket_size": 5_000_000,
                "allgather_bucket_size": 5_000_000,
            },
            "steps_per_print": 2**31,
        }
        # DeepSpeed looks whether the optimizer is Muon, and that module prepares to be compiled:
        # it would import torch's inductor, which nothing here uses
        with environment("TORCHDYNAMO_DISABLE", "1"), collective("the start of DeepSpeed"):
            self._engine, self._optimizer, _, _ = self._deepspeed.initialize(
                model=module, optimizer=optimizer, config=config, dist_init_required=False
            )
        zero = self._engine.optimizer
        self._adam: torch.optim.Adam = zero if settings.stage == 0 else zero.optimizer
        self._prime_adam()
        self._broken, self._backwards = torch.zeros((), dtype=torch.float64, device=device), 0
        # checked on the rank that made them, before ZeRO reduces and scatters them
        self._hooks = [p.register_hook(self._check) for _, p in self.named]  # type: ignore[no-untyped-call]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward, with ZeRO's hooks."""
        return self._engine(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """Back-propagates this rank's share of the loss; gradients are *summed* over ranks.

        Collective: every rank must call.
        """
        self._broken.zero_()
        self._backwards += 1
        with collective("the sum of dense gradients"):
            self._engine.backward(loss * dist.get_world_size())  # DeepSpeed averages

    def broken_gradients(self) -> Tensor:
        """0, or NaN if a dense gradient of this rank is not finite. Shape: []."""
        return self._broken

    def _check(self, grad: Tensor) -> None:
        faults.check("dense gradient", dist.get_rank(), self._backwards, grad)
        self._broken += (grad * 0).sum()  # 0, or NaN: in fewer operations than a count takes

    def step(self, lr_factor: float) -> None:
        """Updates the dense parameters at `lr_factor` times the learning rate.

        Collective: every rank must call.
        """
        for group, rate in zip(self._optimizer.param_groups, self._learning_rates, strict=True):
            group["lr"] = rate * lr_factor
        with collective("the update of dense parameters"):
            self._engine.step()

    def gather_parameters(self, prefix: str = "") -> dict[str, Tensor]:
        """Copies of trainable parameters whose name starts with `prefix`, by the rest of the name.

        Collective: every rank must call.
        """
        chosen = [
            (name.removeprefix(prefix), p) for name, p in self.named if name.startswith(prefix)
        ]
        with self._whole(p for _, p in chosen):
            return {name: p.detach().clone() for name, p in chosen}

    @property
    def bytes_a_step(self) -> int:
        """Bytes that a rank sends for the dense part in a step, computed as a ring sends them.

        ZeRO 0 all-reduces gradients; 1 and 2 reduce-scatter them and all-gather parameters, which
        is as much; 3 all-gathers parameters once more for the backward.
        """
        total, world = sum(p.numel() * p.itemsize for _, p in self.named), dist.get_world_size()
        whole = sum(getattr(p, "ds_numel", p.numel()) * p.itemsize for _, p in self.named)
        return (
            ring_bytes(total, world)
            if self.settings.stage < 3
            else ring_bytes(whole, world) * 3 // 2
        )

    @contextmanager
    def gathered_parameters(self) -> Iterator[None]:
        """The module's parameters are whole on every rank within, for reading.

        Collective: every rank must call.
        """
        with self._whole(p for _, p in self.named):
            yield

    @contextmanager
    def _whole(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """The parameters are whole on every rank within. Collective: every rank must call."""
        gathered = self._deepspeed.zero.GatheredParameters(
            list(parameters), enabled=self.settings.stage == 3
        )
        with ExitStack() as stack:
            with collective("the gathering of dense parameters"):
                stack.enter_context(gathered)
            yield

    def gather_state(self) -> dict[str, Tensor]:
        """Parameters and Adam state as whole tensors, at any stage and world size.

        Collective: every rank must call.
        """
        state = {f"param.{name}": value.cpu() for name, value in self.gather_parameters().items()}
        for kind in _ADAM_STATE:
            for name, p in self.named:
                state[f"{kind}.{name}"] = self._adam_state(p, kind).detach().cpu().clone()
        steps = {float(self._adam.state[flat]["step"]) for flat in self._flat}
        assert len(steps) == 1, "Adam's partitions disagree on the step"
        state["adam_step"] = torch.tensor([steps.pop()])
        return state

    def _adam_state(self, p: nn.Parameter, kind: str) -> Tensor:
        """A parameter's whole tensor of Adam's state. Collective: every rank must call."""
        if self.settings.stage == 0:
            own: Tensor = self._adam.state[p][kind]
            return own
        with collective("the gathering of Adam's state"):
            whole: Tensor = self._deepspeed.utils.safe_get_full_optimizer_state(p, kind)
        return whole

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Loads what `gather_state` returned, from any stage and world size.

        Collective: every rank must call.
        """
        with torch.no_grad():
            for name, p in self.named:
                self._set_parameter(p, state[f"param.{name}"])
                for kind in _ADAM_STATE:
                    value = state[f"{kind}.{name}"].to(p.device)
                    if self.settings.stage == 0:
                        self._adam.state[p][kind].copy_(value)
                    elif self.settings.stage == 3:
                        self._deepspeed.utils.safe_set_local_optimizer_state(
                            p, _partition_of_this_rank(p, value), kind
                        )
                    else:
                        self._deepspeed.utils.safe_set_full_optimizer_state(p, value, kind)
        for flat in self._flat:
            self._adam.state[flat]["step"].fill_(float(state["adam_step"]))

    def _set_parameter(self, p: nn.Parameter, value: Tensor) -> None:
        """Collective: every rank must call."""
        value = value.to(p.device)
        if self.settings.stage == 3:
            with (
                collective("the loading of dense parameters"),
                self._deepspeed.zero.GatheredParameters([p], modifier_rank=0),
            ):
                if dist.get_rank() == 0:
                    p.copy_(value)
            self._deepspeed.utils.safe_set_local_fp32_param(p, _partition_of_this_rank(p, value))
            return
        p.copy_(value)
        if self.settings.stage > 0:
            self._deepspeed.utils.safe_set_full_fp32_param(p, value)

    def _prime_adam(self) -> None:
        """Makes Adam's state now. torch makes it at the first step, too late for a resumed run."""
        for flat in self._flat:
            self._adam.state[flat] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(flat),
                "exp_avg_sq": torch.zeros_like(flat),
            }
        if self.settings.stage in (1, 2):
            self._engine.optimizer._lazy_init_hp_params_optimizer_state()

    @property
    def _flat(self) -> list[Tensor]:
        """The tensors that Adam updates on this rank."""
        zero = self._engine.optimizer
        if self.settings.stage == 0:
            return [p for _, p in self.named]
        return list(
            zero.fp32_partitioned_groups_flat
            if self.settings.stage == 3
            else zero.single_partition_of_fp32_groups
        )

    def close(self) -> None:
        """Removes hooks and buffers, so that another phase can wrap the same module."""
        for hook in self._hooks:
            hook.remove()
        self._engine.destroy()


class TableOnlyEngine:
    """The engine of a model without dense parameters (plain LightGCN); only its table learns."""

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        self.module, self._none_broken = module, torch.zeros((), device=device)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward."""
        return self.module(*args, **kwargs)

    def backward(self, loss: Tensor) -> None:
        """As `DenseEngine.backward`, with its scale. Collective: every rank must call."""
        world_size = dist.get_world_size() if dist.is_initialized() else 1
        scaled = loss * world_size if world_size > 1 else loss
        scaled.backward()  # type: ignore[no-untyped-call]

    def broken_gradients(self) -> Tensor:
        """Zero: there is no dense gradient."""
        return self._none_broken

    def step(self, lr_factor: float) -> None:
        """Does nothing."""

    @property
    def bytes_a_step(self) -> int:
        """0: nothing is sent."""
        return 0

    def gather_parameters(self, prefix: str = "") -> dict[str, Tensor]:
        """Empty: there are no dense parameters."""
        return {}

    def gathered_parameters(self) -> AbstractContextManager[None]:
        """As `DenseEngine.gathered_parameters`."""
        return nullcontext()

    def gather_state(self) -> dict[str, Tensor]:
        """Empty: there are no dense parameters."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


Engine = DenseEngine | TableOnlyEngine


def make_engine(
    module: nn.Module,
    settings: ZeroSettings,
    batch_size: int,
    device: torch.device,
    learning_rates: dict[str, float] | None = None,
    timeout_s: int = 300,
) -> Engine:
    """A `DenseEngine`, or `TableOnlyEngine` if `module` has no trainable parameter.

    Collective: every rank must call.
    """
    if not _trainable(module):
        return TableOnlyEngine(module, device)
    return DenseEngine(module, settings, batch_size, device, learning_rates, timeout_s)


def _trainable(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Trainable parameters by name: the same on every rank."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


def _partition_of_this_rank(p: nn.Parameter, value: Tensor) -> Tensor:
    """This rank's part of a stage-3 parameter, padded as DeepSpeed pads (its setter does not)."""
    part = int(p.partition_numel())  # type: ignore[attr-defined]  # DeepSpeed adds it to the parameter
    padded = torch.zeros(part * dist.get_world_size(), device=value.device)
    padded[: value.numel()] = value.flatten()
    return padded[dist.get_rank() * part :][:part]


def _join_deepspeed(deepspeed: Any, device: torch.device, timeout_s: int) -> None:
    """Lets DeepSpeed use the existing process group. Collective: every rank must call.

    On the CPU it would compile for minutes a shared-memory op that gloo does not use; an empty
    table of compatible ops prevents that. Its copy of the group of all ranks would wait half an
    hour for a rank that hangs, so it is given one. Both are private: tests/dist/test_engine.py
    fails if they move.
    """
    if not deepspeed.comm.is_initialized():
        if device.type == "cpu":
            deepspeed.ops.__compatible_ops__ = {}
        backend = "gloo" if device.type == "cpu" else "nccl"
        deepspeed.init_distributed(dist_backend=backend, auto_mpi_discovery=False, verbose=False)
    groups = deepspeed.utils.groups
    if groups._WORLD_GROUP is None:
        with collective("the start of DeepSpeed"):
            groups._WORLD_GROUP = dist.new_group(timeout=timedelta(seconds=timeout_s))
