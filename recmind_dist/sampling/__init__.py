"""Mini-batches: masked edges, sampled neighbourhoods, negatives, a loader that works ahead."""
