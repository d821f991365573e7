"""From a file and `key.sub=value` words to a checked settings object."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
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
        ConfigError: one line a fault, each with file:line (or the override) and the key's full
        name.
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
        model: settings class.
        document: what the file holds.
        overrides: `key.sub=value` words.
        deleted: keys ("a.b") and values ("a.b: value") that `model` once had → what replaces them.
        kinds: names that a group's `kind` chooses its class by; pydantic puts them into paths.
    """
    from_override: dict[KeyPath, str] = {}
    document = replace(
        document, values=deepcopy(document.values)
    )  # the caller may resolve it again
    for word in overrides or []:
        _apply(document.values, word, from_override)
    try:
        return model.model_validate(document.values)
    except ValidationError as error:
        lines = [
            _sentence(dict(fault), document, from_override, deleted or {}, kinds)
            for fault in error.errors()
        ]
        raise ConfigError("\n".join(lines)) from error


def _apply(values: dict[str, Any], word: str, from_override: dict[KeyPath, str]) -> None:
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
    value = given["value"]
    place = values
    for part in path[:-1]:
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise ConfigError(f"override {word!r}: {part!r} is a value, not a group of settings")
    place[path[-1]] = value
    from_override[tuple(path)] = word


def _sentence(
    fault: dict[str, Any],
    document: Document,
    from_override: dict[KeyPath, str],
    deleted: Mapping[str, str],
    kinds: tuple[str, ...],
) -> str:
    path = tuple(
        part
        for k, part in enumerate(fault["loc"])
        if not (
            isinstance(part, str) and (part.startswith("function-") or (k == 1 and part in kinds))
        )
    )
    word = next(
        (
            from_override[path[:end]]
            for end in range(len(path), 0, -1)
            if path[:end] in from_override
        ),
        None,
    )
    if (
        word is None and path and fault["type"] != "value_error"
    ):  # an override made a group of what is none
        word = next(
            (below for key, below in from_override.items() if key[: len(path)] == path), None
        )
    where = f"override {word!r}" if word else document.where(path)
    name = (
        ".".join(part if part.isprintable() else repr(part)[1:-1] for part in map(str, path))
        or "config"
    )
    if was := _deleted(fault, path, deleted):
        return f"{where}: {was} was removed: {deleted[was]}"
    if fault["type"] == "extra_forbidden":
        return f"{where}: {name}: unknown key: see docs/config.md for the keys of this group"
    if fault["type"] == "union_tag_invalid":
        choices = ", ".join(kinds)
        kind = fault["ctx"]["tag"]
        return f"{where}: {name}.kind: {kind[:80]!r} is no kind: choose one of {choices}"
    if fault["type"] == "missing":
        return f"{where}: {name}: missing: give it a value"
    message = fault["msg"].removeprefix("Value error, ")
    shown = repr(fault.get("input"))
    return f"{where}: {name}: {message}" + (
        "" if fault["type"] == "value_error" else f" (got {shown[:80]})"
    )


def _deleted(fault: dict[str, Any], path: KeyPath, deleted: Mapping[str, str]) -> str | None:
    """The entry of `deleted` that a fault is about, None if it is about none."""
    key = ".".join(part for part in path if isinstance(part, str))
    entry = {"extra_forbidden": key, "literal_error": f"{key}: {fault.get('input')}"}.get(
        fault["type"]
    )
    return entry if entry in deleted else None
