"""Whether a checkpoint belongs to this run: differences in config, graph or texts, line by line."""

from collections.abc import Iterator, Mapping
from typing import Any

_ABSENT = object()


def compare_identity(saved: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """One line for each value that differs.

    Args:
        saved: what the checkpoint was made from (config, graph key, text key, …), nested plain data
        current: the same of the run that wants to go on
    """
    before, now = dict(_flat(saved)), dict(_flat(current))
    lines = []
    for key in dict.fromkeys([*before, *now]):
        old, new = before.get(key, _ABSENT), now.get(key, _ABSENT)
        if old != new or type(old) is not type(new):
            lines.append(f"{key}: checkpoint {_format(old)}, now {_format(new)}")
    return lines


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


def _format(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    return repr(int(value) if isinstance(value, float) and value.is_integer() else value)[:120]
