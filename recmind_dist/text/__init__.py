"""Texts to vectors: templates, the language model, LoRA, the actor pool, the Zarr store, whitening."""

from typing import TYPE_CHECKING

from recmind_dist.lazy import lazy_exports
from recmind_dist.text.adapter import adapter_hash, load_adapter, save_adapter
from recmind_dist.text.pool import EmbedReport, embed_texts, make_store, plan_shards, store_path
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
    "make_store",
    "plan_shards",
    "save_adapter",
    "store_path",
]

__getattr__ = lazy_exports(
    __name__, {"TextEncoder": "encoder"}
)  # needs torch; planning and reading texts do not
