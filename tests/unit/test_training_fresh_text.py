"""Fresh texts of the warm-up: chosen and tokenised ahead, put in their places without a wait."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from recmind_dist.text import LoraSettings, TextEncoder, Texts, TextSettings, Whitening
from recmind_dist.text.adapter import lora_parameters
from recmind_dist.training.fresh_text import FreshTextEncoder, FreshTextPicker
from tests.tiny_language_model import WIDTH, make_bert
from tests.unit.test_text_ahead import Waits

TEXTS = Texts(
    items=["space war", None, "love story", "night day"], users=[None, "king queen", "comedy"]
)
IDENTITY = Whitening(
    mean={side: np.full(WIDTH, 0.5, np.float32) for side in ("users", "items")},
    matrix={
        "users": np.eye(WIDTH, dtype=np.float32),
        "items": 2 * np.eye(WIDTH, dtype=np.float32),
    },
)


@pytest.fixture
def encoder(tmp_path: Path) -> TextEncoder:
    encoder = TextEncoder.load(TextSettings(model=str(make_bert(tmp_path)), dtype="fp32"))
    encoder.add_lora(LoraSettings(r=2))
    return encoder


def batch(users: list[int], items: list[int]) -> Any:
    """Pairs of a rank that has the whole global batch; items come after the users."""
    pairs = torch.tensor([users, [item + len(TEXTS.users) for item in items]])
    return SimpleNamespace(
        input_id=torch.arange(len(users)), global_batch_size=len(users), pairs=pairs
    )


def test_chosen_anchors_get_the_vectors_of_their_texts_and_nothing_waits(
    encoder: TextEncoder,
) -> None:
    fresh = FreshTextPicker(TEXTS, encoder, texts_per_step=64).pick(
        batch([0, 1, 2, 1], [0, 1, 2, 3]), stride=1
    )
    assert {side: rows.tolist() for side, rows in fresh.anchor.items()} == {
        "user": [1, 2, 3],  # user 0 and item 1 have no text
        "item": [0, 2, 3],
    }
    encoder.use_gpu(free_bytes=1 << 30)
    views = {f"{side}_text": torch.zeros(4, WIDTH) for side in ("user", "item")}
    model: Any = SimpleNamespace(text_view=SimpleNamespace(project=lambda z: z + 1))
    module = FreshTextEncoder(encoder, IDENTITY)
    with Waits() as waits:
        found = module.replace(views, fresh, model)
        sum(view.sum() for view in found.values()).backward()
    assert not waits.found
    vector = torch.from_numpy(encoder.encode(["king queen", "love story"], 64))
    torch.testing.assert_close(found["user_text"][3], (vector[0] - 0.5) + 1)
    torch.testing.assert_close(found["item_text"][2], 2 * (vector[1] - 0.5) + 1)
    assert not found["user_text"][0].any()
    assert not found["item_text"][1].any()
    assert all(p.grad is not None for p in lora_parameters(encoder.backbone).values())


def test_a_rank_without_fresh_texts_runs_one_blank_text(encoder: TextEncoder) -> None:
    fresh = FreshTextPicker(TEXTS, encoder, texts_per_step=64).pick(batch([0], [1]), stride=1)
    assert {side: len(rows) for side, rows in fresh.anchor.items()} == {"user": 0, "item": 0}
    assert len(fresh.tokens["input_ids"]) == 1
    views = {f"{side}_text": torch.zeros(1, WIDTH) for side in ("user", "item")}
    model: Any = SimpleNamespace(text_view=SimpleNamespace(project=lambda z: z))
    found = FreshTextEncoder(encoder, IDENTITY).replace(views, fresh, model)
    assert not found["item_text"].any()
    found["item_text"].sum().backward()
    assert all(p.grad is not None for p in lora_parameters(encoder.backbone).values())
