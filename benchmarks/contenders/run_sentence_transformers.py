# ruff: noqa: E402  (threads are confined before the libraries that start them are imported)
"""sentence-transformers with the same weights, in an environment of its own.

Words: threads, model, file of texts.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from protocol import Work, confine, serve

THREADS = int(sys.argv[1])
confine(THREADS)

import torch
from sentence_transformers import SentenceTransformer


def prepare() -> dict[str, Work]:
    torch.set_num_threads(THREADS)
    folder, source = sys.argv[2:4]
    given = json.loads(Path(source).read_text())
    texts, models = given["texts"], {}
    for name in ("fp32", "bf16"):
        model = SentenceTransformer(folder, device="cpu", local_files_only=True)
        model.max_seq_length = given["max_tokens"]
        models[name] = model.bfloat16() if name == "bf16" else model

    def encode(order: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        found = models[order["dtype"]].encode(texts, convert_to_tensor=True)  # numpy has no bf16
        return {"seconds": time.perf_counter() - start, "first": found[:8].float().tolist()}

    return {"encode": encode}


serve(prepare)
