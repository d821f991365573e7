"""What `pip install recmind-dist` leaves out, and which extra brings it."""

_TRAIN = (
    "deepspeed huggingface_hub jinja2 matplotlib numba optuna peft polars pydantic pymetis ray "
    "ruamel scipy tokenizers torch torch_geometric transformers zarr"
)
_SERVE = "fastapi httptools prometheus_client pydantic_core starlette uvicorn uvloop"
EXTRAS = {"train": _TRAIN.split(), "serve": _SERVE.split(), "faiss": ["faiss"], "gguf": ["gguf"]}
"""Extra → the modules that come with it. `[text]` has the part of `[train]` that reads texts."""


def remedy_of(error: ModuleNotFoundError) -> str | None:
    """The sentence that names the extra to install; None where the module is none of ours."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in EXTRAS.items():
        if module in modules:
            return f"this needs the package {module}: pip install 'recmind-dist[{extra}]'"
    return None
