"""Texts to vectors: templates, the language model, LoRA, the actor pool, the Zarr store, whitening."""

from typing import TYPE_CHECKING, Any

from recmind_dist.text.adapter import adapter_hash, load_adapter, save_adapter
from recmind_dist.text.pool import EmbedReport, embed_texts, plan_shards, store_path
from recmind_dist.text.prompts import Texts, build_texts
from recmind_dist.text.settings import LoraSettings, TextSettings
from recmind_dist.text.source import encoder_key
from recmind_dist.text.store import TextStore
from recmind_dist.text.whitening import Whitening

if TYPE_CHECKING:
    from recmind_dist.text.encoder import TextEncoder

__all__ = [
    "EmbedReport",
    "LoraSettings",
    "TextEncoder",
    "TextSettings",
    "TextStore",
    "Texts",
    "Whitening",
    "adapter_hash",
    "build_texts",
    "embed_texts",
    "encoder_key",
    "load_adapter",
    "plan_shards",
    "save_adapter",
    "store_path",
]


def __getattr__(name: str) -> Any:
    # the encoder needs torch, whose import takes seconds that planning and reading texts need not spend
    if name == "TextEncoder":
        from recmind_dist.text.encoder import TextEncoder

        return TextEncoder
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
