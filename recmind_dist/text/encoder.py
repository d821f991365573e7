"""A language model as a module: texts in, one pooled vector a text out, with or without LoRA.

Legend: n texts, S tokens (padded), T width of the model.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recmind_dist import faults
from recmind_dist.errors import TextError
from recmind_dist.text.adapter import attach_lora, load_adapter, lora_parameters
from recmind_dist.text.attention import is_causal, whole_mask
from recmind_dist.text.backbone import read_model, refuse_long_texts
from recmind_dist.text.batch_size import CPU_BATCH_TOKENS, bytes_per_token, gpu_batch_tokens
from recmind_dist.text.lower_states import LowerLayers, LowerStates
from recmind_dist.text.quiet_libraries import quiet_libraries
from recmind_dist.text.settings import LoraSettings, TextSettings
from recmind_dist.text.source import (
    refuse_dtype_on,
    resolve_dtype,
    resolve_model,
    resolve_pooling,
    resolve_prompt,
)
from recmind_dist.text.tokens import Batch, SortedWindow, TextTokenizer, Tokens, window_sizes
from recmind_dist.types import FloatArray

WINDOW = 4096
"""Texts sorted by length together, which leaves 2–4 % padding."""
GPU_WINDOWS = (1024, 16384)
"""The same on a GPU, whose batches are larger: the first and the largest."""
MAX_TOKENIZER_THREADS = 16


class TextEncoder(nn.Module):
    """A transformers model, its tokenizer and the pooling.

    Attributes:
        dim: T, width of the vectors.
        batch_tokens: padded tokens of one forward pass.
        first_window, window: texts sorted by length together, at first and at most.
        tokenizer_threads: that tokenise ahead of the forward pass; 0: it tokenises itself.
    """

    def __init__(self, backbone: Any, tokenizer: Any, settings: TextSettings) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.tokenizer = tokenizer
        self.settings = settings
        self.pooling = resolve_pooling(settings)
        self.dim = int(backbone.config.get_text_config().hidden_size)
        self.batch_tokens = CPU_BATCH_TOKENS
        self.first_window = self.window = WINDOW
        self.tokenizer_threads = 0
        self._tokens = TextTokenizer(tokenizer, resolve_prompt(settings))
        self._is_causal: bool | None = None
        self._lower: tuple[LowerStates, LowerLayers] | None = None

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
        quiet_libraries()
        directory = resolve_model(settings)
        dtype = torch.bfloat16 if resolve_dtype(settings) == "bf16" else torch.float32
        refuse_dtype_on(device, resolve_dtype(settings))
        refuse_long_texts(directory, settings)
        backbone, tokenizer = read_model(directory, torch.float32 if adapter else dtype)
        if getattr(backbone, "pooler", None) is not None:
            backbone.pooler = None  # unused: its parameters would never get a gradient
        encoder = cls(backbone, tokenizer, settings).requires_grad_(False)
        if adapter:
            lora, state = load_adapter(adapter)
            encoder.add_lora(lora)
            encoder.load_lora_state(state)
            encoder.merge_lora()
        encoder = encoder.to(device=device, dtype=dtype).eval()
        if encoder.device.type == "cuda":
            encoder.use_gpu(torch.cuda.mem_get_info(encoder.device)[0])
        return encoder

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        device: torch.device = next(self.backbone.parameters()).device
        return device

    def use_gpu(self, free_bytes: int) -> None:
        """Sizes batches, tokenises ahead and makes masks as a GPU with so much free memory needs
        it.
        """
        config = self.backbone.config.get_text_config()
        self.first_window, self.window = GPU_WINDOWS
        self._is_causal = is_causal(config)
        self.tokenizer_threads = min(len(os.sched_getaffinity(0)), MAX_TOKENIZER_THREADS)
        max_tokens = max(self.settings.max_tokens, self.settings.user_max_tokens)
        token_bytes = bytes_per_token(config, self.backbone.dtype.itemsize, max_tokens)
        self.batch_tokens = gpu_batch_tokens(free_bytes, token_bytes)

    @property
    def pad_id(self) -> int:
        return self._tokens.pad_id

    def tokens(self, texts: list[str], max_tokens: int) -> Tokens:
        """Token ids as the model gets them, wrapped in the prompt and clipped."""
        return self._tokens(texts, max_tokens)

    def use_lower_states(self, states: LowerStates) -> None:
        """Texts whose states are kept begin at them from now on. Before adapters are added, or
        after they are merged; on a CPU.
        """
        self._lower = states, LowerLayers(self.backbone, states.last_layers)

    def tokenize(self, texts: list[str], max_tokens: int) -> Batch:
        """Wraps in the prompt, clips, pads right.

        Returns:
            input_ids and attention_mask, [n, S] int64, S ≤ max_tokens.
        """
        return self._tokens(texts, max_tokens).padded(self._tokens.pad_id)

    def tokenize_groups(self, groups: list[tuple[list[str], int]]) -> Batch:
        """As `tokenize`, for groups of (texts, max_tokens), padded together in order."""
        parts = [self._tokens(texts, max_tokens) for texts, max_tokens in groups if texts]
        return Tokens.join(parts).padded(self._tokens.pad_id)

    def forward_pooled(self, batch: Batch) -> Tensor:
        """Vectors with gradients. Shape: [n, T] float32, on the weights' device."""
        device = self.device
        mask_nS = batch["attention_mask"].to(device)
        with self._begun_at_lower_states(batch):
            hidden_nST = self.backbone(
                input_ids=batch["input_ids"].to(device),
                attention_mask=self._attention_mask(mask_nS),
                **self._no_cache,
            ).last_hidden_state
        if self.pooling == "cls":
            first_nT: Tensor = hidden_nST[:, 0].float()
            return first_nT
        if self.pooling == "last":
            last_n = mask_nS.sum(1) - 1
            row_n = torch.arange(len(last_n), device=last_n.device)
            last_nT: Tensor = hidden_nST[row_n, last_n].float()
            return last_nT
        weight_nS1 = mask_nS.unsqueeze(-1).float()
        mean_nT: Tensor = (hidden_nST.float() * weight_nS1).sum(1) / weight_nS1.sum(1)
        return mean_nT

    def encode(self, texts: list[str], max_tokens: int) -> FloatArray:
        """Vectors of many texts, without gradients. Shape: [n, T] float32.

        Texts are sorted by length inside windows. On a GPU the host neither waits for a batch nor
        pads one: it tokenises, starts kernels, and waits once, for the last vectors. A batch that
        does not fit in memory is halved, and so are all later batches.

        Raises:
            TextError: a single text does not fit.
        """
        on_gpu = self.device.type == "cuda"
        sizes = window_sizes(len(texts), self.first_window, self.window)
        windows = self._tokens.windows(texts, max_tokens, sizes, self.tokenizer_threads)
        start = 0
        with torch.inference_mode():
            out_nT = torch.empty(len(texts), self.dim, pin_memory=on_gpu)
            for tokens in windows:
                vectors_WT = self.encode_window(tokens)
                out_nT[start : start + len(vectors_WT)].copy_(vectors_WT, non_blocking=on_gpu)
                start += len(vectors_WT)
        if on_gpu:
            torch.cuda.current_stream(self.device).synchronize()
        vectors: FloatArray = out_nT.numpy()
        return vectors

    def encode_window(self, tokens: Tokens) -> Tensor:
        """Vectors of a window's texts, in their order. Shape: [W, T] float32, on the device."""
        window = SortedWindow(tokens, self._tokens.pad_id, self.device)
        out_WT = torch.empty(len(window.lengths), self.dim, device=self.device)
        for part in window.slices(lambda: self.batch_tokens):
            self._encode_halving(window, part, out_WT)
        return out_WT

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

    def _begun_at_lower_states(self, batch: Batch) -> AbstractContextManager[None]:
        if self._lower is None:
            return nullcontext()
        states, layers = self._lower
        return layers.begin_at(states.of(batch))

    def _attention_mask(self, mask_nS: Tensor) -> Tensor:
        return mask_nS if self._is_causal is None else whole_mask(mask_nS, self._is_causal)

    def _encode_halving(self, window: SortedWindow, part: slice, out_WT: Tensor) -> None:
        num_texts = part.stop - part.start
        try:
            faults.check("encode", 0, num_texts)
            vectors_nT = self.forward_pooled(window.batch(part))
            out_WT.index_copy_(0, window.rows[part], vectors_nT)
            return
        except (MemoryError, RuntimeError) as error:
            if not _out_of_memory(error):
                raise
            if num_texts == 1:
                raise TextError(
                    f"text.max_tokens: one text of {window.lengths[part.start]} tokens does not "
                    "fit in memory: lower it, or use fewer text.num_actors"
                ) from error
        self.batch_tokens = max(1, self.batch_tokens // 2)
        middle = part.start + num_texts // 2
        self._encode_halving(window, slice(part.start, middle), out_WT)
        self._encode_halving(window, slice(middle, part.stop), out_WT)


# what torch's allocator and oneDNN say on a CPU without memory: oneDNN, which computes GELU and
# products there, has one sentence for every failure to make room for its code and scratch
_CPU_OUT_OF_MEMORY = (
    "can't allocate memory",
    "could not create a primitive",
    "could not execute a primitive",
)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        sentence in str(error) for sentence in _CPU_OUT_OF_MEMORY
    )
