"""Experiments on texts, gates, encoders and transfer, without training: changed item files, shares
of views, shares of a gain, and what is refused.
"""

from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import ConfigError, DataError
from recmind_dist.experiments.comparison import compare, share_of_gain
from recmind_dist.experiments.item_texts import (
    BOILERPLATE,
    boilerplate,
    chosen,
    hidden,
    misleading,
    permuted,
    refuse_without_texts,
    write_items,
)
from recmind_dist.experiments.priors import coherence
from recmind_dist.experiments.view_shares import BIAS, ViewMargins, margins_of
from recmind_dist.model.recmind import Mix
from recmind_dist.model.settings import GateSettings
from recmind_dist.run_config.load import load_run_config
from recmind_dist.training.model_shard import ModelShard
from tests.graphs import make_graph
from tests.training_runs import config_of, make_inputs
from tests.unit.test_experiments import USERS, run_of

ITEMS = pl.DataFrame(
    {
        "id": [str(k) for k in range(200)],
        "title": [f"title {k}" for k in range(200)],
        "genre": ["war", "love"] * 100,
    }
)


def changed_rows(frame: pl.DataFrame) -> np.ndarray:
    same = (frame["title"] == ITEMS["title"]).fill_null(False)
    return np.flatnonzero(~same.to_numpy())


def test_a_tenth_of_hidden_texts_is_part_of_a_half() -> None:
    tenth, half = chosen(200, 0.1, 3), chosen(200, 0.5, 3)
    assert 5 < tenth.sum() < 40 < 70 < half.sum() < 130
    assert not (tenth & ~half).any()
    frame = hidden(ITEMS, tenth)
    assert frame["id"].equals(ITEMS["id"])
    assert changed_rows(frame).tolist() == np.flatnonzero(tenth).tolist()
    assert frame.filter(pl.Series(tenth)).select("title", "genre").null_count().row(0) == (
        tenth.sum(),
        tenth.sum(),
    )
    same = boilerplate(ITEMS, tenth).filter(pl.Series(tenth))
    assert set(same["title"]) == {BOILERPLATE}
    assert same["genre"].null_count() == tenth.sum()


def test_texts_dealt_anew_are_the_same_texts_whole() -> None:
    frame = permuted(ITEMS, 3)
    assert frame["id"].equals(ITEMS["id"])
    assert len(changed_rows(frame)) > 190
    assert sorted(frame.select("title", "genre").rows()) == sorted(
        ITEMS.select("title", "genre").rows()
    )


def test_the_most_popular_are_misled_by_texts_of_others() -> None:
    degree = np.arange(200)[::-1]
    frame = misleading(ITEMS, degree, 0.1, 3)
    assert changed_rows(frame).tolist() == list(range(20))
    assert set(frame["title"][:20]) <= set(ITEMS["title"][20:])
    assert frame["title"][:20].n_unique() == 20


def test_a_changed_item_file_is_named_by_an_override(tmp_path: Path) -> None:
    word = write_items(ITEMS, tmp_path / "of this study" / "a.parquet")
    quickstart = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    items = load_run_config(quickstart, [word]).dataset.items
    assert items is not None
    assert pl.read_parquet(items.paths[0]).equals(ITEMS)


def test_a_data_set_without_texts_is_refused(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, [(0, 0), (1, 1)], 2, 3)
    config = config_of(tmp_path, "run")
    refuse_without_texts(graph, config)
    blank = config.text.model_copy(update={"item_template": "{genre}"})
    items = hidden(graph.items_frame(), np.ones(3, np.bool_))
    items.write_parquet(graph.path / "items.parquet")
    with pytest.raises(DataError, match=r"toy: fewer than two items have a text: .*dataset\.items"):
        refuse_without_texts(graph, config.model_copy(update={"text": blank}))


def test_margins_of_all_views_are_what_lifts_a_score_above_the_catalogue(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path, num_tested=30)
    model_settings = {"kind": "recmind", "views": "all"}
    config = config_of(tmp_path, "run", model=model_settings)
    model = ModelShard(config, inputs, DistContext.alone())
    model.initialise()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    margins, graph = margins_of(model), model.graph
    assert list(margins.margins) == ["graph", "text", "content", BIAS]
    held, h_NC = graph.held_out("test"), model.final_embeddings().final.double()
    scores = h_NC[: graph.num_users] @ h_NC[graph.num_users :].T
    lifted = (scores - scores.mean(1, keepdim=True)).numpy()
    user = np.repeat(np.arange(graph.num_users), np.diff(held.indptr))
    item = held.indices - graph.num_users
    np.testing.assert_allclose(sum(margins.margins.values()), lifted[user, item], atol=1e-9)
    assert margins.degree.tolist() == graph.degree[held.indices].tolist()
    assert sum(margins.shares().values()) == pytest.approx(1)
    assert BIAS not in margins.shares()


def test_language_leans_to_what_is_cold_where_it_lifts_cold_items() -> None:
    degree = np.array([1, 2, 8, 9])
    graph, text = np.array([1.0, 1, 3, 3]), np.array([3.0, 3, 1, 1])
    margins = ViewMargins(degree, {"graph": graph, "text": text, BIAS: np.ones(4)})
    assert margins.language == pytest.approx(0.5)
    assert margins.leans() == pytest.approx({"graph": -0.5, "text": 0.5, "language": 0.5})
    assert margins.by_bin()["1-3"] == pytest.approx({"pairs": 2, "graph": 0.25, "text": 0.75})
    assert ViewMargins(np.full(4, 5), {"graph": graph, "text": text}).leans() == {}


def test_which_way_gamma_goes_with_degree_is_left_open_by_the_scores() -> None:
    """A constant moved from the users' logits of a view to the items' turns γ round, and leaves
    every view's share of every score as it is.
    """
    torch.manual_seed(0)
    mix = Mix(GateSettings(), num_views=3)
    degree = torch.linspace(0, 1, 9)
    views = [torch.randn(9, 4) for _ in range(3)]
    views[0] = torch.nn.functional.normalize(views[0], dim=1)  # of one length: γ sees degree alone
    last = mix.items[2]
    assert isinstance(last, torch.nn.Linear)
    items = torch.zeros(9, dtype=torch.bool)

    def gammas(offset: tuple[float, float, float]) -> tuple[torch.Tensor, torch.Tensor]:
        """γ of the graph of items by degree, and each view's share of scores."""
        moved = torch.tensor(offset)
        last.bias.data[:3] = moved
        user, item = mix._both(views[0], degree, True)
        user = user[:, :3] - moved  # as users' biases would be
        of_users, of_items = torch.softmax(user, 1), torch.softmax(item[:, :3], 1)
        product = of_users[:1] * of_items
        return mix.gamma(views[0], degree, items)[:, 0], product / product.sum(1, keepdim=True)

    with torch.no_grad():
        mix.items[0].weight.zero_()
        mix.items[0].weight[0, 0] = 1.0  # hidden unit 0 is tanh(d)
        mix.items[0].bias.zero_()
        last.weight[0, 0], last.weight[2, 0] = 2.0, 6.0  # logits rise by 2, 0 and 6
        against_text, shares = gammas((0.0, 0.0, -20.0))
        against_content, same_shares = gammas((0.0, -20.0, 0.0))
    assert (against_text.diff() > 0).all()
    assert (against_content.diff() < 0).all()
    torch.testing.assert_close(same_shares, shares)


def test_a_share_of_a_gain_is_of_the_users_that_are_asked_for(tmp_path: Path) -> None:
    base = [run_of(tmp_path / "base", seed, 0.0) for seed in range(3)]
    full = [run_of(tmp_path / "full", 10 + seed, 0.2, cold_shift=0.2) for seed in range(3)]
    half = [run_of(tmp_path / "half", 20 + seed, 0.2, cold_shift=0.1) for seed in range(3)]
    cold = np.tile([True, False, False, False], USERS // 4)
    share, low, high = share_of_gain(half, full, base, "recall@40", cold) or (0, 0, 0)
    assert low < share < high
    assert share == pytest.approx(0.5, abs=0.05)
    warm = share_of_gain(half, full, base, "recall@40", ~cold)
    assert warm is not None
    assert warm[0] == pytest.approx(1, abs=0.05)
    assert share_of_gain(half, base, full, "recall@40", cold) is None  # nothing gained
    assert share_of_gain(half, full, base, "recall@40", cold & ~cold) is None
    found = compare(full, base, "recall@40", cold)
    assert found is not None
    assert found.a - found.b == pytest.approx(0.2, abs=0.01)


def test_coherence_is_one_where_the_nearest_are_of_the_same_category() -> None:
    generator = torch.Generator().manual_seed(0)
    side = torch.tensor([[5.0, 0], [-5.0, 0]]).repeat_interleave(20, 0)
    vectors = side + 0.1 * torch.randn(40, 2, generator=generator)
    categories = [{"war"}] * 20 + [{"love"}] * 20
    near, any_two = coherence(vectors, categories)
    assert near == pytest.approx(1)
    assert any_two == pytest.approx(19 / 39)
    vectors[0] = torch.nan  # has no text
    assert coherence(vectors, [set(), *categories[1:]])[0] == pytest.approx(1)
    assert coherence(vectors[:1], categories[:1]) == (None, 0.0)


def test_transfer_needs_a_source() -> None:
    from recmind_dist.experiments.findings import Study
    from recmind_dist.experiments.transfer import transfer

    quickstart = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
    study = Study(lambda variant, words: load_run_config(quickstart, words, variant), Path("home"))
    with pytest.raises(ConfigError, match="give --source RUN"):
        transfer(study)
