"""docs/config.md says what the settings classes say, each key once."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from recmind_dist.config import Settings
from recmind_dist.model.settings import MODELS
from recmind_dist.run_config.docs_page import config_page

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def keys_of(settings: type[Settings], prefix: str) -> Iterator[str]:
    for name, info in settings.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, Settings):
            yield from keys_of(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def row_of(key: str) -> str:
    [row] = [line for line in config_page().splitlines() if line.startswith(f"| `{key}` |")]
    return row


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == config_page(), (
        "run: python -m recmind_dist.run_config.docs_page > docs/config.md"
    )


def test_every_group_of_the_run_has_a_table() -> None:
    page = config_page()
    for group in (
        "dataset",
        "dataset.items, dataset.users",
        "graph",
        "text.lora",
        "sampler.negatives",
        "model",
        "model.gate",
        "model.contrast",
        "alignment",
        "zero",
        "scaling",
    ):
        assert f"\n## {group}\n" in page


def test_every_key_stands_once_and_groups_have_no_row() -> None:
    keys = re.findall(r"^\| `(.*?)` \|", config_page(), re.MULTILINE)
    assert len(set(keys)) == len(keys)
    assert not [key for key in keys if any(other.startswith(f"{key}.") for other in keys)]


@pytest.mark.parametrize("kind", MODELS)
def test_keys_of_every_kind_of_model_are_there_and_say_whose_they_are(kind: str) -> None:
    for key in keys_of(MODELS[kind], "model."):
        row = row_of(key)
        if owners := re.search(r"\| Only (.*?)(:| \|)", row):
            assert kind in re.split(r", | and ", owners[1]), row


def test_a_default_that_differs_by_kind_is_told_by_kind() -> None:
    assert "| `text`; lightgcn, alpharec, xsimgcl and mf: `normal` |" in row_of("model.init")
    assert "| Only paper" in row_of("model.gate.sides")
    assert "Only" not in row_of("model.gate.heldout_share")


def test_the_page_for_people_from_elsewhere_names_keys_that_are_there() -> None:
    text = (PAGE.parent / "coming_from.md").read_text()
    groups = "dataset|graph|evaluation|model|train|table|loss|sampler|scaling"
    named = set(re.findall(rf"`((?:{groups})\.[a-z_.]+)[`:]", text))
    assert len(named) > 15
    page = config_page()
    missing = [key for key in named if f"`{key}`" not in page and f"## {key}" not in page]
    assert missing == []
