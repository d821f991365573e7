"""States below the adapters are computed once: what begins there ends as what went through all."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recmind_dist.text import (
    LoraSettings,
    TextEncoder,
    Texts,
    TextSettings,
    TextStore,
    embed_texts,
    make_store,
    plan_shards,
    save_adapter,
    store_path,
)
from recmind_dist.text.adapter import lora_parameters
from recmind_dist.text.embed_actor import embed_shard
from recmind_dist.text.lower_states import LowerStates
from tests.tiny_language_model import make_bert, make_llama

ITEMS = ["space war", None, "love story comedy drama night day king queen", "a", "space war"]
TEXTS = Texts(items=ITEMS, users=[None, "a person who liked drama"])
LIMITS = {"items": 16, "users": 8}
LAST = LoraSettings(r=2, last_layers=1)
Kept = tuple[TextSettings, Path, LowerStates]


@pytest.fixture(params=[make_bert, make_llama], ids=["bert", "llama"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Kept:
    """A model of two layers, a cache, and the states above the first."""
    make: Callable[[Path], Path] = request.param
    limits = {"max_tokens": LIMITS["items"], "user_max_tokens": LIMITS["users"]}
    settings = TextSettings.model_validate(
        {"model": str(make(tmp_path / "model")), "dtype": "fp32", "lora": LAST, **limits}
    )
    encoder = TextEncoder.load(settings)
    encoder.batch_tokens = 20  # several batches
    assert LowerStates.record(tmp_path, encoder, TEXTS, LAST) is not None
    states = LowerStates.find(tmp_path, settings, TEXTS, LAST)
    assert states is not None
    return settings, tmp_path, states


def beginning(settings: TextSettings, states: LowerStates, broken: bool) -> TextEncoder:
    """An encoder that begins at kept states, and whose first layer is of no use, if so wished."""
    encoder = TextEncoder.load(settings)
    if broken:
        for name, parameter in encoder.backbone.named_parameters():
            if ".0." in f".{name}":
                nn.init.constant_(parameter, torch.nan)
    encoder.use_lower_states(states)
    return encoder


def test_vectors_are_those_of_the_whole_model(kept: Kept) -> None:
    settings, _, states = kept
    whole, begun = TextEncoder.load(settings), beginning(settings, states, broken=True)
    for column, limit in ((TEXTS.items, LIMITS["items"]), (TEXTS.users, LIMITS["users"])):
        texts = [text for text in column if text is not None]
        np.testing.assert_allclose(
            begun.encode(texts, limit), whole.encode(texts, limit), rtol=0, atol=1e-5
        )


def test_a_text_that_is_not_kept_goes_through_the_whole_model(kept: Kept) -> None:
    settings, _, states = kept
    texts = ["space war", "king of comedy"]
    whole = TextEncoder.load(settings).encode(texts, LIMITS["items"])
    begun = beginning(settings, states, broken=False).encode(texts, LIMITS["items"])
    np.testing.assert_array_equal(begun, whole)
    lost = beginning(settings, states, broken=True).encode(texts, LIMITS["items"])
    assert np.isnan(lost).all(), "kept states stood in for a text that they are not of"


def test_adapters_get_the_gradient_of_the_whole_model(kept: Kept) -> None:
    settings, _, states = kept
    gradients = []
    for encoder in (TextEncoder.load(settings), beginning(settings, states, broken=True)):
        encoder.add_lora(LAST, seed=1)
        groups = [(["a", "space war"], LIMITS["items"])]
        encoder.forward_pooled(encoder.tokenize_groups(groups)).square().sum().backward()
        found = {name: p.grad for name, p in lora_parameters(encoder.backbone).items()}
        gradients.append({name: grad for name, grad in found.items() if grad is not None})
    whole, begun = gradients
    assert any(grad.abs().max() > 0.01 for grad in whole.values())
    torch.testing.assert_close(begun, whole, rtol=1e-4, atol=1e-5)


def test_texts_are_embedded_through_adapters_without_ray(kept: Kept) -> None:
    settings, cache, _ = kept
    encoder = TextEncoder.load(settings)
    encoder.add_lora(LAST, seed=1)
    torch.manual_seed(0)
    state = {name: 0.3 * torch.randn_like(tensor) for name, tensor in encoder.lora_state().items()}
    save_adapter(adapter := cache / "adapter", state, LAST)
    elsewhere = store_path(TEXTS, settings, cache / "whole", adapter)
    whole = make_store(TEXTS, settings, elsewhere, adapter)
    for job in plan_shards(TEXTS, settings, elsewhere, adapter)[0]:
        embed_shard(TextEncoder.load(settings, adapter=adapter), whole, job)
    frozen, adapted = (embed_texts(TEXTS, settings, cache, made_by) for made_by in (None, adapter))
    assert frozen.embedded == adapted.embedded == TEXTS.count
    for side in LIMITS:
        found, plain = (TextStore.open(one.path).read_all(side) for one in (adapted, frozen))
        np.testing.assert_allclose(found, whole.read_all(side), rtol=0, atol=2e-3)  # of float16
        assert np.nanmax(np.abs(found - plain)) > 0.1, "the adapter is not in the vectors"


def test_states_do_not_serve_adapters_that_reach_below_them(kept: Kept) -> None:
    settings, cache, _ = kept
    assert LowerStates.find(cache, settings, TEXTS, None) is not None
    for lora in (LoraSettings(last_layers=2), LoraSettings()):
        assert LowerStates.find(cache, settings, TEXTS, lora) is None
    assert LowerStates.find(cache, settings, Texts(["other"], []), LAST) is None


def test_nothing_is_kept_where_a_model_cannot_be_begun_within(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TextSettings(model=str(make_bert(tmp_path / "model")), dtype="fp32")
    encoder = TextEncoder.load(settings)
    for last_layers in (None, 2):
        lora = LoraSettings(last_layers=last_layers)
        assert LowerStates.record(tmp_path, encoder, TEXTS, lora) is None
    monkeypatch.setattr("recmind_dist.text.lower_states.MAX_BYTES", 1000)
    assert LowerStates.record(tmp_path, encoder, TEXTS, LAST) is None
    monkeypatch.undo()
    monkeypatch.setattr(encoder.backbone.config, "model_type", "unknown")
    assert LowerStates.record(tmp_path, encoder, TEXTS, LAST) is None
    assert LowerStates.find(tmp_path, settings, TEXTS, LAST) is None
