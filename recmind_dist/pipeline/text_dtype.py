"""`text.dtype: auto`: decided once, where a run or its store of vectors begins, and kept wherever
it goes on.

The element type is part of the key of the vectors. Decided anew by each machine, a run that moves
from one with a GPU to one without would be refused, or would embed all its texts again.
"""

from pathlib import Path
from typing import Any

from recmind_dist.errors import RecmindError
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import content_key, read_json
from recmind_dist.text import Texts, encoder_key, store_path
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.source import resolve_dtype
from recmind_dist.text.store import META

DTYPES = ("bf16", "fp32")


def key_of_texts(config: RunConfig, texts: Texts) -> str:
    """All that decides the vectors before adapters: model, tokenizer, prompt, pooling, dtype, and
    the texts.
    """
    return content_key([encoder_key(config.text), texts.items, texts.users])


def with_dtype(config: RunConfig, dtype: str) -> RunConfig:
    """The config with this element type instead of `auto`."""
    return config.model_copy(update={"text": config.text.model_copy(update={"dtype": dtype})})


def decide_dtype(
    config: RunConfig, texts: Texts, checkpoint: dict[str, Any] | None = None
) -> tuple[RunConfig, str | None]:
    """The config with an element type, and a sentence where it is not what this machine alone would
    take.

    Args:
        config: with absolute paths.
        checkpoint: `Checkpoint.info` of the run's newest one; None where the run begins.
    """
    if config.text.dtype != "auto":
        return config, None
    own = resolve_dtype(config.text)
    begun = _of_run(config, texts, checkpoint) if checkpoint is not None else None
    if begun is not None:
        why = f"with which this run was begun; this machine alone would take {own}"
    else:
        begun, path = _of_store(config.text, config.cache_dir / config.dataset.name, own)
        why = f"of the vectors in {path}; set text.dtype: {own} to embed all texts anew"
    return with_dtype(
        config, begun
    ), f"text.dtype: auto takes {begun}, {why}" if begun != own else None


def _of_run(config: RunConfig, texts: Texts, checkpoint: dict[str, Any]) -> str | None:
    saved = checkpoint.get("config")
    text = saved.get("text") if isinstance(saved, dict) else None
    recorded = text.get("dtype") if isinstance(text, dict) else None
    if recorded in DTYPES:
        return str(recorded)
    # an older program left `auto` in the checkpoint: the key of its texts tells
    identity = checkpoint.get("identity")
    key = identity.get("texts") if isinstance(identity, dict) else None
    return next(
        (dtype for dtype in DTYPES if key_of_texts(with_dtype(config, dtype), texts) == key), None
    )


def _of_store(settings: TextSettings, cache_dir: Path, own: str) -> tuple[str, Path]:
    """What this machine takes, unless the only vectors of the model are of the other kind."""
    paths = {
        dtype: store_path(settings.model_copy(update={"dtype": dtype}), cache_dir)
        for dtype in DTYPES
    }
    other = next(dtype for dtype in DTYPES if dtype != own)
    begun = other if not (paths[own] / META).is_file() and (paths[other] / META).is_file() else own
    return begun, paths[begun]


def with_dtype_of_store(config: RunConfig, store: Path | None) -> RunConfig:
    """The config with the element type of a store that a run was trained on, where an older program
    left `auto`.
    """
    if config.text.dtype != "auto" or store is None:
        return config
    try:
        encoder = read_json(store / META).get("encoder")
    except RecmindError:
        return config
    dtype = encoder.get("dtype") if isinstance(encoder, dict) else None
    return with_dtype(config, str(dtype)) if dtype in DTYPES else config


def same_config(recorded: RunConfig, config: RunConfig) -> bool:
    """Whether a run was made under just this config, `auto` being whatever was decided then."""
    if config.text.dtype == "auto":
        recorded = with_dtype(recorded, "auto")
    return recorded == config
