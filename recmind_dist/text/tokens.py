"""Token ids of many texts in flat arrays, and padded batches of them.

Legend: n texts, S tokens (padded), W texts of a window.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recmind_dist.errors import TextError
from recmind_dist.types import IntArray

Batch = dict[str, Tensor]
SUFFIX_SLACK = 8  # tokens that text and prompt may gain when tokenised together
CHUNK = 512
"""Texts that a thread tokenises at a time. Python's lock is held while their ids become an array,
so chunks are small."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of n texts, one text after another.

    Shapes: ids: [sum of lengths] int32; lengths: [n] int64, at least 1.
    """

    ids: NDArray[np.int32]
    lengths: IntArray

    @classmethod
    def join(cls, parts: list["Tokens"]) -> "Tokens":
        """Those of several, in order."""
        return cls(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.lengths for part in parts]),
        )

    def padded(self, pad_id: int) -> Batch:
        """All texts as one batch, padded right. Shapes: [n, S], on the CPU."""
        width = int(self.lengths.max(initial=1))
        starts = np.cumsum(self.lengths) - self.lengths
        ids, starts_n, lengths_n = map(torch.from_numpy, (self.ids, starts, self.lengths))
        return pad(ids, starts_n, lengths_n, width, pad_id)


def pad(ids: Tensor, starts: Tensor, lengths: Tensor, width: int, pad_id: int) -> Batch:
    """A batch of texts whose ids lie in a flat array. Reads nothing back from the device.

    Args:
        ids: flat, of these and other texts.
        starts, lengths: [n] int64, of the texts of the batch.
        width: S, at least the longest length.

    Returns:
        input_ids and attention_mask, [n, S] int64.
    """
    column_S = torch.arange(width, device=ids.device)
    mask_nS = column_S < lengths[:, None]
    position_nS = (starts[:, None] + column_S).clamp_(max=max(len(ids) - 1, 0))
    id_nS = ids[position_nS].long().masked_fill_(~mask_nS, pad_id)
    return {"input_ids": id_nS, "attention_mask": mask_nS.long()}


class SortedWindow:
    """Texts of one window on a device, longest first.

    Everything is copied at once, from pinned memory to a GPU; a batch is a slice of it.

    Attributes:
        rows: [W] int64, on the device: which text of the window each is.
    """

    def __init__(self, tokens: Tokens, pad_id: int, device: torch.device) -> None:
        order = np.argsort(-tokens.lengths, kind="stable")
        starts = np.cumsum(tokens.lengths) - tokens.lengths
        self.lengths = tokens.lengths[order]
        self._pad_id = pad_id
        self._ids = to_device(torch.from_numpy(tokens.ids), device)
        table = torch.from_numpy(np.stack([order, starts[order], self.lengths]))
        self.rows, self._starts, self._lengths = to_device(table, device)

    def slices(self, batch_tokens: Callable[[], int]) -> Iterator[slice]:
        """Batches of at most `batch_tokens()` padded tokens, or of one text. It is called anew for
        each batch, since a batch that did not fit in memory makes later ones smaller.
        """
        start = 0
        while start < len(self.lengths):
            # longest first: a batch too large for memory fails at once, not after an hour
            stop = start + max(1, batch_tokens() // int(self.lengths[start]))
            yield slice(start, min(stop, len(self.lengths)))
            start = stop

    def batch(self, part: slice) -> Batch:
        """The texts of a slice, padded to the longest of them."""
        width = int(self.lengths[part.start])
        return pad(self._ids, self._starts[part], self._lengths[part], width, self._pad_id)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy to a GPU goes through pinned memory and does not wait."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class TextTokenizer:
    """Wraps texts in the prompt, clips and tokenises them. Threads may share it.

    Args:
        tokenizer: of transformers, a fast one.
        prompt: holds {text}, or none.
    """

    def __init__(self, tokenizer: Any, prompt: str | None) -> None:
        self.pad_id = int(tokenizer.pad_token_id)
        self._tokenizer, self._prompt = tokenizer, prompt
        self._clipping: dict[int | None, Any] = {}
        self._lock = Lock()

    def __call__(self, texts: list[str], max_tokens: int) -> Tokens:
        """Token ids, at most `max_tokens` a text; one pad token for a text without any.

        Raises:
            TextError: the prompt leaves no room for text.
        """
        if self._prompt:
            texts = self._wrap(texts, self._prompt, max_tokens)
            max_tokens += SUFFIX_SLACK
        rust = self._clipped_to(max_tokens)
        # without offsets where the version can; either lets other threads run
        encode = getattr(rust, "encode_batch_fast", rust.encode_batch)
        ids = [encoding.ids or [self.pad_id] for encoding in encode(texts)]
        lengths = np.fromiter(map(len, ids), np.int64, len(ids))
        return Tokens(np.fromiter(chain.from_iterable(ids), np.int32, int(lengths.sum())), lengths)

    def windows(
        self, texts: list[str], max_tokens: int, sizes: list[int], num_threads: int
    ) -> Iterator[Tokens]:
        """Tokens of each window's texts, in order.

        Args:
            sizes: texts of each window, as `window_sizes` gives them.
            num_threads: that work ahead, at most by two of the largest windows; 0: a window is
                tokenised when it is asked for.
        """
        chunk = max(sizes, default=1) if num_threads == 0 else CHUNK
        pieces_of = list(_pieces(texts, sizes, chunk))
        depth = 2 * max(map(len, pieces_of), default=0) if num_threads else 0
        pieces = [piece for window in pieces_of for piece in window]
        parts = _map_ahead(lambda piece: self(piece, max_tokens), pieces, num_threads, depth)
        for window in pieces_of:
            yield Tokens.join([next(parts) for _ in window])

    def _wrap(self, texts: list[str], prompt: str, max_tokens: int) -> list[str]:
        """Clips texts by tokens and puts the prompt, uncut, around them."""
        before, after = prompt.split("{text}")
        budget = max_tokens - len(self._clipped_to(None).encode(before + after).ids)
        if budget < 1:
            raise TextError(
                f"text.prompt leaves no room for text in {max_tokens} tokens: raise text.max_tokens"
            )
        encodings = self._clipped_to(budget).encode_batch(texts, add_special_tokens=False)
        ends = [offsets[-1][1] if (offsets := e.offsets) else 0 for e in encodings]
        return [before + text[:end] + after for text, end in zip(texts, ends, strict=True)]

    def _clipped_to(self, max_tokens: int | None) -> Any:
        """A copy of the Rust tokenizer: one whose clip changes may not be in use elsewhere."""
        from tokenizers import Tokenizer

        with self._lock:
            if max_tokens in self._clipping:
                return self._clipping[max_tokens]
            rust = Tokenizer.from_str(self._tokenizer.backend_tokenizer.to_str())
            rust.no_padding()
            rust.no_truncation()
            if max_tokens is not None:
                rust.enable_truncation(max_tokens)
            self._clipping[max_tokens] = rust
            return rust


def window_sizes(num_texts: int, first: int, most: int) -> list[int]:
    """Texts of each window: each of twice as many as the one before it, from `first` to `most`, so
    that a GPU does not wait for the tokens of a whole window at the start.
    """
    sizes: list[int] = []
    left, size = num_texts, first
    while left > 0:
        sizes.append(min(size, left))
        left -= sizes[-1]
        size = min(2 * size, most)
    return sizes


def _pieces(texts: list[str], sizes: list[int], chunk: int) -> Iterator[list[list[str]]]:
    """The texts of each window, in pieces of at most `chunk`."""
    start = 0
    for size in sizes:
        stop = start + size
        yield [texts[at : min(at + chunk, stop)] for at in range(start, stop, chunk)]
        start = stop


def _map_ahead(
    work: Callable[[list[str]], Tokens], pieces: Iterable[list[str]], num_threads: int, depth: int
) -> Iterator[Tokens]:
    """Results in order, of threads that are at most `depth` pieces ahead."""
    if num_threads == 0:
        yield from map(work, pieces)
        return
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="tokenize")
    started: deque[Future[Tokens]] = deque()
    try:
        for piece in pieces:
            started.append(pool.submit(work, piece))
            if len(started) > depth:
                yield started.popleft().result()
        while started:
            yield started.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
