"""What the layers below the adapters make of each text, kept for the runs of a study.

Adapters of the last layers change nothing below them, so warm-ups and extractions of all seeds
begin at these states. `LowerStates.record` keeps them by token ids, `TextEncoder.use_lower_states`
begins there; a text whose states are not kept goes through the whole model.

Legend: n texts, S tokens (padded), T width of the model, L tokens of all kept texts.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recmind_dist.errors import StoreError
from recmind_dist.storage import atomic_directory, read_json, write_json
from recmind_dist.text.adapter import target_names
from recmind_dist.text.attention import is_causal
from recmind_dist.text.columns import num_texts
from recmind_dist.text.plan import KEPT, store_path
from recmind_dist.text.prompts import Texts
from recmind_dist.text.settings import LoraSettings, TextSettings
from recmind_dist.text.tokens import Batch, SortedWindow, Tokens

if TYPE_CHECKING:
    from recmind_dist.text.encoder import TextEncoder

MAX_BYTES = 2 << 30
"""More is not kept: reading it back would cost what it saves."""
_IDS, _LENGTHS, _STATES, _META = "ids.npy", "lengths.npy", "states.npy", "states.json"


class LowerStates:
    """Kept states.

    Attributes:
        last_layers: above them: those that adapters may be in.
    """

    def __init__(self, tokens: Tokens, states_LT: NDArray[Any], last_layers: int) -> None:
        ends = np.cumsum(tokens.lengths)
        self.last_layers = last_layers
        self._states_LT = states_LT
        self._rows_of = {
            tokens.ids[end - length : end].tobytes(): slice(int(end - length), int(end))
            for end, length in zip(ends, tokens.lengths, strict=True)
        }

    @staticmethod
    def path(cache_dir: Path, settings: TextSettings, texts: Texts) -> Path:
        """Where states of an encoder and texts are kept, if they are."""
        return cache_dir / KEPT / store_path(texts, settings, cache_dir).name

    @classmethod
    def find(
        cls, cache_dir: Path, settings: TextSettings, texts: Texts, lora: LoraSettings | None
    ) -> "LowerStates | None":
        """The states of `record`; None where there are none, or the adapters reach below them.

        Args:
            cache_dir: of the data set.
            lora: of the adapters that the encoder gets; None: it gets none.
        """
        if not (cache_dir / KEPT).is_dir():  # spares the hash of all texts
            return None
        path = cls.path(cache_dir, settings, texts)
        try:
            last_layers = int(read_json(path / _META, StoreError)["last_layers"])
            if lora is not None and not 0 < (lora.last_layers or 0) <= last_layers:
                return None
            ids = np.load(path / _IDS, allow_pickle=False)
            tokens = Tokens(ids, np.load(path / _LENGTHS, allow_pickle=False))
            states_LT = np.load(path / _STATES, mmap_mode="r", allow_pickle=False)
            return cls(tokens, states_LT, last_layers)
        except (OSError, StoreError):  # a study that has ended removes them
            return None

    @classmethod
    def record(
        cls, cache_dir: Path, encoder: "TextEncoder", texts: Texts, lora: LoraSettings
    ) -> Path | None:
        """Keeps the states of all texts. Returns where, or None: the model's layers cannot be begun
        at, or the states are too many.

        Args:
            encoder: without adapters.
            lora: of the adapters to come.
        """
        settings, last_layers = encoder.settings, lora.last_layers
        if last_layers is None or not _can_begin_above(encoder.backbone, last_layers):
            return None
        limits = {"items": settings.max_tokens, "users": settings.user_max_tokens}
        sides = {"items": texts.items, "users": texts.users}
        tokens = _distinct(
            encoder.tokens(list(dict.fromkeys(text for text in column if text)), limits[side])
            for side, column in sides.items()
            if num_texts(column)
        )
        dtype = encoder.backbone.dtype
        if int(tokens.lengths.sum()) * encoder.dim * dtype.itemsize > MAX_BYTES:
            return None
        path = cls.path(cache_dir, settings, texts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_directory(path) as work:
            np.save(work / _IDS, tokens.ids)
            np.save(work / _LENGTHS, tokens.lengths)
            np.save(work / _STATES, _states(encoder, tokens, last_layers))
            write_json(work / _META, {"last_layers": last_layers})
        return path

    def of(self, batch: Batch) -> Tensor | None:
        """States of a batch's tokens, zero behind a text's last one; None if a text's are not kept.

        Shape: [n, S, T], on the CPU.
        """
        ids_nS, lengths = batch["input_ids"].numpy(), batch["attention_mask"].sum(1).tolist()
        rows = [
            self._rows_of.get(ids_S[:length].astype(np.int32).tobytes())
            for ids_S, length in zip(ids_nS, lengths, strict=True)
        ]
        if None in rows:
            return None
        out = np.zeros((*ids_nS.shape, self._states_LT.shape[1]), self._states_LT.dtype)
        for text, (kept, length) in enumerate(zip(rows, lengths, strict=True)):
            out[text, :length] = self._states_LT[kept]
        states = torch.from_numpy(out)
        return states.view(torch.bfloat16) if states.dtype == torch.int16 else states


class LowerLayers:
    """The layers of a model below its last ones, which can be passed by.

    Attributes:
        seen: states that the last pass brought to the last layers, [n, S, T].
    """

    def __init__(self, backbone: nn.Module, last_layers: int) -> None:
        layers = _layers(backbone)
        self.seen: Tensor | None = None
        self._begin: Tensor | None = None
        for layer in layers[:-last_layers]:
            layer.forward = partial(self._unless_passed_by, layer.forward)
        layers[-last_layers].register_forward_pre_hook(self._enter, with_kwargs=True)

    @contextmanager
    def begin_at(self, states_nST: Tensor | None) -> Iterator[None]:
        """Passes these layers by; None: it goes through them."""
        self._begin = states_nST
        try:
            yield
        finally:
            self._begin = None

    def _unless_passed_by(self, forward: Any, *args: Any, **kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self._begin is None else args[0]

    def _enter(self, _: nn.Module, args: Any, kwargs: Any) -> Any:
        if self._begin is not None:
            return (self._begin, *args[1:]), kwargs
        self.seen = args[0].detach()
        return None


def _states(encoder: "TextEncoder", tokens: Tokens, last_layers: int) -> NDArray[Any]:
    """Of all tokens, text after text; bfloat16 as int16, which numpy knows. Shape: [L, T]."""
    lower = LowerLayers(encoder.backbone, last_layers)
    kind = np.int16 if encoder.backbone.dtype == torch.bfloat16 else np.float32
    out_LT: NDArray[Any] = np.empty((len(tokens.ids), encoder.dim), kind)
    starts = np.cumsum(tokens.lengths) - tokens.lengths
    window = SortedWindow(tokens, encoder.pad_id, encoder.device)
    for part in window.slices(lambda: encoder.batch_tokens):
        with torch.inference_mode():
            encoder.forward_pooled(window.batch(part))
        assert lower.seen is not None, "the pass has reached the last layers"
        seen_nST = lower.seen.view(torch.int16) if kind is np.int16 else lower.seen
        for row, states_ST in zip(window.rows[part].tolist(), seen_nST.numpy(), strict=True):
            length = tokens.lengths[row]
            out_LT[starts[row] : starts[row] + length] = states_ST[:length]
    return out_LT


def _distinct(parts: Iterator[Tokens]) -> Tokens:
    """Each sequence of ids once."""
    kept: dict[bytes, NDArray[np.int32]] = {}
    for part in parts:
        for ids in np.split(part.ids, np.cumsum(part.lengths)[:-1]):
            kept.setdefault(ids.tobytes(), ids)
    ids_of = list(kept.values())
    lengths = np.array([len(ids) for ids in ids_of], np.int64)
    return Tokens(np.concatenate([np.zeros(0, np.int32), *ids_of]), lengths)


def _can_begin_above(backbone: Any, last_layers: int) -> bool:
    """Whether layers take the states of the one below and nothing else of it."""
    known = is_causal(backbone.config.get_text_config()) is not None
    return known and 0 < last_layers < len(_layers(backbone))


def _layers(backbone: Any) -> list[nn.Module]:
    name = target_names(backbone, LoraSettings(last_layers=1))[0]
    found = re.match(r"(.*?)\.\d+\.", name)
    assert found is not None, f"{name} is in no layer"
    return list(backbone.get_submodule(found[1]))
