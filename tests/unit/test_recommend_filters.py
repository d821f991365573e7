"""Conditions on items: what they choose, and what is refused in a sentence."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recmind_dist.errors import DataError
from recmind_dist.recommend.bundle import KIND, SCHEMA, Bundle, vector_column
from recmind_dist.recommend.filters import mask
from recmind_dist.storage import write_manifest

COLUMNS: dict[str, Any] = {
    "id": ["a", "b", "c", "d", "e"],
    "vector": vector_column(np.ones((5, 2), np.float32)),
    "title": ["Red lamp", "Blue lamp", "", "Old chair", "lamp"],
    "degree": [4, 0, 9, 2, 1],
    "category": ["Kids", "Books", None, "Kids", "Garden"],
    "price": ["12.50", " 7 ", "n/a", None, "1e2"],
    "tags": [["x", "y"], [], None, ["y"], ["z", None]],
    "new": [True, False, None, True, False],
    "item.title": ["1", "2", "3", "4", "5"],
    "made": [{"in": "PT", "year": 1999}, {"in": "FR", "year": 2001}, None, None, None],
    "Product Type": ["p", "q", "p", "q", "p"],
}
CONTENT = {
    "num_items": 5,
    "num_users": 0,
    "name": "toy",
    "model": "mf",
    "views": [["graph", 2]],
    "fold_in": None,
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("filters")
    table = pa.table(COLUMNS)
    table = table.set_column(4, "category", table["category"].dictionary_encode())
    pq.write_table(table, path / "items.parquet", row_group_size=2)
    write_manifest(path, KIND, SCHEMA, CONTENT)
    return Bundle.open(path)


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ('category == "Kids"', "ad"),
        ('category != "Kids"', "be"),
        ('"Kids" == category', "ad"),
        ('category in ("Kids", "Garden")', "ade"),
        ('category not in ["Kids"]', "be"),
        ("category == None", "c"),
        ("category is not None", "abde"),
        ("category in ()", ""),
        ("degree >= 2", "acd"),
        ("1 < degree <= 4", "ad"),
        ("4 > degree", "bde"),
        ("degree == -1 or degree == 9.0", "c"),
        ("price < 20", "ab"),
        ("price == 100", "e"),
        ('price == "n/a"', "c"),
        ('degree == "9"', "c"),
        ('contains(title, "lamp")', "abe"),
        ('"lamp" in title and not degree == 0', "ae"),
        ('contains(tags, "y")', "ad"),
        ('"y" not in tags', "be"),
        ("new", "ad"),
        ("not new", "be"),
        ("not (new or degree > 0)", "b"),
        ("new or degree > 3", "acd"),
        ('item.title == "4"', "d"),
        ('made.year > 2000 and column("made.year") < 3000', "b"),
        ('column("Product Type") == "p"', "ace"),
        ("degree == degree", "abcde"),
        ('id in ("b", "e")', "be"),
    ],
)
def test_a_condition_chooses_items(bundle: Bundle, where: str, chosen: str) -> None:
    assert "".join(np.array(bundle.item_ids)[mask(where, bundle)]) == chosen


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("color == 3", "no column 'color': the items have id, title, degree, category, price"),
        ("made.size == 3", "no field 'size'"),
        ("category < 3", "the column has no number"),
        ("title == ", "cannot be read"),
        ("", "cannot be read"),
        ("title", "'title' is no condition"),
        ("'a' == 'b'", "is no condition"),
        ("__import__('os').system('ls')", "is no condition"),
        ("[x for x in title]", "is no condition"),
        ("title == (lambda: 1)()", "is no condition"),
        ("contains(title)", "is no condition"),
        ("contains(degree, 'x')", "is no condition"),
        ("degree + 1 > 2", "is no condition"),
        ("new < 'x'", "cannot be compared"),
        ("tags == 'x'", "cannot be compared"),
        ("degree == 1" + " or degree == 1" * 1000, "characters, more than 10000"),
        ("(" * 500 + "new" + ")" * 500, "cannot be read"),
        ("not " * 1500 + "new", "is no condition"),
        ("degree == " + "9" * 400, "cannot be compared"),
        ("degree == 1j", "is no condition"),
        ("new\0", "cannot be read"),
    ],
)
def test_what_is_no_condition_is_refused(bundle: Bundle, where: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        mask(where, bundle)
