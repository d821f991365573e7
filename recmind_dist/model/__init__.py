"""The models in plain torch, a file each, and what they share: gates, text view, losses, queue.

No Ray, no collectives, no sampling.
"""
