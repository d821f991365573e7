"""Texts to vectors: brings a text store up to date, with Ray if there is something to embed."""

from pathlib import Path
from typing import Any

from recmind_dist.causes import telling_line
from recmind_dist.checkpoint.mirror import Mirror
from recmind_dist.errors import StoreError
from recmind_dist.pipeline.text_dtype import decide_dtype
from recmind_dist.report import Progress
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import EmbedReport, Texts, embed_texts, store_path
from recmind_dist.text.backbone import model_notes, steps_left_out
from recmind_dist.types import Say


def settle_dtype(
    config: RunConfig, texts: Texts, say: Say, checkpoint: dict[str, Any] | None = None
) -> RunConfig:
    """`decide_dtype`, and says so where this machine by itself would choose another dtype."""
    config, sentence = decide_dtype(config.absolute(), texts, checkpoint)
    if sentence is not None:
        say(sentence)
    return config


def embed(config: RunConfig, texts: Texts, adapter: Path | None, say: Say) -> EmbedReport:
    """Brings the text store up to date, with Ray actors if there is something to embed."""
    config = settle_dtype(config, texts, say)
    cache = config.cache_dir / config.dataset.name
    path = store_path(texts, config.text, cache, adapter)
    mirror = Mirror.of(config.storage_uri, config.run_dir)
    if mirror is not None and mirror.pull_store(path):
        say(f"{mirror.remote.uri}: brought the vectors of {path.name}")
    with _Extraction(config, say) as extraction:
        report = embed_texts(
            texts, config.text, cache, adapter, extraction.progress, extraction.start
        )
    if mirror is not None:
        push_vectors(mirror, report.path)
    for note in model_notes(config.text) if report.embedded else ():
        say(f"warning: text.model: {note}")
    for note in steps_left_out(config.text) if report.embedded and adapter is None else ():
        say(f"text.model: {note}")
    adapted = " with the adapter" if adapter else ""
    say(f"embedded {report.embedded} of {report.total} texts{adapted}")
    return report


class _Extraction:
    """Ray and a progress bar, started only when there is something to embed."""

    def __init__(self, config: RunConfig, say: Say) -> None:
        self._config, self._say = config, say
        self._bar: Progress | None = None

    def start(self, num_texts: int) -> None:
        from recmind_dist.launch.cluster import check_nodes, publish_requirements, start_ray
        from recmind_dist.launch.machine import shared_memory

        for line in shared_memory():
            self._say(line)
        start_ray(self._config)
        with publish_requirements(self._config, None) as requirements:
            check_nodes(requirements)
        if num_texts:  # else only rows without a text are left to write
            self._bar = Progress("embed", num_texts, unit="text").__enter__()

    def progress(self, done: int, total: int) -> None:
        if self._bar is not None:
            self._bar.update(done - self._bar.done)

    def __enter__(self) -> "_Extraction":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.__exit__(None, None, None)


def push_vectors(mirror: Mirror, path: Path) -> None:
    """Uploads a text store. Raises StoreError: the storage fails."""
    try:
        mirror.push_store(path)
    except OSError as error:
        raise StoreError(
            f"{path}: not uploaded to {mirror.remote.uri} ({telling_line(str(error))}): run again "
            "when it is well"
        ) from error
