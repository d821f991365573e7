"""What text means to a run: the language model, the templates, the extraction pool, the adapters."""

from typing import Literal

from pydantic import Field, field_validator

from recmind_dist.config import Settings
from recmind_dist.text.template import Template

TEMPLATE_VERSION = 1
"""Raised whenever the same template would render another text, so that old vectors are not taken
for new ones.
"""


class LoraSettings(Settings):
    """Low-rank adapters trained in the warm-up phase. Source: arXiv:2106.09685."""

    r: int = Field(8, ge=1, le=1024)
    """Rank of the update."""
    target_modules: list[str] | Literal["auto"] = "auto"
    """Last names of the layers to adapt; auto: query, key, value, dense of encoders, every linear
    of decoders.
    """
    last_layers: int | None = Field(None, ge=1)
    """Adapt the last n transformer layers only (backward then stops there); all of them by default.
    """
    learning_rate: float = Field(1e-3, gt=0)
    texts_per_step: int = Field(64, ge=1)
    """Fresh texts that go through the language model in each warm-up step, over all ranks."""

    @property
    def alpha(self) -> float:
        """The update is scaled by alpha / r, which is always 2."""
        return 2.0 * self.r


class TextSettings(Settings):
    """The language model and what is fed to it."""

    model: str = "models/minilm"
    """A transformers directory (config.json, model.safetensors, tokenizer), or a hub name."""
    model_revision: str | None = None
    """Commit or tag on the hub; not used for a directory."""
    model_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """sha256 of model.safetensors; another file is refused."""
    item_template: str = "{title}"
    """Item text from the fields of the item file. An empty field goes together with the words
    around it.
    """
    user_template: str = "A person who liked: {items}"
    """User text; {items} stands for the titles of training items, newest first; user fields are
    allowed.
    """
    item_title: str = "{title}"
    """One item inside a user text."""
    prompt: str | None = None
    """Wrapped around every text, e.g. 'This product: "{text}" means in one word:'. Clipping never
    cuts it.
    """
    pooling: Literal["mean", "last"] = "mean"
    """mean over real tokens, or the last real token (decoders)."""
    max_tokens: int = Field(64, ge=4, le=32768)
    """Token budget of an item text, prompt and special tokens included."""
    user_max_tokens: int = Field(96, ge=4, le=32768)
    """Token budget of a user text."""
    max_user_items: int = Field(10, ge=0)
    """Titles in a user text at most."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the driver has CUDA or a CPU with bf16 instructions, else fp32; decided
    where a run or its vectors
    begin, and kept on every machine on which it goes on. Part of the vectors' key."""
    batch_tokens: int | None = Field(None, ge=64)
    """Padded tokens of one forward pass; none: 512 on a CPU, whose cache then holds a layer, 65,536
    on a GPU.
    """
    window: int = Field(4096, ge=1)
    """Texts sorted by length together; 4,096 leaves 2-4 % padding."""
    num_actors: int = Field(0, ge=0)
    """Extraction workers at most; 0: one per GPU of the cluster, or one per CPU where there is
    none. Never more than that.
    """
    lora: LoraSettings | None = None
    """Adapters for the warm-up phase; none: the language model stays as it is."""

    @field_validator("item_template", "item_title", "user_template")
    @classmethod
    def _well_formed(cls, value: str) -> str:
        if not Template.parse(value).fields:
            raise ValueError(f"{value!r} names no field: write one in braces, e.g. {{title}}")
        return value

    @field_validator("prompt")
    @classmethod
    def _wraps_text(cls, value: str | None) -> str | None:
        if value is not None and value.count("{text}") != 1:
            raise ValueError(f"{value!r} must hold {{text}} exactly once")
        return value
