"""The encoder on real, tiny models: pooling, clipping, loading errors, LoRA."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from recmind_dist.errors import TextError
from recmind_dist.storage import sha256_file, write_manifest
from recmind_dist.text import (
    LoraSettings,
    TextEncoder,
    TextSettings,
    encoder_key,
    load_adapter,
    save_adapter,
)
from recmind_dist.text.adapter import lora_parameters, target_names
from recmind_dist.text.settings import hub_name
from recmind_dist.text.source import is_on_hub_alone, resolve_model
from tests.tiny_language_model import WIDTH, make_bert, make_llama

TEXTS = [
    "space war",
    "love story comedy drama night day king queen",
    "a",
    "thriller night 1 2 3",
    "space war",
]
PROMPT = 'a movie: "{text}" liked:'


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llama(tmp_path_factory.mktemp("llama"))


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_vectors_do_not_depend_on_the_batch(
    kind: str, pooling: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recmind_dist.text.encoder.WINDOW", 3)
    model = str(request.getfixturevalue(kind))
    encoder = TextEncoder.load(TextSettings(model=model, dtype="fp32", pooling=pooling))
    encoder.batch_tokens = 64
    together = encoder.encode(TEXTS, 16)
    one_by_one = np.concatenate([encoder.encode([text], 16) for text in TEXTS])
    assert together.shape == (5, WIDTH)
    assert encoder.dim == WIDTH
    np.testing.assert_allclose(together, one_by_one, atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1e-2


def test_mean_and_last_pooling_read_real_tokens_only(llama: Path) -> None:
    encoder = TextEncoder.load(TextSettings(model=str(llama), dtype="fp32"))
    batch = encoder.tokenize(["space war", "king"], 16)
    hidden = encoder.backbone(**batch).last_hidden_state
    pooled = encoder.forward_pooled(batch)
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    torch.testing.assert_close(pooled[0], hidden[0].mean(0))
    torch.testing.assert_close(pooled[1], hidden[1, 0])
    last = TextEncoder.load(TextSettings(model=str(llama), dtype="fp32", pooling="last"))
    torch.testing.assert_close(last.forward_pooled(batch)[1], hidden[1, 0])


def test_clipping_never_cuts_the_prompt(llama: Path) -> None:
    encoder = TextEncoder.load(
        TextSettings(model=str(llama), prompt=PROMPT, pooling="last", dtype="fp32")
    )
    ids = encoder.tokenize(["space war " * 1000, "king"], 16)["input_ids"]
    ends = encoder.tokenizer('" liked:')["input_ids"]
    assert ids.shape[1] <= 16
    assert ids[0, -len(ends) :].tolist() == ends
    with pytest.raises(TextError, match=r"text\.prompt leaves no room"):
        encoder.tokenize(["king"], 4)


def test_text_without_tokens_still_has_a_vector(llama: Path) -> None:
    encoder = TextEncoder.load(TextSettings(model=str(llama), dtype="fp32"))
    assert np.isfinite(encoder.encode([" ", "king"], 8)).all()


@pytest.mark.parametrize(
    "sentence",
    [
        "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory",
        "could not create a primitive",  # oneDNN, where the allocator still had room
    ],
)
def test_a_batch_that_does_not_fit_is_halved(
    bert: Path, monkeypatch: pytest.MonkeyPatch, sentence: str
) -> None:
    encoder = TextEncoder.load(TextSettings(model=str(bert), dtype="fp32"))
    expected = encoder.encode(TEXTS, 16)
    whole = encoder.forward_pooled

    def too_small(batch: dict[str, torch.Tensor], limit: int = 2) -> torch.Tensor:
        if len(batch["input_ids"]) > limit:
            raise RuntimeError(sentence)
        return whole(batch)

    monkeypatch.setattr(encoder, "forward_pooled", too_small)
    np.testing.assert_allclose(encoder.encode(TEXTS, 16), expected, atol=1e-5)
    monkeypatch.setattr(encoder, "forward_pooled", lambda batch: too_small(batch, limit=0))
    with pytest.raises(TextError, match="does not fit in memory"):
        encoder.encode(TEXTS, 16)


def test_models_that_cannot_be_used_are_refused_in_a_sentence(bert: Path, tmp_path: Path) -> None:
    with pytest.raises(TextError, match=r"no directory models/absent.*recmind fetch"):
        TextEncoder.load(TextSettings(model="models/absent"))
    good = sha256_file(bert / "model.safetensors")
    assert TextEncoder.load(TextSettings(model=str(bert), model_sha256=good)).dim == WIDTH
    with pytest.raises(TextError, match=r"text\.model_sha256: .* has sha256 " + good):
        TextEncoder.load(TextSettings(model=str(bert), model_sha256="0" * 64))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((bert / "config.json").read_text())
    (pickled / "tokenizer.json").write_text((bert / "tokenizer.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"cos\nsystem\n")
    with pytest.raises(TextError, match=r"has no model\.safetensors"):
        TextEncoder.load(TextSettings(model=str(pickled)))
    (pickled / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(TextError, match="cannot be loaded"):
        TextEncoder.load(TextSettings(model=str(pickled)))


def test_key_moves_with_everything_that_moves_vectors_and_nothing_else(
    bert: Path, tmp_path: Path
) -> None:
    settings = TextSettings(model=str(bert), dtype="fp32")
    base = encoder_key(settings)
    for change in ({"pooling": "last"}, {"dtype": "bf16"}, {"prompt": PROMPT}, {"max_tokens": 8}):
        assert encoder_key(settings.model_copy(update=change)) != base, change
    assert encoder_key(settings.model_copy(update={"num_actors": 2})) == base
    other = make_bert(tmp_path / "other", seed=1)
    assert encoder_key(settings.model_copy(update={"model": str(other)})) != base
    same = make_bert(tmp_path / "same")
    assert encoder_key(settings.model_copy(update={"model": str(same)})) == base


def contrastive_loss(encoder: TextEncoder, left: list[str], right: list[str]) -> torch.Tensor:
    a, b = (
        torch.nn.functional.normalize(encoder.forward_pooled(encoder.tokenize(side, 16)), dim=1)
        for side in (left, right)
    )
    return torch.nn.functional.cross_entropy(a @ b.T / 0.1, torch.arange(len(left)))


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_lora_learns_and_merges_into_equal_vectors(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    settings = TextSettings(model=str(request.getfixturevalue(kind)), dtype="fp32")
    lora = LoraSettings(r=4, learning_rate=1e-2)
    encoder = TextEncoder.load(settings)
    frozen = encoder.encode(TEXTS, 16)
    encoder.add_lora(lora)
    np.testing.assert_allclose(encoder.encode(TEXTS, 16), frozen, atol=1e-6)
    trainable = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert len(trainable) == len(lora_parameters(encoder.backbone)) > 0
    left = ["space", "love", "king", "night"]
    right = ["war thriller", "story comedy", "queen", "day"]
    optimizer = torch.optim.Adam(
        [p for p in encoder.parameters() if p.requires_grad], lr=lora.learning_rate
    )
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = contrastive_loss(encoder, left, right)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(p.grad is not None for p in encoder.parameters() if p.requires_grad)
    tuned = encoder.encode(TEXTS, 16)
    assert np.abs(tuned - frozen).max() > 1e-2

    digest = save_adapter(tmp_path / "adapter", encoder.lora_state(), lora)
    assert load_adapter(tmp_path / "adapter")[0] == lora
    assert save_adapter(tmp_path / "again", encoder.lora_state(), lora) == digest
    np.testing.assert_allclose(
        TextEncoder.load(settings, adapter=tmp_path / "adapter").encode(TEXTS, 16), tuned, atol=1e-4
    )
    encoder.merge_lora()
    assert not lora_parameters(encoder.backbone)
    np.testing.assert_allclose(encoder.encode(TEXTS, 16), tuned, atol=1e-4)
    assert encoder_key(settings, tmp_path / "adapter") != encoder_key(settings)


def test_adapters_start_alike_on_every_rank_and_last_layers_limits_them(bert: Path) -> None:
    settings = TextSettings(model=str(bert), dtype="fp32")
    states = []
    for torch_seed in (1, 2):
        torch.manual_seed(torch_seed)
        encoder = TextEncoder.load(settings)
        encoder.add_lora(LoraSettings(r=4), seed=7)
        states.append(encoder.lora_state())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    backbone = TextEncoder.load(settings).backbone
    names = target_names(backbone, LoraSettings())
    assert {name.rpartition(".")[2] for name in names} == {"query", "key", "value", "dense"}
    top = target_names(backbone, LoraSettings(last_layers=1))
    assert top == [name for name in names if ".1." in name]
    with pytest.raises(TextError, match=r"the model has no linear layer to adapt"):
        target_names(torch.nn.Embedding(3, 3), LoraSettings())


def test_damaged_or_foreign_adapters_are_refused(bert: Path, tmp_path: Path) -> None:
    encoder = TextEncoder.load(TextSettings(model=str(bert), dtype="fp32"))
    encoder.add_lora(LoraSettings(r=4))
    state = encoder.lora_state()
    with pytest.raises(TextError, match="does not fit the model"):
        encoder.load_lora_state({name: tensor[:2] for name, tensor in state.items()})
    save_adapter(tmp_path / "adapter", state, LoraSettings(r=4))
    file = tmp_path / "adapter" / "adapter.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(TextError, match=r"adapter\.safetensors: sha256 differs"):
        load_adapter(tmp_path / "adapter")


def test_an_adapter_of_another_version_is_refused(tmp_path: Path) -> None:
    """Version 1 had an alpha of its own, and names of layers."""
    save_adapter(tmp_path / "adapter", {"lora_A": torch.ones(4, 3)}, LoraSettings(r=4))
    write_manifest(tmp_path / "adapter", "adapter", 1, {"lora": {"r": 4, "alpha": 16.0}})
    with pytest.raises(TextError, match=r"schema version 1, this program reads 2"):
        load_adapter(tmp_path / "adapter")


def test_minilm_ranks_meaning() -> None:
    minilm = Path("models/minilm")
    if not (minilm / "model.safetensors").is_file():
        pytest.skip("models/minilm is absent: run `recmind fetch minilm` in the repository root")
    encoder = TextEncoder.load(TextSettings(model=str(minilm), dtype="fp32"))
    vectors = encoder.encode(
        ["Star Wars. Space, Action", "Alien. Science fiction", "Notting Hill. Romance"], 64
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2]
    assert encoder.dim == 384


def test_multi_file_weights_are_hashed_and_read(bert: Path, tmp_path: Path) -> None:
    for file in bert.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(bert / "model.safetensors")
    names = sorted(tensors)
    halves = {
        "model-00001-of-00002.safetensors": names[:9],
        "model-00002-of-00002.safetensors": names[9:],
    }
    for name, part in halves.items():
        save_file({key: tensors[key] for key in part}, tmp_path / name, metadata={"format": "pt"})
    index = {
        "metadata": {},
        "weight_map": {key: name for name, part in halves.items() for key in part},
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    split, whole = (TextSettings(model=str(path), dtype="fp32") for path in (tmp_path, bert))
    np.testing.assert_array_equal(
        TextEncoder.load(split).encode(TEXTS, 16), TextEncoder.load(whole).encode(TEXTS, 16)
    )
    assert len(encoder_key(split)) == 64


def test_a_hub_name_may_have_a_revision_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    commits = ["a" * 40, "b" * 40]
    for commit in commits:
        snapshot = tmp_path / "models--me--tiny" / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (snapshot / name).write_text("{}")
    for commit in commits:
        settings = TextSettings(model=f"me/tiny@{commit}")
        assert not is_on_hub_alone(settings)
        assert resolve_model(settings).name == commit
    for unknown in ("c" * 40, "refs/pr/1"):
        assert is_on_hub_alone(TextSettings(model=f"me/tiny@{unknown}"))
    assert hub_name("/models@home/tiny") == ("/models@home/tiny", None)
