"""Ranks that choose a checkpoint together: each hashes its share, all take the same, damage found
by one is told to all.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from recmind_dist.checkpoint import CheckpointSettings, agreement, attempt_name, shards
from recmind_dist.checkpoint.agreement import agree_on_checkpoint, open_together, rank_slice
from recmind_dist.checkpoint.layout import COMMIT, DENSE, MANIFEST, rows_file
from recmind_dist.checkpoint.reader import Checkpoint, open_manifest
from recmind_dist.checkpoint.saver import Checkpointer
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import CheckpointError
from recmind_dist.storage import manifest
from tests.processes import run_ranks

NAMES = [attempt_name(step, "abcdefgh") for step in (1, 2)]
CASES = ("sound", "one", "both", "nothing")


def save_two(directory: Path, world_size: int = 3) -> None:
    settings = CheckpointSettings()
    savers = [
        Checkpointer(directory, r, world_size, (2 * r, 2 * r + 2), 2 * world_size, settings)
        for r in range(3)
    ]
    for name, score in zip(NAMES, (0.5, 0.25), strict=True):
        for saver in savers:
            lead = saver.rank == 0
            rows = {"weight": torch.full((2, 2), float(saver.rank))}
            saver.save(
                name,
                rows,
                {"gate": torch.ones(3)} if lead else None,
                {"score": score} if lead else None,
            )
        assert [saver.wait() for saver in savers] == [[name]] * world_size


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def all_choices(home: Path) -> dict[str, list[str]]:
    """By case, for each way to ask: the name that this rank was given, or the sentence with which
    it was refused.
    """
    context = DistContext.join_group(torch.device("cpu"))
    told: dict[str, list[str]] = {}
    for case in CASES:
        for which in ("last", "best", NAMES[1]):
            try:
                found = agree_on_checkpoint(home / case, which, context)
                told.setdefault(case, []).append(found.name if found else "none")
            except CheckpointError as error:
                told.setdefault(case, []).append(str(error))
    return told


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_every_file_has_one_rank_that_hashes_it(world_size: int) -> None:
    sizes = {f"rows-{rank}": 100 + rank for rank in range(8)} | {"dense": 5, "empty": 0}
    shares = [rank_slice(sizes, rank, world_size) for rank in range(world_size)]
    assert sorted(name for share in shares for name in share) == sorted(sizes)
    assert max(map(len, shares)) <= -(-len(sizes) // world_size)
    bytes_of = [sum(sizes[name] for name in share) for share in shares]
    assert max(bytes_of) - min(bytes_of) <= max(sizes.values())


def test_all_ranks_take_the_same_and_hear_of_damage_that_one_has_seen(tmp_path: Path) -> None:
    for case in CASES[:3]:
        save_two(tmp_path / case)
    (tmp_path / "nothing").mkdir()
    flip(tmp_path / "one" / NAMES[1] / rows_file(2))
    flip(tmp_path / "both" / NAMES[0] / MANIFEST)
    flip(tmp_path / "both" / NAMES[1] / DENSE)
    told, other = run_ranks(all_choices, 2, tmp_path)
    assert told == other
    assert told["sound"] == [NAMES[1], NAMES[0], NAMES[1]]
    assert told["one"][:2] == [NAMES[0], NAMES[0]]
    assert f"{rows_file(2)}: sha256 differs" in told["one"][2]
    assert f"{NAMES[0]}/{COMMIT}: does not match" in told["both"][0]
    assert f"{NAMES[1]}/{DENSE}: sha256 differs" in told["both"][2]
    assert told["nothing"][:2] == ["none", "none"]
    assert "not a checkpoint directory" in told["nothing"][2]


def all_opened(home: Path, bounds: list[int]) -> tuple[list[str], list[str]]:
    """Names of the files that this rank hashes, and opens as safetensors, while it finds and reads
    its rows of six.
    """
    context = DistContext.join_group(torch.device("cpu"))
    hashed, opened = list[str](), list[str]()
    sha256_file, safe_open = manifest.sha256_file, shards.safe_open

    def hashing(path: Path, *args: Any) -> str:
        hashed.append(path.name)
        return sha256_file(path, *args)

    def opening(path: Path, **options: Any) -> Any:
        opened.append(path.name)
        return safe_open(path, **options)

    with (
        mock.patch.object(manifest, "sha256_file", hashing),
        mock.patch.object(shards, "safe_open", opening),
    ):
        found = agree_on_checkpoint(home, "last", context, bounds)
        assert found is not None
        rows = found.rows(bounds[context.rank], bounds[context.rank + 1])["weight"]
        found.dense()
    assert rows.tolist() == [
        [row // 2] * 2 for row in range(bounds[context.rank], bounds[context.rank + 1])
    ]
    return hashed, opened


@pytest.mark.parametrize(
    ("bounds", "needed"),
    [
        ([0, 2, 4, 6], [[0], [1], [2]]),
        ([0, 3, 6], [[0, 1], [1, 2]]),
        ([0, 1, 2, 4, 6], [[0], [0], [1], [2]]),
    ],
)
def test_a_rank_opens_the_files_whose_rows_it_needs_once(
    tmp_path: Path, bounds: list[int], needed: list[list[int]]
) -> None:
    save_two(tmp_path)
    told = run_ranks(all_opened, len(bounds) - 1, tmp_path, bounds)
    for (hashed, opened), own in zip(told, needed, strict=True):
        assert opened == [*map(rows_file, own), DENSE]
        assert set(hashed) <= set(opened)
    assert sorted(name for hashed, _ in told for name in hashed) == sorted(
        [*map(rows_file, range(3)), DENSE]
    )


def all_open_the_first(home: Path) -> tuple[list[str], str]:
    """Names of the files that this rank hashes; the name of what it opened, or the refusal."""
    context, hashed = DistContext.join_group(torch.device("cpu")), list[str]()
    sha256_file = manifest.sha256_file

    def hashing(path: Path, *args: Any) -> str:
        hashed.append(path.name)
        return sha256_file(path, *args)

    with mock.patch.object(manifest, "sha256_file", hashing):
        try:
            return hashed, open_together(home / NAMES[0], context).name
        except CheckpointError as error:
            return hashed, str(error)


def test_an_update_hashes_its_start_in_shares(tmp_path: Path) -> None:
    save_two(tmp_path)
    told = run_ranks(all_open_the_first, 2, tmp_path)
    assert [len(hashed) for hashed, _ in told] == [2, 2]
    assert {name for hashed, _ in told for name in hashed} == {*map(rows_file, range(3)), DENSE}
    assert [opened for _, opened in told] == [NAMES[0]] * 2
    flip(tmp_path / NAMES[0] / rows_file(2))
    for _, refusal in run_ranks(all_open_the_first, 2, tmp_path):
        assert f"{rows_file(2)}: sha256 differs" in refusal


def test_one_rank_alone_needs_no_group(tmp_path: Path) -> None:
    save_two(tmp_path)
    flip(tmp_path / NAMES[1] / rows_file(0))
    found = agree_on_checkpoint(tmp_path, "last", DistContext.alone())
    assert found is not None
    assert found.name == NAMES[0]
    flip(tmp_path / NAMES[0] / rows_file(1))
    with pytest.raises(CheckpointError, match="none is good"):
        agree_on_checkpoint(tmp_path, "last", DistContext.alone())


def with_longer_list(path: Path) -> Checkpoint:
    """As rank 1 sees a checkpoint: with files that rank 0 has not seen."""
    checkpoint = open_manifest(path)
    [some, *_] = checkpoint.manifest.files.values()
    late = {f"late-{k}": some.model_copy(update={"bytes": 0}) for k in range(9)}
    files = checkpoint.manifest.files | late
    manifest = checkpoint.manifest.model_copy(update={"files": files})
    return replace(checkpoint, manifest=manifest)


def meetings(directory: Path) -> tuple[bool, int]:
    """Whether a checkpoint was found, and what ranks add up to that meet next."""
    context = DistContext.join_group(torch.device("cpu"))
    with pytest.MonkeyPatch.context() as patch:
        if context.rank == 1:
            patch.setattr(agreement, "open_manifest", with_longer_list)
            patch.setattr(agreement.Manifest, "verify_files", lambda *_: None)
        found = agree_on_checkpoint(directory, "last", context)
    return found is not None, context.sum_uint64(1)


def test_ranks_that_see_lists_of_other_lengths_meet_as_often(tmp_path: Path) -> None:
    save_two(tmp_path)
    assert run_ranks(meetings, 2, tmp_path) == [(True, 2), (True, 2)]
