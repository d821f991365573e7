"""What `pip install recmind-dist` leaves out, and which extra brings it."""

from collections.abc import Iterator
from contextlib import contextmanager

from recmind_dist.errors import DataError

_TRAIN = (
    "deepspeed huggingface_hub jinja2 matplotlib numba optuna peft polars pydantic pymetis ray "
    "ruamel scipy tokenizers torch torch_geometric transformers zarr zlib_ng"
)
_SERVE = "fastapi httptools prometheus_client pydantic_core starlette uvicorn uvloop"
EXTRAS = {"train": _TRAIN.split(), "serve": _SERVE.split(), "faiss": ["faiss"], "gguf": ["gguf"]}
"""Extra → the modules that come with it. `[text]` has the part of `[train]` that reads texts."""


def remedy_of(error: ModuleNotFoundError, lighter: str | None = None) -> str | None:
    """The sentence that names the extra to install; None where the module is none of ours.

    Args:
        lighter: the extra to name, where another than the first with the module will do.
    """
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            named = lighter or extra
            return f"this needs the package {module}: pip install 'recmind-dist[{named}]'"
    return None


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Raises DataError with the sentence of `remedy_of`: a package of the extra is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        if remedy := remedy_of(error, extra):
            raise DataError(remedy) from error
        raise
