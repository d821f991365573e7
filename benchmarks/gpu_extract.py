"""Extraction on one GPU: texts/s from strings to vectors, and of the forward pass alone.

    python benchmarks/extract.py --device cuda    # under a minute

Needs neither Ray nor a network: `TextEncoder.encode`, which is what a worker of the pool runs on a
shard, runs in this process.
"""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from benchmarks.measure import Report, Spread, interleave
from recmind_dist.text import TextSettings
from recmind_dist.text.encoder import TextEncoder
from recmind_dist.text.source import resolve_prompt
from recmind_dist.text.tokens import TextTokenizer, Tokens, window_sizes
from recmind_dist.types import FloatArray

PEER_BATCHES = (128, 512, 2048)
BATCH_TOKENS = (16384, 32768, 65536, 131072)
SYNC = "called a synchronizing CUDA operation"


def measure(
    report: Report, texts: list[str], model: Path, device: str, max_tokens: int, rounds: int = 3
) -> None:
    """Adds rows and figures of all contenders to the report.

    Args:
        device: cuda, or cpu to rehearse.
    """
    encoders = {
        dtype: TextEncoder.load(TextSettings(model=str(model), dtype=dtype), device)
        for dtype in ("bf16", "fp32")
    }
    bf16 = encoders["bf16"]
    windows = list(_tokenize(bf16, texts, max_tokens, 4))
    sides: dict[str, Callable[[], float]] = {
        "bf16": partial(_rate, bf16, texts, max_tokens),
        "fp32": partial(_rate, encoders["fp32"], texts[: len(texts) // 4], max_tokens),
        "bf16, forward alone": partial(forward_rate, bf16, windows),
    }
    found = interleave(sides, rounds)
    for name, spread in found.items():
        report.add(f"{len(texts)} texts", f"recmind {name}", "texts/s", spread)
    _batch_sizes(report, bf16, windows)
    _tokenizing(report, bf16, texts, max_tokens)
    ours = found["bf16"].median
    alone = found["bf16, forward alone"].median
    report.figures |= {
        "texts_per_s": ours,
        "fp32_texts_per_s": found["fp32"].median,
        "forward_alone_per_s": alone,
        "forward_share": ours / alone,
        "vs_st": None,
        "batch_tokens": bf16.batch_tokens,
        "card": torch.cuda.get_device_name() if device == "cuda" else "none: on the CPU",
    }
    vectors = {name: encoder.encode(texts[:512], max_tokens) for name, encoder in encoders.items()}
    report.figures["min_cosine_bf16_fp32"] = _min_cosine(vectors["bf16"], vectors["fp32"])
    report.figures["waits_per_encode"] = _waits(bf16, texts[: bf16.window], max_tokens)
    _peer(report, texts[: 1 << 13], model, device, max_tokens, vectors["fp32"])
    report.note(
        "in one process, without Ray: TextEncoder.encode from strings to float32 vectors on the "
        "host; writing the store is left out"
    )


def forward_rate(encoder: TextEncoder, windows: list[Tokens]) -> float:
    """Texts/s of texts that are tokenised already; vectors stay on the device."""
    _finish(encoder)
    start = perf_counter()
    with torch.inference_mode():
        for window in windows:
            encoder.encode_window(window)
    _finish(encoder)
    return sum(len(window.lengths) for window in windows) / (perf_counter() - start)


def _rate(encoder: TextEncoder, texts: list[str], max_tokens: int) -> float:
    start = perf_counter()
    encoder.encode(texts, max_tokens)
    return len(texts) / (perf_counter() - start)


def _batch_sizes(report: Report, encoder: TextEncoder, windows: list[Tokens]) -> None:
    """Forward passes of other sizes, once each."""
    chosen = encoder.batch_tokens
    for batch_tokens in BATCH_TOKENS:
        encoder.batch_tokens = batch_tokens
        forward_rate(encoder, windows[:1])
        rate = forward_rate(encoder, windows)
        report.add(
            f"batches of {batch_tokens} tokens", "bf16, forward alone", "texts/s", _one(rate)
        )
    encoder.batch_tokens = chosen


def _tokenizing(report: Report, encoder: TextEncoder, texts: list[str], max_tokens: int) -> None:
    """Texts/s of tokenising alone, by threads."""
    for threads in (0, 1, 4, 16):
        part = texts if threads > 1 else texts[: len(texts) // 4]
        start = perf_counter()
        for _ in _tokenize(encoder, part, max_tokens, threads):
            pass
        rate = len(part) / (perf_counter() - start)
        report.add("tokenising alone", f"{threads} threads ahead", "texts/s", _one(rate))


def _waits(encoder: TextEncoder, texts: list[str], max_tokens: int) -> float | None:
    """How often the host waits for the GPU in one window, the last vectors not counted."""
    if encoder.device.type != "cuda":
        return None
    torch.set_warn_always(True)
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            encoder.encode(texts, max_tokens)
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.set_warn_always(False)
    return float(sum(SYNC in str(warning.message) for warning in caught))


def _peer(
    report: Report,
    texts: list[str],
    model: Path,
    device: str,
    max_tokens: int,
    expected_nT: FloatArray,
) -> None:
    """sentence-transformers on the same weights, at the best of its sizes and dtypes."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        report.note(f"vs_st is null: {error}")
        return
    best = 0.0
    for dtype in ("fp32", "bf16"):
        peer = SentenceTransformer(str(model), device=device, local_files_only=True)
        peer.max_seq_length = max_tokens
        if dtype == "bf16":
            peer = peer.bfloat16()
        encode = partial(peer.encode, convert_to_tensor=True, show_progress_bar=False)
        first_nT = encode(texts[: len(expected_nT)], batch_size=128).float().cpu().numpy()
        cosine = _min_cosine(first_nT, expected_nT[: len(first_nT)])
        report.note(f"sentence-transformers {dtype}: least cosine with recmind fp32 {cosine:.6f}")
        for size in PEER_BATCHES:
            start = perf_counter()
            encode(texts, batch_size=size).float().cpu()
            rate = len(texts) / (perf_counter() - start)
            best = max(best, rate)
            name = f"sentence-transformers {dtype}, batches of {size}"
            report.add(f"{len(texts)} texts", name, "texts/s", _one(rate))
    texts_per_s = report.figures["texts_per_s"]
    assert texts_per_s is not None
    report.figures |= {"st_texts_per_s": best, "vs_st": texts_per_s / best}


def _tokenize(
    encoder: TextEncoder, texts: list[str], max_tokens: int, threads: int
) -> Iterator[Tokens]:
    sizes = window_sizes(len(texts), encoder.first_window, encoder.window)
    tokenizer = TextTokenizer(encoder.tokenizer, resolve_prompt(encoder.settings))
    return tokenizer.windows(texts, max_tokens, sizes, threads)


def _min_cosine(a_nT: FloatArray, b_nT: FloatArray) -> float:
    lengths = np.linalg.norm(a_nT, axis=1) * np.linalg.norm(b_nT, axis=1)
    return float(((a_nT * b_nT).sum(1) / lengths).min())


def _finish(encoder: TextEncoder) -> None:
    if encoder.device.type == "cuda":
        torch.cuda.synchronize()


def _one(rate: float) -> Spread:
    return Spread((rate,))
