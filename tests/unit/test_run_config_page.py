"""docs/config.md says what the settings classes say."""

from pathlib import Path

from recmind_dist.run_config.docs_page import config_page

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == config_page(), (
        "run: python -m recmind_dist.run_config.docs_page > docs/config.md"
    )


def test_every_group_of_the_run_has_a_table() -> None:
    page = config_page()
    for group in (
        "dataset",
        "graph",
        "text.lora",
        "sampler.negatives",
        "model.gate",
        "alignment",
        "zero",
        "scaling",
    ):
        assert f"\n## {group}\n" in page
