"""Attention masks of padded batches that a GPU makes by itself.

transformers looks whether a mask of padding has any zero, and so waits for the GPU in each forward
pass. It takes a mask of four dimensions as it is.

Legend: n texts, S tokens.
"""

from typing import Any

import torch
from torch import Tensor

BIDIRECTIONAL = ("bert", "distilbert", "roberta", "xlm-roberta")
CAUSAL = ("llama", "qwen2", "qwen3")


def is_causal(config: Any) -> bool | None:
    """Whether a model's tokens see only earlier ones; None where a mask of four dimensions was not
    tried, or layers see different tokens.
    """
    if getattr(config, "sliding_window", None) is not None:
        return None
    if config.model_type in BIDIRECTIONAL and not getattr(config, "is_decoder", False):
        return False
    return True if config.model_type in CAUSAL else None


def whole_mask(mask_nS: Tensor, causal: bool) -> Tensor:
    """Which token sees which. Shape: [n, 1, S or 1, S] bool, the third for the one that sees."""
    mask_n11S = mask_nS[:, None, None, :].bool()
    if not causal:
        return mask_n11S
    width = mask_nS.shape[1]
    return mask_n11S & torch.ones(width, width, dtype=torch.bool, device=mask_nS.device).tril()
