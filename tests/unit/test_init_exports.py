"""`recmind init` on exports of shops, libraries, databases and web sites (tests/exports.py)."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from recmind_dist.errors import DataError
from recmind_dist.ingest import ingest_dataset
from recmind_dist.ingest.guess import Answers, Unclear, init_config
from recmind_dist.run_config.load import load_run_config
from tests import exports
from tests.exports import EACH, ITEMS, USERS

WITH_ITEMS = {"postgres_copy", "spark", "mongo", "library", "podcast_api"}
RUN_UNEDITED = ("shopify", "postgres_copy", "matomo", "spark", "mongo", "library")


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def config_of(files: list[Path], **answers: Any) -> Path:
    return init_config(files, Path("out"), Answers(**answers), 0, lambda line: None)


def check(config: Path, name: str) -> None:
    """Files stay where they are, and the config reads all of them."""
    assert [path.name for path in config.parent.iterdir()] == ["config.yaml"]
    assert len(config.read_text().splitlines()) <= 15
    run = load_run_config(config)
    made = ingest_dataset(run.dataset, Path("cache"))
    log = pl.read_parquet(made / "interactions.parquet")
    assert log.height == USERS * EACH
    assert log.group_by("user").len()["len"].to_list() == [EACH] * USERS
    assert log["item"].n_unique() == ITEMS
    assert json.loads((made / "manifest.json").read_text())["has_time"]
    if name in WITH_ITEMS:
        items = pl.read_parquet(made / "items.parquet")
        assert items.height == ITEMS
        assert run.text.item_template is not None
        assert any(items[column].str.contains("kettle").any() for column in items.columns[1:])


@pytest.mark.parametrize("name", RUN_UNEDITED)
def test_the_config_of_an_export_runs_unedited(name: str) -> None:
    check(config_of(getattr(exports, name)(Path())), name)


def test_the_time_of_reviews_counted_in_days_is_asked_for() -> None:
    files = exports.anki(Path())
    with pytest.raises(Unclear, match=r"Which column of .* is the time") as asked:
        config_of(files)
    assert asked.value.choices == ["day_offset", "elapsed_days", "none"]
    config = config_of(files, time="day_offset")
    columns = load_run_config(config).dataset.interactions.columns
    assert (columns.user, columns.item) == ("user_id", "card_id")
    check(config, "anki")


def test_rows_under_a_key_are_refused_with_the_command_that_takes_them_out() -> None:
    plays, shows = exports.podcast_api(Path())
    with pytest.raises(DataError, match=r"'results' holds 30 rows: take them out \(jq \.results"):
        config_of([plays, shows])
    rows = Path("ROWS.json")
    rows.write_text(json.dumps(json.loads(shows.read_text())["results"]))
    check(config_of([plays, rows]), "podcast_api")
