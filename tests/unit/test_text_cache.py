"""`recmind cache` lists text stores, and removes those that are named, and no other."""

from pathlib import Path

import numpy as np
import pytest

from recmind_dist.cli.app import main
from recmind_dist.errors import LockedError, StoreError
from recmind_dist.storage import directory_lock
from recmind_dist.text import TextStore
from recmind_dist.text.cache import list_stores, remove_store


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    """Two stores of one data set; of the second one shard is not finished."""
    paths = [tmp_path / "cache" / "shop" / "text" / name for name in ("abc-1", "abc-2")]
    for path, num_done in zip(paths, (2, 1), strict=True):
        store = TextStore.create(path, {}, 4, {"items": 8, "users": 3}, 8, 8)
        store.write_shard("items", 0, np.ones((8, 4), np.float16), "key")
        if num_done == 2:
            store.write_shard("users", 0, np.ones((3, 4), np.float16), "key")
    return paths


def test_stores_are_listed_with_what_they_hold(
    stores: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    main(["cache", "list", str(stores[0].parents[2])])
    printed = capsys.readouterr().out
    assert f"{stores[0]}  11 rows, 2 of 2 shards" in printed
    assert f"{stores[1]}  11 rows, 1 of 2 shards" in printed
    assert ": 2 text stores, " in printed
    (stores[0] / "store.json").write_text("torn")
    main(["cache", "list", str(stores[0].parents[2])])
    assert "not JSON: the file is damaged" in capsys.readouterr().out
    with pytest.raises(StoreError, match="no such directory: give a run's cache_dir"):
        list_stores(stores[0] / "nowhere")


def test_only_the_named_store_goes(stores: list[Path]) -> None:
    main(["cache", "clean", str(stores[0])])
    assert [path.name for path in stores[0].parent.iterdir()] == ["abc-2"]
    assert TextStore.open(stores[1]).read("items", 0, 8).shape == (8, 4)


def test_what_is_no_store_or_is_being_made_is_not_removed(
    stores: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    for path in (tmp_path / "mine", stores[0].parent, tmp_path / "nothing"):
        with pytest.raises(StoreError, match="not a text store: nothing was removed"):
            remove_store(path)
    with directory_lock(stores[0]), pytest.raises(LockedError, match="in use by process"):
        remove_store(stores[0])
    assert (tmp_path / "mine").is_dir()
    TextStore.open(stores[0]).verify()


def test_whoever_opened_the_lock_of_a_removed_store_does_not_hold_the_next(
    stores: list[Path],
) -> None:
    remove_store(stores[0])
    with directory_lock(stores[0]), pytest.raises(LockedError), directory_lock(stores[0]):
        pass
