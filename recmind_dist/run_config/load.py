"""Reading a run's settings: a config with its variant and overrides, or a run directory's own."""

from pathlib import Path
from typing import Any

from recmind_dist.config import Settings, resolve_settings
from recmind_dist.config.yaml import Document, load_yaml
from recmind_dist.errors import ConfigError
from recmind_dist.model.settings import MODELS
from recmind_dist.report.run_directory import SCHEMA
from recmind_dist.run_config.deleted_keys import DELETED_KEYS
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.run_config.variants import VARIANT_DEFAULTS, VARIANTS, merged


def config_of_run(path: Path) -> RunConfig:
    """config.yaml of a run directory.

    Raises:
        ConfigError: it cannot be read, or another version of this program wrote the run.
    """
    document = load_yaml(path)
    _take_schema(document, absent=1)
    return resolve_settings(RunConfig, document, deleted=DELETED_KEYS, kinds=tuple(MODELS))


def _take_schema(document: Document, absent: int) -> None:
    """Takes the version of the run's files out of a run's config.yaml; `absent` is what a file
    without one has.
    """
    found = document.values.pop("schema", absent)
    if found != SCHEMA:
        raise ConfigError(
            f"{document.where(('schema',))}: schema version {str(found)[:20]}, this program reads "
            f"{SCHEMA}: use the version "
            "that wrote the run, or run its config anew"
        )


def load_run_config(
    path: Path, overrides: list[str] | None = None, variant: str | None = None
) -> RunConfig:
    """Reads a config, lays its variant's settings (or those of `variant`) over it, applies
    overrides, validates.

    A variant or override that names another `model.kind` takes from the file's `model` what that
    kind has.

    Raises:
        ConfigError: one line a fault, with file:line.
    """
    document, words = load_yaml(path), list(overrides or [])
    _take_schema(document, absent=SCHEMA)
    own = next((w.partition("=")[2] for w in reversed(words) if w.startswith("variant=")), None)
    chosen = str(variant or own or document.values.get("variant", "recmind"))
    changes = VARIANTS.get(chosen, {})
    values = merged(VARIANT_DEFAULTS.get(chosen, {}), document.values)
    document.values.update(merged(values, changes))
    named = (w.partition("=")[2] for w in reversed(words) if w.startswith("model.kind="))
    kind = changes.get("model", {}).get("kind") or next(named, None)
    kind = kind if kind in MODELS else None
    if kind is not None and isinstance(document.values.get("model"), dict):
        document.values["model"] = _of_class(document.values["model"], MODELS[kind])
    others = document.values.get("compare")
    if isinstance(others, list):
        document.values["compare"] = [other for other in others if other != chosen]
    if variant:
        document.values.update(variant=variant, compare=[])
        words = [w for w in words if not w.startswith(("variant=", "compare="))]
        if kind is not None:
            words = [w for w in words if _has(MODELS[kind], w)]
    return resolve_settings(RunConfig, document, words, DELETED_KEYS, tuple(MODELS))


def _of_class(values: dict[str, Any], settings: type[Settings]) -> dict[str, Any]:
    """Those of the values that are keys of `settings`, group by group."""
    kept = {}
    for key, value in values.items():
        if (field := settings.model_fields.get(key)) is None:
            continue
        inner = field.annotation
        if isinstance(value, dict) and isinstance(inner, type) and issubclass(inner, Settings):
            value = _of_class(value, inner)
        kept[key] = value
    return kept


def _has(model: type[Settings], word: str) -> bool:
    """Whether an override is of another group than `model`, or of a key that the model has."""
    group, *keys = word.partition("=")[0].split(".")
    if group != "model":
        return True
    value: Any = None
    for key in reversed(keys):
        value = {key: value}
    left = _of_class(value or {}, model)
    for key in keys:
        if key not in left:
            return False
        left = left[key] or {}
    return True
