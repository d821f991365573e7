"""Is this checkpoint of this run? Differences in config, graph or texts, said line by line."""

from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = "absent"


def compare_identity(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """One line for each value that differs, empty if none does.

    Args:
        saved: what the checkpoint was made from (config, graph key, text key, …), nested plain
        data;
        current: the same of the run that wants to go on.
    """
    before, now = dict(_flat(saved)), dict(_flat(current))
    keys = [*before, *(key for key in now if key not in before)]
    return [
        f"{key}: checkpoint {_shown(before, key)}, now {_shown(now, key)}"
        for key in keys
        if key not in before
        or key not in now
        or before[key] != now[key]
        or type(before[key]) is not type(now[key])
    ]


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves by dotted key. Lists are leaves; a tuple equals the list that JSON made of it."""
    if isinstance(value, Mapping) and (value or not prefix):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, _plain(value)


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _shown(values: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return _ABSENT
    value = values[key]
    return repr(int(value) if isinstance(value, float) and value.is_integer() else value)[:120]
