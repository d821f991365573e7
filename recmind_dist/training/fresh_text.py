"""Fresh texts of the warm-up: a few of a step's anchors go through the language model, so that its
adapters learn.

Legend: k fresh texts of this rank, T model width, D embedding dims.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from recmind_dist.model.models import Model
from recmind_dist.sampling.batch import Batch
from recmind_dist.text import TextEncoder, Texts, Whitening
from recmind_dist.text.columns import num_texts
from recmind_dist.text.tokens import to_device

SIDES = ("user", "item")


@dataclass(frozen=True)
class FreshText:
    """Tokenised texts of some of this rank's anchors, on the language model's device.

    Shapes: anchor: by side [k_side], positions among this rank's anchors; tokens: user texts, then
    item texts, [k, S]. A rank without any carries one blank text, so that all ranks run the same
    graph.
    """

    anchor: dict[str, Tensor]
    tokens: dict[str, Tensor]


class FreshTextPicker:
    """Chooses anchors by their place in the global batch, so any number of ranks chooses the same.

    Args:
        texts: of all nodes.
        encoder: whose tokenizer is used.
        texts_per_step: over all ranks and both sides.
    """

    def __init__(self, texts: Texts, encoder: TextEncoder, texts_per_step: int) -> None:
        self._texts = {"user": texts.users, "item": texts.items}
        self._encoder = encoder
        self._sides = [side for side in SIDES if num_texts(self._texts[side])]
        self._per_side = max(1, texts_per_step // max(len(self._sides), 1))

    def pick(self, batch: Batch, stride: int) -> FreshText:
        """Tokenises this rank's share.

        Args:
            stride: one pair of so many in the global batch is an anchor.
        """
        is_anchor = batch.input_id % stride == 0
        anchors, pairs = batch.input_id[is_anchor], batch.pairs[:, is_anchor]
        num_anchors = -(-batch.global_batch_size // stride)
        every = max(1, -(-num_anchors // self._per_side))
        first_node = {"user": 0, "item": len(self._texts["user"])}
        chosen: dict[str, Tensor] = {}
        device = self._encoder.device
        limits = {
            "user": self._encoder.settings.user_max_tokens,
            "item": self._encoder.settings.max_tokens,
        }
        groups: list[tuple[list[str], int]] = []
        for row, side in enumerate(SIDES):
            local = (
                np.flatnonzero((anchors.numpy() // stride) % every == 0)
                if side in self._sides
                else np.zeros(0, np.int64)
            )
            nodes = pairs[row, local].numpy() - first_node[side]
            texts = [self._texts[side][int(n)] for n in nodes]
            kept = [i for i, text in enumerate(texts) if text is not None]
            chosen[side] = to_device(torch.from_numpy(local[kept].astype(np.int64)), device)
            groups.append(([t for t in texts if t is not None], limits[side]))
        if not any(texts for texts, _ in groups):
            groups = [([" "], limits["item"])]
        tokens = self._encoder.tokenize_groups(groups)
        return FreshText(chosen, {name: to_device(t, device) for name, t in tokens.items()})


class FreshTextEncoder(nn.Module):
    """The language model with trainable adapters, followed by the whitening that was fitted to the
    stored vectors.

    It stays in evaluation mode: dropout would make the loss depend on who drew it.
    """

    def __init__(self, encoder: TextEncoder, whitening: Whitening) -> None:
        super().__init__()
        self.encoder = encoder
        for side, name in (("user", "users"), ("item", "items")):
            self.register_buffer(
                f"{side}_mean", torch.from_numpy(whitening.mean[name]).to(encoder.device)
            )
            self.register_buffer(
                f"{side}_matrix", torch.from_numpy(whitening.matrix[name]).to(encoder.device)
            )

    def train(self, mode: bool = True) -> "FreshTextEncoder":
        """Keeps evaluation mode, whatever the engine asks."""
        return super().train(False)

    def replace(
        self, views: dict[str, Tensor], fresh: FreshText, model: Model
    ) -> dict[str, Tensor]:
        """`views` with the chosen anchors' text views made anew by the language model."""
        text_view = getattr(model, "text_view", None)
        assert text_view is not None, "only models with a text view have a warm-up"
        pooled = self.encoder.forward_pooled(fresh.tokens)
        views, start = dict(views), 0
        for side in SIDES:
            count = len(fresh.anchor[side])
            mean, matrix = self.get_buffer(f"{side}_mean"), self.get_buffer(f"{side}_matrix")
            z = text_view.project((pooled[start : start + count] - mean) @ matrix)
            views[f"{side}_text"] = views[f"{side}_text"].index_copy(0, fresh.anchor[side], z)
            start += count
        # a rank's blank text, and nothing else, has weight zero: its gradient exists on every rank
        # all the same
        views["item_text"] = views["item_text"] + 0.0 * pooled[start:].sum()
        return views
