"""`text.dtype: auto` is decided once: a run that was begun on one machine goes on on another, with
the same vectors.
"""

from pathlib import Path
from typing import Any

import pytest

from recmind_dist.pipeline.text_dtype import (
    decide_dtype,
    key_of_texts,
    same_config,
    with_dtype,
    with_dtype_of_store,
)
from recmind_dist.pipeline.train import Prepared, fit
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextEncoder, Texts, TextStore, make_store, plan_shards, store_path
from recmind_dist.text.embed_actor import embed_shard
from recmind_dist.training.finished_run import read_run
from recmind_dist.training.run_stores import RunStores, run_identity
from tests.processes import run_ranks
from tests.tiny_language_model import make_bert
from tests.training_runs import Cut, config_of, make_inputs

TEXTS = Texts(
    [f"space war {i}" for i in range(45)], [f"a person who liked: king {i}" for i in range(70)]
)


def use_machine(bf16: bool, patch: Any = setattr) -> None:
    """Lets torch see a CPU with bf16 instructions or one without, and no GPU."""
    import torch

    patch(torch.cuda, "is_available", lambda: False)
    patch(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    patch(torch.cpu, "_is_amx_tile_supported", lambda: False)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run with `auto`, whose cache holds no vectors yet."""
    model = make_bert(tmp_path / "bert")
    changes = {"cache_dir": str(tmp_path / "cache"), "checkpoint": {"every_steps": 2}}
    return config_of(
        tmp_path, "run", text={"model": str(model)}, train={"epochs": 1}, **changes
    ).absolute()


def embed_all(config: RunConfig, dtype: str) -> Path:
    """What the extraction pool does, without Ray."""
    settings = with_dtype(config, dtype).text
    path = store_path(TEXTS, settings, config.cache_dir / config.dataset.name)
    make_store(TEXTS, settings, path)
    for job in plan_shards(TEXTS, settings, path)[0]:
        embed_shard(TextEncoder.load(settings), TextStore.open(path), job)
    return path


def fit_on(
    bf16: bool, config: RunConfig, graph: Path, stop_at: int | None
) -> tuple[list[str], dict[str, str | None]]:
    """One call of `fit` on one machine, cut at a step. Returns what it said and, at the end, what
    it was trained on.
    """
    import torch

    from recmind_dist.distributed.context import DistContext
    from recmind_dist.training.trainer import Trainer

    use_machine(bf16)
    said: list[str] = []
    RunDirectory(config.run_dir).create()

    def report(told: dict[str, Any]) -> None:
        if stop_at is not None and told["step"] >= stop_at:
            raise Cut

    def train(
        config: RunConfig, inputs: RunStores, phases: tuple[str, ...], resume: str, mismatch: bool
    ) -> None:
        context = DistContext.join_group(torch.device("cpu"))
        run = RunDirectory(config.run_dir)
        Trainer(
            config, inputs, context, run, f"machine{int(bf16)}", report, resume, mismatch
        ).train(phases)

    try:
        return said, fit(config, Prepared(graph, TEXTS), said.append, train=train).to_json()
    except Cut:
        return said, {}


def test_a_run_that_moves_to_another_machine_goes_on_with_the_vectors_it_was_begun_with(
    config: RunConfig, tmp_path: Path
) -> None:
    graph = make_inputs(tmp_path).graph
    vectors = embed_all(config, "bf16")
    said, _ = run_ranks(fit_on, 1, True, config, graph, 4)[0]
    assert not [line for line in said if "text.dtype" in line]
    assert read_run(config.run_dir)[1].text.dtype == "bf16"
    said, inputs = run_ranks(fit_on, 1, False, config, graph, None)[0]
    assert [line for line in said if "text.dtype" in line] == [
        "text.dtype: auto takes bf16, with which this run was begun; this machine would take fp32"
    ]
    assert "embedded 0 of 115 texts" in said
    assert inputs["text"] == str(vectors)


@pytest.mark.parametrize("begun", ["bf16", "fp32"])
def test_a_run_of_an_older_program_is_told_by_the_key_of_its_texts(
    config: RunConfig, begun: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_machine(begun != "bf16", monkeypatch.setattr)
    identity = run_identity(config, "graph", key_of_texts(with_dtype(config, begun), TEXTS))
    old = {"config": config.model_dump(mode="json"), "identity": identity}
    assert old["config"]["text"]["dtype"] == "auto"
    decided, sentence = decide_dtype(config, TEXTS, old)
    assert decided.text.dtype == begun
    assert sentence is not None
    # nothing is known of it: as a run that begins
    assert decide_dtype(config, TEXTS, {})[1] is None


def test_a_run_that_begins_takes_the_only_vectors_that_the_cache_has(
    config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_machine(False, monkeypatch.setattr)
    assert decide_dtype(config, TEXTS) == (with_dtype(config, "fp32"), None)
    path = embed_all(config, "bf16")
    assert decide_dtype(config, TEXTS) == (
        with_dtype(config, "bf16"),
        (
            f"text.dtype: auto takes bf16, of the vectors in {path}; set text.dtype: fp32 to embed "
            "all texts anew"
        ),
    )
    named = with_dtype(config, "fp32")
    assert decide_dtype(named, TEXTS) == (named, None)
    embed_all(config, "fp32")
    assert decide_dtype(config, TEXTS) == (with_dtype(config, "fp32"), None)


def test_a_store_says_its_type_and_a_finished_run_is_known_again(
    config: RunConfig, tmp_path: Path
) -> None:
    path = embed_all(config, "bf16")
    assert with_dtype_of_store(config, path).text.dtype == "bf16"
    assert with_dtype_of_store(config, tmp_path / "gone") == config
    assert with_dtype_of_store(config, None) == config
    recorded = with_dtype(config, "bf16")
    assert same_config(recorded, config)
    assert not same_config(recorded, with_dtype(config, "fp32"))
    assert not same_config(recorded.model_copy(update={"variant": "lightgcn"}), config)
