"""Items that come after training: vectors as training's own code gives, in a bundle at once."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recmind_dist.cli.app import main
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import DataError
from recmind_dist.export.write_bundle import write_bundle
from recmind_dist.inference.user_states import start_of_texts
from recmind_dist.model.text_view import TextRows, TextView
from recmind_dist.recommend.bundle import Bundle
from recmind_dist.recommend.gates import unit_rows
from recmind_dist.recommend.new_items import ItemFoldIn
from recmind_dist.recommend.projection import project
from recmind_dist.recommend.recommender import Recommender
from recmind_dist.recommend.text_query import TextQuery
from recmind_dist.recommend.upsert import upsert
from recmind_dist.text import TextEncoder, TextSettings
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.state import Cursor
from tests.tiny_language_model import WIDTH, make_bert
from tests.training_runs import config_of, make_inputs

KINDS: list[dict[str, Any]] = [
    {"kind": "recmind", "num_layers": 2, "views": "all", "recent_decay": 0.5},
    {"kind": "recmind", "num_layers": 3, "text_layers": 3},
    {
        "kind": "recmind",
        "num_layers": 1,
        "views": "graph",
        "init": "normal",
    },
    {"kind": "lightgcn", "num_layers": 3, "init": "text"},
    {"kind": "xsimgcl", "num_layers": 2},
    {"kind": "alpharec", "num_layers": 2},
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("upsert")


@pytest.fixture(scope="module")
def inputs(home: Path) -> RunStores:
    return make_inputs(home, num_tested=50, text_dim=WIDTH)


@pytest.fixture(scope="module")
def language_model(home: Path) -> Path:
    return make_bert(home / "bert")


def make_model(home: Path, inputs: RunStores, language_model: Path, **model: Any) -> ModelShard:
    """With random numbers in every parameter but the items' rows, which are as at the start."""
    layers = model.get("num_layers", 2)
    config = config_of(
        home,
        "run",
        model={"embedding_dim": 8, **model},
        text={"model": str(language_model), "dtype": "fp32"},
        alignment={"weight": 0},
        sampler={"propagation": "full", "num_neighbors": [4] * layers},
    )
    shard = ModelShard(config, inputs, DistContext.alone())
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in (shard.table.weight, *shard.model.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)
        items = torch.from_numpy(shard.nodes >= shard.graph.num_users)
        text = shard.states()[2]
        start = torch.zeros_like(shard.table.weight)
        if text is not None and config.model.init == "text":
            start = start_of_texts(text, 8)
        shard.table.weight[items] = start[items]
    return shard


def bundle_of(shard: ModelShard, to: Path, text_model: bool = False) -> Bundle:
    write_bundle(shard, Cursor(norm_exponent=0.0), {}, b"{}", to, text_model=text_model)
    return Bundle.open(to, verify=True)


@pytest.mark.parametrize("model", KINDS, ids=[f"{m['kind']}{k}" for k, m in enumerate(KINDS)])
def test_an_item_with_its_training_users_has_the_vector_of_training(
    home: Path, inputs: RunStores, language_model: Path, tmp_path: Path, model: dict[str, Any]
) -> None:
    shard = make_model(home, inputs, language_model, **model)
    bundle, graph = bundle_of(shard, tmp_path / "bundle"), shard.graph
    text, has_text = None, np.zeros(graph.num_items, np.bool_)
    if shard.text is not None:
        rows = np.asarray(graph.row_of_node)[graph.num_users :]
        text = shard.text.rows.text.float().numpy()[rows]
        has_text = ~shard.text.rows.absent.numpy()[rows]
    users = [
        np.asarray(graph.indices[start:stop])
        for start, stop in zip(
            graph.indptr[graph.num_users : -1], graph.indptr[graph.num_users + 1 :], strict=True
        )
    ]
    made = ItemFoldIn(bundle)(users, text, has_text)

    # without a text training reads the mean of the users' texts, which no bundle keeps
    same = has_text if "text" in {view.name for view in bundle.views} else slice(None)
    np.testing.assert_allclose(made.vectors[same], bundle.item_vectors[same], atol=1e-4)
    assert set(made.states) == set(bundle.states) - {"base_map", "item_map"}
    for name, rows_of_items in made.states.items():
        expected = bundle.states[name][same]
        np.testing.assert_allclose(rows_of_items[same], expected, atol=1e-4, err_msg=name)


def test_an_item_that_moved_with_its_users_in_training_does_so_again(
    home: Path, inputs: RunStores, language_model: Path, tmp_path: Path
) -> None:
    shard = make_model(home, inputs, language_model, kind="lightgcn", num_layers=1)
    users = np.arange(shard.graph.num_users)
    _, brought = np.split(shard.final_embeddings().final.numpy() * 2, [len(users)])
    matrix = np.random.default_rng(1).normal(size=(8, 8)).astype(np.float32)
    rows = np.asarray(shard.graph.row_of_node)[len(users) :]
    with torch.no_grad():  # E⁰ of items is now exactly a map of what their users bring
        shard.table.weight[torch.from_numpy(rows)] = torch.from_numpy(brought @ matrix)
    bundle = bundle_of(shard, tmp_path / "bundle")
    np.testing.assert_allclose(bundle.states["item_map"], matrix, atol=1e-2)


@pytest.fixture(scope="module")
def shop(home: Path, inputs: RunStores, language_model: Path) -> Bundle:
    """A bundle with the language model."""
    shard = make_model(
        home, inputs, language_model, kind="recmind", views="all", recent_decay=0.5,
        text_layers=2,
    )  # fmt: skip
    return bundle_of(shard, home / "shop", text_model=True)


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


NEW = (
    {"id": "n1", "title": "space war", "genre": "space", "colour": "red"},
    {"id": "n2", "title": None},
)


def test_new_items_appear_with_their_texts_and_are_seen_by_those_who_met_them(
    shop: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = write_lines(tmp_path / "new.jsonl", *NEW)
    log = tmp_path / "log.tsv"
    log.write_text("user\titem\ttime\n3\tn1\t9\nnobody\tn1\t3\n4\tn1\t1\n4\t7\t2\n")
    words = ["upsert", str(shop.path), str(items), "--interactions", str(log)]
    main([*words, "--to", str(tmp_path / "new")])
    said = capsys.readouterr().out
    assert "2 items added, 0 replaced, with 2 interactions" in said
    assert "2 rows of other items or unknown users" in said
    assert "colour" in said
    main([*words, "--to", str(tmp_path / "same"), "--json"])
    done = json.loads(capsys.readouterr().out)
    assert (done["added"], done["replaced"], done["interactions"], done["left_out"]) == (2, 0, 2, 2)
    assert (done["bundle"], done["unknown_fields"]) == (str(tmp_path / "same"), ["colour"])

    new = Bundle.open(tmp_path / "new", verify=True)
    assert new.item_ids == [*shop.item_ids, "n1", "n2"]
    assert new.titles[-2:] == ["space war", ""]
    assert new.metadata["genre"].to_pylist()[-2:] == ["space", None]
    assert new.metadata["degree"].to_pylist()[-2:] == [2, 0]
    n1 = new.item_position["n1"]
    row = np.array([3, 4, 5])
    assert [n1 in history for history in new.users.histories(row)] == [True, True, False]
    assert not np.array_equal(new.users.vectors(row[:1]), shop.users.vectors(row[:1]))
    np.testing.assert_array_equal(new.users.vectors(row[2:]), shop.users.vectors(row[2:]))
    np.testing.assert_array_equal(new.item_vectors[:-2], shop.item_vectors)

    recommender = Recommender(new)
    everything = {item.item_id for item in recommender.recommend("5", new.num_items)}
    assert {"n1", "n2"} <= everything
    assert "n1" not in {item.item_id for item in recommender.recommend("3", new.num_items)}
    assert recommender.recommend_from(["n1", "n2"], 3)
    assert "Items added after training: 2." in (new.path / "README.md").read_text()


def test_a_bundle_is_extended_in_place_and_an_item_made_anew_where_one_says_so(
    shop: Bundle, tmp_path: Path
) -> None:
    items = write_lines(tmp_path / "new.jsonl", *NEW)
    upsert(shop, items, to=tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    with pytest.raises(DataError, match=r"'n1' is in the bundle already, 2 of 2.*--replace"):
        upsert(bundle, items)
    n1 = bundle.item_position["n1"]
    again = write_lines(tmp_path / "again.jsonl", {**NEW[0], "title": "love story"})
    done = upsert(bundle, again, replace=True)
    assert (done.added, done.replaced) == (0, 1)
    replaced = Bundle.open(tmp_path / "bundle", verify=True)
    assert replaced.num_items == bundle.num_items
    assert replaced.titles[n1] == "love story"
    assert not np.array_equal(replaced.item_vectors[n1], bundle.item_vectors[n1])
    np.testing.assert_array_equal(replaced.item_vectors[:n1], bundle.item_vectors[:n1])

    # one that training knows keeps its users, who are made anew with it
    known = write_lines(tmp_path / "known.jsonl", {"id": "1", "title": "night"})
    users_of_1 = [u for u, h in enumerate(shop.users.histories(np.arange(70))) if 1 in h]
    done = upsert(replaced, known, replace=True, to=tmp_path / "third")
    assert done.interactions == len(users_of_1) > 0
    third = Bundle.open(tmp_path / "third")
    at = np.array(users_of_1[:1])
    assert not np.allclose(third.users.vectors(at), shop.users.vectors(at), atol=1e-6)


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"id": "n1", "title": "a"}, {"id": "n1", "title": "b"}], "stands on both lines"),
        ([{"name": "n1"}], "no item id|column"),
        ([], "empty"),
    ],
)
def test_an_item_file_that_cannot_be_used_leaves_the_bundle_as_it_was(
    shop: Bundle, tmp_path: Path, rows: list[dict[str, Any]], sentence: str
) -> None:
    items = write_lines(tmp_path / "new.jsonl", *rows)
    with pytest.raises(DataError, match=sentence):
        upsert(shop, items, to=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_texts_have_the_views_that_training_gives_them(
    home: Path, inputs: RunStores, language_model: Path, shop: Bundle
) -> None:
    texts = ["space war", "a love story"]
    encoder = TextEncoder.load(TextSettings(model=str(language_model), dtype="fp32"))
    shard = make_model(
        home, inputs, language_model, kind="recmind", views="all", recent_decay=0.5,
        text_layers=2,
    )  # fmt: skip
    assert shard.whitening is not None
    assert isinstance(shard.model.text_view, TextView)
    whitened = shard.whitening.apply("items", encoder.encode(texts, 64))
    torch_rows = torch.from_numpy(whitened)
    zeros = torch.zeros(2)
    rows = TextRows(torch_rows, zeros.bool(), zeros, torch.zeros_like(torch_rows))
    expected = shard.model.text_view(rows).detach().numpy()
    np.testing.assert_allclose(project(shop.projection, whitened), expected, atol=1e-5)

    found = TextQuery(shop)(texts)
    views = {view.name: found[:, view.start : view.stop] for view in shop.views}
    assert not views["graph"].any()
    np.testing.assert_allclose(unit_rows(views["text"]), unit_rows(expected), atol=1e-4)
    np.testing.assert_allclose(unit_rows(views["content"]), unit_rows(whitened), atol=1e-4)


def test_texts_need_a_language_model_and_words(shop: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the text is empty"):
        TextQuery(shop)(["space", " \x00 "])
    files = {k: v for k, v in shop.manifest["files"].items() if not k.startswith("text/")}
    without = Bundle(shop.path, {**shop.manifest, "files": files})
    with pytest.raises(DataError, match="--text-model"):
        TextQuery(without)
    plain = Bundle(shop.path, {**shop.manifest, "text": None, "model": "lightgcn"})
    with pytest.raises(DataError, match="lightgcn"):
        TextQuery(plain)
