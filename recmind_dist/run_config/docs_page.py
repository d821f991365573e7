"""docs/config.md, written from the settings classes: `python -m recmind_dist.run_config.docs_page >
docs/config.md`.
"""

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from recmind_dist.config import Settings
from recmind_dist.model.settings import DEFAULT_KIND, MODELS
from recmind_dist.run_config.run_config import RunConfig

HEAD = """# Config

Every key, its type and default. Do not edit: written by
`python -m recmind_dist.run_config.docs_page > docs/config.md`.
On the command line a key is `group.key=value`. Unknown and duplicate keys are refused.
"""
UNION = (
    "The model that `model.kind` names. Keys that not every kind has name those that have them, "
    "and are refused in a config of another kind."
)
Classes = dict[str, type[Settings]]
"""kind → its class of one group; "" → the class where there is one for all."""


def config_page() -> str:
    """The page as Markdown."""
    about = _about(RunConfig, None)
    return HEAD + "".join(_group({"": RunConfig}, "", "The run", about))


def _group(classes: Classes, prefix: str, title: str, about: str) -> Iterator[str]:
    """One table for the keys of a group, then the groups inside it.

    Args:
        classes: of every kind that has the group.
    """
    yield f"\n## {title}\n\n{about}\n\n| key | type | default | |\n|---|---|---|---|\n"
    fields: dict[str, dict[str, FieldInfo]] = {}
    for kind, settings in classes.items():
        for name, info in settings.model_fields.items():
            fields.setdefault(name, {})[kind] = info
    inner = {name: _classes_of(infos) for name, infos in fields.items()}
    for name, infos in fields.items():
        if not inner[name]:
            yield _row(f"{prefix}{name}", infos, list(classes))
    described: list[str] = []
    for name, group in inner.items():
        if group and name not in described:
            alike = [other for other, its in inner.items() if its == group]
            described += alike
            infos = fields[name]
            title = ", ".join(f"{prefix}{other}" for other in alike)
            about = UNION if group == MODELS else _about_inner(group, infos, list(classes))
            about += "".join(
                f" `{prefix}{other}` has the same keys as `{prefix}{name}`." for other in alike[1:]
            )
            yield from _group(group, f"{prefix}{name}.", title, about)


def _classes_of(infos: dict[str, FieldInfo]) -> Classes:
    """The classes of a group by kind; none where the key is a value."""
    if (
        len(infos) == 1
        and len(found := list(_settings_in(next(iter(infos.values())).annotation))) > 1
    ):
        return dict(MODELS) if set(found) == set(MODELS.values()) else {}
    return {
        kind: settings
        for kind, info in infos.items()
        for settings in list(_settings_in(info.annotation))[:1]
    }


def _settings_in(annotation: Any) -> Iterator[type[Settings]]:
    if get_origin(annotation) is Annotated:
        yield from _settings_in(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for option in get_args(annotation):
            yield from _settings_in(option)
    elif isinstance(annotation, type) and issubclass(annotation, Settings):
        yield annotation


def _about(settings: type[Settings], info: FieldInfo | None) -> str:
    """The first paragraph of a class, and whether its group must or need not be given."""
    words = (settings.__doc__ or "").strip().split("\n\n")[0].split()
    if info is not None and info.is_required():
        words.append("Required.")
    elif info is not None and type(None) in get_args(info.annotation):
        absent = info.default is None and info.default_factory is None
        words.append("`null`, the default, leaves it out." if absent else "`null` leaves it out.")
    if info is not None and info.description:
        words += info.description.split()
    return " ".join(words)


def _about_inner(classes: Classes, infos: dict[str, FieldInfo], kinds: list[str]) -> str:
    kind, settings = next(iter(classes.items()))
    about = _about(settings, infos[kind])
    return about if len(classes) == len(kinds) else f"Of {_and(list(classes))}. {about}"


def _row(key: str, infos: dict[str, FieldInfo], kinds: list[str]) -> str:
    first = next(iter(infos.values()))
    text = next((info.description for info in infos.values() if info.description), "") or ""
    if key == "model.kind":
        about = (f"{kind}: {_about(settings, None)}" for kind, settings in MODELS.items())
        return _line(key, _type_of(infos), f"`{DEFAULT_KIND}`", " ".join(about))
    default = _default(first)
    others: dict[str, list[str]] = {}
    for kind, info in infos.items():
        if _default(info) != default:
            others.setdefault(_default(info), []).append(kind)
    for value, which in others.items():
        default += f"; {_and(which)}: {value}"
    if len(infos) < len(kinds):
        text = f"Only {_and(list(infos))}: {text}".removesuffix(": ")
    return _line(key, _type_of(infos), default, text)


def _line(key: str, kind: str, default: str, text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return f"| `{key}` | {kind} | {default} | {text} |\n"


def _and(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    if info.default_factory is not None and not info.default_factory_takes_validated_data:
        return ""
    found = info.get_default(call_default_factory=True, validated_data={})
    value = list(found) if isinstance(found, tuple) else found
    return (
        "`null`"
        if value is None
        else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    )


def _type_of(infos: dict[str, FieldInfo]) -> str:
    """The types that a key has in the kinds that have it."""
    return ", ".join(dict.fromkeys(_type_name(info.annotation) for info in infos.values()))


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_type_name(a) for a in get_args(annotation))
    if get_origin(annotation) in (list, tuple):
        return f"list of {_type_name(get_args(annotation)[0])}"
    names = {
        type(None): "null",
        "Path": "path",
        "str": "text",
        "int": "int",
        "float": "number",
        "bool": "bool",
    }
    return names.get(annotation) or names.get(getattr(annotation, "__name__", ""), str(annotation))


if __name__ == "__main__":
    print(config_page(), end="")
