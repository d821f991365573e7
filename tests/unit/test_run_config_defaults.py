"""What a config leaves open follows from the data; what it names stays."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recmind_dist.errors import ConfigError
from recmind_dist.model.settings import LightGCNSettings, RecMindSettings
from recmind_dist.run_config.data_facts import DataFacts
from recmind_dist.run_config.defaults import Resolved, resolve
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.run_config.variants import VARIANTS
from recmind_dist.training.alignment import num_anchors

FACTS = DataFacts(
    num_users=943,
    num_items=1682,
    num_edges=98_114,
    gate_users=943,
    item_template="{title}. {genres}",
    skipped_fields=("year",),
    text_share=1.0,
    num_texts=1680,
)


def bare(**changes: Any) -> RunConfig:
    """A config that names data and a language model, and what a test adds."""
    data = {"name": "toy", "interactions": "log.tsv", "items": "items.jsonl"}
    return RunConfig.model_validate({"dataset": data, "text": {"model": "minilm"}, **changes})


def said(found: Resolved) -> str:
    return "\n".join(found.lines)


def test_a_config_of_data_and_a_language_model_is_recmind_in_full() -> None:
    found = resolve(bare(), FACTS)
    config, model = found.config, found.config.model
    assert isinstance(model, RecMindSettings)
    assert (model.views, model.recent_decay, model.users_have_text) == ("all", 0.6, False)
    assert (config.sampler.propagation, config.sampler.num_neighbors) == ("full", (10, 10))
    assert (config.train.batch_of, config.train.batch_size, config.train.epochs) == (
        "users",
        128,
        30,
    )
    assert config.evaluation.every_epochs == 3
    assert config.train.patience > 0
    assert config.text.item_template == "{title}. {genres}"
    for line in (
        "full propagation: 98,114 interactions",
        "batch of 128 users: 943 users",
        "(not year)",
        "the log has an order",
    ):
        assert line in said(found)


@pytest.mark.parametrize(
    ("users", "items", "edges", "fan_outs", "size"),
    [
        (400_000, 100_000, 8_000_000, [10, 10], 2048),  # 32,768 interactions
        (500_000, 100_000, 10_000_000, [10, 10], 512),  # 11,000 reach half a million of 600,000
        (5_000_000, 1_000_000, 100_000_000, [10, 10], 256),
        (5_000_000, 1_000_000, 100_000_000, [10, 2], 1024),
        (5_000_000, 1_000_000, 100_000_000, [10, -1], 2048),
    ],
)
def test_a_sampled_batch_reaches_about_half_a_million_nodes(
    users: int, items: int, edges: int, fan_outs: list[int], size: int
) -> None:
    facts = replace(FACTS, num_users=users, num_items=items, num_edges=edges)
    found = resolve(bare(sampler={"num_neighbors": fan_outs}), facts).config
    assert found.train.batch_size == size


def test_what_is_named_stays_and_is_not_said() -> None:
    named = {
        "sampler": {"propagation": "full", "num_neighbors": [3, 3]},
        "train": {"batch_size": 77, "epochs": 4},
        "evaluation": {"every_epochs": 4, "norm_exponent": 0.25},
        "model": {
            "recent_decay": 0.9,
            "item_offsets": False,
            "gate": {"batch_size": 5, "heldout_share": 0.1},
        },
        "text": {"item_template": "{title}"},
    }
    config = bare(**named)
    found = resolve(config, replace(FACTS, no_order="no column of times"))
    assert found == Resolved(config)


def test_resolving_twice_changes_nothing_and_survives_a_file(tmp_path: Path) -> None:
    once = resolve(bare(), FACTS).config
    assert resolve(once, FACTS) == Resolved(once)
    assert RunConfig.model_validate(once.model_dump(mode="json")) == once


def test_newest_items_are_off_without_an_order_and_it_is_said() -> None:
    found = resolve(bare(), replace(FACTS, no_order="no column of times"))
    assert isinstance(found.config.model, RecMindSettings)
    assert found.config.model.recent_decay == 0
    assert "the log has no order (no column of times)" in said(found)


@pytest.mark.parametrize(
    ("share", "texts", "why"),
    [(0.0, 0, "no item has a text"), (1.0, 1, "all items have the same text")],
)
def test_without_two_texts_the_model_is_its_graph_alone(share: float, texts: int, why: str) -> None:
    facts = replace(FACTS, text_share=share, num_texts=texts)
    found = resolve(bare(), facts)
    assert isinstance(found.config.model, RecMindSettings)
    assert not found.config.model.reads_text
    assert found.config.model.recent_decay == 0.6
    assert f"graph alone: {why}; item vectors learn from the log instead" in said(found)
    assert (found.config.model.item_offsets, found.config.model.views) == ("alone", "all")
    assert resolve(found.config, facts) == Resolved(found.config)
    adapted = resolve(bare(text={"model": "minilm", "lora": {"r": 4}}), facts)
    assert adapted.config.text.lora is None
    assert "no text is read: no adapters" in said(adapted)
    unordered = replace(facts, no_order="no column of times")
    assert resolve(bare(), unordered).config.model == found.config.model.model_copy(
        update={"recent_decay": 0.0}
    )
    many = resolve(bare(), replace(facts, num_items=500_001))
    assert isinstance(many.config.model, RecMindSettings)
    assert many.config.model.views == "graph"
    assert f"graph alone, no text views: {why}" in said(many)
    plain = resolve(bare(), replace(unordered, num_items=500_001))
    assert isinstance(plain.config.model, LightGCNSettings)
    assert f"graph alone, LightGCN: {why}, and the log has no order" in said(plain)
    few = resolve(bare(), replace(facts, gate_users=3))
    assert isinstance(few.config.model, LightGCNSettings)
    assert f"{why}, and 3 users have two interactions or more" in said(few)


def test_texts_of_a_tenth_of_the_items_are_used_and_the_rest_is_said() -> None:
    found = resolve(bare(), replace(FACTS, text_share=0.1))
    assert isinstance(found.config.model, RecMindSettings)
    assert "1,514 of 1,682 items have no text: their vectors learn from the log" in said(found)
    by_network = resolve(bare(model={"missing_text": "network"}), replace(FACTS, text_share=0.1))
    line = "1,514 of 1,682 items have no text: their neighbours' stand in"
    assert line in said(by_network)


@pytest.mark.parametrize(
    ("users", "batch", "epochs"),
    [(10, 8, 120), (610, 64, 24), (943, 128, 30), (22_363, 2048, 22), (31_668, 4096, 30)],
)
def test_a_batch_is_an_eighth_of_the_users(users: int, batch: int, epochs: int) -> None:
    config = resolve(bare(), replace(FACTS, num_users=users)).config
    assert (config.train.batch_size, config.train.epochs) == (batch, epochs)


@pytest.mark.parametrize(
    ("users", "edges", "share", "pairs"),
    [
        (22_363, 153_776, 0.2, 512),
        (943, 98_114, 0.42, 396),
        (943, 5_000, 0.2, 189),
        (10, 90, 0.27, 3),
    ],
)
def test_gates_have_four_hundred_pairs_to_learn_from_where_there_are_as_many(
    users: int, edges: int, share: float, pairs: int
) -> None:
    found = resolve(bare(), replace(FACTS, num_users=users, gate_users=users, num_edges=edges))
    gate = found.config.gate
    assert gate is not None
    assert (gate.heldout_share, gate.batch_size) == (share, pairs)


def test_other_models_norm_exponent_is_chosen_on_validation() -> None:
    assert resolve(bare(), FACTS).config.evaluation.norm_exponent == 0
    plain = resolve(bare(model={"kind": "lightgcn"}), FACTS).config
    assert plain.evaluation.norm_exponent is None


def test_a_large_graph_is_sampled_with_ten_neighbours_a_layer() -> None:
    config = bare(model={"kind": "lightgcn", "num_layers": 3})
    found = resolve(config, replace(FACTS, num_edges=3_000_000, num_users=1_000_000))
    assert found.config.sampler.propagation == "sampled"
    assert found.config.sampler.num_neighbors == (10, 10, 10)
    assert (found.config.train.batch_size, found.config.train.epochs) == (1024, 5)
    found = resolve(config, replace(FACTS, num_edges=100_000_000, num_users=1_000_000))
    assert found.config.train.batch_size == 32  # of a hundred interactions each


def test_what_follows_must_fit_what_is_named() -> None:
    config = bare(model={"kind": "xsimgcl"})
    with pytest.raises(ConfigError, match=r"xsimgcl needs sampler.propagation: full"):
        resolve(config, replace(FACTS, num_edges=3_000_000))
    for kind in ("paper", "alpharec"):
        with pytest.raises(ValueError, match=r"missing_text: learnt needs model.kind: recmind"):
            bare(model={"kind": kind, "missing_text": "learnt"})


def test_without_propagated_text_views_users_have_texts_of_their_own() -> None:
    for model, own in (({}, False), ({"text_layers": 1}, False), ({"text_layers": 0}, True)):
        assert bare(model=model).users_have_text is own
    graph_alone = {"views": "graph", "init": "normal", "text_layers": 0}
    assert not bare(model=graph_alone).users_have_text


def test_anchors_are_a_quarter_of_the_batch_up_to_512() -> None:
    assert [num_anchors(size) for size in (1, 8, 96, 2047, 2048, 32_768)] == [
        1,
        2,
        24,
        511,
        512,
        512,
    ]


def test_text_layers_are_as_many_as_layers() -> None:
    model = bare(model={"num_layers": 3}).model
    assert isinstance(model, RecMindSettings)
    assert model.text_layers == 3


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_but_one_of_the_paper_takes_the_same_defaults(
    tmp_path: Path, variant: str
) -> None:
    path = tmp_path / "bare.yaml"
    path.write_text(
        "dataset: {name: toy, interactions: log.tsv, items: items.jsonl}\ntext: {model: minilm}\n"
    )
    if variant == "gate_items_only":
        with pytest.raises(ConfigError, match=r"model.gate.sides: unknown key"):
            load_run_config(path, variant=variant)
        return
    config = resolve(load_run_config(path, variant=variant), FACTS).config
    assert config.train.batch_size
    assert config.train.epochs
    assert config.aligns == (variant == "rlmrec")
