"""Texts to vectors: templates, language model, LoRA, actor pool, Zarr store, whitening."""

from typing import TYPE_CHECKING

from recmind_dist.lazy import lazy_exports
from recmind_dist.text.adapter import adapter_hash, load_adapter, save_adapter
from recmind_dist.text.plan import make_store, plan_shards, store_path
from recmind_dist.text.pool import EmbedReport, embed_texts
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

# needs torch, which planning and reading texts do not
__getattr__ = lazy_exports(__name__, {"TextEncoder": "encoder"})
