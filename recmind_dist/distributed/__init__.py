"""Ranks, the transports between them, and DeepSpeed ZeRO for the dense part."""
