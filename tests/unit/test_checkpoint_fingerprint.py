"""The fingerprint of a table: the same on any number of ranks, another when one bit, one row or one
name is.
"""

from itertools import pairwise

import pytest
import torch

from recmind_dist.checkpoint.fingerprint import fingerprint_rows, fingerprint_whole

ROWS = {
    "weight": torch.arange(70, dtype=torch.float32).reshape(10, 7) / 3,
    "half": torch.arange(30, dtype=torch.bfloat16).reshape(10, 3),
    "steps": torch.arange(10, dtype=torch.int32),
}
WHOLE = fingerprint_rows(ROWS, 0)


@pytest.mark.parametrize("cuts", [[0, 10], [0, 4, 10], [0, 3, 3, 7, 10]])
def test_shares_add_up_to_the_whole(cuts: list[int]) -> None:
    parts = [{name: t[a:b] for name, t in ROWS.items()} for a, b in pairwise(cuts)]
    assert (
        sum(fingerprint_rows(part, start) for part, start in zip(parts, cuts, strict=False))
        % (1 << 64)
        == WHOLE
    )


@pytest.mark.parametrize("name", list(ROWS))
def test_one_bit_makes_another(name: str) -> None:
    changed = {other: tensor.clone() for other, tensor in ROWS.items()}
    changed[name].view(torch.uint8).view(-1)[-1] ^= 1
    assert fingerprint_rows(changed, 0) != WHOLE


def test_rows_and_names_that_change_places_make_another() -> None:
    swapped = {name: tensor.clone() for name, tensor in ROWS.items()}
    swapped["weight"][[2, 5]] = ROWS["weight"][[5, 2]]
    assert fingerprint_rows(swapped, 0) != WHOLE
    assert fingerprint_rows(ROWS, 1) != WHOLE
    assert fingerprint_whole({"a": torch.ones(3), "b": torch.zeros(3)}) != fingerprint_whole(
        {"a": torch.zeros(3), "b": torch.ones(3)}
    )


def test_tensors_of_no_and_of_one_element() -> None:
    assert fingerprint_whole({"step": torch.tensor(3)}) != fingerprint_whole(
        {"step": torch.tensor(4)}
    )
    assert fingerprint_whole({"none": torch.zeros(0)}) == fingerprint_whole(
        {"none": torch.zeros(0)}
    )
    assert fingerprint_rows({"weight": torch.zeros(0, 4)}, 3) == 0
