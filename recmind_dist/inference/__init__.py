"""Embeddings and scores of a trained shard: all nodes, item and user states, users folded in."""
