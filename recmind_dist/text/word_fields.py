"""Which fields of a text file hold words, for a run that names no template."""

import polars as pl

from recmind_dist.text.template import Template, is_field_name

_LETTER = r"\p{L}"
_CODE = r"^(\S*\d\S*|\S*://\S*)$"  # one word with a digit, or an address


def word_fields(frame: pl.DataFrame) -> list[str]:
    """The fields of which more than half of the values hold words: no numbers, codes or links.
    A field whose name a template cannot hold is none of them.

    Args:
        frame: column id, then the fields, in the order of the file.
    """
    names = [name for name in frame.columns if name != "id" and is_field_name(name)]
    return [name for name in names if _holds_words(frame.get_column(name))]


def template_of(fields: list[str]) -> str | None:
    """ "{title}. {genres}" for the fields title and genres, None for none."""
    return ". ".join(f"{{{name}}}" for name in fields) or None


def share_with_text(frame: pl.DataFrame, template: str) -> tuple[float, int]:
    """The share of rows that have a text by this template, and how many distinct texts there are.

    Fields that the frame lacks count as empty.
    """
    fields = [name for name in Template.parse(template).fields if name in frame.columns]
    if not fields or not frame.height:
        return 0.0, 0
    filled = frame.select(fields).filter(pl.any_horizontal(pl.col(fields).is_not_null()))
    return filled.height / frame.height, filled.unique().height


def _holds_words(values: pl.Series) -> bool:
    filled = values.drop_nulls()
    words = filled.str.contains(_LETTER) & ~filled.str.contains(_CODE)
    return int(words.sum()) * 2 > len(filled)
