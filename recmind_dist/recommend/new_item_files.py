"""The files of an upsert: items with their fields, and who has met them already."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recmind_dist.errors import DataError
from recmind_dist.extras import needs_extra
from recmind_dist.recommend.bundle import Bundle


@dataclass(frozen=True)
class ItemFile:
    """Items as the run's item file was read.

    Attributes:
        ids: external ids.
        fields: by name, a text or None an item.
    """

    ids: list[str]
    fields: dict[str, list[str | None]]

    def rows(self) -> list[dict[str, str | None]]:
        """The fields of each item."""
        columns = list(self.fields.values())
        names = list(self.fields)
        return [
            dict(zip(names, values, strict=True))
            for values in (zip(*columns, strict=True) if columns else [()] * len(self.ids))
        ]


@dataclass(frozen=True)
class Interactions:
    """A log's rows of upserted items with known users.

    Attributes:
        pairs: external item id and row of the user, each pair once, the oldest first.
        left_out: rows of other items, or of users that the bundle does not know.
    """

    pairs: list[tuple[str, int]]
    left_out: int


def read_items(path: Path, bundle: Bundle) -> ItemFile:
    """Reads any layout that dataset.items takes.

    Raises:
        DataError: no such file; an id is missing or stands twice; there is no item.
    """
    _check(path)
    with needs_extra("text"):
        from recmind_dist.ingest.rows import Quarantine
        from recmind_dist.ingest.settings import TableSettings
        from recmind_dist.ingest.tables import read_table

        settings = TableSettings(path=path, id=_of_data(bundle, "item_id"))
        frame = read_table(settings, "item", Quarantine(0))
    if not frame.height:
        raise DataError(f"{path}: holds no item: give one a line")
    names = [name for name in frame.columns if name != "id"]
    return ItemFile(frame["id"].to_list(), {name: frame[name].to_list() for name in names})


def read_interactions(path: Path, bundle: Bundle, item_ids: list[str]) -> Interactions:
    """Reads any layout that dataset.interactions takes, in the order of its times.

    Raises:
        DataError: no such file; a row has no user, no item or no number where one is needed.
    """
    _check(path)
    columns, min_rating = _of_data(bundle, "columns") or {}, _of_data(bundle, "min_rating")
    with needs_extra("text"):
        from recmind_dist.ingest.log import read_log
        from recmind_dist.ingest.rows import Quarantine
        from recmind_dist.ingest.settings import LogColumns, LogSettings

        settings = LogSettings(path=path, columns=LogColumns.model_validate(columns))
        log = read_log([path], settings, min_rating is not None, Quarantine(0)).frame
    if min_rating is not None:
        log = log.filter(log["rating"] >= min_rating)
    log = log.sort("time", "row")
    known, pairs = bundle.users.position, dict[tuple[str, int], None]()
    wanted, left_out = set(item_ids), 0
    for user_id, item_id in log.select("user", "item").iter_rows():
        if item_id in wanted and user_id in known:
            pairs[item_id, known[user_id]] = None
        else:
            left_out += 1
    return Interactions(list(pairs), left_out)


def _of_data(bundle: Bundle, name: str) -> Any:
    return bundle.manifest.get("files_of_data", {}).get(name)


def _check(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path}: no such file: give the path of a file with rows")
