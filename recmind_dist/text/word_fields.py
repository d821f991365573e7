"""Which fields of a text file hold words, for a run that names no template."""

from collections.abc import Iterable

import polars as pl

from recmind_dist.text.template import Template, is_field_name

_LETTER = r"\p{L}"
_CODE = r"^(\S*\d\S*|\S*://\S*)$"  # one word with a digit, or an address
_TITLES = ("title", "name")


def word_fields(blocks: Iterable[pl.DataFrame]) -> list[str]:
    """The fields of which more than half of the values hold words: no numbers, codes or links.
    A field whose name a template cannot hold is none of them.

    Args:
        blocks: column id, then the fields, in the order of the file.
    """
    excess: dict[str, int] = {}
    for block in blocks:
        for name in block.columns:
            if name != "id" and is_field_name(name):
                excess[name] = excess.get(name, 0) + _excess_of_words(block.get_column(name))
    return [name for name, more in excess.items() if more > 0]


def template_of(fields: list[str]) -> str | None:
    """ "{title}. {genres}" for the fields title and genres, None for none."""
    return ". ".join(f"{{{name}}}" for name in fields) or None


def title_template(item_template: str | None, fields: list[str]) -> str | None:
    """What an item is called in user texts and beside a recommendation: its field title or name,
    else the first of the item text.

    Args:
        fields: of the item file that hold words: the item text's, without a template.
    """
    named = Template.parse(item_template).fields if item_template else fields
    titles = [name for name in (*named, *fields) if name.rpartition(".")[2].lower() in _TITLES]
    return template_of((titles or named)[:1])


def share_with_text(blocks: Iterable[pl.DataFrame], template: str) -> tuple[float, int]:
    """The share of rows that have a text by this template, and how many distinct texts there are,
    told apart by 8 bytes each.

    Fields that the frame lacks count as empty.
    """
    fields = Template.parse(template).fields
    rows, hashes = 0, [pl.Series(dtype=pl.UInt64)]
    for block in blocks:
        known = [name for name in fields if name in block.columns]
        rows += block.height
        if known:
            filled = block.select(known).filter(pl.any_horizontal(pl.col(known).is_not_null()))
            hashes.append(filled.hash_rows())
    found = pl.concat(hashes)
    return len(found) / max(rows, 1), found.n_unique()


def _excess_of_words(values: pl.Series) -> int:
    """How many more values hold words than do not."""
    filled = values.drop_nulls()
    words = filled.str.contains(_LETTER) & ~filled.str.contains(_CODE)
    return int(words.sum()) * 2 - len(filled)
