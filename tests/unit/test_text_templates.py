"""Templates leave no debris, and user texts are made of visible training edges only."""

import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from recmind_dist.errors import TextError
from recmind_dist.graph import Graph
from recmind_dist.text import TextSettings, build_texts
from recmind_dist.text.prompts import clean
from recmind_dist.text.template import Template
from recmind_dist.text.word_fields import share_with_text, template_of, title_template, word_fields


@pytest.mark.parametrize(
    ("template", "values", "text"),
    [
        ("{title}. {genres}", {"title": "Heat", "genres": "Crime"}, "Heat. Crime"),
        ("{title}. {genres}", {"title": "Heat", "genres": None}, "Heat"),
        ("{title}. {genres}", {"title": None, "genres": "Crime"}, "Crime"),
        (
            "{title} ({year}). {genres}",
            {"title": "Heat", "year": None, "genres": "Crime"},
            "Heat. Crime",
        ),
        (
            "{title} ({year}). {genres}",
            {"title": "Heat", "year": "1995", "genres": None},
            "Heat (1995)",
        ),
        (
            "{title} ({year}). {genres}.",
            {"title": "Heat", "year": "1995", "genres": "Crime"},
            "Heat (1995). Crime.",
        ),
        ("{title}. Genres: {genres}", {"title": None, "genres": "Crime"}, "Genres: Crime"),
        ("{age} years old, {job}", {"age": None, "job": "engineer"}, "engineer"),
        ("{age} years old, {job}", {"age": "30", "job": None}, "30 years old"),
        ("A person who liked: {items}", {"items": None}, None),
    ],
)
def test_empty_field_takes_its_words_along(
    template: str, values: dict[str, str | None], text: str | None
) -> None:
    assert Template.parse(template).render(values) == text


@pytest.mark.parametrize(
    "template", ["{title", "{title.__class__}", "{title!r}", "{0x}", "no field"]
)
def test_settings_refuse_templates_that_are_more_than_names(template: str) -> None:
    with pytest.raises(ValidationError):
        TextSettings(item_template=template)


def test_braces_in_data_stay_data() -> None:
    assert Template.parse("{title}").render({"title": "{items} {0}"}) == "{items} {0}"


def test_clean_survives_giants_and_control_characters() -> None:
    giant = clean("ab\x00\ud800\u200b c\n" * 20_000, 100)
    assert giant is not None
    assert len(giant) <= 100
    assert giant.startswith("ab c ab c")
    assert clean(" \x07\n", 100) is None
    assert clean(None, 100) is None


def make_graph(
    directory: Path, edges: list[list[int]], items: pl.DataFrame, users: pl.DataFrame
) -> Graph:
    """The user half, all that texts read; `edges[u]` lists local item ids, oldest first."""
    directory.mkdir(exist_ok=True)
    items.write_parquet(directory / "items.parquet")
    users.write_parquet(directory / "users.parquet")
    num_users = len(edges)
    order = [np.argsort(row, kind="stable") for row in edges]
    indices = [
        np.array(row, dtype=np.int32)[o] + num_users for row, o in zip(edges, order, strict=True)
    ]
    return Graph(
        path=directory,
        manifest={
            "num_users": num_users,
            "num_items": len(items),
            "num_edges": sum(map(len, edges)),
            "name": "t",
        },
        indptr=np.concatenate([[0], np.cumsum([len(row) for row in edges])]).astype(np.int64),
        indices=np.concatenate([*indices, np.zeros(0, np.int32)]).astype(np.int32),
        time_rank=np.concatenate([*order, np.zeros(0, np.int64)]).astype(np.int32),
        row_of_node=np.zeros(0, np.int64),
        part_rows=np.zeros(0, np.int64),
    )


ITEMS = pl.DataFrame(
    {"id": ["a", "b", "c", "d"], "title": ["A", "B", None, "D"], "genres": ["x", None, None, "y"]}
)
USERS = pl.DataFrame({"id": ["u", "v", "w"], "job": ["cook", None, None]})


def test_user_text_is_newest_first_and_without_hidden_edges(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, [[3, 0, 2, 1], [0, 3], []], ITEMS, USERS)
    settings = TextSettings(item_template="{title}. {genres}", user_max_tokens=26)
    texts = build_texts(graph, settings)
    assert texts.items == ["A. x", "B", None, "D. y"]
    # item 2 has no title and does not count; the user without edges has no text
    assert texts.users == ["A person who liked: B; A", "A person who liked: D; A", None]
    assert texts.count == 5
    newest = np.zeros(graph.num_edges, dtype=bool)
    newest[1] = True  # user 0's edge to item 1, whose row is ascending by id
    newest[4:6] = True  # all of user 1's
    hidden = build_texts(graph, settings, hidden_edge=newest).users
    assert hidden == ["A person who liked: A; D", None, None]


def test_the_title_is_the_field_of_that_name_or_the_first_of_the_item_text(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, [[0, 3], [1], []], ITEMS, USERS)
    texts = build_texts(graph, TextSettings(item_template="{genres}: {title}"))
    assert texts.users == ["A person who liked: D; A", "A person who liked: B", None]
    texts = build_texts(graph, TextSettings(item_template="{genres}"))
    assert texts.users == ["A person who liked: D; A", "A person who liked: B", None]
    assert title_template("{genres}, {maker}", ["genres", "maker"]) == "{genres}"
    assert title_template(None, ["genres", "meta.Name"]) == "{meta.Name}"
    assert title_template(None, ["maker", "genres"]) == "{maker}"
    assert title_template(None, []) is None


def test_user_fields_serve_users_without_edges(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, [[], [0], []], ITEMS, USERS)
    texts = build_texts(graph, TextSettings(user_template="Job: {job}. Liked: {items}"))
    assert texts.users == ["Job: cook", "Liked: A", None]


def test_unknown_field_is_named_with_those_that_exist(tmp_path: Path) -> None:
    graph = make_graph(tmp_path, [[0], [], []], ITEMS, USERS)
    with pytest.raises(
        TextError, match=r"text\.item_template: no field 'brand'.*id, title, genres"
    ):
        build_texts(graph, TextSettings(item_template="{brand}"))


def test_texts_are_clipped_by_characters_before_tokens(tmp_path: Path) -> None:
    items = ITEMS.with_columns(title=pl.Series(["x" * 100_000, "B", None, "D"]))
    graph = make_graph(tmp_path, [[0, 1], [], []], items, USERS)
    texts = build_texts(graph, TextSettings(max_tokens=8, user_max_tokens=8))
    assert len(str(texts.items[0])) == 8 * 16
    assert len(str(texts.users[0])) <= 8 * 16


def test_thirty_thousand_users_take_two_seconds_at_most(tmp_path: Path) -> None:
    items = pl.DataFrame(
        {"id": [str(i) for i in range(1000)], "title": [f"Film {i}" for i in range(1000)]}
    )
    users = pl.DataFrame({"id": [str(u) for u in range(30_000)]})
    edges = [[(u * 7 + k * 13) % 1000 for k in range(10)] for u in range(30_000)]
    graph = make_graph(tmp_path, edges, items, users)
    started = time.process_time()
    texts = build_texts(graph, TextSettings())
    assert time.process_time() - started < 2.0
    assert texts.users[0] == "A person who liked: " + "; ".join(
        f"Film {k * 13}" for k in range(9, -1, -1)
    )


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["Toy Story (1995)", "Heat", None], True),
        (["新品", "B"], True),
        (["Beauty, Nails", "Toys & Games"], True),
        (["B0042XTB5G", "B001NCSX44"], False),
        (["1995", "1996"], False),
        (["https://shop/a.jpg", "https://shop/b.jpg"], False),
        (["4.5", "five"], False),
        ([None, None], False),
    ],
)
def test_fields_of_words_are_told_from_numbers_codes_and_links(
    values: list[str | None], words: bool
) -> None:
    frame = pl.DataFrame({"id": range(len(values)), "field": pl.Series(values, dtype=pl.String)})
    assert word_fields([frame[:1], frame[1:]]) == (["field"] if words else [])


def test_a_template_of_all_fields_and_how_many_items_it_gives_a_text() -> None:
    assert template_of(["title", "genres"]) == "{title}. {genres}"
    assert Template.parse("{main cat}").render({"main cat": "Toys"}) == "Toys"
    odd = ITEMS.rename({"genres": "a.b"})
    assert word_fields([odd]) == ["title", "a.b"]  # a key of an inner object
    assert Template.parse("{a.b}").render({"a.b": "Toys"}) == "Toys"
    assert word_fields([ITEMS.rename({"genres": "a!b"})]) == ["title"]
    assert template_of([]) is None
    assert share_with_text([ITEMS[:1], ITEMS[1:]], "{title}. {genres}") == (0.75, 3)
    assert share_with_text([ITEMS], "{brand}") == (0.0, 0)
