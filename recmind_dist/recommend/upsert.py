"""New items in a bundle, without training: vectors from text and known users.

Legend: n items of the file, I items of the bundle, C columns of a vector, T text dims.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recmind_dist.errors import DataError
from recmind_dist.recommend.bundle import (
    KIND,
    OWN_COLUMNS,
    SCHEMA,
    Bundle,
    lists_of_column,
    matrix_of_column,
    vector_column,
)
from recmind_dist.recommend.bundle_text import BundleText, rendered
from recmind_dist.recommend.fold_in import FoldIn, Histories
from recmind_dist.recommend.nearest import INDEX
from recmind_dist.recommend.new_item_files import (
    Interactions,
    ItemFile,
    read_interactions,
    read_items,
)
from recmind_dist.recommend.new_items import ItemFoldIn, NewItems
from recmind_dist.recommend.parquet_files import write_items, write_users
from recmind_dist.recommend.rewrite import content_of, rewriting, with_card_line
from recmind_dist.storage.atomic import follow_umask
from recmind_dist.storage.manifest import write_manifest
from recmind_dist.types import BoolArray, FloatArray, Int32Array, IntArray

_CHARS_PER_TOKEN = 16  # as in text/prompts.py
_TITLE_CHARS = 200
_TITLES = ("title", "name")  # as in text/word_fields.py


@dataclass(frozen=True)
class Upserted:
    """What an upsert did.

    Attributes:
        added, replaced: items.
        interactions: with known users, of all these items.
        left_out: rows of the log that name other items, or users that the bundle does not know.
        unknown_fields: of the item file, which the bundle has no column for.
    """

    added: int
    replaced: int
    interactions: int
    left_out: int
    unknown_fields: tuple[str, ...]


def upsert(
    bundle: Bundle,
    items: Path,
    interactions: Path | None = None,
    to: Path | None = None,
    replace: bool = False,
) -> Upserted:
    """Writes the bundle with the items of a file, atomically; users who met them are made anew. An
    index of nearest neighbours is left out: it knows none of these items.

    Args:
        items: a file as dataset.items has it.
        interactions: a log as dataset.interactions has it, of which rows of these items count.
        to: the new bundle; None: in place of the old one.
        replace: whether items that the bundle has are made anew; else they are refused.
    Raises:
        DataError: an item is known already; there is no way to read its text; a file is unfit.
        StoreError: the bundle is damaged; there is something else at `to`.
        LockedError: another process changes the bundle.
    """
    make = ItemFoldIn(bundle)
    file = read_items(items, bundle)
    _refuse_known(file, bundle, items, replace)
    log = Interactions([], 0)
    if interactions is not None:
        log = read_interactions(interactions, bundle, file.ids)
    change = _Change.of(bundle, file, log)
    text_nT, has_text = _texts(bundle, file)
    made = make(change.users, text_nT, has_text)
    _write(bundle, file, made, change, to)
    known = set(bundle.item_ids)
    names: set[str | None] = set(_field_columns(bundle))
    names |= {_title_field(bundle, file)}
    return Upserted(
        sum(item_id not in known for item_id in file.ids),
        sum(item_id in known for item_id in file.ids),
        sum(len(users) for users in change.users),
        log.left_out,
        tuple(name for name in file.fields if name not in names),
    )


@dataclass(frozen=True)
class _Change:
    """Where the items go, and who has them.

    Attributes:
        positions: rows of the items among all, new ones past the last. Shape: [n].
        users: of each item, rows of all its users.
        appended: by user, positions of the items that join their history, the oldest first.
    """

    positions: IntArray
    users: list[list[int]]
    appended: dict[int, list[int]]

    @staticmethod
    def of(bundle: Bundle, file: ItemFile, log: Interactions) -> "_Change":
        new, positions = bundle.num_items, []
        for item_id in file.ids:
            known = bundle.item_position.get(item_id)
            positions.append(new if known is None else known)
            new += known is None
        met = _users_of(bundle, [p for p in positions if p < bundle.num_items])
        users = {position: dict.fromkeys(met.get(position, [])) for position in positions}
        appended: dict[int, list[int]] = {}
        place = dict(zip(file.ids, positions, strict=True))
        for item_id, user in log.pairs:
            if user not in users[place[item_id]]:
                users[place[item_id]][user] = None
                appended.setdefault(user, []).append(place[item_id])
        rows = [list(users[position]) for position in positions]
        return _Change(np.array(positions), rows, appended)


def _users_of(bundle: Bundle, positions: Sequence[int]) -> dict[int, list[int]]:
    """Who has some known items in their history, by position."""
    found: dict[int, list[int]] = {position: [] for position in positions}
    if not found:
        return found
    wanted, row = np.array(positions), 0
    for _, _, histories in bundle.users.blocks():
        for history in histories:
            for position in history[np.isin(history, wanted)].tolist():
                found[position].append(row)
            row += 1
    return found


def _refuse_known(file: ItemFile, bundle: Bundle, path: Path, replace: bool) -> None:
    known = [item_id for item_id in file.ids if item_id in bundle.item_position]
    if known and not replace:
        raise DataError(
            f"{path}: item {known[0]!r} is in the bundle already, {len(known)} of "
            f"{len(file.ids)} are: give --replace to make such items anew, or leave them out"
        )


def _texts(bundle: Bundle, file: ItemFile) -> tuple[FloatArray | None, BoolArray]:
    """Whitened texts [n, T], zero where there is none, and which items have one."""
    settings, matrix = bundle.manifest.get("text"), bundle.projection.get("whitening.items.matrix")
    if matrix is None:
        return None, np.zeros(len(file.ids), np.bool_)
    whitened = np.zeros((len(file.ids), matrix.shape[1]), np.float32)
    if settings is None or not settings["item_template"]:
        return whitened, np.zeros(len(file.ids), np.bool_)
    max_chars = int(settings["max_tokens"]) * _CHARS_PER_TOKEN
    texts = rendered(settings["item_template"], file.rows(), max_chars)
    has_text = np.array([bool(text) for text in texts])
    if has_text.any():
        some = [text for text in texts if text]
        whitened[has_text] = BundleText(bundle).whitened(some, "items")
    return whitened, has_text


def _write(
    bundle: Bundle, file: ItemFile, made: NewItems, change: _Change, to: Path | None
) -> None:
    from safetensors.numpy import save_file

    new = int((change.positions >= bundle.num_items).sum())
    added = bundle.manifest.get("items_added", 0) + new
    content = {"num_items": bundle.num_items + new, "items_added": added, "index": None}
    changed = {"items.parquet", "users.parquet", "states.safetensors", "README.md", INDEX}
    with rewriting(bundle, content, changed, to) as directory:
        table = _items_table(bundle, file, made, change.positions)
        write_items(table, directory / "items.parquet")
        states = {
            name: _with_rows(x, made.states[name], change.positions) if name in made.states else x
            for name, x in bundle.states.items()
        }
        save_file(states, directory / "states.safetensors")
        follow_umask(directory / "states.safetensors")
        half = write_manifest(directory, KIND, SCHEMA, {**content_of(bundle), **content})
        parts = _user_parts(bundle, Bundle(directory, half), change)
        write_users(parts, directory / "users.parquet")
        line = f"Items added after training: {added}."
        with_card_line(bundle, directory, "Items added after training", line)


def _with_rows(x: Any, rows: Any, positions: IntArray) -> Any:
    """An array of items with these rows at these positions, some past its end."""
    size = max(len(x), int(positions.max(initial=-1)) + 1)
    out = np.zeros((size, *x.shape[1:]), x.dtype)
    out[: len(x)] = x
    out[positions] = rows
    return out


def _field_columns(bundle: Bundle) -> dict[str, str]:
    """Field of an item file → its column in items.parquet."""
    names = [name for name in bundle.metadata.column_names if name != "degree"]
    return {name.removeprefix("item."): name for name in names}


def _items_table(bundle: Bundle, file: ItemFile, made: NewItems, positions: IntArray) -> pa.Table:
    fields = bundle.metadata
    vectors = _with_rows(bundle.item_vectors, made.vectors, positions)
    degree = _with_rows(fields["degree"].to_numpy(), made.states["degree"], positions)
    columns: dict[str, Any] = {
        "id": pa.array(_put(bundle.item_ids, file.ids, positions)),
        "vector": vector_column(vectors),
        "title": pa.array(_put(bundle.titles, _titles(bundle, file), positions)),
        "degree": pa.array(degree),
    }
    assert tuple(columns) == OWN_COLUMNS
    for field, name in _field_columns(bundle).items():
        values = file.fields.get(field, [None] * len(file.ids))
        column = pa.array(_put(fields[name].to_pylist(), values, positions))
        columns[name] = column.cast(fields.schema.field(name).type)
    return pa.table(columns)


def _put(values: list[Any], new: Sequence[Any], positions: IntArray) -> list[Any]:
    out = [*values, *[None] * max(0, int(positions.max()) + 1 - len(values))]
    for position, value in zip(positions.tolist(), new, strict=True):
        out[position] = value
    return out


def _titles(bundle: Bundle, file: ItemFile) -> list[str]:
    settings, field = bundle.manifest.get("text") or {}, _title_field(bundle, file)
    template = f"{{{field}}}" if field else settings.get("item_title")
    if not template:
        return [""] * len(file.ids)
    return rendered(template, file.rows(), _TITLE_CHARS)


def _title_field(bundle: Bundle, file: ItemFile) -> str | None:
    """The file's title or name, which items are called by where the run has read no texts."""
    if bundle.manifest.get("text") is not None:
        return None
    return next((name for name in _TITLES if name in file.fields), None)


def _user_parts(old: Bundle, new: Bundle, change: _Change) -> Iterator[pa.Table]:
    """users.parquet again: longer histories, and vectors of all who have one of the items."""
    fold_in, first = FoldIn(new), 0
    for part in old.users.parts():
        histories = lists_of_column(part["history"])
        touched = []
        for row, history in enumerate(histories):
            if more := change.appended.get(first + row):
                histories[row] = np.concatenate([history, np.array(more, np.int32)])
            if more or np.isin(history, change.positions).any():
                touched.append(row)
        if touched:
            part = _refolded(part, histories, np.array(touched), fold_in)
        first += len(histories)
        yield part


def _refolded(
    part: pa.Table, histories: list[Int32Array], touched: IntArray, fold_in: FoldIn
) -> pa.Table:
    own = {
        name: matrix_of_column(part[name])[touched] if name in part.column_names else None
        for name in ("base", "text")
    }
    vectors = matrix_of_column(part["vector"]).copy()
    folded = Histories.of([histories[row] for row in touched])
    vectors[touched] = fold_in(folded, own["base"], own["text"])
    ends = np.cumsum([0, *(len(history) for history in histories)]).astype(np.int32)
    items = np.concatenate([np.empty(0, np.int32), *histories])
    for name, column in (
        ("vector", vector_column(vectors)),
        ("history", pa.ListArray.from_arrays(pa.array(ends), pa.array(items))),
    ):
        place = part.column_names.index(name)
        part = part.set_column(place, part.schema.field(name), column)
    return part
