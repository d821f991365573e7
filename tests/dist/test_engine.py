"""The dense engine at every ZeRO stage: state is whole tensors that fit any world, and nothing is
compiled.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recmind_dist.distributed.context import DistContext
from recmind_dist.distributed.settings import ZeroSettings
from recmind_dist.distributed.zero_engine import DenseEngine, TableOnlyEngine, make_engine
from recmind_dist.errors import WorkerLostError
from recmind_dist.launch.network import GROUPS, MAILBOX_FILES
from tests.processes import run_ranks

State = dict[str, np.ndarray]


class Regression(nn.Module):
    """Two layers, sizes that no world size divides, one parameter at rest and one that never takes
    gradient.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))
        self.frozen = nn.Linear(3, 1).requires_grad_(False)
        self.idle = nn.Parameter(torch.ones(3))
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.frozen(self.layers(x)) - y).square().sum() / 12


def train(engine: DenseEngine, first: int, last: int) -> None:
    """Steps on global batches of 12, this rank's share of each; the learning rate falls."""
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(12, 7, generator=generator), torch.randn(12, 1, generator=generator)
        mine = slice(12 * rank // world, 12 * (rank + 1) // world)
        # an input with gradient, as the table's rows are
        engine.backward(engine(x[mine].requires_grad_(), y[mine]))
        engine.step(1.0 - step / 20)


def build(stage: int, timeout_s: int = 60) -> DenseEngine:
    settings = ZeroSettings.model_validate({"stage": stage, "learning_rate": 0.05})
    rates = {"layers.2.": 0.01}
    return DenseEngine(Regression(), settings, 12, torch.device("cpu"), rates, timeout_s)


def numpy_of(engine: DenseEngine) -> State:
    return {name: value.numpy().copy() for name, value in engine.gather_state().items()}


def save_load_go_on(stage: int) -> tuple[State, State, State]:
    """State in mid-training; the end of the undisturbed engine; the end of a new engine that took
    the state.
    """
    undisturbed = build(stage)
    train(undisturbed, 0, 4)
    state = undisturbed.gather_state()
    saved = {name: value.clone() for name, value in state.items()}
    train(undisturbed, 4, 8)
    end = numpy_of(undisturbed)
    whole = {
        name: value.numpy() for name, value in undisturbed.gather_parameters("layers.").items()
    }
    assert all(np.array_equal(value, end[f"param.layers.{name}"]) for name, value in whole.items())
    undisturbed.close()
    resumed = build(stage)
    resumed.load_state(saved)
    again = numpy_of(resumed)
    assert all(np.array_equal(again[name], saved[name].numpy()) for name in saved)
    with resumed.gathered_parameters():
        np.testing.assert_array_equal(
            resumed.module.layers[0].weight.detach(), saved["param.layers.0.weight"]
        )
    train(resumed, 4, 8)
    finished = numpy_of(resumed)
    resumed.close()
    return {name: value.numpy() for name, value in saved.items()}, end, finished


def load_and_tell(stage: int, state: State) -> State:
    engine = build(stage)
    engine.load_state({name: torch.from_numpy(value) for name, value in state.items()})
    return numpy_of(engine)


def by_torch(steps: int) -> dict[str, Tensor]:
    """The same course by torch's Adam alone."""
    module = Regression()
    head = list(module.layers[2].parameters())
    rest = [*module.layers[0].parameters(), module.idle]
    optimizer = torch.optim.Adam([{"params": rest, "lr": 0.05}, {"params": head, "lr": 0.01}])
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(12, 7, generator=generator), torch.randn(12, 1, generator=generator)
        for group, rate in zip(optimizer.param_groups, (0.05, 0.01), strict=True):
            group["lr"] = rate * (1.0 - step / 20)
        optimizer.zero_grad()
        module(x, y).backward()
        optimizer.step()
    return dict(module.named_parameters())


@pytest.fixture(scope="module")
def states() -> dict[tuple[int, int], State]:
    """State after four steps by (stage, world), filled by the first test."""
    return {}


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_saved_engine_goes_on_bit_for_bit(
    stage: int, world_size: int, states: dict[tuple[int, int], State]
) -> None:
    answers = run_ranks(save_load_go_on, world_size, stage)
    states[stage, world_size] = answers[0][0]
    expected = by_torch(8)
    for saved, end, finished in answers:
        assert saved.keys() == end.keys()
        for name in end:
            np.testing.assert_array_equal(finished[name], end[name], err_msg=name)
            np.testing.assert_array_equal(end[name], answers[0][1][name])
        for name, p in expected.items():
            if p.requires_grad:
                np.testing.assert_allclose(
                    end[f"param.{name}"], p.detach(), atol=1e-5, err_msg=name
                )
        assert end["adam_step"] == [8]
        assert not np.array_equal(saved["param.layers.0.weight"], end["param.layers.0.weight"])
        assert "param.frozen.weight" not in end


@pytest.mark.parametrize(("stage", "other"), [(2, 1), (3, 0), (1, 3)])
def test_state_saved_on_two_ranks_loads_whole_on_one_at_any_stage(
    stage: int, other: int, states: dict[tuple[int, int], State]
) -> None:
    saved = states.get((stage, 2)) or run_ranks(save_load_go_on, 2, stage)[0][0]
    loaded = run_ranks(load_and_tell, 1, other, saved)[0]
    assert loaded.keys() == saved.keys()
    for name, value in saved.items():
        np.testing.assert_array_equal(loaded[name], value, err_msg=name)


def left_alone_in(operation: str) -> None:
    """Rank 1 dies before the operation, in which rank 0 then waits for it."""
    engine = build(2 if operation == "the gathering of Adam's state" else 3)
    whole = engine.gather_state()
    if torch.distributed.get_rank() == 1:
        os._exit(0)
    if operation == "the start of DeepSpeed":
        engine.close()
        build(3)
    if operation == "the loading of dense parameters":
        engine.load_state(whole)
    engine.gather_state()


@pytest.mark.parametrize(
    "operation",
    [
        "the start of DeepSpeed",
        "the gathering of dense parameters",
        "the gathering of Adam's state",
        "the loading of dense parameters",
    ],
)
def test_a_rank_that_is_left_alone_says_in_what(operation: str) -> None:
    said = f"WorkerLostError: rank 0 of 2: {operation} failed after"
    with pytest.raises(AssertionError, match=said):
        run_ranks(left_alone_in, 2, operation)


def kept_waiting(stage: int) -> str:
    """What rank 0 says, for whose dense part rank 1 never comes."""
    engine = build(stage, timeout_s=2)
    if torch.distributed.get_rank() == 1:
        return ""
    with pytest.raises(WorkerLostError) as lost:
        train(engine, 0, 1)
    return str(lost.value)


def test_dense_gradients_wait_no_longer_than_the_time_out() -> None:
    said = run_ranks(kept_waiting, 2, 2)[0]
    assert said.startswith("rank 0 of 2: the sum of dense gradients failed after")


def start_without_compiling(directory: str) -> tuple[list[str], bool]:
    """What the engine's start leaves in the directory of compiled extensions, and whether the table
    still exists.
    """
    os.environ["TORCH_EXTENSIONS_DIR"] = directory
    import deepspeed.ops

    had_table = isinstance(getattr(deepspeed.ops, "__compatible_ops__", None), dict)
    engine = build(1)
    train(engine, 0, 1)
    return sorted(str(p) for p in Path(directory).rglob("*")), had_table


def test_the_start_compiles_nothing(tmp_path: Path) -> None:
    """DeepSpeed's private table of ops, emptied, keeps its start from compiling for minutes:
    pinned, so watched.
    """
    for built, had_table in run_ranks(start_without_compiling, 2, str(tmp_path)):
        assert had_table
        assert built == []


def nothing_dense() -> bool:
    engine = make_engine(nn.Identity(), ZeroSettings(), 4, torch.device("cpu"))
    x = torch.ones(2, requires_grad=True)
    engine.backward(engine(x).sum())
    assert x.grad is not None
    return (
        isinstance(engine, TableOnlyEngine)
        and x.grad.tolist() == [2.0, 2.0]
        and engine.gather_state() == {}
    )


def test_a_module_without_parameters_needs_no_engine_and_scales_alike() -> None:
    assert run_ranks(nothing_dense, 2) == [True, True]


def all_count_sockets() -> int:
    """Of this rank, after it has joined the groups and made an engine."""
    context = DistContext.join_group(torch.device("cpu"))
    make_engine(Regression(), ZeroSettings(), 12, context.device, {})
    links = [os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    return sum(link.startswith("socket:") for link in links)


def all_count_boxes() -> int:
    """Files of shared memory that this rank has open once each transport has had both turns."""
    context = DistContext.join_group(torch.device("cpu"))
    rows = [1] * context.world_size
    for transport in (context.row_transport, context.id_transport, context.lookup_transport):
        for _ in range(2):
            transport.all_to_all(torch.ones(context.world_size, 1), rows)
    links = [os.readlink(file) for file in Path("/proc/self/fd").iterdir() if file.is_symlink()]
    return sum("recmind-mailbox" in link for link in links)


def test_files_of_shared_memory_grow_with_ranks_as_the_check_of_nodes_says() -> None:
    few, many = (run_ranks(all_count_boxes, world_size)[0] for world_size in (2, 4))
    assert many - few == MAILBOX_FILES * 2


def test_sockets_grow_with_ranks_as_the_check_of_nodes_says() -> None:
    few, many = (run_ranks(all_count_sockets, world_size)[0] for world_size in (2, 4))
    assert many - few == GROUPS * 2
