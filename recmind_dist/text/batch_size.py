"""How many tokens go through the language model at a time."""

from typing import Any

# fp32, texts/s a core at 512 / 1,024 / 4,096 tokens: MiniLM 95 / 93 / 76, SmolLM2 8.4 / 6.9 / 4.8
CPU_BATCH_TOKENS = 512
GPU_BATCH_TOKENS = 65536
"""At most; a GPU of today is busy with these."""
USABLE = 0.5
"""Share of free memory: the rest is for what the estimate leaves out, and for others."""


def bytes_per_token(config: Any, element_bytes: int, max_tokens: int) -> int:
    """Most memory that a token takes in a forward pass without gradients.

    That is where a layer's inner states, gate and product live beside the states of the layer, or
    the float32 copy of the pooling; and a row of the attention's mask, as bool and as numbers.
    """
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    states = element_bytes * (8 * width + 3 * inner) + 8 * width
    return states + (1 + element_bytes) * max_tokens


def gpu_batch_tokens(free_bytes: int, token_bytes: int) -> int:
    """Padded tokens of a forward pass on a GPU with so much free memory."""
    return max(CPU_BATCH_TOKENS, min(int(USABLE * free_bytes) // token_bytes, GPU_BATCH_TOKENS))
