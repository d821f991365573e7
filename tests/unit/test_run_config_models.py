"""`model.kind`: which keys a config of one kind may hold; variants laid over every config."""

from pathlib import Path

import pytest

from recmind_dist.config.yaml import load_yaml
from recmind_dist.errors import ConfigError
from recmind_dist.evaluation.settings import EvaluationSettings
from recmind_dist.model.settings import (
    DEFAULT_KIND,
    MODELS,
    LightGCNSettings,
    PaperSettings,
    RecMindSettings,
)
from recmind_dist.report_page.runs import settings_beside_defaults
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.variants import VARIANTS

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
WITH_TEXTS = (
    "amazon-beauty",
    "amazon-beauty-cluster",
    "ml100k-groups",
    "ml100k-smollm2",
    "paper",
    "quickstart",
    "yelp",
)
RECMIND = """dataset: {name: toy, interactions: log.tsv, items: items.jsonl}
sampler: {propagation: full, num_neighbors: [-1, -1, -1], hide_batch_edges: false}
loss: {kind: ssm}
train: {batch_of: users}
model:
  kind: recmind
  embedding_dim: 24
  num_layers: 3
  text_layers: 1
  recent_decay: 0.5
  gate: {heldout_share: 0.2, batch_size: 48}
"""


@pytest.fixture
def recmind(tmp_path: Path) -> Path:
    path = tmp_path / "recmind.yaml"
    path.write_text(RECMIND)
    return path


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("lightgcn", "text_layers: 1"),
        ("lightgcn", "gate: {heldout_share: 0.1}"),
        ("recmind", "readout: alpha"),
        ("recmind", "gate: {sides: items}"),
        ("paper", "recent_decay: 0.5"),
        ("paper", "contrast: {weight: 0.1}"),
        ("xsimgcl", "text_components: 24"),
        ("alpharec", "text_layers: 0"),
        ("mf", "num_layers: 2"),
    ],
)
def test_a_key_of_another_kind_is_refused_by_its_name_and_line(
    tmp_path: Path, kind: str, line: str
) -> None:
    path = tmp_path / "c.yaml"
    head = "dataset: {name: toy, interactions: log.tsv, items: items.jsonl}\nmodel:\n"
    path.write_text(f"{head}  kind: {kind}\n  {line}\n")
    key = line.partition(": {")[0].partition(":")[0]
    inner = line.partition("{")[2].partition(":")[0]
    name = f"model.{key}.{inner}" if kind == "recmind" and inner else f"model.{key}"
    with pytest.raises(ConfigError) as error:
        load_run_config(path)
    assert f"{path}:4: {name}: unknown key" in str(error.value)
    assert f"{kind}.{key}" not in str(error.value)  # a kind is no part of a key's name


def test_an_override_of_another_kinds_key_is_refused_by_its_name(recmind: Path) -> None:
    with pytest.raises(ConfigError, match=r"override 'model.readout=text': model.readout: unknown"):
        load_run_config(recmind, ["model.readout=text"])


def test_a_kind_that_is_none_is_refused_with_those_that_are(recmind: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load_run_config(recmind, ["model.kind=gcn"])
    assert "model.kind: 'gcn' is no kind: choose one of recmind, paper" in str(error.value)


def test_lightgcn_over_a_recmind_file_takes_what_lightgcn_has(recmind: Path) -> None:
    config = load_run_config(recmind, variant="lightgcn")
    assert config.model == LightGCNSettings(embedding_dim=24, num_layers=3, init="normal")
    assert config.variant == "lightgcn"
    assert not config.aligns
    assert config.gate is None


def test_a_kind_given_as_a_word_takes_from_the_file_what_it_has(recmind: Path) -> None:
    config = load_run_config(recmind, ["model.kind=paper"])
    assert isinstance(config.model, PaperSettings)
    assert config.model.text_layers == 1
    assert config.model.gate.batch_size == 48
    assert isinstance(load_run_config(recmind).model, RecMindSettings)


@pytest.mark.parametrize(
    "words",
    [
        ["model.gate.sides=none", "model.readout=fused"],
        ["model.gate.sides=none", "model.readout=graph"],
        ["model.num_layers=0", "model.text_layers=0", "model.readout=graph"],
    ],
)
def test_a_text_view_that_no_loss_reads_is_refused(recmind: Path, words: list[str]) -> None:
    """DeepSpeed dies in a step that has no gradient for any of its parameters."""
    words = ["model.kind=paper", *words]
    with pytest.raises(ConfigError, match=r"no loss reads a text: set alignment\.weight above 0"):
        load_run_config(recmind, [*words, "alignment.weight=0", "train.warmup_epochs=0"])
    for word in ("alignment.weight=0.1", "model.readout=alpha"):
        changed = [*words, "alignment.weight=0", "train.warmup_epochs=0", word]
        assert load_run_config(recmind, changed).model.kind == "paper"


def test_words_for_keys_that_a_variant_lacks_do_not_reach_it(recmind: Path) -> None:
    words = ["model.embedding_dim=8", "model.recent_decay=0.25", "model.gate.heldout_share=0.3"]
    config = load_run_config(recmind, words, variant="lightgcn")
    assert config.model == LightGCNSettings(embedding_dim=8, num_layers=3, init="normal")


def makes_sense(path: Path, variant: str) -> bool:
    """Whether a variant has what it needs in a file: texts, the whole graph, gates with sides."""
    values, changed = load_yaml(path).values, VARIANTS[variant].get("model", {})
    kind = changed.get("kind", values.get("model", {}).get("kind", DEFAULT_KIND))
    if kind == "xsimgcl":
        sampled = values.get("sampler", {}).get("propagation") == "sampled"
        return not sampled and values.get("graph", {}).get("placement") != "partitioned"
    if "gate" in changed and kind != "paper":
        return False
    reads_text = kind in ("recmind", "paper", "alpharec") or changed.get("init") == "text"
    return "items" in values["dataset"] or not reads_text


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_loads_by_itself(path: Path) -> None:
    config = load_run_config(path)
    assert config.model.kind in MODELS
    assert config.model.reads_text == (path.stem in WITH_TEXTS)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_config_loads_with_every_variant_that_makes_sense(path: Path, variant: str) -> None:
    if not makes_sense(path, variant):
        pytest.skip("this file has not what the variant needs")
    config = load_run_config(path, variant=variant)
    assert config.variant == variant
    kind = VARIANTS[variant].get("model", {}).get("kind")
    assert kind in (None, config.model.kind)


@pytest.mark.parametrize(
    ("words", "metric"),
    [
        (["evaluation.ks=[5,10]"], "ndcg@10"),
        (["evaluation.ks=[50,18,5]"], "ndcg@18"),
        (["evaluation.ks=[5,10]", "evaluation.metric=mrr@5"], "mrr@5"),
    ],
)
def test_validation_goes_by_the_cut_off_nearest_to_twenty(
    recmind: Path, words: list[str], metric: str
) -> None:
    assert load_run_config(recmind, words).evaluation.metric == metric


def test_cut_offs_that_are_none_are_one_fault(recmind: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_run_config(recmind, ["evaluation.ks=[]"])
    assert "give distinct cut-offs" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_metric_that_follows_from_the_cut_offs_is_a_default() -> None:
    assert list(settings_beside_defaults(EvaluationSettings(ks=(5, 10)))) == ["ks"]
    named = EvaluationSettings(ks=(5, 10), metric="mrr@5")
    assert list(settings_beside_defaults(named)) == ["ks", "metric"]
