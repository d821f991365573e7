"""The config of an update: that of the run before, over the old log and the new one."""

from pathlib import Path
from typing import Any

from recmind_dist.config import resolve_settings
from recmind_dist.config.yaml import Document
from recmind_dist.errors import ConfigError
from recmind_dist.ingest.settings import TableSettings
from recmind_dist.model.settings import MODELS
from recmind_dist.pipeline.previous_run import PreviousRun
from recmind_dist.run_config.deleted_keys import DELETED_KEYS
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.run_config.variants import merged
from recmind_dist.training.finished_run import read_run

FREE = (
    "train.",
    "update.",
    "evaluation.",
    "scaling.",
    "checkpoint.",
    "sampler.",
    "loss.",
    "zero.",
    "table.learning_rate",
    "text.num_actors",
    "graph.placement",
    "graph.partition",
    "graph.num_parts",
    "storage_uri",
    "cache_dir",
    "profile",
)
"""Settings that an update may change."""
SHARE_OF_EPOCHS = 0.3
"""Of the epochs of the run that was trained from nothing, in an update: docs/update.md."""


def config_of_update(
    previous: PreviousRun, dataset: dict[str, Any], to: Path, overrides: list[str]
) -> RunConfig:
    """The config of an update, with nothing held out.

    Args:
        dataset: `dataset_with`.
        to: the run directory.
        overrides: words `key.sub=value`.
    Raises:
        ConfigError: an override names what an update keeps, or is no valid value.
    """
    for word in overrides:
        if not word.startswith(FREE) or word.startswith(("update.of", "update.rows")):
            raise ConfigError(
                f"override {word!r}: an update keeps the model, texts and data of "
                f"{previous.directory.path}, from whose rows and weights it begins: leave it out, "
                "or train anew by `recmind run`"
            )
    config = previous.config
    changes: dict[str, Any] = {
        "run_dir": str(to.absolute()),
        "storage_uri": None,
        "compare": [],
        "graph": {"split": "none", "valid_share": 0.0, "test_share": 0.0, "withhold_items": 0.0},
        "train": {"warmup_epochs": 0},
        "update": {"of": str(previous.directory.path.absolute()), "rows": "carried"},
    }
    values = merged(config.model_dump(mode="json"), changes) | {"dataset": dataset}
    made = config_of_values(values, previous.directory.config, overrides)
    return _with_epochs(made, previous, overrides)


def config_of_values(values: dict[str, Any], source: Path, overrides: list[str]) -> RunConfig:
    """A run's own config with overrides. Raises ConfigError, one line a fault."""
    document = Document(str(source), values)
    return resolve_settings(RunConfig, document, overrides, DELETED_KEYS, tuple(MODELS))


def _with_epochs(config: RunConfig, previous: PreviousRun, overrides: list[str]) -> RunConfig:
    """The config with an update's epochs: those of the update before, if `previous` is one."""
    if previous.config.updates or any(word.startswith("train.epochs=") for word in overrides):
        return config
    epochs = max(round(SHARE_OF_EPOCHS * previous.config.train.epochs), 1)
    return config.model_copy(update={"train": config.train.model_copy(update={"epochs": epochs})})


def config_with_test(config: RunConfig, test_share: float) -> RunConfig:
    """The same with the newest share of the whole log held out for the test."""
    changes = {"split": "global-time", "test_share": test_share}
    return config.model_copy(update={"graph": config.graph.model_copy(update=changes)})


def config_of_retraining(config: RunConfig, run_dir: Path) -> RunConfig:
    """The data set and split of an update, trained from nothing by the settings of the run that all
    updates go back to.
    """
    first = config
    while first.updates:
        assert first.update.of is not None, "an update is of a run"
        first = read_run(first.update.of)[1]
    changes = {"dataset": config.dataset, "graph": config.graph, "run_dir": run_dir}
    return first.model_copy(update={**changes, "storage_uri": None, "compare": ()})


def dataset_with(config: RunConfig, logs: list[Path], items: list[Path]) -> dict[str, Any]:
    """`dataset` of a run with more logs and items, plain, with absolute paths. A line of a newer
    item file stands in place of an older one's.

    Raises:
        ConfigError: the run has a given split.
    """
    settings = config.dataset
    if settings.test is not None:
        raise ConfigError(
            "dataset.test: an update goes on in time, and a given split does not: train anew by "
            "`recmind run`"
        )
    plain: dict[str, Any] = settings.model_dump(mode="json")
    if items and settings.items is None:
        plain["items"] = TableSettings(path=items[0]).model_dump(mode="json")
    more = {"interactions": logs, "items": items if settings.items else items[1:], "users": []}
    for name, paths in more.items():
        if plain[name] is not None:
            old = getattr(settings, name)
            before = old.paths if old is not None else items[:1]
            named = [str(path.absolute()) for path in (*before, *paths)]
            # a file that has grown is given again: it is read once, in its newer place
            plain[name]["path"] = [p for k, p in enumerate(named) if p not in named[k + 1 :]]
    if items:
        plain["items"]["repeats"] = "last"
    return plain
