"""Item and user texts from a graph. User texts name training items only, so nothing leaks."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from recmind_dist.errors import StoreError, TextError
from recmind_dist.storage import check_seal, content_key, write_sealed
from recmind_dist.storage.seals import DOCTOR
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.template import Template
from recmind_dist.text.word_fields import template_of, word_fields
from recmind_dist.types import BoolArray, IntArray

if TYPE_CHECKING:
    from recmind_dist.graph import Graph

ITEMS = "items"
CHARS_PER_TOKEN = 16  # more than ordinary tokens have: the tokenizer's own clip is the tighter one
TITLE_CHARS = 200
BLOCK_USERS = 65536
# control characters, lone surrogates and invisible format marks: some tokenizers refuse them
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060\ufeff\ufffe\uffff\ud800-\udfff\\s]+"
)


@dataclass(frozen=True)
class Texts:
    """One text for each item and user, by local id; None where there is none."""

    items: list[str | None]
    users: list[str | None]

    @property
    def count(self) -> int:
        """Number of texts that are not None."""
        return sum(text is not None for text in (*self.items, *self.users))

    @cached_property
    def key(self) -> str:
        """Content key (hex) of all texts."""
        return content_key([self.items, self.users])

    def save(self, path: Path) -> None:
        """Writes sealed JSON."""
        values = {"items": self.items, "users": self.users}
        write_sealed(path, json.dumps(values, ensure_ascii=False).encode())

    @classmethod
    def load(cls, path: Path) -> "Texts":
        """Reads a file of `save`. Raises StoreError if it is absent or damaged."""
        try:
            check_seal(path, DOCTOR)
            values = json.loads(path.read_bytes())
            items, users = values["items"], values["users"]
            for texts in (items, users):
                if not isinstance(texts, list) or not all(isinstance(t, str | None) for t in texts):
                    raise ValueError("not lists of texts")
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"{path}: not a file of texts ({str(error)[:80]}): {DOCTOR}"
            ) from error
        return cls(items, users)


def build_texts(
    graph: "Graph",
    settings: TextSettings,
    hidden_edge: BoolArray | None = None,
    *,
    users: bool = True,
) -> Texts:
    """Renders all texts of a graph.

    Args:
        settings: a template that is missing is made of the fields that hold words.
        hidden_edge: [E] over the user half of `graph.indices`; user texts leave out edges that are
            True, from which gates learn.
        users: whether users have texts at all.

    Raises:
        TextError: a template names a field that the item or user file lacks.
    """
    frame = graph.items_frame()
    max_chars = settings.max_tokens * CHARS_PER_TOKEN
    fields = word_fields(frame)
    template = settings.item_template or template_of(fields)
    items = _render(frame, template, "item_template", max_chars)
    if not users:
        return Texts(items=items, users=[None] * graph.num_users)
    title = settings.item_title or template_of(fields[:1])
    titles = _render(frame, title, "item_title", TITLE_CHARS)
    return Texts(items=items, users=_user_texts(graph, settings, titles, hidden_edge))


def clean(value: object, max_chars: int) -> str | None:
    """A field as plain, clipped text; runs of unprintables become one space. None if empty."""
    if value is None:
        return None
    # clipped first, so that a field of megabytes costs no more than a long one
    text = _UNPRINTABLE.sub(" ", str(value)[: 4 * max_chars]).strip()
    return text[:max_chars].rstrip() or None


def _render(
    frame: pl.DataFrame, template: str | None, key: str, max_chars: int
) -> list[str | None]:
    if template is None:
        return [None] * frame.height
    parsed = Template.parse(template)
    rows = _rows(frame, parsed.fields, key, max_chars)
    return [text[:max_chars] if (text := parsed.render(row)) else None for row in rows]


def _rows(
    frame: pl.DataFrame, fields: list[str], key: str, max_chars: int
) -> Iterator[dict[str, str | None]]:
    for field in fields:
        if field not in frame.columns:
            known = ", ".join(frame.columns)
            raise TextError(
                f"text.{key}: no field {field!r} in the file, which has {known}: name one of these"
            )
    columns = [
        [clean(value, max_chars) for value in frame.get_column(field).to_list()] for field in fields
    ]
    for values in zip(*columns, strict=True):
        yield dict(zip(fields, values, strict=True))


def _user_texts(
    graph: "Graph", settings: TextSettings, titles: list[str | None], hidden_edge: BoolArray | None
) -> list[str | None]:
    max_chars = settings.user_max_tokens * CHARS_PER_TOKEN
    template = Template.parse(settings.user_template)
    fields = [field for field in template.fields if field != ITEMS]
    if fields:
        rows = _rows(graph.users_frame(), fields, "user_template", max_chars)
    else:
        rows = iter({} for _ in range(graph.num_users))
    liked = _newest_titles(graph, settings.max_user_items, max_chars, titles, hidden_edge)
    texts = []
    for row, items in zip(rows, liked, strict=True):
        text = template.render({**row, ITEMS: items})
        texts.append(text[:max_chars] if text else None)
    return texts


def _newest_titles(
    graph: "Graph",
    max_items: int,
    max_chars: int,
    titles: list[str | None],
    hidden_edge: BoolArray | None,
) -> Iterator[str | None]:
    """For each user, joined titles of the newest training items; None if there are none."""
    has_title = np.array([title is not None for title in titles], dtype=bool)
    for first in range(0, graph.num_users, BLOCK_USERS):
        last = min(first + BLOCK_USERS, graph.num_users)
        user_e, item_e = _newest_edges(graph, first, last, has_title, hidden_edge)
        bounds = np.searchsorted(user_e, np.arange(last - first + 1)).tolist()
        items = item_e.tolist()
        for user in range(last - first):
            chosen = items[bounds[user] : min(bounds[user + 1], bounds[user] + max_items)]
            yield "; ".join(str(titles[item]) for item in chosen)[:max_chars] or None


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
