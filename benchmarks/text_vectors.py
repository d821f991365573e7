"""Text vectors that several runs of a benchmark share: each text goes through the model once."""

from recmind_dist.launch.in_process import leave_ray
from recmind_dist.pipeline.embed import embed
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.pipeline.train import prepare_texts
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextStore
from recmind_dist.text.prompts import Texts
from recmind_dist.text.reuse import EmbeddedTexts, gather_vectors


def embedded_texts(config: RunConfig) -> EmbeddedTexts:
    """Vectors of all texts of a config, from its cache where they are there."""
    pipeline, texts = _texts_of(config)
    store = embed(pipeline.config, texts, None, print).path
    leave_ray()
    return EmbeddedTexts(texts, TextStore.open(store))


def gather(config: RunConfig, vectors: EmbeddedTexts) -> None:
    """Puts the vectors of a run's texts where it looks for them."""
    pipeline, texts = _texts_of(config)
    cache = config.cache_dir / config.dataset.name
    gather_vectors(texts, pipeline.config.text, cache, [vectors])


def silent(line: str) -> None:
    """Says nothing."""


def _texts_of(config: RunConfig) -> tuple[Pipeline, Texts]:
    """A prepared pipeline, and its texts."""
    pipeline = Pipeline(config, silent)
    texts = prepare_texts(pipeline.config, pipeline.prepare()).texts
    assert texts is not None, "a model without texts"
    return pipeline, texts
