"""Tokenising ahead, packing and padding: each text once, in its place, whatever runs beside it."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoConfig, AutoModel

from benchmarks.extract import make_texts
from benchmarks.gpu_extract import measure
from benchmarks.measure import Report
from recmind_dist.errors import TextError
from recmind_dist.text import LoraSettings, TextEncoder, Texts, TextSettings, TextStore
from recmind_dist.text import tokens as tokens_module
from recmind_dist.text.attention import BIDIRECTIONAL, CAUSAL, is_causal, whole_mask
from recmind_dist.text.batch_size import (
    CPU_BATCH_TOKENS,
    GPU_BATCH_TOKENS,
    bytes_per_token,
    gpu_batch_tokens,
)
from recmind_dist.text.embed_actor import EmbedActor
from recmind_dist.text.plan import ShardJob
from recmind_dist.text.tokens import SortedWindow, TextTokenizer, Tokens, window_sizes
from tests.tiny_language_model import make_bert, make_llama

WORDS = ["king", "queen", "space", "war", "love", "story", "night", "day"]
TEXTS = [
    "",
    " ",
    "king " * 400,
    *(" ".join(WORDS[i % 8] for i in range(start, start + start * 7 % 11)) for start in range(40)),
]
PAD = 99


@pytest.fixture(scope="module", params=[make_bert, make_llama], ids=["bert", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(request.param(tmp_path_factory.mktemp("model")))


def tokens_of(lengths: list[int]) -> Tokens:
    """Text i has the ids i, i, …"""
    length = np.array(lengths, dtype=np.int64)
    return Tokens(np.repeat(np.arange(len(lengths), dtype=np.int32), length), length)


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 100))
def test_batches_hold_every_text_once(lengths: list[int], batch_tokens: int) -> None:
    window = SortedWindow(tokens_of(lengths), PAD, torch.device("cpu"))
    seen: list[int] = []
    for part in window.slices(lambda: batch_tokens):
        batch = window.batch(part)
        assert batch["input_ids"].numel() <= batch_tokens or len(batch["input_ids"]) == 1
        for row, ids, mask in zip(window.rows[part], *batch.values(), strict=True):
            length = lengths[int(row)]
            assert mask.tolist() == [1] * length + [0] * (len(mask) - length)
            assert ids.tolist() == [int(row)] * length + [PAD] * (len(mask) - length)
            seen.append(int(row))
    assert sorted(seen) == list(range(len(lengths)))


def test_batches_after_one_that_did_not_fit_are_smaller() -> None:
    window = SortedWindow(tokens_of([4] * 12), PAD, torch.device("cpu"))
    budgets = iter([16, 8, 8, 4])
    sizes = [part.stop - part.start for part in window.slices(lambda: next(budgets, 4))]
    assert sizes == [4, 2, 2, 1, 1, 1, 1]


@given(st.integers(0, 1000), st.integers(1, 50), st.integers(50, 200))
def test_windows_grow_and_hold_every_text(num_texts: int, first: int, most: int) -> None:
    sizes = window_sizes(num_texts, first, most)
    assert sum(sizes) == num_texts
    assert all(0 < size <= most for size in sizes)
    assert sizes[:1] == ([min(first, num_texts)] if num_texts else [])
    assert all(later in (2 * size, most) for size, later in pairwise(sizes[:-1]))


@pytest.mark.parametrize("prompt", [None, 'a movie: "{text}" liked:'])
def test_threads_do_not_change_a_vector(
    model: Path, prompt: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_module, "CHUNK", 3)
    encoder = TextEncoder.load(TextSettings(model=str(model), dtype="fp32", prompt=prompt))
    encoder.batch_tokens = 64
    encoder.first_window, encoder.window = 4, 16
    expected = encoder.encode(TEXTS, 24)
    assert np.isfinite(expected).all()
    for threads in (1, 4):
        encoder.tokenizer_threads = threads
        np.testing.assert_array_equal(encoder.encode(TEXTS, 24), expected)
    assert encoder.encode([], 24).shape == (0, encoder.dim)
    one_by_one = np.concatenate([encoder.encode([text], 24) for text in TEXTS])
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)


def test_ids_are_those_of_transformers(model: Path) -> None:
    tokenizer = TextEncoder.load(TextSettings(model=str(model), dtype="fp32")).tokenizer
    ours = TextTokenizer(tokenizer, None)
    texts = [*TEXTS, "Kïng 日本 \u200b 12 war", "[PAD] king [SEP]"]
    for max_tokens in (4, 16, 64):
        theirs = tokenizer(texts, truncation=True, max_length=max_tokens)["input_ids"]
        found = ours(texts, max_tokens)
        expected = [row or [tokenizer.pad_token_id] for row in theirs]
        assert found.ids.tolist() == [token for row in expected for token in row]
        assert found.lengths.tolist() == [len(row) for row in expected]


def test_pieces_that_are_ready_out_of_order_come_in_order() -> None:
    last_is_done = threading.Event()

    def work(piece: list[str]) -> Tokens:
        if piece == ["3"]:
            last_is_done.set()
        assert last_is_done.wait(60)
        return tokens_of([1 + int(piece[0])])

    pieces = [[str(i)] for i in range(4)]
    found = list(tokens_module._map_ahead(work, pieces, num_threads=4, depth=4))
    assert [int(tokens.lengths[0]) for tokens in found] == [1, 2, 3, 4]


def test_threads_are_no_further_ahead_than_they_may() -> None:
    drawn: list[int] = []

    def pieces() -> Iterator[list[str]]:
        for i in range(100):
            drawn.append(i)
            yield [str(i)]

    results = tokens_module._map_ahead(lambda piece: tokens_of([1]), pieces(), 2, depth=5)
    for consumed in range(1, 10):
        next(results)
        assert len(drawn) == consumed + 5


def test_an_error_of_a_thread_reaches_the_caller(model: Path) -> None:
    encoder = TextEncoder.load(
        TextSettings(model=str(model), dtype="fp32", prompt='a movie: "{text}" liked:')
    )
    encoder.tokenizer_threads = 2
    with pytest.raises(TextError, match=r"text\.prompt leaves no room"):
        encoder.encode(TEXTS, 4)
    assert not [t for t in threading.enumerate() if t.name.startswith("tokenize")]


def tiny_backbone(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    names = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    names |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 50}
    if kind == "distilbert":
        names = {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2, "vocab_size": 50}
    config = AutoConfig.for_model(kind, **names)
    return AutoModel.from_config(config, attn_implementation="sdpa").eval()


@pytest.mark.parametrize("kind", [*BIDIRECTIONAL, *CAUSAL])
def test_a_whole_mask_gives_the_states_that_a_mask_of_padding_gives(kind: str) -> None:
    backbone = tiny_backbone(kind)
    causal = is_causal(backbone.config)
    assert causal is (kind in CAUSAL)
    ids = torch.randint(5, 50, (3, 12), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(12) < torch.tensor([[12], [5], [1]])
    with torch.no_grad():
        by_padding = backbone(ids, attention_mask=mask.long()).last_hidden_state
        by_whole = backbone(ids, attention_mask=whole_mask(mask.long(), causal)).last_hidden_state
        torch.testing.assert_close(by_whole[mask], by_padding[mask])
        other = backbone(ids, attention_mask=whole_mask(mask, not causal)).last_hidden_state
    assert (other[mask] - by_padding[mask]).abs().max() > 1e-3


def test_models_with_local_attention_keep_the_mask_of_padding() -> None:
    assert is_causal(AutoConfig.for_model("mistral", sliding_window=64)) is None
    assert is_causal(AutoConfig.for_model("llama", sliding_window=64)) is None
    assert is_causal(AutoConfig.for_model("modernbert")) is None
    assert is_causal(AutoConfig.for_model("bert", is_decoder=True)) is None


class Waits(TorchDispatchMode):
    """Counts operations that would make the host wait for a GPU."""

    NAMES = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.overloadpacket.__name__ in self.NAMES:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("lora", [False, True])
def test_on_a_gpu_no_batch_makes_the_host_wait(model: Path, lora: bool) -> None:
    encoder = TextEncoder.load(TextSettings(model=str(model), dtype="fp32"))
    if lora:
        encoder.add_lora(LoraSettings(r=2))
    expected = encoder.encode(TEXTS, 24)
    with Waits() as waits:
        encoder.encode(TEXTS, 24)
    assert waits.found  # transformers looks at the mask of padding
    encoder.use_gpu(free_bytes=1 << 34)
    assert encoder.batch_tokens == GPU_BATCH_TOKENS
    with Waits() as waits:
        found = encoder.encode(TEXTS, 24)
    assert not waits.found
    np.testing.assert_allclose(found, expected, atol=1e-5)
    batch = encoder.tokenize(TEXTS, 24)
    with Waits() as waits:
        encoder.forward_pooled(batch).sum().backward() if lora else None
    assert not waits.found


def test_batches_follow_the_memory_that_is_free() -> None:
    small = AutoConfig.for_model("bert", hidden_size=384, intermediate_size=1536)
    large = AutoConfig.for_model("llama", hidden_size=4096, intermediate_size=14336)
    small_bytes, large_bytes = (bytes_per_token(config, 2, 96) for config in (small, large))
    assert 15_000 < small_bytes < 25_000
    assert large_bytes > 8 * small_bytes
    assert bytes_per_token(small, 4, 96) > 1.5 * small_bytes
    assert gpu_batch_tokens(140 << 30, small_bytes) == GPU_BATCH_TOKENS
    assert gpu_batch_tokens(0, small_bytes) == CPU_BATCH_TOKENS
    chosen = gpu_batch_tokens(4 << 30, large_bytes)
    assert CPU_BATCH_TOKENS < chosen < GPU_BATCH_TOKENS
    assert chosen * large_bytes <= 2 << 30 < (chosen + 1) * large_bytes


def test_the_benchmark_of_a_gpu_says_what_it_found(tmp_path: Path) -> None:
    """On the CPU, with a tiny model: that it runs and names its figures, not how fast it is."""
    model = make_bert(tmp_path / "bert")
    report = Report("cuda-extract", quick=True)
    measure(report, make_texts(12), model, "cpu", max_tokens=16, rounds=1)
    result = report.publish(tmp_path)
    figures = result["figures"]
    assert figures["forward_share"] == pytest.approx(
        figures["texts_per_s"] / figures["forward_alone_per_s"], rel=1e-3
    )
    assert figures["min_cosine_bf16_fp32"] > 0.999
    assert {"vs_st", "waits_per_encode"} <= figures.keys()
    assert (figures["card"], figures["waits_per_encode"]) == ("none: on the CPU", None)


class OneAtATime:
    """An encoder that fails if two shards are with it at once."""

    def __init__(self) -> None:
        self.batch_tokens = 512
        self.busy = threading.Lock()
        self.calls = 0
        self.second_begins = threading.Event()

    def encode(self, texts: list[str], max_tokens: int) -> np.ndarray:
        assert self.busy.acquire(blocking=False)
        self.calls += 1
        if self.calls == 2:
            self.second_begins.set()
        vectors = np.full((len(texts), 4), float(self.calls), dtype=np.float32)
        self.busy.release()
        return vectors


def test_a_worker_encodes_a_shard_while_it_writes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = Texts([f"king {i}" for i in range(128)], [])
    store = TextStore.create(tmp_path / "store", {}, 4, {"items": 128, "users": 0})
    assert store.num_shards("items") == 2
    encoder = OneAtATime()
    write = TextStore.write_shard

    def slow_write(self: TextStore, *shard: object) -> None:
        assert encoder.second_begins.wait(60)
        write(self, *shard)  # type: ignore[arg-type]

    monkeypatch.setattr(TextStore, "write_shard", slow_write)
    actor = EmbedActor(TextSettings(), store.path, None, 1, "cpu")
    actor.encoder, actor.batch_tokens = encoder, 512
    jobs = [
        ShardJob("items", shard, texts.items[slice(*store.shard_range("items", shard))], "0", 64)
        for shard in range(2)
    ]
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(actor.embed, job) for job in jobs]:
            done.result()
    found = {float(TextStore.open(store.path).read_shard("items", shard)[0, 0]) for shard in (0, 1)}
    assert found == {1.0, 2.0}
