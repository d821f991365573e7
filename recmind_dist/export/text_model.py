"""The language model of a bundle, and what says how texts become vectors there."""

import shutil
from pathlib import Path
from typing import Any

from recmind_dist.graph import Graph
from recmind_dist.recommend.bundle_text import TEXT_MODEL
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextSettings
from recmind_dist.text.source import resolve_dtype, resolve_model, sentence_files
from recmind_dist.text.word_fields import template_of, title_template, word_fields

_KEPT = ("user_template", "prompt", "pooling", "max_tokens", "user_max_tokens")


def write_text_model(settings: TextSettings, adapter: Path | None, directory: Path) -> None:
    """Saves model and tokenizer as a transformers directory, in the precision of the run's vectors.

    Args:
        adapter: merged into the weights; None: the model is as it came.
        directory: of the bundle.
    Raises:
        TextError: the model or the adapter cannot be loaded.
    """
    from recmind_dist.text import TextEncoder

    encoder = TextEncoder.load(settings, adapter=adapter)
    encoder.backbone.save_pretrained(directory / TEXT_MODEL)
    encoder.tokenizer.save_pretrained(directory / TEXT_MODEL)
    source = resolve_model(settings)
    for file in sentence_files(source):  # which settings left to `auto` follow
        (directory / TEXT_MODEL / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / file, directory / TEXT_MODEL / file)


def text_settings(config: RunConfig, graph: Graph) -> dict[str, Any] | None:
    """What the manifest says of texts; None where the model reads none."""
    if not config.model.reads_text:
        return None
    settings, fields = config.text, word_fields(graph.item_blocks())
    kept = settings.model_dump(include=set(_KEPT))
    return {
        "item_template": settings.item_template or template_of(fields),
        "item_title": title_template(settings.item_template, fields),
        **kept,
        "dtype": resolve_dtype(settings),
    }
