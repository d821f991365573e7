"""Settings of the language model, the templates, the extraction pool and the adapters."""

from typing import Literal

from pydantic import Field, field_validator

from recmind_dist.config import Settings
from recmind_dist.text.template import Template

TEMPLATE_VERSION = 1
"""Part of the vectors' key; raised whenever a template renders another text than before."""


class LoraSettings(Settings):
    """Low-rank adapters trained in the warm-up phase, of query, key, value and dense of encoders
    and of every linear layer of other models. Source: arXiv:2106.09685."""

    r: int = Field(8, ge=1, le=1024)
    """Rank of the update."""
    last_layers: int | None = Field(None, ge=1)
    """Adapt only the last n transformer layers, where backward then ends; none: all layers."""
    learning_rate: float = Field(1e-3, gt=0)
    texts_per_step: int = Field(64, ge=1)
    """Texts that go through the language model in each warm-up step, over all ranks."""

    @property
    def alpha(self) -> float:
        """The update is scaled by alpha / r, which is always 2."""
        return 2.0 * self.r


def hub_name(model: str) -> tuple[str, str | None]:
    """Name and revision of `name@revision`; the revision is None where none is given. A path that
    begins with /, ~ or . is a name as it stands.
    """
    if model.startswith(("/", "~", ".")):
        return model, None
    name, _, revision = model.partition("@")
    return name, revision or None


class TextSettings(Settings):
    """The language model and its input."""

    model: str = "models/minilm"
    """A transformers directory (config.json, model.safetensors, tokenizer), or a hub name, with
    @ and a commit or tag behind it if need be."""
    model_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    """sha256 of model.safetensors; another file is refused."""
    item_template: str | None = None
    """Item text from fields of the item file, as "{title} ({year}). {genres}". An empty field is
    left out with the words around it. null: all fields that hold words. The item's title, in
    user texts and beside a recommendation, is its field title or name, else the text's first."""
    user_template: str = "A person who liked: {items}"
    """User text; {items}: titles of training items, newest first. May name user fields."""
    prompt: str | None = "auto"
    """Goes around every text and is never clipped: 'This product: "{text}" means in one word:';
    null: none; auto: what the model's own config_sentence_transformers.json puts before documents,
    or before any text by default."""
    pooling: Literal["auto", "mean", "cls", "last"] = "auto"
    """Mean over tokens, the first token, or the last one (decoders); auto: as the model's own
    1_Pooling/config.json of sentence-transformers says, else mean. Lengths stay as pooling makes
    them: whitening follows."""
    max_tokens: int = Field(64, ge=4, le=32768)
    """Token budget of an item text, prompt and special tokens included."""
    user_max_tokens: int = Field(96, ge=4, le=32768)
    """Token budget of a user text, which has at most a title for every nine of them."""
    dtype: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 if the driver has CUDA or a CPU with bf16 instructions, else fp32; decided when a
    run or its vectors begin, and kept on other machines. Part of the vectors' key."""
    num_actors: int = Field(0, ge=0)
    """Most extraction workers; 0: one a GPU of the cluster, or one a CPU if it has no GPU. Never
    more than that."""
    lora: LoraSettings | None = None
    """Adapters for the warm-up phase; none: the language model stays frozen."""

    @field_validator("item_template", "user_template")
    @classmethod
    def _well_formed(cls, value: str | None) -> str | None:
        if value is not None and not Template.parse(value).fields:
            raise ValueError(f"{value!r} names no field: write one in braces, e.g. {{title}}")
        return value

    @field_validator("prompt")
    @classmethod
    def _wraps_text(cls, value: str | None) -> str | None:
        if value not in (None, "auto") and str(value).count("{text}") != 1:
            raise ValueError(f"{value!r} must hold {{text}} exactly once")
        return value
