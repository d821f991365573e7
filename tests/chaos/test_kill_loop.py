"""The loop of kills, in small; 200 of them by `python -m tests.chaos.kill_loop`."""

from pathlib import Path

from tests.chaos.kill_loop import kill_loop


def test_row_01_four_kills_at_random_moments_leave_the_undisturbed_bytes(tmp_path: Path) -> None:
    account = kill_loop(tmp_path, kills=4, seed=1)
    assert account.kills == 4
    assert account.starts == 5
    assert account.from_zero == 0, account.resumed_at
    assert account.resumed_at[-1][1] > 0
