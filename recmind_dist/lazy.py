"""Exports of a package that are imported when first asked for: light commands need not wait seconds
for torch.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from recmind_dist.extras import remedy_of


def lazy_exports(package: str, homes: dict[str, str]) -> Callable[[str], Any]:
    """A module-level `__getattr__` (PEP 562).

    Args:
        package: its `__name__`.
        homes: exported name → the submodule that has it.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        try:
            return getattr(import_module(f"{package}.{homes[name]}"), name)
        except ModuleNotFoundError as error:
            if remedy := remedy_of(error):
                sentence = f"{package}.{name}: {remedy}"
                raise ModuleNotFoundError(sentence, name=error.name) from error
            raise

    return get
