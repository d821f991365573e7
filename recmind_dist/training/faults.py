"""Fault points of training: `check(point, rank, step)` does nothing unless a test has armed it (see
recmind_dist/faults.py).

| point | where |
|---|---|
| step | before a step |
| gradient | after backward, before the update; "nan" spoils the gradient of this rank's rows |
| dense gradient | in backward; "nan" spoils a gradient of the dense part |
| shard, share | checkpoint: a rank's rows will be written; are written, its word is not |
| commit | checkpoint: manifest written, COMMIT not |
| report | COMMIT written, nobody told |
| sample | the sampler's thread, before it prepares a batch |
| ingest, prepare | the lock of a data set, of a graph is held; nothing is built yet |
| encode, embedded | extraction: a batch of texts (their count); a shard not yet written (number) |
"""

from recmind_dist.faults import arm, check

__all__ = ["arm", "check"]
