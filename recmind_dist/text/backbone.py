"""Reads a transformers model as people have them: whole, with the attention that it knows, encoders
of encoder–decoders alone; and looks at one without reading its weights.
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recmind_dist.errors import TextError
from recmind_dist.storage import read_json
from recmind_dist.text.adapter import target_names
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.source import (
    TOKENIZER_CONFIG,
    case_asked_for,
    hidden_size,
    longest_text,
    lowers_texts,
    normalizes,
    resolve_model,
    resolve_pooling,
)

if TYPE_CHECKING:
    import torch

SAFE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
# their positions begin behind that of the pad token
OFFSET_POSITIONS = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "esm"),
    *("roberta-prelayernorm", "data2vec-text", "ibert"),
)
UNUSED = ("pooler.", "lm_head.", "cls.", "classifier.")
"""Parts whose tensors may be absent: vectors do not pass through them."""


def check_model(settings: TextSettings) -> str:
    """A line on the model's directory. No weight is read.

    Raises:
        TextError: what `TextEncoder.load` would refuse.
    """
    import torch

    directory = resolve_model(settings)
    refuse_long_texts(directory, settings)
    backbone, _ = read_model(directory, torch.float32, "meta")
    if settings.lora is not None:
        target_names(backbone, settings.lora)
    line = (
        f"{directory}: {type(backbone).__name__}, width {hidden_size(directory)}, pooling "
        f"{resolve_pooling(settings)}"
    )
    return "; ".join([line, *steps_left_out(settings), *model_notes(settings)])


def steps_left_out(settings: TextSettings) -> list[str]:
    """What the model's own files ask for after pooling, and this program leaves out."""
    lengths = "its files bring vectors to length 1, which is left to whitening"
    return [lengths] if normalizes(settings) else []


def model_notes(settings: TextSettings) -> list[str]:
    """Where the settings differ from the model's own files, or these from each other."""
    directory = resolve_model(settings)
    notes = []
    file, limit = longest_text(directory) or ("", math.inf)
    if long := _longer(settings, limit):
        notes.append(f"{long}: {file} cuts texts at {limit}: the model may not know longer ones")
    asked = case_asked_for(directory)
    if asked is not None and not lowers_texts(directory) and asked != _own_case(directory):
        does = _lowers(_tokenizer(directory).backend_tokenizer)
        notes.append(
            f"{TOKENIZER_CONFIG} has do_lower_case: {str(asked).lower()}, and tokenizer.json does "
            f"otherwise: capital letters are {'lowered' if does else 'kept'}, as by transformers"
        )
    return notes


def _own_case(directory: Path) -> bool | None:
    """Whether tokenizer.json lowers texts; as asked for where there is none."""
    from tokenizers import Tokenizer

    path = directory / "tokenizer.json"
    return _lowers(Tokenizer.from_file(str(path))) if path.is_file() else case_asked_for(directory)


def _lowers(rust: Any) -> bool:
    return rust.normalizer is not None and "A" not in rust.normalizer.normalize_str("A")


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory, **SAFE)


def read_model(directory: Path, dtype: "torch.dtype", device_map: str | None = None) -> Any:
    """The model and the tokenizer of a directory.

    Args:
        device_map: "meta" reads names and shapes, no values.

    Raises:
        TextError: they cannot be read, or are not whole.
    """
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = _tokenizer(directory)
        backbone = load_backbone(directory, dtype, device_map)
    except TextError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise cannot_be_loaded(directory, error) from error
    tokenizer = _with_pad_token(tokenizer, directory)
    _refuse_other_tokens(directory, backbone, tokenizer)
    return backbone, tokenizer


def _refuse_other_tokens(directory: Path, backbone: Any, tokenizer: Any) -> None:
    rows, highest = backbone.get_input_embeddings().num_embeddings, max(tokenizer.vocab.values())
    if highest >= rows:
        raise TextError(
            f"text.model: the tokenizer of {directory} has tokens up to {highest}, the model has "
            f"vectors of {rows}: take the tokenizer that it was saved with"
        )


def _with_pad_token(tokenizer: Any, directory: Path) -> Any:
    if not getattr(tokenizer, "is_fast", False):
        raise TextError(
            f"text.model: {directory} has no tokenizer.json: save its tokenizer in the fast format"
        )
    tokenizer.truncation_side = "right"
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token_id is None:
            raise TextError(
                f"text.model: the tokenizer of {directory} has neither pad nor eos token: add one"
            )
        tokenizer.pad_token = tokenizer.eos_token
    _add_end(tokenizer, directory)
    if lowers_texts(directory) and not _lowers(tokenizer.backend_tokenizer):
        _lower_first(tokenizer.backend_tokenizer)
    return tokenizer


def _lower_first(rust: Any) -> None:
    """Lowers texts before the tokenizer does anything else, as sentence-transformers does."""
    from tokenizers.normalizers import Lowercase, Sequence

    rust.normalizer = Sequence([Lowercase(), *([rust.normalizer] if rust.normalizer else [])])


def _add_end(tokenizer: Any, directory: Path) -> None:
    """Adds the end token after texts where the tokenizer's settings ask for one, and its
    tokenizer.json does not: such decoders are pooled there.
    """
    path = directory / "tokenizer_config.json"
    asks = path.is_file() and read_json(path, TextError).get("add_eos_token") is True
    end, rust = tokenizer.eos_token_id, tokenizer.backend_tokenizer
    if not asks or end is None or rust.encode("a").ids[-1:] == [end]:
        return
    from tokenizers.processors import Sequence, TemplateProcessing

    template = TemplateProcessing(
        single=f"$A {tokenizer.eos_token}", special_tokens=[(tokenizer.eos_token, end)]
    )
    before = [rust.post_processor] if rust.post_processor is not None else []
    rust.post_processor = Sequence([*before, template])


def load_backbone(directory: Path, dtype: "torch.dtype", device_map: str | None = None) -> Any:
    """The model of a directory, from safetensors alone; runs no code that comes with it.

    Args:
        device_map: as `read_model`.

    Raises:
        TextError: a tensor that the architecture needs is not in the files, or they are
            quantised.
    """
    from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

    config = AutoConfig.from_pretrained(directory, **SAFE)
    if (packed := getattr(config, "quantization_config", None)) is not None:
        how = packed.get("quant_method", "") if isinstance(packed, dict) else packed.quant_method
        raise TextError(
            f"text.model: {directory} has quantised weights ({how}), which this program does not "
            "read: take the model as it was before"
        )
    names = getattr(config, "architectures", None) or [""]
    two_parts = getattr(config, "is_encoder_decoder", False)
    alone = two_parts or names[0].endswith("EncoderModel")
    kind: Any = AutoModel
    if alone and type(config) in AutoModelForTextEncoding._model_mapping:
        kind = AutoModelForTextEncoding
    options = {**SAFE, "dtype": dtype, "use_safetensors": True, "output_loading_info": True}
    if device_map is not None:
        options["device_map"] = device_map
    try:  # the fastest without a compile step
        model, info = kind.from_pretrained(directory, attn_implementation="sdpa", **options)
    except ValueError as error:
        if "attention implementation" not in str(error):
            raise
        model, info = kind.from_pretrained(directory, attn_implementation="eager", **options)
    _refuse_missing(directory, info["missing_keys"])
    return model.get_encoder() if two_parts and kind is AutoModel else model


def _refuse_missing(directory: Path, keys: Any) -> None:
    missing = sorted(key for key in keys if not key.startswith(UNUSED))
    if missing:
        raise TextError(
            f"text.model: {directory} has no tensor {missing[0]!r} ({len(missing)} of the model's "
            "are missing under the names that its config.json asks for): they would be random: "
            "save the model again with save_pretrained"
        )


def refuse_long_texts(directory: Path, settings: TextSettings) -> None:
    """Raises TextError if texts may have more tokens than the model has positions for, or if its
    config cannot be read without running code that comes with it.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(directory, **SAFE).get_text_config()
    except (OSError, ValueError, KeyError) as error:
        raise cannot_be_loaded(directory, error) from error
    positions = num_positions(config)
    if long := _longer(settings, positions or math.inf):
        raise TextError(
            f"{long}: the model has {positions} positions: lower it, or take a model "
            "for longer texts"
        )


def _longer(settings: TextSettings, limit: float) -> str:
    """The budgets of tokens above a limit, for people; "": there are none."""
    budgets = {
        "text.max_tokens": settings.max_tokens,
        "text.user_max_tokens": settings.user_max_tokens,
    }
    return ", ".join(f"{key} {value}" for key, value in budgets.items() if value > limit)


def cannot_be_loaded(directory: Path, error: Exception) -> TextError:
    """The sentence for users, with the first line of a library's."""
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    if "ignore_mismatched_sizes" in reason:
        reason = "tensors have other shapes than its config.json asks for"
    return TextError(f"text.model: {directory} cannot be loaded ({reason}): fetch the model again")


def num_positions(config: Any) -> int | None:
    """Positions that a model has learnt, each a row of a table; None where they are relative."""
    positions = getattr(config, "max_position_embeddings", None)
    turned = any(getattr(config, name, None) for name in ("rope_theta", "rope_parameters"))
    relative = str(getattr(config, "position_embedding_type", "absolute")).startswith("relative")
    biased = getattr(config, "position_biased_input", True)
    if not isinstance(positions, int) or positions <= 0 or turned or relative or not biased:
        return None
    if config.model_type in OFFSET_POSITIONS:
        positions -= int(config.pad_token_id or 0) + 1
    return positions
