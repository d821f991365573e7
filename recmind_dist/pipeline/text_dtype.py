"""`text.dtype: auto`: decided once, where a run or its text store begins, then kept.

The dtype is part of the text store's key. If each machine decided anew, a run that moves from a
machine with a GPU to one without would be refused, or would embed all texts again.
"""

from pathlib import Path
from typing import Any

from recmind_dist.errors import RecmindError
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import read_json
from recmind_dist.text import Texts, encoder_key, store_path
from recmind_dist.text.source import resolve_dtype
from recmind_dist.text.store import META

DTYPES = ("bf16", "fp32")


def key_of_texts(config: RunConfig, texts: Texts) -> str:
    """A key of what decides the vectors before adapters: encoder settings and texts."""
    return texts.key_with(encoder_key(config.text))


def with_dtype(config: RunConfig, dtype: str) -> RunConfig:
    return config.model_copy(update={"text": config.text.model_copy(update={"dtype": dtype})})


def decide_dtype(
    config: RunConfig, texts: Texts, checkpoint: dict[str, Any] | None = None
) -> tuple[RunConfig, str | None]:
    """The config with a dtype, and a sentence if this machine would take another one.

    Args:
        config: with absolute paths
        checkpoint: `Checkpoint.info` of the run's newest one; None at the start of a run
    """
    if config.text.dtype != "auto":
        return config, None
    own = resolve_dtype(config.text)
    dtype = _dtype_of_run(config, texts, checkpoint) if checkpoint is not None else None
    if dtype is not None:
        why = f"with which this run was begun; this machine would take {own}"
    else:
        dtype, path = _dtype_of_store(config, texts, own)
        why = f"of the vectors in {path}; set text.dtype: {own} to embed all texts anew"
    sentence = f"text.dtype: auto takes {dtype}, {why}" if dtype != own else None
    return with_dtype(config, dtype), sentence


def _dtype_of_run(config: RunConfig, texts: Texts, checkpoint: dict[str, Any]) -> str | None:
    saved = checkpoint.get("config")
    text = saved.get("text") if isinstance(saved, dict) else None
    recorded = text.get("dtype") if isinstance(text, dict) else None
    if recorded in DTYPES:
        return str(recorded)
    # an older program left `auto` in the checkpoint: the key of the texts depends on the dtype
    identity = checkpoint.get("identity")
    key = identity.get("texts") if isinstance(identity, dict) else None
    matches = (dtype for dtype in DTYPES if key_of_texts(with_dtype(config, dtype), texts) == key)
    return next(matches, None)


def _dtype_of_store(config: RunConfig, texts: Texts, own: str) -> tuple[str, Path]:
    """`own`, unless the cache has vectors of the other dtype only."""
    other = next(dtype for dtype in DTYPES if dtype != own)
    cache = config.cache_dir / config.dataset.name
    settings = {dtype: config.text.model_copy(update={"dtype": dtype}) for dtype in DTYPES}
    paths = {dtype: store_path(texts, settings[dtype], cache) for dtype in DTYPES}
    only_other = not (paths[own] / META).is_file() and (paths[other] / META).is_file()
    dtype = other if only_other else own
    return dtype, paths[dtype]


def with_dtype_of_store(config: RunConfig, store: Path | None) -> RunConfig:
    """The config with the dtype of the run's text store, where an older program left `auto`."""
    if config.text.dtype != "auto" or store is None:
        return config
    try:
        encoder = read_json(store / META).get("encoder")
    except RecmindError:
        return config
    dtype = encoder.get("dtype") if isinstance(encoder, dict) else None
    return with_dtype(config, str(dtype)) if dtype in DTYPES else config


def same_config(recorded: RunConfig, config: RunConfig) -> bool:
    """Whether a run was made under this config; `auto` equals what was decided then."""
    if config.text.dtype == "auto":
        recorded = with_dtype(recorded, "auto")
    return recorded == config
