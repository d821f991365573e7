"""Finds a language model (directory or hub), checks its hash, and keys its vectors."""

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recmind_dist.errors import StoreError, TextError
from recmind_dist.storage import content_key, read_json, sha256_file
from recmind_dist.text.settings import TEMPLATE_VERSION, TextSettings, hub_name

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
POOLING = "1_Pooling/config.json"  # unless modules.json names another folder
MODULES = "modules.json"
PROMPTS = "config_sentence_transformers.json"
SENTENCES = "sentence_*_config.json"  # sentence_bert_config.json, of old versions also roberta …
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
OF_DOCUMENTS = ("document", "passage", "corpus")
"""Names of prompts for what is searched, in the order in which sentence-transformers takes them."""
MODES = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
TOKENIZER_CONFIG = "tokenizer_config.json"
TOKENIZER_FILES = (
    *VOCABULARIES,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
)


def resolve_model(settings: TextSettings) -> Path:
    """The local directory of the model, fetched from the hub if need be; checks `model_sha256`.

    Raises:
        TextError: no such directory or hub model, no safetensors weights, or another hash.
    """
    directory = Path(settings.model).expanduser()
    if not directory.is_dir():
        directory = _from_hub(settings)
    directory = directory.resolve()
    for name in ("config.json", *(() if (directory / WEIGHTS_INDEX).is_file() else (WEIGHTS,))):
        if not (directory / name).is_file():
            raise TextError(
                f"text.model: {directory} has no {name}: give a transformers directory saved as "
                "safetensors (pickled .bin weights are not read)"
            )
    if not any((directory / name).is_file() for name in VOCABULARIES):
        # without one transformers would make a tokenizer that knows no word
        raise TextError(
            f"text.model: {directory} has no tokenizer ({', '.join(VOCABULARIES)}): save it there "
            "with save_pretrained"
        )
    wanted = settings.model_sha256
    if wanted and (found := _file_hash(directory / WEIGHTS)) != wanted:
        raise TextError(
            f"text.model_sha256: {directory / WEIGHTS} has sha256 {found}, not {wanted}: fetch the "
            "model again, or correct the hash"
        )
    return directory


def is_on_hub_alone(settings: TextSettings) -> bool:
    """Whether the model would have to be fetched from the hub."""
    if Path(settings.model).expanduser().is_dir() or _looks_like_path(settings.model):
        return False
    from huggingface_hub import try_to_load_from_cache

    name, revision = hub_name(settings.model)
    found = try_to_load_from_cache(name, "config.json", revision=revision)
    return not isinstance(found, str)


def _looks_like_path(model: str) -> bool:
    begins = model.startswith((".", "/", "~")) or hub_name(model)[0].count("/") > 1
    return begins or Path(model).parent.name == "models"


def _from_hub(settings: TextSettings) -> Path:
    if _looks_like_path(settings.model):
        raise TextError(
            f"text.model: no directory {settings.model}: run `recmind fetch` for the model, or "
            "give a transformers directory or a hub name"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    name, revision = hub_name(settings.model)
    patterns = [
        *("*_Pooling/config.json", MODULES, PROMPTS, SENTENCES),
        "*.safetensors",
        "*.safetensors.index.json",
        "config.json",
        *TOKENIZER_FILES,
    ]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TextError(
            f"text.model: {name!r} is no directory, and the hub does not give it "
            f"({reason}): give the path of a transformers directory"
        ) from error


def weight_files(directory: Path) -> list[Path]:
    """The model's safetensors files, sorted. Raises TextError if one is absent."""
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    names = set(read_json(directory / WEIGHTS_INDEX, TextError).get("weight_map", {}).values())
    files = [directory / str(name) for name in sorted(names)]
    for file in files:
        if file.parent != directory or not file.is_file():
            raise TextError(
                f"{directory / WEIGHTS_INDEX}: names {file.name!r}, which is absent: fetch the "
                "model again"
            )
    return files


def hidden_size(directory: Path) -> int:
    """Width T of the model's vectors, from its config."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    return int(config.get_text_config().hidden_size)


def resolve_dtype(settings: TextSettings) -> str:
    """Returns "fp32" or "bf16". `auto` looks at this machine only.

    On a CPU with bf16 instructions bf16 is 1.8 times faster than fp32, else several times slower.
    """
    if settings.dtype != "auto":
        return settings.dtype
    import torch

    fast = (
        (torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False))
        or torch.cpu._is_avx512_bf16_supported()
        or torch.cpu._is_amx_tile_supported()
    )
    return "bf16" if fast else "fp32"


def resolve_pooling(settings: TextSettings) -> str:
    """Returns "mean", "cls" or "last".

    Raises:
        TextError: `auto`, and the model's own file asks for another pooling.
    """
    if settings.pooling != "auto":
        return settings.pooling
    directory = _directory(settings)
    modules = _modules(directory)
    _refuse_other_modules(directory / MODULES, modules)
    path = directory / _pooling_file(modules)
    if not path.is_file():
        return "mean"
    values = _values(path)
    wanted = [name for name, on in values.items() if name.startswith("pooling_mode_") and on]
    if isinstance(values.get("pooling_mode"), str):  # as newer versions write it
        wanted = [values["pooling_mode"].replace("mean", "mean_tokens").replace("cls", "cls_token")]
    modes = [MODES.get(name.removeprefix("pooling_mode_")) for name in wanted]
    if len(modes) != 1 or modes[0] is None:
        raise TextError(
            f"{path}: asks for {' and '.join(wanted) or 'no pooling'}, which this program does not "
            "have: set text.pooling to mean, cls or last"
        )
    if modes[0] == "mean" and values.get("include_prompt") is False and resolve_prompt(settings):
        raise TextError(
            f"{path}: leaves the prompt out of the mean, which this program does not do: set "
            "text.prompt to null, or text.pooling to mean for a mean with it"
        )
    return modes[0]


def normalizes(settings: TextSettings) -> bool:
    """Whether the model's own files bring vectors to length 1, which is left to whitening."""
    return settings.pooling == "auto" and any(
        _kind(module) == "Normalize" for module in _modules(_directory(settings))
    )


def _pooling_file(modules: list[Any]) -> str:
    folders = [str(module.get("path")) for module in modules if _kind(module) == "Pooling"]
    found = next((folder for folder in folders if re.fullmatch(r"\w+", folder)), None)
    return POOLING if found in (None, "None") else f"{found}/config.json"


def sentence_files(directory: Path) -> list[str]:
    """Files of a directory that say how vectors are made of what the model gives."""
    names = (_pooling_file(_modules(directory)), MODULES, PROMPTS)
    found = [path.name for path in sorted(directory.glob(SENTENCES))]
    return [name for name in names if (directory / name).is_file()] + found


def lowers_texts(directory: Path) -> bool:
    """Whether the files of sentence-transformers lower texts before the tokenizer sees them."""
    found = sorted(directory.glob(SENTENCES))[:1]
    return any(_values(path).get("do_lower_case") is True for path in found)


def longest_text(directory: Path) -> tuple[str, int] | None:
    """The file that says at how many tokens the model's authors cut texts, and the number."""
    found = [(path, "max_seq_length") for path in sorted(directory.glob(SENTENCES))[:1]]
    for path, key in (*found, (directory / TOKENIZER_CONFIG, "model_max_length")):
        if isinstance(tokens := _values(path).get(key), int):
            return path.name, tokens
    return None


def case_asked_for(directory: Path) -> bool | None:
    """`do_lower_case` of the tokenizer's config; None: it does not say."""
    asked = _values(directory / TOKENIZER_CONFIG).get("do_lower_case")
    return asked if isinstance(asked, bool) else None


def _values(path: Path) -> dict[str, Any]:
    values: Any = read_json(path, TextError) if path.is_file() else {}
    return values if isinstance(values, dict) else {}


def _kind(module: dict[str, Any]) -> str:
    return str(module.get("type", "")).rpartition(".")[2]


def _directory(settings: TextSettings) -> Path:
    """The model's directory; fetches it from the hub if need be."""
    directory = Path(settings.model).expanduser()
    return directory if directory.is_dir() else resolve_model(settings)


def _modules(directory: Path) -> list[Any]:
    """What sentence-transformers runs, in order; none without its file."""
    path = directory / MODULES
    modules: Any = read_json(path, TextError) if path.is_file() else []
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise TextError(f"{path}: no list of modules: set text.pooling to mean, cls or last")
    return modules


def _refuse_other_modules(path: Path, modules: list[Any]) -> None:
    """Raises TextError: the model's files ask for a step that this program does not have."""
    kind = next((_kind(module) for module in modules if _kind(module) not in KNOWN_MODULES), None)
    if kind is not None:
        raise TextError(
            f"{path}: asks for {kind} after the model, which this program does not have: set "
            "text.pooling to mean, cls or last for vectors without it"
        )


def resolve_prompt(settings: TextSettings) -> str | None:
    """What goes around a text, with {text}; None: nothing.

    Raises:
        TextError: `auto`, and the model's own file has none that can be used.
    """
    if settings.prompt != "auto":
        return settings.prompt
    path = _directory(settings) / PROMPTS
    if not path.is_file():
        return None
    values = read_json(path, TextError)
    prompts = values.get("prompts") or {}
    names = [*OF_DOCUMENTS, values.get("default_prompt_name")]
    prompt = next((prompts[name] for name in names if prompts.get(name)), None)
    if prompt is not None and (not isinstance(prompt, str) or "{text}" in prompt):
        raise TextError(f"{path}: {str(prompt)[:80]!r} is no prompt: set text.prompt")
    return None if prompt is None else prompt + "{text}"


def fault_of_dtype(dtype: str, card: str, has_bf16: bool) -> str | None:
    """What is wrong with `text.dtype` on a GPU of this name; None if nothing."""
    if dtype != "bf16" or has_bf16:
        return None
    return (
        f"text.dtype: bf16: {card} has no bf16 (NVIDIA's cards have it from compute capability 8.0 "
        "on): set text.dtype=fp32, or use other cards"
    )


def refuse_dtype_on(device: "str | torch.device", dtype: str) -> None:
    """Raises TextError: the GPU does not compute in `dtype`."""
    import torch

    if torch.device(device).type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        if fault := fault_of_dtype(dtype, torch.cuda.get_device_name(device), has_bf16):
            raise TextError(fault)


def encoder_content(settings: TextSettings, adapter_sha256: str | None = None) -> dict[str, Any]:
    """Plain data that decides the vector of a text. Its `content_key` is the encoder key."""
    directory = resolve_model(settings)
    tokenizer = {
        name: _file_hash(directory / name)
        for name in TOKENIZER_FILES
        if (directory / name).is_file()
    }
    lowers = {"lower_case": True} if lowers_texts(directory) else {}
    return {
        **lowers,
        "weights": {file.name: _file_hash(file) for file in weight_files(directory)},
        "architecture": _file_hash(directory / "config.json"),
        "tokenizer": tokenizer,
        "adapter": adapter_sha256,
        "prompt": resolve_prompt(settings),
        "template_version": TEMPLATE_VERSION,
        "pooling": resolve_pooling(settings),
        "max_tokens": {"items": settings.max_tokens, "users": settings.user_max_tokens},
        "dtype": resolve_dtype(settings),
    }


def encoder_key(settings: TextSettings, adapter: Path | None = None) -> str:
    """sha256 (hex) of all that decides a text's vector: model, adapter, prompt, pooling, dtype."""
    from recmind_dist.text.adapter import adapter_hash

    return content_key(encoder_content(settings, adapter_hash(adapter) if adapter else None))


def _file_hash(path: Path) -> str:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be read ({error.strerror}): fetch the model again"
        ) from error
    return _hash_once(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _hash_once(path: Path, size: int, mtime_ns: int) -> str:
    """Size and time are arguments so that a changed file is read again."""
    return sha256_file(path)
