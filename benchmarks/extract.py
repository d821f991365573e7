"""How fast do texts become vectors? Texts/s and useful FLOP/s of MiniLM.

    python benchmarks/extract.py --quick          # under 4 minutes
    python benchmarks/extract.py --device cuda    # under a minute, on one GPU

Compared with sentence-transformers on the same weights, and with the matrix products alone.
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import numpy as np
import torch
import typer

from benchmarks.contenders.process import ContenderProcess
from benchmarks.environments import SENTENCE_TRANSFORMERS
from benchmarks.gpu_extract import measure
from benchmarks.measure import RESULTS, ROOT, Report, interleave
from recmind_dist.errors import RecmindError
from recmind_dist.ingest.vocabulary import PLAIN, TRADES
from recmind_dist.text import TextEncoder, TextSettings
from recmind_dist.text.source import resolve_dtype

MAX_TOKENS = 64
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PEER_DTYPES = {"sentence-transformers, default": "fp32", "sentence-transformers, bf16": "bf16"}


def main(
    quick: bool = typer.Option(False, help="fewer texts and rounds, under 4 minutes"),
    threads: int = typer.Option(1, help="threads of torch, the same for all"),
    device: str = typer.Option("cpu", help="cpu or cuda"),
    model: Annotated[
        Path | None, typer.Option(help="a transformers directory; none: MiniLM, fetched if absent")
    ] = None,
    texts: Annotated[
        Path | None, typer.Option(help="a file with a text a line; none: synthetic texts")
    ] = None,
    output: Annotated[
        Path, typer.Option(help="folder for the JSON, not benchmarks/results")
    ] = RESULTS,
) -> None:
    """Encodes the same texts by the project's encoder and by sentence-transformers, in turn."""
    if device == "cuda":
        if not torch.cuda.is_available():
            raise typer.BadParameter("cuda: torch finds no GPU on this machine")
        _on_gpu(quick, model, texts, output)
    else:
        _on_cpu(quick, threads, model, texts, output)


def _on_gpu(quick: bool, model: Path | None, texts_file: Path | None, output: Path) -> None:
    report = Report("cuda-extract", quick)
    texts = _texts(texts_file, 1 << 14 if quick else 1 << 16)
    measure(report, texts, model or _fetch_minilm(), "cuda", MAX_TOKENS)
    report.publish(output)


def _on_cpu(
    quick: bool, threads: int, model: Path | None, texts_file: Path | None, output: Path
) -> None:
    torch.set_num_threads(threads)
    report = Report("extract", quick)
    texts = _texts(texts_file, 96 if quick else 1024)
    model = model or _fetch_minilm()
    settings = {dtype: TextSettings(model=str(model), dtype=dtype) for dtype in DTYPES}
    encoders = {dtype: TextEncoder.load(settings[dtype]) for dtype in DTYPES}
    auto = resolve_dtype(TextSettings(model=str(model)))
    flop = useful_flop(encoders[auto], texts)

    def ours(dtype: str) -> Callable[[], float]:
        return lambda: len(texts) / _seconds(lambda: encoders[dtype].encode(texts, MAX_TOKENS))

    contenders = {
        f"recmind {dtype}{' (auto)' if dtype == auto else ''}": ours(dtype) for dtype in DTYPES
    }
    mine = next(name for name in contenders if name.endswith("(auto)"))
    peer = _peer(report, threads, model, texts)
    if peer is not None:
        for name, dtype in PEER_DTYPES.items():
            contenders[name] = _peer_rate(peer, dtype, len(texts))
    limits = {f"matmul {name}": partial(matmul_rate, dtype) for name, dtype in DTYPES.items()}
    found = interleave({**contenders, **limits}, rounds=3 if quick else 7)
    for name in contenders:
        report.add(
            f"{len(texts)} texts",
            name,
            "texts/s",
            found[name],
            found[f"matmul {auto}"].median / flop,
        )
    for name in limits:
        report.add("2048 x 384 x 1536 and back", name, "FLOP/s", found[name])
    for figure, name in zip(("vs_st_default", "vs_st_bf16"), PEER_DTYPES, strict=True):
        report.figures[figure] = found[mine].over(found[name]).median if name in found else None
    report.figures["matmul_fraction"] = flop * found[mine].over(found[f"matmul {auto}"]).median
    report.figures["useful_gflop_per_s"] = flop * found[mine].median / 1e9
    report.figures["bf16_over_fp32_matmul"] = found["matmul bf16"].over(found["matmul fp32"]).median
    if auto == "fp32":
        report.note(
            "text.dtype auto chose fp32, since this processor has no bf16 instructions: bf16 is "
            "emulated there, so matmul_fraction is of the fp32 limit and vs_st_bf16 sets our fp32 "
            "against its bf16"
        )
    if peer is not None:
        _agree(report, encoders["fp32"], texts, peer)
        peer.close()
    report.publish(output)


def _texts(file: Path | None, count: int) -> list[str]:
    return make_texts(count) if file is None else file.read_text().splitlines()


def _fetch_minilm() -> Path:
    from recmind_dist.ingest import fetch

    return fetch("minilm", ROOT / "models")


def make_texts(count: int) -> list[str]:
    """Catalogue-like texts of 4 to 60 words, about 34 tokens on average; always the same ones."""
    rng = np.random.default_rng(0)
    words = sorted({word for words in (PLAIN, *TRADES.values()) for word in words})
    vocabulary = np.array(words)
    lengths = np.clip(rng.lognormal(3.1, 0.5, count), 4, 60).astype(int)
    return [" ".join(rng.choice(vocabulary, length)) for length in lengths]


def useful_flop(encoder: TextEncoder, texts: list[str]) -> float:
    """Mean FLOP of a text: linear layers and attention over its own tokens, without padding."""
    config = encoder.backbone.config
    width, layers, inner = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    tokens = encoder.tokenize(texts, MAX_TOKENS)["attention_mask"].sum(1).double()
    linear = 2 * layers * (4 * width * width + 2 * width * inner) * tokens
    attention = 2 * layers * 2 * width * tokens.square()
    return float((linear + attention).mean())


def matmul_rate(dtype: torch.dtype) -> float:
    """FLOP/s of the two products of a feed-forward layer over 2,048 rows, and nothing else."""
    x, up, down = (
        torch.randn(*shape).to(dtype) for shape in ((2048, 384), (384, 1536), (1536, 384))
    )
    times = 4 if dtype is torch.bfloat16 else 16
    (x @ up) @ down
    start = time.perf_counter()
    for _ in range(times):
        (x @ up) @ down
    return times * 4 * 2048 * 384 * 1536 / (time.perf_counter() - start)


def _peer(report: Report, threads: int, model: Path, texts: list[str]) -> ContenderProcess | None:
    try:
        python = SENTENCE_TRANSFORMERS.python()
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "texts.json"
            source.write_text(json.dumps({"texts": texts, "max_tokens": MAX_TOKENS}))
            return ContenderProcess(
                "run_sentence_transformers.py", threads, model, source, python=python
            )
    except RecmindError as error:
        report.note(f"vs_st_default and vs_st_bf16 are null: {error}")
        return None


def _peer_rate(peer: ContenderProcess, dtype: str, num_texts: int) -> Callable[[], float]:
    return lambda: num_texts / peer.ask("encode", dtype=dtype)["seconds"]


def _agree(report: Report, encoder: TextEncoder, texts: list[str], peer: ContenderProcess) -> None:
    theirs = np.array(peer.ask("encode", dtype="fp32")["first"])
    ours = encoder.encode(texts[: len(theirs)], MAX_TOKENS)
    cosine = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(theirs, axis=1)
    report.note(
        f"both give the same vectors: least cosine of {len(theirs)} texts {cosine.min():.6f}"
    )


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
