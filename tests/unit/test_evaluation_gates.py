"""Gate statistics and evaluation settings."""

import numpy as np
import pytest
from pydantic import ValidationError

from recmind_dist.evaluation import EvaluationSettings, gate_statistics
from recmind_dist.report.results import GateRow


def test_statistics_by_layer_side_and_degree() -> None:
    degree = np.array([0, 2, 2, 5, 0, 1, 3, 6])  # four users, four items
    gamma = np.stack([np.linspace(0.1, 0.8, 8), np.full(8, 0.5)])
    rows = gate_statistics(gamma, degree, num_users=4)
    assert all(GateRow.model_validate(row) for row in rows)
    users = next(
        r for r in rows if (r["layer"], r["side"], r.get("degree_bin")) == (0, "user", "1-3")
    )
    assert (users["count"], users["mean"], users["median"]) == (
        2,
        pytest.approx(0.25),
        pytest.approx(0.25),
    )
    assert users["p10"] == pytest.approx(0.21)
    assert users["p90"] == pytest.approx(0.29)
    items = next(r for r in rows if (r["layer"], r["side"]) == (0, "item") and "spearman" in r)
    assert items["spearman"] == pytest.approx(1.0)
    flat = next(r for r in rows if (r["layer"], r["side"]) == (1, "user") and "spearman" in r)
    assert flat["spearman"] is None  # a constant gate has no rank correlation


def test_counts_of_the_bins_add_up_to_the_nodes() -> None:
    degree = np.random.default_rng(0).integers(0, 70, 200)
    rows = gate_statistics(np.full((3, 200), 0.5), degree, num_users=80)
    for layer in range(3):
        for side, count in (("user", 80), ("item", 120)):
            bins = [
                row["count"]
                for row in rows
                if row["layer"] == layer and row["side"] == side and "mean" in row
            ]
            assert sum(bins) == count


@pytest.mark.parametrize("value", [np.nan, 1.5, -0.1])
def test_a_gate_that_is_no_share_is_named(value: float) -> None:
    gamma = np.full((1, 3), 0.5)
    gamma[0, 2] = value
    with pytest.raises(ValueError, match="layer 0, node 2"):
        gate_statistics(gamma, np.arange(3), num_users=1)


def test_the_choosing_metric_must_be_measured() -> None:
    assert EvaluationSettings(ks=[40, 10], metric="recall@10").ks == (10, 40)
    with pytest.raises(ValidationError, match="not measured"):
        EvaluationSettings(ks=[10], metric="ndcg@20")
    with pytest.raises(ValidationError, match="distinct cut-offs"):
        EvaluationSettings(ks=[20, 20])
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        EvaluationSettings(norm_exponent=1.5)
