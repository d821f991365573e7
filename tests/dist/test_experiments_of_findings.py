"""What the paper leaves open, on two small shops: whole experiments, in processes, with a real
language model.
"""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from recmind_dist.checkpoint.reader import Checkpoint, candidates, open_checkpoint
from recmind_dist.errors import ConfigError
from recmind_dist.experiments import runs
from recmind_dist.experiments.findings import Findings, Study
from recmind_dist.experiments.gate import gate
from recmind_dist.experiments.priors import priors
from recmind_dist.experiments.runs import Arm, Configure, run_arms, train_and_evaluate
from recmind_dist.experiments.transfer import transfer
from recmind_dist.launch import cluster
from recmind_dist.pipeline.carry_over import inputs_of_update
from recmind_dist.pipeline.previous_run import PreviousRun
from recmind_dist.report import RunDirectory, read_metrics
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextStore, load_adapter
from recmind_dist.training.finished_run import read_inputs
from recmind_dist.training.state import Cursor
from tests.dist.test_update import embed_here, words_of, write_items, write_log
from tests.tiny_language_model import make_bert, make_llama

pytestmark = pytest.mark.dist_slow
USERS, ITEMS, EVENTS = 30, 20, 6
CONFIG = """
run_dir: {home}/runs/{name}
cache_dir: {home}/cache
dataset: {{name: {name}, interactions: "{home}/{name}.csv", items: "{home}/{name}.jsonl"}}
text: {{model: "{home}/bert", dtype: fp32}}
model: {{embedding_dim: 8, projection_hidden_dim: 4}}
sampler: {{negatives: {{num_shared: 8}}}}
train: {{batch_size: 15, epochs: 4}}
evaluation: {{ks: [5], metric: ndcg@5}}
"""


def make_shop(home: Path, name: str, seed: int) -> Configure:
    rng = np.random.default_rng(seed)
    rows = [
        (f"u{u}", f"i{i}", 1_700_000_000 + 60 * (USERS * k + u))
        for u in range(USERS)
        for k, i in enumerate(rng.permutation(ITEMS)[:EVENTS])
    ]
    write_log(home / f"{name}.csv", rows)
    write_items(home / f"{name}.jsonl", {f"i{i}": words_of(seed + i) for i in range(ITEMS)})
    path = home / f"{name}.yaml"
    path.write_text(CONFIG.format(home=home, name=name))

    def configure(variant: str, words: list[str]) -> RunConfig:
        return load_run_config(path, words, variant)

    embed_here(configure("recmind", []))
    return configure


@pytest.fixture(scope="module")
def shops(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Configure]:
    """A finished run of the first shop, and the second shop. Ids of both are the same."""
    home = tmp_path_factory.mktemp("shops")
    make_bert(home / "bert")
    [first] = run_arms([Arm("source")], make_shop(home, "first", 0), home, 1, say=print)
    return first.runs[0].path, make_shop(home, "second", 5)


@pytest.fixture(scope="module")
def found(shops: tuple[Path, Configure]) -> tuple[Study, Findings]:
    source, configure = shops
    home = source.parents[1] / "experiment-transfer"
    study = Study(configure, home, seeds=1, jobs=1, source=source)
    return study, transfer(study)


@pytest.mark.timeout(600)
def test_what_was_learnt_of_texts_is_taken_over_and_rows_are_not_and_gates_learn(
    found: tuple[Study, Findings],
) -> None:
    study, _ = found
    assert study.source is not None
    started, trained = (
        kept(RunDirectory(study.home / "runs" / "from-the-source--10---seed0"))[k] for k in (0, -1)
    )
    best = open_checkpoint(candidates(study.source / "checkpoints", "best")[0][0])
    mine, last, theirs = started.dense(), trained.dense(), best.dense()
    models = [name for name in theirs if name.startswith("param.")]
    assert any("projection" in name for name in models)
    for name in models:
        torch.testing.assert_close(mine[name], theirs[name])
        assert not torch.equal(last[name], theirs[name]), name
    assert any(".mix." in name for name in models)
    ours, source = (one.rows(0, one.num_rows)["weight"] for one in (started, best))
    assert ours.shape == source.shape
    assert not (ours == source).all(1).any()


def test_the_table_has_every_model_against_one_from_scratch(found: tuple[Study, Findings]) -> None:
    _, findings = found
    names = [row[0] for row in findings.tables[0].rows]
    assert names[0] == "from scratch"
    assert {"zero-shot", "texts alone", "from the source, 10 %", "from scratch, 30 %"} <= {*names}
    assert all(0 <= row[2] <= 1 for row in findings.tables[0].rows)
    assert "not significant (1 of 3 seeds)" in findings.answer
    distances = dict(findings.tables[2].rows)
    assert 0 < distances["Jaccard index of the words"] <= 1


def test_a_source_of_the_same_name_is_refused_since_its_rows_would_be_carried(
    shops: tuple[Path, Configure],
) -> None:
    source, configure = shops
    study = Study(
        lambda variant, words: configure(variant, [*words, "dataset.name=first"]),
        source.parents[1] / "refused",
        source=source,
    )
    with pytest.raises(ConfigError, match=r"dataset\.name: first, as in .* give each a name"):
        transfer(study)


def test_a_source_of_another_width_or_prompt_is_refused_by_its_key(
    shops: tuple[Path, Configure],
) -> None:
    source, configure = shops
    for word, sentence in (
        ("model.embedding_dim=4", "model.embedding_dim: 4, and 8 in"),
        ("text.prompt='a {text}'", "vectors of another encoder"),
    ):
        study = Study(
            lambda variant, words, word=word: configure(variant, [*words, word]),
            source.parents[1] / "refused",
            source=source,
        )
        with pytest.raises(ConfigError, match=sentence):
            transfer(study)
    assert not (source.parents[1] / "refused").exists()


def test_rows_of_another_data_set_are_not_carried(
    shops: tuple[Path, Configure], tmp_path: Path
) -> None:
    source, configure = shops
    config = configure("recmind", [f"update.of='{source}'"]).absolute()
    graph = PreviousRun.open(source).graph.path
    with pytest.raises(ConfigError, match=r"is of first, not of second.*update\.rows: anew"):
        inputs_of_update(config, RunDirectory(tmp_path / "run"), graph, None, "", print)
    assert not (tmp_path / "run").exists()


@pytest.mark.timeout(600)
def test_gates_are_told_by_shares_of_views(shops: tuple[Path, Configure]) -> None:
    source, configure = shops
    home = source.parents[1] / "experiment-gate"
    findings = gate(Study(configure, home, seeds=1, jobs=1))
    signs, shares, rankings, gammas, over_training = findings.tables
    models = ["all texts", "no degree input", "texts dealt anew", "popular items misled"]
    assert [row[0] for row in signs.rows] == models
    assert signs.rows[1][2:4] == [None, None]  # γ is constant
    for row in shares.rows:
        assert sum(row[3:]) == pytest.approx(1)
    assert [row[0] for row in rankings.rows] == [*models[1:], "degrees shuffled when ranking"]
    assert {row[1] for row in gammas.rows} == {"user", "item"}
    assert [row[0] for row in over_training.rows] == [1, 2, 3, 4]
    assert "(not significant: 1 of 3 seeds)" in findings.answer
    for name in ("table.md", "table.json", "figure.png"):
        assert (home / name).is_file()


@pytest.mark.timeout(900)
def test_encoders_and_prompts_are_compared_frozen_and_adapted(
    shops: tuple[Path, Configure], ray_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, configure = shops
    monkeypatch.setenv("RAY_TMPDIR", str(ray_home))
    home = source.parents[1]
    make_llama(home / "llama")
    study = Study(configure, home / "experiment-priors", 1, 1, encoders=(home / "llama",))
    findings = priors(study)
    rankings, vectors = findings.tables
    frozen = ["bert", "llama, prompt", "llama, bare"]
    everything = [name for way in frozen for name in (way, f"{way}, adapted")]
    assert [row[0] for row in vectors.rows] == everything
    alone = [f"{name}, texts alone" for name in frozen]
    assert [row[0] for row in rankings.rows] == [*everything, *alone]
    for row in vectors.rows:
        assert (row[1] is None) == row[0].endswith("adapted")
        assert row[4] >= 0  # alignment
        assert row[5] <= 0  # uniformity


def train_without_ray(values: dict[str, object]) -> tuple[str, float]:
    """As `train_and_evaluate`; a start of Ray ends it."""
    cluster.start_ray = None  # type: ignore[assignment]
    return train_and_evaluate(values)


@pytest.mark.timeout(900)
def test_arms_that_adapt_begin_at_states_that_they_share_and_end_as_without_them(
    shops: tuple[Path, Configure], ray_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, configure = shops
    monkeypatch.setenv("RAY_TMPDIR", str(ray_home))
    home = source.parents[1]
    lora = "text.lora={r: 2, last_layers: 1, texts_per_step: 4, learning_rate: 0.01}"
    arms = [Arm("adapted", "recmind", ("alignment.weight=0.02", "train.warmup_epochs=1", lora))]
    shared = run_arms(arms, configure, home / "shared", 1, 1, train=train_without_ray)
    assert not list(home.glob("cache/*/lower_states/*")), "states outlive the study"
    monkeypatch.setattr(runs, "lower_states", lambda *_: nullcontext())
    whole = run_arms(arms, configure, home / "whole", 1, 1)
    ours, theirs = (found[0].runs[0] for found in (shared, whole))
    torch.testing.assert_close(*(load_adapter(run.path / "adapter")[1] for run in (ours, theirs)))
    stores = [read_inputs(run).text for run in (ours, theirs)]
    vectors = [TextStore.open(path).read_all("items") for path in stores if path is not None]
    np.testing.assert_allclose(*vectors, rtol=0, atol=2e-3)
    losses = [
        [record["loss"] for record in read_metrics(run.metrics, "epoch")] for run in (ours, theirs)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def kept(run: RunDirectory) -> list[Checkpoint]:
    """Checkpoints by step."""
    found = [open_checkpoint(path) for path in candidates(run.checkpoints, "last")[0]]
    return sorted(found, key=lambda one: Cursor.from_info(one.info).steps_done)
