"""The model card: a header that the hub reads, figures with intervals, strata, limits, licence."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from huggingface_hub import ModelCard

from recmind_dist.export.card import intervals, model_card
from tests.training_runs import config_of

CONTENT = {"name": "toy", "num_users": 70, "num_items": 45}
RESULTS = {
    "split": "test",
    "metrics": {"recall@20": 0.25, "ndcg@20": 0.1},
    "strata": {
        "cold": {"users": 2, "recall@20": 0.5, "ndcg@20": None},
        "0": {"users": 0, "recall@20": None, "ndcg@20": None},
    },
    "folded": {"metrics": {"recall@20": 0.5, "ndcg@20": 0.2}},
}


@pytest.fixture
def per_user() -> pl.DataFrame:
    recall = [1.0, 0.0, 0.0, 0.0] * 25
    return pl.DataFrame({"user": range(100), "degree": [3] * 100, "recall@20": recall})


def test_the_header_is_what_the_hub_reads(tmp_path: Path, per_user: pl.DataFrame) -> None:
    card = ModelCard(model_card(CONTENT, config_of(tmp_path, "run"), RESULTS, per_user))
    card.data.to_yaml()
    assert card.data.library_name == "recmind-dist"
    assert card.data.license == "other"
    results = card.data.eval_results
    assert results is not None
    assert {(r.metric_name, r.metric_value) for r in results} == {
        ("recall@20", 0.25), ("ndcg@20", 0.1)
    }  # fmt: skip
    for heading in ("Data", "Model", "Figures", "Limits", "Licence"):
        assert f"\n## {heading}\n" in card.text
    assert "| recall@20 | 0.2500 (0." in card.text
    assert "| cold | 2 | 0.5000 |  |" in card.text


def test_an_interval_is_that_of_a_mean(per_user: pl.DataFrame) -> None:
    low, high = intervals(per_user)["recall@20"]
    error = np.sqrt(0.25 * 0.75 / 100)
    assert low == pytest.approx(0.25 - 1.96 * error, abs=0.02)
    assert high == pytest.approx(0.25 + 1.96 * error, abs=0.02)


def test_a_model_that_was_not_evaluated_has_a_card_too(tmp_path: Path) -> None:
    card = ModelCard(model_card(CONTENT, config_of(tmp_path, "run"), {}))
    assert "Not evaluated." in card.text
    assert card.data.eval_results is None
