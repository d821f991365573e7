"""`recmind init` on odd separators, inner objects, parts without names and other scripts."""

import json
from pathlib import Path

import polars as pl
import pytest

from recmind_dist.errors import DataError
from recmind_dist.ingest import ingest_dataset
from recmind_dist.ingest.guess import Answers, Unclear, init_config
from recmind_dist.run_config.load import load_run_config
from tests.publishers import EACH, ITEMS, ROWS, USERS, meetings


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, lines: list[str], encoding: str = "utf-8") -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return path


def init(files: list[Path], **answers: str) -> tuple[Path, str]:
    said: list[str] = []
    config = init_config(files, Path("out"), Answers(**answers), 0, said.append)
    return config, "\n".join(said)


def check(config: Path, items: bool = True) -> None:
    """The config reads all rows, users as users, and texts of all items."""
    found = ingest_dataset(load_run_config(config).dataset, Path("cache"))
    log = pl.read_parquet(found / "interactions.parquet")
    assert log.height == ROWS
    assert log.group_by("user").len()["len"].to_list() == [EACH] * USERS
    texts = pl.read_parquet(found / "items.parquet")
    assert texts.height == (ITEMS if items else 0)
    assert not items or texts.drop("id").null_count().sum_horizontal().sum() == 0


def titles(form: str) -> list[str]:
    return [form.format(i=i, word=("Lamp", "Chair", "Vase")[i % 3]) for i in range(ITEMS)]


def test_an_item_column_is_that_of_the_item_files_name_and_commas_are_in_numbers() -> None:
    rows = [
        f"{9000 + k // 2}|K{u:05d}|{i:06d}|{i + 3},50" for k, (u, i, _) in enumerate(meetings())
    ]
    log = write("positionen.txt", ["Beleg|Kunde|Artikelnummer|Einzelpreis", *rows])
    texts = [f"{i:06d};{word};{i + 3},50" for i, word in enumerate(titles("Kübel {word} {i} mm"))]
    items = write("artikel.csv", ["Artikelnummer;Bezeichnung;Preis", *texts], "latin-1")
    config, said = init([log, items])
    assert "item is Artikelnummer" in said
    assert "read as cp1252, as 'Kübel Lamp 0 mm': set encoding if that is wrong" in said
    check(config)


@pytest.mark.parametrize("separator", ["~", "|", ";", "\x01"])
def test_a_separator_is_the_one_that_gives_most_fields(separator: str) -> None:
    rows = [separator.join((f"u{u}", f"i{i}", f"{i},5", str(t))) for u, i, t in meetings()]
    log = write("log.dat", [separator.join(("user", "item", "price", "time")), *rows])
    config, _ = init([log])
    check(config, items=False)


def test_keys_of_inner_objects_are_columns_and_fields_of_a_template() -> None:
    rows = [
        json.dumps({"actor": {"uid": f"u{u}"}, "object": {"sku": f"r{i}"}, "at": t})
        for u, i, t in meetings()
    ]
    texts = [
        {"sku": f"r{i}", "names": {"en": word, "fr": f"le {word}"}}
        for i, word in enumerate(titles("The {word} no {i}"))
    ]
    Path("recipes.json").write_text(json.dumps(texts))
    config, _ = init([write("stream.ndjson", rows), Path("recipes.json")])
    assert 'item_template: "{names.en}. {names.fr}"' in config.read_text()
    check(config)


def test_an_item_column_that_meets_texts_comes_before_one_called_name() -> None:
    pairs = list(meetings())
    kinds = ["view", "add_to_cart", "purchase"]
    pl.DataFrame(
        {
            "event_id": [f"e{k}" for k in range(len(pairs))],
            "session": [k // 4 for k in range(len(pairs))],
            "anonymous_id": [10**9 + u for u, _, _ in pairs],
            "variant_id": [44_000 + i for _, i, _ in pairs],
            "name": [kinds[k % 3] for k in range(len(pairs))],
            "occurred_at": pl.Series([t for *_, t in pairs]).cast(pl.Datetime("ms")),
        }
    ).write_parquet("events.parquet")
    table = {"id": range(44_000, 44_000 + ITEMS), "display_name": titles("{word} {i}")}
    pl.DataFrame(table).write_parquet("variants.parquet")
    config, said = init([Path("events.parquet"), Path("variants.parquet")])
    assert "item is variant_id, user is anonymous_id" in said
    check(config)


@pytest.mark.parametrize(
    ("names", "texts", "heads"),
    [
        ("会員番号,商品コード,購入日時,数量", "緑茶 {i}号 {word}", "商品コード,商品名"),
        ("номер,код,когда,штук", "Чай зелёный {i}", "код,название"),
        ("μέλος,κωδικός,πότε,πλήθος", "Πράσινο τσάι {i}", "κωδικός,τίτλος"),
    ],
)
def test_names_in_no_known_words_are_told_by_what_the_files_share(
    names: str, texts: str, heads: str
) -> None:
    rows = [
        f"{5000 + u},{4_900_000 + i},2020/01/05 10:{k:02d},{1 + k % 3}"
        for k, (u, i, _) in enumerate(meetings())
    ]
    items = [f"{4_900_000 + i},{word}" for i, word in enumerate(titles(texts))]
    config, said = init([write("a.csv", [names, *rows]), write("b.csv", [heads, *items])])
    user, item, time, _ = names.split(",")
    assert f"time is {time}, item is {item}, user is {user}" in said
    check(config)


def test_parts_without_names_are_one_log_and_the_user_is_asked_for() -> None:
    rows = [f"{u}\x01{i}\x01{1000 * t}" for u, i, t in meetings()]
    for part in range(3):
        write(f"clicks/00000{part}_0", rows[part::3])
    with pytest.raises(Unclear, match=r"Which column of clicks/000000_0 is the user"):
        init([Path("clicks")])
    config, _ = init([Path("clicks")], user="0")
    assert "path: clicks\n" in config.read_text()
    check(config, items=False)


def test_names_of_several_words_are_asked_for_where_columns_have_none() -> None:
    rows = [f"l{u}~The band {i}, live~{k % 50}" for k, (u, i, _) in enumerate(meetings())]
    log = write("plays.dat", rows)
    with pytest.raises(Unclear, match=r"the item .* Say --item 1 or 2"):
        init([log], user="0")
    config, _ = init([log], user="0", item="1")
    check(config, items=False)


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Чай зелёный"),
        ("shift_jis", "緑茶の香り"),
        ("gb18030", "绿茶"),
        ("cp1253", "Τσάι"),
    ],
)
def test_letters_that_are_not_western_are_not_guessed(encoding: str, text: str) -> None:
    log = write("log.csv", ["user,item", *(f"u{u},i{i}" for u, i, _ in meetings())])
    items = write("items.csv", ["item,title", *(f"i{i},{text} {i}" for i in range(9))], encoding)
    with pytest.raises(DataError, match=r"items\.csv: neither UTF-8 nor Western letters"):
        init([log, items])


def test_lists_of_items_in_an_object_are_named() -> None:
    rows = [json.dumps({"reader": f"R{u}", "loans": [{"isbn": f"i{u}"}]}) for u in range(9)]
    with pytest.raises(DataError, match="write one row for each element of loans"):
        init([write("readers.jsonl", rows)])
