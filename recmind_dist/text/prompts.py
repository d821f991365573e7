"""Item and user texts from a graph. User texts name training items only, so nothing leaks."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from recmind_dist.errors import StoreError, TextError
from recmind_dist.storage import check_seal
from recmind_dist.storage.keys import canonical_json
from recmind_dist.storage.seals import DOCTOR, sealed_file
from recmind_dist.text.columns import (
    BLOCK_ROWS,
    Block,
    Column,
    blocks_of,
    has_text,
    num_texts,
    read_column,
    spooled,
    take,
    write_column,
)
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.template import Template
from recmind_dist.text.word_fields import template_of, title_template, word_fields
from recmind_dist.types import BoolArray, IntArray

if TYPE_CHECKING:
    from recmind_dist.graph import Graph

ITEMS = "items"
CHARS_PER_TOKEN = 16  # more than ordinary tokens have: the tokenizer's own clip is the tighter one
TITLE_CHARS = 200
TOKENS_PER_TITLE = 9  # of a user text's budget: ten titles in 96 tokens
# control characters, lone surrogates and invisible format marks: some tokenizers refuse them
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060\ufeff\ufffe\uffff\ud800-\udfff\\s]+"
)


@dataclass(frozen=True)
class Texts:
    """One text for each item and user, by local id; None where there is none."""

    items: Column
    users: Column

    @property
    def count(self) -> int:
        """Number of texts that are not None."""
        return num_texts(self.items) + num_texts(self.users)

    @cached_property
    def key(self) -> str:
        """Content key (hex) of all texts."""
        return self.key_with()

    def key_with(self, *before: str) -> str:
        """`content_key([*before, items, users])`, a block at a time."""
        digest = hashlib.sha256(b"[")
        for value in before:
            digest.update(canonical_json(value) + b",")
        for column, end in ((self.items, b"],"), (self.users, b"]]")):
            digest.update(b"[")
            for number, block in enumerate(blocks_of(column)):
                digest.update((b"," if number else b"") + canonical_json(block)[1:-1])
            digest.update(end)
        return digest.hexdigest()

    def save(self, path: Path) -> None:
        """Writes a sealed file, a block at a time: items, then users."""
        with sealed_file(path) as file:
            blocks = chain(blocks_of(self.items), blocks_of(self.users))
            write_column(file, blocks, {"items": str(len(self.items))})

    @classmethod
    def load(cls, path: Path, verify: bool = True) -> "Texts":
        """Maps a file of `save`, of which only what is used is in memory.

        Args:
            verify: reads all of it first. Without that it must have been verified just before.
        Raises:
            StoreError: it is absent or damaged.
        """
        try:
            if verify:
                check_seal(path, DOCTOR)
            texts, about = read_column(path, verify)
            count = int(about["items"])
            if not 0 <= count <= len(texts):
                raise ValueError(f"{count} items among {len(texts)} texts")
        except (OSError, ValueError, LookupError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{path}: not a file of texts ({str(error)[:80]}): {DOCTOR}"
            ) from error
        return cls(texts.part(0, count), texts.part(count, len(texts)))


def build_texts(
    graph: "Graph",
    settings: TextSettings,
    hidden_edge: BoolArray | None = None,
    *,
    users: bool = True,
    spool: Path | None = None,
) -> Texts:
    """Renders all texts of a graph.

    Args:
        settings: a template that is missing is made of the fields that hold words.
        hidden_edge: [E] over the user half of `graph.indices`; user texts leave out edges that are
            True, from which gates learn.
        users: whether users have texts at all.
        spool: a folder; texts are written to files there, which leave with them, a block at a time.
            Default: they are held in memory.

    Raises:
        TextError: a template names a field that the item or user file lacks.
    """
    max_chars = settings.max_tokens * CHARS_PER_TOKEN
    fields = word_fields(graph.item_blocks())
    template = settings.item_template or template_of(fields)
    items = spooled(_render(graph, template, "item_template", max_chars), spool)
    if not users:
        return Texts(items=items, users=spooled(_without_texts(graph.num_users), spool))
    title = title_template(settings.item_template, fields)
    titles = spooled(_render(graph, title, "item_template", TITLE_CHARS), spool)
    of_users = _user_texts(graph, settings, titles, hidden_edge)
    return Texts(items=items, users=spooled(of_users, spool))


def clean(value: object, max_chars: int) -> str | None:
    """A field as plain, clipped text; runs of unprintables become one space. None if empty."""
    if value is None:
        return None
    # clipped first, so that a field of megabytes costs no more than a long one
    text = _UNPRINTABLE.sub(" ", str(value)[: 4 * max_chars]).strip()
    return text[:max_chars].rstrip() or None


def _render(graph: "Graph", template: str | None, key: str, max_chars: int) -> Iterator[Block]:
    """Items' texts, a block at a time."""
    parsed = None if template is None else Template.parse(template)
    for frame in graph.item_blocks():
        if parsed is None:
            yield [None] * frame.height
            continue
        rows = _rows(frame, parsed.fields, key, max_chars)
        yield [text[:max_chars] if (text := parsed.render(row)) else None for row in rows]


def _without_texts(count: int) -> Iterator[Block]:
    for block in _blocks_of_range(count):
        yield [None] * len(block)


def _blocks_of_range(count: int) -> Iterator[range]:
    for first in range(0, count, BLOCK_ROWS):
        yield range(first, min(first + BLOCK_ROWS, count))


def _rows(
    frame: pl.DataFrame, fields: list[str], key: str, max_chars: int
) -> Iterator[dict[str, str | None]]:
    refuse_unknown_fields(fields, key, frame.columns)
    columns = [
        [clean(value, max_chars) for value in frame.get_column(field).to_list()] for field in fields
    ]
    for values in zip(*columns, strict=True):
        yield dict(zip(fields, values, strict=True))


def refuse_unknown_fields(fields: list[str], key: str, present: list[str]) -> None:
    """Raises TextError: a template names a field that the file lacks."""
    for field in fields:
        if field not in present:
            raise TextError(
                f"text.{key}: no field {field!r} in the file, which has {', '.join(present)}: name "
                "one of these"
            )


def _user_texts(
    graph: "Graph", settings: TextSettings, titles: Column, hidden_edge: BoolArray | None
) -> Iterator[Block]:
    """A block of texts at a time."""
    max_chars = settings.user_max_tokens * CHARS_PER_TOKEN
    max_titles = settings.user_max_tokens // TOKENS_PER_TITLE
    template = Template.parse(settings.user_template)
    fields = [field for field in template.fields if field != ITEMS]
    titled = has_text(titles)
    for block in _blocks_of_range(graph.num_users):
        rows: Iterable[dict[str, str | None]] = ({} for _ in block)
        if fields:
            part = graph.users_frame(block.start, block.stop)
            rows = _rows(part, fields, "user_template", max_chars)
        edges = _newest_edges(graph, block.start, block.stop, titled, hidden_edge)
        liked = _newest_titles(len(block), edges, max_titles, titles)
        texts = (
            template.render({**row, ITEMS: items[:max_chars] or None})
            for row, items in zip(rows, liked, strict=True)
        )
        yield [text[:max_chars] if text else None for text in texts]


def _newest_titles(
    num_users: int, edges: tuple[IntArray, IntArray], max_items: int, titles: Column
) -> Iterator[str]:
    """For each user of a block, joined titles of the newest training items, empty without any.

    Args:
        edges: (user in the block, item), by user, newest first.
    """
    user_e, item_e = edges
    bounds = np.searchsorted(user_e, np.arange(num_users + 1))
    age = np.arange(len(user_e)) - bounds[user_e]
    named = take(titles, item_e[age < max_items])
    ends = np.cumsum(np.minimum(np.diff(bounds), max_items)).tolist()
    for start, end in zip([0, *ends], ends, strict=False):
        yield "; ".join(str(title) for title in named[start:end])


def _newest_edges(
    graph: "Graph", first: int, last: int, has_title: BoolArray, hidden_edge: BoolArray | None
) -> tuple[IntArray, IntArray]:
    """Visible edges of users [first, last) as (user - first, item), by user, newest first."""
    start, stop = int(graph.indptr[first]), int(graph.indptr[last])
    user = np.repeat(np.arange(last - first), np.diff(graph.indptr[first : last + 1]))
    item = np.asarray(graph.indices[start:stop], dtype=np.int64) - graph.num_users
    visible = has_title[item]
    if hidden_edge is not None:
        visible = visible & ~hidden_edge[start:stop]
    rank = np.asarray(graph.time_rank[start:stop], dtype=np.int64)
    order = np.lexsort((-rank[visible], user[visible]))
    return user[visible][order], item[visible][order]
