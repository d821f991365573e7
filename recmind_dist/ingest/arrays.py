"""JSON: a file that is one array of objects, element by element; values that MongoDB wraps."""

import codecs
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recmind_dist.errors import DataError
from recmind_dist.ingest.rows import BOM, BadRow
from recmind_dist.ingest.sources import MAX_LINE, beginnings, open_utf8

BLOCK = 1 << 20  # bytes read at a time
BLANK = " \t\r\n"
WRAPPERS = {"$oid", "$date", "$numberInt", "$numberLong", "$numberDouble", "$numberDecimal"}


def _object(pairs: list[tuple[str, Any]]) -> Any:
    """An object, or the value that MongoDB's exports wrap: `{"$oid": "5f…"}`, `{"$date": …}`.

    Raises:
        JSONDecodeError: a key stands twice.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise json.JSONDecodeError(f"key {key!r} stands twice", "", 0)
    if len(value) == 1 and (key := next(iter(value))) in WRAPPERS:
        return value[key]
    return value


_decoder = json.JSONDecoder(object_pairs_hook=_object)
loads = _decoder.decode
"""Of a text in JSON."""


def is_array(path: Path, encoding: str = "utf-8") -> bool:
    """Whether a file begins as an array of objects, `[{`, blanks aside: whole arrays on a line,
    `[1, 2]`, do not.
    """
    with open_utf8(path, encoding) as file:
        head = file.read(1 << 12).removeprefix(BOM).lstrip()
    return head.startswith(b"[") and head[1:].lstrip()[:1] == b"{" and not _is_a_line(head)


def _is_a_line(head: bytes) -> bool:
    """Whether the first line is a whole array, and another line follows."""
    line, end, rest = head.partition(b"\n")
    return bool(end) and line.rstrip().endswith(b"]") and bool(rest.strip())


def array_objects(path: Path, encoding: str) -> Iterator[tuple[int, dict[str, Any] | BadRow]]:
    """Each element, counted from 1.

    Raises:
        DataError: the array is broken, or something follows it.
    """
    with open_utf8(path, encoding) as file:
        for number, value in enumerate(_Elements(path, _decoded(path, file)), 1):
            if isinstance(value, dict):
                yield number, value
            else:
                yield number, BadRow(path, number, "not a JSON object", json.dumps(value)[:200])


class _Elements:
    """The elements of an array whose text comes in pieces."""

    def __init__(self, path: Path, pieces: Iterator[str]) -> None:
        self._path, self._pieces = path, pieces
        self._text, self._at = "", 0
        self._count = 0

    def __iter__(self) -> Iterator[Any]:
        self._take("[")
        while not (self._count == 0 and self._take("]")):
            try:
                value = self._value()
                self._count += 1
                yield value
                if not self._take(","):
                    break
            except (json.JSONDecodeError, RecursionError) as error:
                if beginnings() is not None:  # where the rest of the file is not read
                    return
                raise self._broken(error) from error
        if beginnings() is not None:
            return
        if self._count and not self._take("]"):
            raise self._broken(json.JSONDecodeError("no comma or ]", self._text, self._at))
        if self._letter():
            raise DataError(f"{self._path}: something follows the array's end: take it off")

    def _value(self) -> Any:
        """The next element. Raises JSONDecodeError."""
        while self._letter():
            try:
                value, end = _decoder.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._more():  # 1 may be the beginning of 12
                    self._at = end
                    return value
            except (json.JSONDecodeError, RecursionError):
                if len(self._text) - self._at > MAX_LINE or not self._more():
                    raise
        raise json.JSONDecodeError("the array does not end", self._text, self._at)

    def _take(self, letter: str) -> bool:
        """Whether the next letter is this one, which is then behind."""
        found = self._letter() == letter
        self._at += found
        return found

    def _letter(self) -> str:
        """The next letter that is not blank; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in BLANK:
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def _more(self) -> bool:
        """Takes another piece of text; False at the end."""
        piece = next(self._pieces, None)
        self._text, self._at = self._text[self._at :] + (piece or ""), 0
        return piece is not None

    def _broken(self, error: Exception) -> DataError:
        where = f"after element {self._count}" if self._count else "at its first element"
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
        return DataError(
            f"{self._path}: the JSON array is broken {where} ({reason}): fetch the file again"
        )


def _decoded(path: Path, file: Any) -> Iterator[str]:
    """The file's text, block by block."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        while block := file.read(BLOCK):
            yield decoder.decode(block)
        yield decoder.decode(b"", True)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 ({error.reason}): set encoding beside its path (latin-1, cp1252 …)"
        ) from error
