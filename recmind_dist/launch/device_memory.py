"""What a rank keeps on its device, by part, and whether a GPU has room for it (docs/gpu.md).

Legend: n rows of this rank, E' entries in its rows, D dims, T text dims.
"""

from collections.abc import Mapping

import numpy as np

from recmind_dist.graph import Graph, row_bounds
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import Whitening
from recmind_dist.training.run_stores import RunStores

_GIB = 1 << 30


def kept_bytes(
    rows: int, entries: int, dim: int, text_dim: int = 0, optimizer: str = "adam"
) -> dict[str, int]:
    """Bytes by part that stay on a rank's device: what steps and extraction take comes on top.

    Args:
        rows, entries, dim, text_dim: n, E', D and T of the legend
        optimizer: table.optimizer
    """
    row = 4 * dim
    index = 4 if entries <= np.iinfo(np.int32).max else 8
    return {
        "the table": rows * row,
        "its optimizer": rows * (2 * row + 8 if optimizer == "adam" else 4),
        "edges": entries * (index + 4) + (rows + 1) * index,
        "texts": rows * 2 * text_dim,
        "final vectors": rows * row,
    }


def kept_bytes_of_run(
    config: RunConfig, inputs: RunStores, rank: int = 0, world_size: int = 1
) -> dict[str, int]:
    """The same of one rank of a prepared run; final vectors count as D wide, which is the least."""
    graph = Graph.open(inputs.graph, edges=False)
    bounds = row_bounds(graph, world_size)
    first, last = int(bounds[rank]), int(bounds[rank + 1])
    row = np.asarray(graph.row_of_node)
    entries = int(np.asarray(graph.degree)[(row >= first) & (row < last)].sum())
    text_dim = 0
    if inputs.whitening is not None:
        text_dim = Whitening.load(inputs.whitening).dim
    dim, optimizer = config.model.embedding_dim, config.table.optimizer
    return kept_bytes(last - first, entries, dim, text_dim, optimizer)


def shortage(parts: Mapping[str, int], free: int, gpu: str) -> str | None:
    """What is too large for a GPU, and by how much, a sentence without a subject; None where there
    is room.

    Args:
        parts: bytes by part, see `kept_bytes`
        free: bytes of the GPU that can be taken
        gpu: its name
    """
    needed = sum(parts.values())
    if needed <= free:
        return None
    largest = sorted(parts.items(), key=lambda part: -part[1])[:3]
    listed = ", ".join(f"{name} {gibibytes(size)}" for name, size in largest)
    return (
        f"keeps at least {gibibytes(needed)} on its GPU ({listed}), {gibibytes(needed - free)} more"
        f" than {gpu} has free"
    )


def gibibytes(size: int) -> str:
    """Such as "1.5 GiB"; below a tenth in MiB."""
    return f"{size / _GIB:.1f} GiB" if size >= _GIB // 10 else f"{size / (1 << 20):.1f} MiB"
