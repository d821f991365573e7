"""Templates like "{title} ({year}). {genres}", which drop an empty field with the words around it.

Literal text between two fields is split: closing brackets and the words up to the next punctuation
mark belong to the field on the left, the rest to the field on the right. Without a year the example
reads "Title. Genres", without a title "(1999). Genres".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter

_LEFT_PART = re.compile(r"(?:[\w\s]*[)\]}]|[\"”»'])*(?:[\w\s]*(?=[.,;:|/\n]))?")
_FIELD = re.compile(r"[^\W\d][\w -]*(\.[^\W\d_][\w -]*)*|\d+")
_SEPARATORS = " \t\n.,;:|/-–—"


def is_field_name(name: str) -> bool:
    """Whether a template can name this field: letters, digits, spaces, dashes, no digit first; dots
    before the keys of inner objects; or a number, of a file without names."""
    return _FIELD.fullmatch(name) is not None


@dataclass(frozen=True)
class _Part:
    before: str
    field: str
    after: str


@dataclass(frozen=True)
class Template:
    """A parsed template."""

    parts: tuple[_Part, ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Raises ValueError, with the reason, for fields that are not plain {names}."""
        try:
            pieces = list(Formatter().parse(text))
        except ValueError as error:
            raise ValueError(
                f"{text!r} is not a template ({error}): write fields as {{name}}"
            ) from error
        literals, fields = [""], []
        for literal, name, spec, conversion in pieces:
            literals[-1] += literal
            if name is None:
                continue
            if not is_field_name(name) or spec or conversion:
                raise ValueError(f"{text!r}: {{{name}}} is not a plain field name: write {{name}}")
            fields.append(name)
            literals.append("")
        return cls(tuple(_attach(literals, fields)))

    @property
    def fields(self) -> list[str]:
        """Names of the fields, in order."""
        return [part.field for part in self.parts]

    def render(self, values: Mapping[str, str | None]) -> str | None:
        """The text of one row; None if every field is empty."""
        out = ""
        for i, part in enumerate(self.parts):
            if not (value := values.get(part.field)):
                continue
            before = part.before if out or i == 0 else part.before.lstrip(_SEPARATORS)
            out += before + value + part.after
        return out.strip() or None


def _attach(literals: list[str], fields: list[str]) -> list[_Part]:
    """Splits literals between the fields beside them. There is one literal more than fields."""
    befores, afters = [literals[0]], []
    for literal in literals[1:-1]:
        left = match.end() if (match := _LEFT_PART.match(literal)) else 0
        afters.append(literal[:left])
        befores.append(literal[left:])
    afters.append(literals[-1])
    return [_Part(*part) for part in zip(befores, fields, afters, strict=False)]
