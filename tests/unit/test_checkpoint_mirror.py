"""What a mirror brings back where the disk here, or the storage, is not as it was."""

import errno
from pathlib import Path

import pytest
import torch

from recmind_dist.checkpoint import CheckpointSettings, attempt_name, find_checkpoint
from recmind_dist.checkpoint.layout import DENSE, attempt_directories
from recmind_dist.checkpoint.mirror import CHECKPOINTS, Mirror
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.errors import CheckpointError
from recmind_dist.storage.remote import Remote
from recmind_dist.storage.tree import FILES


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of checkpoints 1 and 2, all of it on the storage too."""
    home = tmp_path / "run"
    mirror = Mirror(Remote(str(tmp_path / "storage")), home)
    with Checkpointer(home / "checkpoints", 0, 1, (0, 3), 3, CheckpointSettings(), mirror) as one:
        for step in (1, 2):
            one.save(
                attempt_name(step, "abcdefgh"), {"weight": torch.full((3, 2), float(step))}, {}, {}
            )
    return home


@pytest.mark.parametrize("damaged", [1, 2])
def test_a_damaged_checkpoint_here_does_not_keep_a_good_one_off(
    tmp_path: Path, run: Path, damaged: int
) -> None:
    for path in attempt_directories(run / "checkpoints")[-damaged:]:
        (path / DENSE).write_bytes(b"damaged")
    assert Mirror(Remote(str(tmp_path / "storage")), run).pull() == [attempt_name(2, "abcdefgh")]
    found = find_checkpoint(run / "checkpoints")
    assert found is not None
    assert found.step == 2


def test_a_storage_that_fails_on_the_way_is_a_sentence(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Remote, name: str, path: Path) -> None:
        raise OSError(errno.EIO, "network is gone\nand much more")

    monkeypatch.setattr(Remote, "download", fails)
    empty = tmp_path / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    with pytest.raises(
        CheckpointError, match=r"could not be brought here .*network is gone"
    ) as error:
        Mirror(Remote(str(tmp_path / "storage")), empty).pull()
    assert "\n" not in str(error.value)
    assert list((empty / "checkpoints").iterdir()) == []


def test_a_run_that_starts_over_leaves_nothing_of_the_old_one(tmp_path: Path, run: Path) -> None:
    (run / "config.yaml").write_text("old")
    remote = Remote(str(tmp_path / "storage"))
    mirror = Mirror(remote, run)
    mirror.sync()
    assert remote.names(FILES)
    remote.write(f"{CHECKPOINTS}/notes.txt", b"not ours")
    mirror.clear()
    assert remote.names(CHECKPOINTS) == {"notes.txt"}
    assert remote.names(FILES) == set()
    empty = tmp_path / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    assert Mirror(remote, empty).pull() == []
    mirror.sync()
    assert Mirror(remote, empty).pull() == [attempt_name(2, "abcdefgh")]
    assert (empty / "config.yaml").read_text() == "old"
