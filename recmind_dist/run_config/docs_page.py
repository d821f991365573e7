"""docs/config.md, written from the settings classes: `python -m recmind_dist.run_config.docs_page >
docs/config.md`.
"""

import types
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from recmind_dist.config import Settings
from recmind_dist.run_config.run_config import RunConfig

HEAD = """# Config

Every key, its type and default. Written by `python -m recmind_dist.run_config.docs_page > docs/config.md`; do not edit.
On the command line a key is `group.key=value`. Unknown and duplicate keys are refused.
"""


def config_page() -> str:
    """The page as Markdown."""
    return HEAD + "".join(_group(RunConfig, ""))


def _group(model: type[Settings], prefix: str) -> list[str]:
    """One table for the keys of `model`, then its groups."""
    title = prefix.rstrip(".") or "The run"
    rows, groups = [], []
    for name, info in model.model_fields.items():
        inner = _settings_of(info.annotation)
        if inner is not None:
            optional = type(None) in get_args(info.annotation)
            groups += _group(inner, f"{prefix}{name}.")
            rows.append(
                _row(
                    f"{prefix}{name}",
                    "group, or null" if optional else "group",
                    _default(info),
                    info,
                )
            )
        else:
            rows.append(_row(f"{prefix}{name}", _type_name(info.annotation), _default(info), info))
    about = " ".join((model.__doc__ or "").strip().split("\n\n")[0].split())
    return [
        f"\n## {title}\n\n{about}\n\n| key | type | default | |\n|---|---|---|---|\n",
        *rows,
        *groups,
    ]


def _row(key: str, kind: str, default: str, info: FieldInfo) -> str:
    text = " ".join((info.description or "").split()).replace("|", "\\|")
    return f"| `{key}` | {kind} | {default} | {text} |\n"


def _settings_of(annotation: Any) -> type[Settings] | None:
    options = (
        get_args(annotation)
        if get_origin(annotation) in (Union, types.UnionType)
        else (annotation,)
    )
    return next((o for o in options if isinstance(o, type) and issubclass(o, Settings)), None)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "required"
    if isinstance(info.default, Settings) or info.default_factory is not None:
        return ""
    value = list(info.default) if isinstance(info.default, tuple) else info.default
    return (
        "`null`"
        if value is None
        else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    )


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
