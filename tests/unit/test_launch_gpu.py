"""What is said of a GPU that cannot do what a run asks of it. The device is a fake at its edge: its
properties, and the words of torch's errors.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.graphs import PowerLaw
from recmind_dist.cli import app as cli
from recmind_dist.distributed.context import DistContext
from recmind_dist.distributed.settings import ScalingSettings
from recmind_dist.embedding.settings import TableSettings
from recmind_dist.embedding.table import ShardedTable
from recmind_dist.errors import ConfigError, TextError, TrainingError
from recmind_dist.graph import row_bounds
from recmind_dist.launch import in_process
from recmind_dist.launch.card import Card, check_card, mixed_cards
from recmind_dist.launch.device import choose_evaluation_device
from recmind_dist.launch.device_memory import kept_bytes, kept_bytes_of_run, shortage
from recmind_dist.propagation.full_graph import FullPropagation
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.source import fault_of_dtype, refuse_dtype_on, resolve_dtype
from recmind_dist.training.out_of_memory import saying_what_is_large
from recmind_dist.training.run_stores import RunStores

GIB = 1 << 30
CPU = torch.device("cpu")
CONFIG = RunConfig.model_validate(
    {"dataset": {"name": "toy", "interactions": "a.tsv"}, "model": {"kind": "lightgcn"}}
)
TORCH_WORDS = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 1.50 GiB is free. Including non-PyTorch memory, this process has 77.61 GiB memory in "
    "use. See documentation for Memory Management"
)


def fake_card(free: int) -> Callable[[torch.device], Card]:
    return lambda device: Card("NVIDIA Fake", 80 * GIB, free)


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_bytes_by_part_are_those_of_the_tensors(optimizer: str, tmp_path: Path) -> None:
    graph = PowerLaw(60, 80, 900).open(tmp_path)
    table = ShardedTable(
        (0, 140), 140, 16, TableSettings.model_validate({"optimizer": optimizer}), CPU
    )
    operator = FullPropagation(graph, row_bounds(graph, 1), DistContext.alone(), torch.zeros(140))
    matrix = operator._matrix.whole()
    assert matrix.weight is not None
    found = kept_bytes(140, 1800, 16, text_dim=24, optimizer=optimizer)
    assert found["the table"] == table.weight.nbytes
    assert found["its optimizer"] == sum(state.nbytes for state in table.state.values())
    assert found["edges"] == sum(
        part.nbytes for part in (matrix.indptr, matrix.indices, matrix.weight)
    )
    assert found["texts"] == torch.zeros(140, 24, dtype=torch.float16).nbytes
    assert found["final vectors"] == torch.zeros(140, 16).nbytes


def test_ranks_share_rows_edges_and_final_vectors(tmp_path: Path) -> None:
    inputs = RunStores(PowerLaw(60, 80, 900).open(tmp_path).path)
    whole = kept_bytes_of_run(CONFIG, inputs)
    halves = [kept_bytes_of_run(CONFIG, inputs, rank, 2) for rank in range(2)]
    for name in ("the table", "its optimizer", "final vectors"):
        assert sum(half[name] for half in halves) == whole[name]
    assert sum(half["edges"] for half in halves) == whole["edges"] + 4  # one more row start


def test_a_run_that_is_larger_than_the_gpu_is_told_by_how_much_and_of_which_parts() -> None:
    parts = {"the table": 30 * GIB, "its optimizer": 60 * GIB, "edges": 5 * GIB, "texts": 0}
    assert shortage(parts, 78 * GIB, "NVIDIA Fake") == (
        "keeps at least 95.0 GiB on its GPU (its optimizer 60.0 GiB, the table 30.0 GiB, edges "
        "5.0 GiB), 17.0 GiB more than NVIDIA Fake has free"
    )
    assert shortage(parts, 95 * GIB, "NVIDIA Fake") is None


def test_a_rank_refuses_more_than_its_gpu_holds_with_three_ways_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = RunStores(PowerLaw(60, 80, 900).open(tmp_path).path)
    on_gpu = DistContext(0, 1, torch.device("cuda", 0))
    monkeypatch.setattr(Card, "of", fake_card(1000))
    with pytest.raises(
        ConfigError,
        match=r"^rank 0 of 1 keeps at least \d+\.\d MiB .*: raise scaling\.num_workers, .*lower "
        r"model\.embedding_dim, or set scaling\.device=cpu$",
    ):
        check_card(CONFIG, inputs, on_gpu)
    assert check_card(CONFIG, inputs, DistContext.alone()) is None  # the CPU is not asked
    monkeypatch.setattr(Card, "of", fake_card(GIB))
    assert check_card(CONFIG, inputs, on_gpu) is None


def test_mixed_cards_are_named() -> None:
    small, large = (Card(name, size * GIB, 0).words for name, size in (("A", 40), ("B", 80)))
    assert mixed_cards(large, large, 3) is None
    assert mixed_cards(small, large, 3) == (
        "rank 3 has A (40.0 GiB), rank 0 B (80.0 GiB): all ranks go at the pace of the slowest, "
        "and each gets as many rows, whatever its memory"
    )


def test_bf16_on_a_card_without_it_is_refused_and_auto_takes_fp32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fault_of_dtype("fp32", "Tesla T4", has_bf16=False) is None
    assert fault_of_dtype("bf16", "NVIDIA H100", has_bf16=True) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    with pytest.raises(TextError, match=r"^text\.dtype: bf16: Tesla T4 has no bf16 .*fp32"):
        refuse_dtype_on("cuda", "bf16")
    refuse_dtype_on("cuda", "fp32")
    refuse_dtype_on("cpu", "bf16")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert resolve_dtype(TextSettings()) == "fp32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert resolve_dtype(TextSettings()) == "bf16"


@pytest.mark.parametrize(
    ("named", "num_gpus", "fault", "device", "reason", "loud"),
    [
        ("auto", 0, None, "cpu", "", False),
        ("cpu", 2, None, "cpu", "", False),
        ("auto", 1, None, "cuda", "the GPU ranks", False),
        ("cuda", 1, None, "cuda", "the GPU ranks", False),
        ("cuda", 0, None, "cpu", "torch finds no GPU on this machine: the CPU ranks", True),
        ("auto", 1, "is too large", "cpu", "instead of the GPU: the run is too large", True),
    ],
)
def test_a_finished_run_is_read_on_any_machine(
    named: str, num_gpus: int, fault: str | None, device: str, reason: str, loud: bool
) -> None:
    scaling = ScalingSettings.model_validate({"device": named})
    choice = choose_evaluation_device(scaling, num_gpus, fault)
    assert (choice.device, choice.loud) == (device, loud)
    assert reason in choice.reason


def test_evaluation_takes_the_gpu_where_the_run_fits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    said: list[str] = []

    def device(scaling: ScalingSettings, kept: int) -> str:
        parts = {"the table": kept}
        return str(in_process.evaluation_context(scaling, lambda: parts, said.append).device)

    auto = ScalingSettings()
    monkeypatch.setattr(in_process, "gpus_here", lambda: 1)
    monkeypatch.setattr(Card, "of", fake_card(GIB))
    assert device(auto, GIB) == "cuda:0"
    assert said == ["scaling.device: auto: the GPU ranks"]
    assert device(auto, 2 * GIB) == "cpu"
    assert "1.0 GiB more than NVIDIA Fake has free" in caplog.text
    assert device(ScalingSettings.model_validate({"device": "cpu"}), GIB) == "cpu"

    def no_driver(device: torch.device) -> Card:
        raise RuntimeError("The NVIDIA driver on your system is too old\nupdate it")

    monkeypatch.setattr(Card, "of", no_driver)
    assert device(auto, GIB) == "cpu"
    assert "cannot use it (The NVIDIA driver on your system is too old)" in caplog.text
    monkeypatch.setattr(in_process, "gpus_here", lambda: 0)
    assert device(auto, GIB) == "cpu"
    assert len(said) == 1


def step_of(nodes: int, users: int, shared: int) -> Any:
    batch = SimpleNamespace(
        n_id=np.zeros(nodes),
        input_id=np.zeros(512),
        shared_positive=torch.zeros(users, shared, dtype=torch.bool),
    )
    return SimpleNamespace(step=7, main=batch, gate=None, operator=None)


@pytest.mark.parametrize(
    ("nodes", "largest"),
    [(200_000, "states of 200,000 nodes"), (1000, "scores of 512 users and 1,024 negatives")],
)
def test_a_step_that_does_not_fit_names_what_is_large_in_it(nodes: int, largest: str) -> None:
    with (
        pytest.raises(TrainingError) as refused,
        saying_what_is_large(step_of(nodes, 512, 1024), 64),
    ):
        raise torch.OutOfMemoryError(TORCH_WORDS)
    words = str(refused.value)
    assert words.startswith(
        "step 7 does not fit into the GPU (2.00 GiB more than GPU 0 has, of which 1.50 GiB is "
        f"free): the largest part of a layer is its {largest}, beside it "
    )
    assert words.endswith("or raise scaling.num_workers, which deals the batch out")


def test_a_command_that_finds_no_room_says_so_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli._explain(torch.OutOfMemoryError(TORCH_WORDS)) == 3
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the GPU has no room (CUDA out of memory. Tried to allocate 2.00")
    assert line.endswith("hide it: CUDA_VISIBLE_DEVICES= recmind …")
