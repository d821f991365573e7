"""A config file and `key.sub=value` overrides become a validated settings object."""

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from recmind_dist.config.settings import Settings
from recmind_dist.config.yaml import MAX_DEPTH, Document, KeyPath, load_yaml, parse_yaml
from recmind_dist.errors import ConfigError

S = TypeVar("S", bound=Settings)


def load_settings(model: type[S], path: Path, overrides: list[str] | None = None) -> S:
    """Reads `path`, applies overrides in order, validates.

    Raises:
        ConfigError: one line for each fault, with file:line, or the override, and the key.
    """
    return resolve_settings(model, load_yaml(path), overrides)


def resolve_settings(
    model: type[S],
    document: Document,
    overrides: list[str] | None = None,
    deleted: Mapping[str, str] | None = None,
    kinds: tuple[str, ...] = (),
) -> S:
    """As `load_settings`, from a document already read.

    Args:
        overrides: words `key.sub=value`.
        deleted: keys ("a.b") and values ("a.b: value") that `model` once had → the remedy.
        kinds: names that a group's `kind` chooses its class by; pydantic puts them into paths.
    """
    overridden: dict[KeyPath, str] = {}
    values = deepcopy(document.values)  # the caller may resolve the document again
    for word in overrides or []:
        _apply(values, word, overridden)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [
            _sentence(dict(fault), document, overridden, deleted or {}, kinds)
            for fault in error.errors()
            if fault["type"] != "default_factory_not_called"  # of another fault
        ]
        raise ConfigError("\n".join(faults)) from error


def _apply(values: dict[str, Any], word: str, overridden: dict[KeyPath, str]) -> None:
    key, equals, text = word.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {word!r}: write key.sub=value")
    path = key.split(".")
    if len(path) > MAX_DEPTH:
        raise ConfigError(f"override {word[:80]!r}…: nested more than {MAX_DEPTH} deep")
    given = parse_yaml(f"value: {text}", f"override {word!r}").values
    if list(given) != ["value"]:
        raise ConfigError(
            f"override {word!r}: more than one value: give each key a word of its own"
        )
    group = values
    for part in path[:-1]:
        if group.get(part) is None:
            group[part] = {}
        group = group[part]
        if not isinstance(group, dict):
            raise ConfigError(f"override {word!r}: {part!r} is a value, not a group of settings")
    group[path[-1]] = given["value"]
    overridden[tuple(path)] = word


def _sentence(
    fault: dict[str, Any],
    document: Document,
    overridden: dict[KeyPath, str],
    deleted: Mapping[str, str],
    kinds: tuple[str, ...],
) -> str:
    """One line for one of pydantic's faults."""
    path = tuple(
        part
        for k, part in enumerate(fault["loc"])
        if not str(part).startswith("function-") and not (k == 1 and part in kinds)
    )
    word = _override_of(fault, path, overridden)
    where = f"override {word!r}" if word else document.where(path)
    names = (part if part.isprintable() else repr(part)[1:-1] for part in map(str, path))
    name = ".".join(names) or "config"
    if entry := _deleted_entry(fault, path, deleted):
        return f"{where}: {entry} was removed: {deleted[entry]}"
    if fault["type"] == "extra_forbidden":
        return f"{where}: {name}: unknown key: see docs/config.md for the keys of this group"
    if fault["type"] == "union_tag_invalid":
        choices = ", ".join(kinds)
        kind = fault["ctx"]["tag"]
        return f"{where}: {name}.kind: {kind[:80]!r} is no kind: choose one of {choices}"
    if fault["type"] == "missing":
        return f"{where}: {name}: missing: give it a value"
    message = fault["msg"].removeprefix("Value error, ").replace("valid tuple", "list")
    if fault["type"] == "value_error":
        return f"{where}: {name}: {message}"
    return f"{where}: {name}: {message} (got {repr(fault.get('input'))[:80]})"


def _override_of(
    fault: dict[str, Any], path: KeyPath, overridden: dict[KeyPath, str]
) -> str | None:
    """The override that set the faulty key or a group around it."""
    for end in range(len(path), 0, -1):
        if path[:end] in overridden:
            return overridden[path[:end]]
    if path and fault["type"] != "value_error":  # an override turned a value into a group
        for key, word in overridden.items():
            if key[: len(path)] == path:
                return word
    return None


def _deleted_entry(fault: dict[str, Any], path: KeyPath, deleted: Mapping[str, str]) -> str | None:
    """The entry of `deleted` for a fault."""
    key = ".".join(part for part in path if isinstance(part, str))
    with_value = f"{key}: {fault.get('input')}"  # unknown keys too: another kind may have the key
    entries = {"extra_forbidden": (key, with_value), "literal_error": (with_value,)}
    return next((entry for entry in entries.get(fault["type"], ()) if entry in deleted), None)
