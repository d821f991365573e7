"""Users' texts are made anew by the number of new interactions or by days; times by their size."""

import polars as pl
import pytest

from recmind_dist.pipeline.texts import DAY_S, refreshed, seconds
from recmind_dist.run_config.update_settings import UpdateSettings

LATER = 10 * DAY_S


def ledger(**users: tuple[str | None, int, float]) -> pl.DataFrame:
    rows = [(name, *of_user) for name, of_user in users.items()]
    return pl.DataFrame(
        rows,
        {"id": pl.String, "text": pl.String, "events": pl.Int64, "time": pl.Float64},
        orient="row",
    )


BEFORE = ledger(few=("x", 5, 0), many=("x", 5, 0), same=("x", 5, 0), empty=(None, 0, 0))
NOW = ledger(
    new=("y", 1, LATER),
    few=("y", 7, LATER),
    many=("y", 8, LATER),
    same=("x", 6, LATER),
    empty=("y", 1, LATER),
)


def texts_by(**settings: float) -> dict[str, tuple[str, int, float]]:
    found = refreshed(BEFORE, NOW, UpdateSettings.model_validate(settings))
    return {name: (text, events, time) for name, text, events, time in found.iter_rows()}


def test_a_text_waits_for_enough_new_interactions() -> None:
    found = texts_by(refresh_after_events=3, refresh_every_days=30)
    assert found["few"] == ("x", 5, 0), "two new interactions, and what is counted from stays"
    assert found["many"] == ("y", 8, LATER)
    assert found["new"][0] == found["empty"][0] == "y", "who had no text gets one at once"
    assert found["same"] == ("x", 6, LATER)
    assert list(found) == NOW["id"].to_list()


def test_or_for_days() -> None:
    assert texts_by(refresh_after_events=100, refresh_every_days=9)["few"] == ("y", 7, LATER)
    assert texts_by(refresh_after_events=100, refresh_every_days=11)["few"] == ("x", 5, 0)
    assert texts_by(refresh_after_events=100, refresh_every_days=0)["few"] == ("y", 7, LATER)


def test_interactions_add_up_over_updates() -> None:
    settings = UpdateSettings(refresh_after_events=3)
    second = ledger(few=("z", 9, 2 * LATER))
    after = refreshed(refreshed(BEFORE, NOW, settings), second, settings)
    assert after.row(0) == ("few", "z", 9, 2 * LATER), "two and two are four"


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
def test_times_of_our_days_are_brought_to_seconds(unit: int) -> None:
    assert seconds(1_700_000_000.0 * unit) == pytest.approx(1_700_000_000.0)
    assert seconds(41.0) == 41.0
