"""LoRA adapters: target layers, initial values, and their directory (safetensors, manifest)."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from recmind_dist.errors import TextError
from recmind_dist.storage import (
    atomic_directory,
    content_key,
    read_manifest,
    verify_manifest,
    write_bytes,
    write_manifest,
)
from recmind_dist.text.settings import LoraSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

KIND = "adapter"
SCHEMA = 2  # 1 had names of layers and an alpha of its own
TENSORS = "adapter.safetensors"
ENCODER_NAMES = ("query", "key", "value", "dense")  # of BERT and its kin


def attach_lora(backbone: Any, lora: LoraSettings, seed: int) -> Any:
    """Adds adapters to a backbone. B starts at zero, A is a function of (seed, name, row).

    Raises:
        TextError: the model has no linear layer.
    """
    from peft import LoraConfig, get_peft_model

    from recmind_dist.randomness import stream_key

    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=0.0,
        target_modules=_pattern(target_names(backbone, lora)),
        bias="none",
    )
    model = get_peft_model(backbone, config)
    for name, parameter in lora_parameters(model).items():
        if "lora_A" in name:
            _init_a(parameter, stream_key(seed, name))
    return model


def target_names(backbone: "nn.Module", lora: LoraSettings) -> list[str]:
    """Full names of the linear layers to adapt. Raises TextError if there are none."""
    from torch import nn

    names = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    if any(name.endswith(".query") for name in names):
        names = [name for name in names if name.rpartition(".")[2] in ENCODER_NAMES]
    if lora.last_layers is not None:
        layers = sorted({layer for name in names if (layer := _layer(name)) is not None})
        names = [name for name in names if _layer(name) in layers[-lora.last_layers :]]
    if not names:
        raise TextError("text.lora: the model has no linear layer to adapt: leave text.lora out")
    return names


def lora_parameters(backbone: "nn.Module") -> "dict[str, nn.Parameter]":
    """The adapters' parameters by name; empty without adapters."""
    return {name: parameter for name, parameter in backbone.named_parameters() if ".lora_" in name}


def save_adapter(directory: Path, state: "dict[str, Tensor]", lora: LoraSettings) -> str:
    """Writes adapters and their settings as a directory, atomically. Returns their hash."""
    from safetensors.torch import save

    with atomic_directory(directory) as temporary:
        tensors = {name: tensor.contiguous() for name, tensor in state.items()}
        write_bytes(temporary / TENSORS, save(tensors))
        manifest = write_manifest(temporary, KIND, SCHEMA, {"lora": lora.model_dump()})
    return _hash_of(manifest)


def load_adapter(directory: Path) -> "tuple[LoraSettings, dict[str, Tensor]]":
    """Settings and tensors of `save_adapter`, verified. Raises TextError if absent or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    manifest, lora = _read_manifest(directory)
    verify_manifest(directory, manifest, TextError)
    try:
        return lora, load_file(directory / TENSORS)
    except (OSError, SafetensorError) as error:
        raise TextError(
            f"{directory / TENSORS}: not a safetensors file: the adapter is damaged"
        ) from error


def adapter_hash(directory: Path) -> str:
    """Hash of what the adapter computes: part of the key of every vector made with it."""
    return _hash_of(_read_manifest(directory)[0])


def _read_manifest(directory: Path) -> tuple[dict[str, Any], LoraSettings]:
    manifest = read_manifest(directory, KIND, SCHEMA, TextError)
    try:
        lora = LoraSettings.model_validate(manifest["lora"])
        _hash_of(manifest)
    except (ValidationError, LookupError, TypeError, ValueError) as error:
        raise TextError(
            f"{directory}: its manifest describes no adapter of ours: the adapter is damaged"
        ) from error
    return manifest, lora


def _hash_of(manifest: dict[str, Any]) -> str:
    # learning rate and batch do not change what a trained adapter does
    shape = {key: manifest["lora"][key] for key in ("r", "last_layers")}
    return content_key([manifest["files"][TENSORS]["sha256"], shape])


def _pattern(names: list[str]) -> str:
    # peft's layers_to_transform does not find the layers of a bare AutoModel
    return "(" + "|".join(re.escape(name) for name in names) + ")"


def _layer(name: str) -> int | None:
    found = re.search(r"\.(\d+)\.", name)
    return int(found.group(1)) if found else None


def _init_a(parameter: "nn.Parameter", key: int) -> None:
    """Peft's variance, 1 / (3 · fan-in), but the same values on every rank."""
    import torch

    from recmind_dist.randomness import normals  # imports numba, which takes seconds

    rows, fan_in = parameter.shape
    values = normals(key, np.arange(rows), fan_in) / np.sqrt(3.0 * fan_in)
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(values.astype(np.float32)))
