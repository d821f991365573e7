"""A language model as a module: texts in, one pooled vector a text out, with or without LoRA.

Legend: n texts, S tokens (padded), T width of the model.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recmind_dist import faults
from recmind_dist.errors import TextError
from recmind_dist.text.adapter import attach_lora, load_adapter, lora_parameters
from recmind_dist.text.settings import LoraSettings, TextSettings
from recmind_dist.text.source import refuse_dtype_on, resolve_dtype, resolve_model
from recmind_dist.types import FloatArray

Batch = dict[str, Tensor]
# fp32, texts/s a core at 512 / 1,024 / 4,096 tokens: MiniLM 95 / 93 / 76, SmolLM2 8.4 / 6.9 / 4.8
CPU_BATCH_TOKENS = 512
GPU_BATCH_TOKENS = 65536
SUFFIX_SLACK = 8  # tokens that text and prompt may gain when tokenised together

WINDOW = 4096
"""Texts sorted by length together, which leaves 2–4 % padding."""


class TextEncoder(nn.Module):
    """A transformers model, its tokenizer and the pooling.

    Attributes:
        dim: T, width of the vectors.
    """

    def __init__(self, backbone: Any, tokenizer: Any, settings: TextSettings) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.tokenizer = tokenizer
        self.settings = settings
        self.dim = int(backbone.config.get_text_config().hidden_size)
        self.batch_tokens = settings.batch_tokens or CPU_BATCH_TOKENS

    @classmethod
    def load(
        cls, settings: TextSettings, device: str | torch.device = "cpu", adapter: Path | None = None
    ) -> "TextEncoder":
        """Reads model and tokenizer, frozen and in evaluation mode.

        Reads safetensors only and runs no code that comes with the model.

        Args:
            adapter: a directory of `save_adapter`; merged into the weights in fp32, before any
                cast.

        Raises:
            TextError: the directory is absent, incomplete, of another hash, or cannot be read.
        """
        from safetensors import SafetensorError
        from transformers import AutoModel, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        directory = resolve_model(settings)
        dtype = torch.bfloat16 if resolve_dtype(settings) == "bf16" else torch.float32
        refuse_dtype_on(device, resolve_dtype(settings))
        safe: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, **safe)
            backbone = AutoModel.from_pretrained(
                directory,
                dtype=torch.float32 if adapter else dtype,
                use_safetensors=True,
                attn_implementation="sdpa",  # the fastest without a compile step
                **safe,
            )
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise TextError(
                f"text.model: {directory} cannot be loaded ({reason}): fetch the model again"
            ) from error
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # unused: its parameters would never get a gradient
        encoder = cls(backbone, _prepare(tokenizer, directory), settings).requires_grad_(False)
        if adapter:
            lora, state = load_adapter(adapter)
            encoder.add_lora(lora)
            encoder.load_lora_state(state)
            encoder.merge_lora()
        if settings.batch_tokens is None and torch.device(device).type != "cpu":
            encoder.batch_tokens = GPU_BATCH_TOKENS
        return encoder.to(device=device, dtype=dtype).eval()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = next(self.backbone.parameters()).device
        return device

    def tokenize(self, texts: list[str], max_tokens: int) -> Batch:
        """Wraps in the prompt, clips, pads right.

        Returns:
            input_ids and attention_mask, [n, S] int64, S ≤ max_tokens.
        """
        return self._pad(self._token_ids(texts, max_tokens))

    def tokenize_groups(self, groups: list[tuple[list[str], int]]) -> Batch:
        """As `tokenize`, for groups of (texts, max_tokens), padded together in order."""
        ids: list[list[int]] = []
        for texts, max_tokens in groups:
            if texts:
                ids += self._token_ids(texts, max_tokens)
        return self._pad(ids)

    def forward_pooled(self, batch: Batch) -> Tensor:
        """Vectors with gradients. Shape: [n, T] float32, on the weights' device."""
        mask_nS = batch["attention_mask"].to(self.device)
        hidden_nST = self.backbone(
            input_ids=batch["input_ids"].to(self.device), attention_mask=mask_nS, **self._no_cache
        ).last_hidden_state
        if self.settings.pooling == "last":
            last_n = mask_nS.sum(1) - 1
            row_n = torch.arange(len(last_n), device=last_n.device)
            last_nT: Tensor = hidden_nST[row_n, last_n].float()
            return last_nT
        weight_nS1 = mask_nS.unsqueeze(-1).float()
        mean_nT: Tensor = (hidden_nST.float() * weight_nS1).sum(1) / weight_nS1.sum(1)
        return mean_nT

    def encode(self, texts: list[str], max_tokens: int) -> FloatArray:
        """Vectors of many texts, without gradients. Shape: [n, T] float32.

        Texts are sorted by length inside windows. A batch that does not fit in memory is halved,
        and so are all later batches.

        Raises:
            TextError: a single text does not fit.
        """
        out_nT = np.empty((len(texts), self.dim), dtype=np.float32)
        for start in range(0, len(texts), WINDOW):
            ids = self._token_ids(texts[start : start + WINDOW], max_tokens)
            # longest first: a batch too large for memory fails at once, not after an hour
            order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
            for batch in self._batches(order, ids):
                out_nT[[start + i for i in batch]] = self._encode_halving([ids[i] for i in batch])
        return out_nT

    def add_lora(self, lora: LoraSettings, seed: int = 0) -> None:
        """Adds trainable fp32 adapters, the same for the same seed; all else stays frozen."""
        self.backbone = attach_lora(self.backbone, lora, seed)

    def lora_state(self) -> dict[str, Tensor]:
        """The adapters' tensors by name, copied to the CPU."""
        return {
            name: p.detach().cpu().clone() for name, p in lora_parameters(self.backbone).items()
        }

    def load_lora_state(self, state: dict[str, Tensor]) -> None:
        """Copies tensors of `lora_state` into the adapters.

        Raises:
            TextError: names or shapes differ.
        """
        parameters = lora_parameters(self.backbone)
        if {k: v.shape for k, v in parameters.items()} != {k: v.shape for k, v in state.items()}:
            first = sorted(set(parameters) ^ set(state))[:1] or ["a shape"]
            raise TextError(
                f"adapter does not fit the model (first difference: {first[0]}): use the model "
                "that it was trained on"
            )
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(state[name])

    def merge_lora(self) -> None:
        """Folds adapters, if any, into the weights, which makes extraction a third faster."""
        if lora_parameters(self.backbone):
            self.backbone = self.backbone.merge_and_unload()

    @property
    def _no_cache(self) -> dict[str, bool]:
        # decoders would keep keys and values for a next token that never comes
        return {"use_cache": False} if hasattr(self.backbone.config, "use_cache") else {}

    def _token_ids(self, texts: list[str], max_tokens: int) -> list[list[int]]:
        if self.settings.prompt:
            texts = self._wrap(texts, max_tokens)
            max_tokens += SUFFIX_SLACK
        ids: list[list[int]] = self.tokenizer(texts, truncation=True, max_length=max_tokens)[
            "input_ids"
        ]
        return [row or [self.tokenizer.pad_token_id] for row in ids]

    def _wrap(self, texts: list[str], max_tokens: int) -> list[str]:
        """Clips texts by tokens and puts the prompt, uncut, around them."""
        before, after = str(self.settings.prompt).split("{text}")
        budget = max_tokens - len(self.tokenizer(before + after)["input_ids"])
        if budget < 1:
            raise TextError(
                f"text.prompt leaves no room for text in {max_tokens} tokens: raise text.max_tokens"
            )
        offsets = self.tokenizer(
            texts,
            add_special_tokens=False,
            truncation=True,
            max_length=budget,
            return_offsets_mapping=True,
        )["offset_mapping"]
        ends = [row[-1][1] if row else 0 for row in offsets]
        return [before + text[:end] + after for text, end in zip(texts, ends, strict=True)]

    def _batches(self, order: list[int], ids: list[list[int]]) -> Iterator[list[int]]:
        start = 0
        while start < len(order):
            stop = start + max(1, self.batch_tokens // len(ids[order[start]]))
            yield order[start:stop]
            start = stop

    def _encode_halving(self, ids: list[list[int]]) -> FloatArray:
        try:
            return self._encode_batch(ids)
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if len(ids) == 1:
                raise TextError(
                    f"text.max_tokens: one text of {len(ids[0])} tokens does not fit in memory: "
                    "lower it, or use fewer text.num_actors"
                ) from error
        self.batch_tokens = max(1, self.batch_tokens // 2)
        half = len(ids) // 2
        return np.concatenate([self._encode_halving(ids[:half]), self._encode_halving(ids[half:])])

    def _encode_batch(self, ids: list[list[int]]) -> FloatArray:
        faults.check("encode", 0, len(ids))
        with torch.inference_mode():
            return self.forward_pooled(self._pad(ids)).cpu().numpy()

    def _pad(self, ids: list[list[int]]) -> Batch:
        width = max(map(len, ids), default=1)
        input_ids = torch.full((len(ids), width), int(self.tokenizer.pad_token_id))
        mask = torch.zeros((len(ids), width), dtype=torch.int64)
        for row, tokens in enumerate(ids):
            input_ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        return {"input_ids": input_ids, "attention_mask": mask}


def _prepare(tokenizer: Any, directory: Path) -> Any:
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
    return tokenizer


def _out_of_memory(error: Exception) -> bool:
    return isinstance(
        error, MemoryError | torch.OutOfMemoryError
    ) or "can't allocate memory" in str(error)
