"""The table of deleted keys: sorted, each entry gone from the settings, and told to whoever still
writes it.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from recmind_dist.errors import ConfigError
from recmind_dist.run_config.deleted_keys import DELETED_KEYS
from recmind_dist.run_config.load import load_run_config

QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


def refusals() -> Iterator[tuple[str, str]]:
    """Each entry's name with a word that still asks for it."""
    for name in DELETED_KEYS:
        key, colon, value = name.partition(": ")
        yield name, f"{key}={value if colon else 1}" if key != "compare" else f"compare=[{value}]"


def test_names_are_sorted_and_sentences_say_what_to_do() -> None:
    assert list(DELETED_KEYS) == sorted(DELETED_KEYS)
    for name, sentence in DELETED_KEYS.items():
        assert sentence, name
        assert not sentence.endswith("."), name


@pytest.mark.parametrize(("name", "word"), list(refusals()))
def test_a_config_that_asks_for_it_is_told_what_replaces_it(name: str, word: str) -> None:
    kind = "xsimgcl" if name.startswith("model.contrast.") else "recmind"
    with pytest.raises(ConfigError) as error:
        load_run_config(QUICKSTART, [f"model.kind={kind}", word])
    assert f"override {word!r}: {name} was removed: {DELETED_KEYS[name]}" in str(error.value)
