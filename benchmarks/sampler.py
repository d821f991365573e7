"""How fast are neighbours sampled? Million sampled edges per CPU-second, against numpy, PyG's op
and random reads.
"""

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that the file runs as a script too

import numpy as np
import torch
import typer
from numba import njit

from benchmarks.graphs import LARGE, SMALL, PowerLaw
from benchmarks.measure import Report, Side, interleave
from recmind_dist.graph import Graph
from recmind_dist.randomness import mix64
from recmind_dist.sampling.neighbor_sampler import NumbaNeighborSampler
from recmind_dist.sampling.pyg_sampler import pyg_op_resolves
from recmind_dist.types import IntArray

FAN_OUT = (10, 10)
SEEDS = {SMALL: 2048, LARGE: 8192}


def main(quick: bool = typer.Option(False, help="fewer rounds, under 4 minutes")) -> None:
    """Samples [10, 10] around random seeds of two power-law graphs, all sides on one thread, in
    turn.
    """
    torch.set_num_threads(1)
    report = Report("sampler", quick)
    ratios = {}
    for name, shape in (("small", SMALL), ("large", LARGE)):
        ratios[name] = _measure(
            report, name, shape, rounds=5 if quick else 15, seconds=0.5 if quick else 2.0
        )
    report.figures["vs_pyg"] = ratios["large"]
    if ratios["large"] is None:
        report.note(
            "vs_pyg is null: neither pyg-lib nor torch-sparse can be imported, and PyG's "
            "NeighborLoader has no backend "
            "of its own; `pip install pyg-lib -f https://data.pyg.org/whl/torch-2.13.0+cpu.html` "
            "where that index is reachable"
        )
    report.publish()


def _measure(
    report: Report, name: str, shape: PowerLaw, rounds: int, seconds: float
) -> float | None:
    graph = in_memory(shape.open())
    seeds = seed_batches(graph, SEEDS[shape], 8)
    reads = graph.indices
    sides: dict[str, Side] = {
        "recmind": lambda: rate(_ours(graph), seeds, seconds),
        "numpy": lambda: rate(_numpy(graph), seeds, seconds),
        "random reads": lambda: _reads(reads, seconds),
    }
    pyg = _pyg(graph)
    if pyg is not None:
        sides["pyg"] = lambda: rate(pyg, seeds, seconds)
    found = interleave(sides, rounds)
    limit = found.pop("random reads")
    for side, spread in found.items():
        report.add(
            f"{shape.name}, {SEEDS[shape]} seeds", side, "M edges/CPU-s", spread, limit.median
        )
    report.figures[f"medges_per_cpu_s_{name}"] = found["recmind"].median
    report.figures[f"vs_numpy_{name}"] = found["recmind"].over(found["numpy"]).median
    report.figures[f"fraction_of_reads_{name}"] = found["recmind"].over(limit).median
    return found["recmind"].over(found["pyg"]).median if pyg is not None else None


def in_memory(graph: Graph) -> Graph:
    """The same with its arrays read: what is measured is sampling, not the page cache."""
    arrays = {name: np.array(getattr(graph, name)) for name in ("indptr", "indices")}
    return Graph(
        graph.path,
        graph.manifest,
        time_rank=graph.time_rank,
        row_of_node=graph.row_of_node,
        part_rows=graph.part_rows,
        **arrays,
    )


def seed_batches(graph: Graph, size: int, count: int) -> list[IntArray]:
    """Distinct random nodes, `count` times."""
    rng = np.random.default_rng(1)
    return [rng.choice(graph.num_nodes, size, replace=False).astype(np.int64) for _ in range(count)]


def rate(sample: Any, seeds: list[IntArray], seconds: float) -> float:
    """Million edges per CPU-second: `sample(seeds, key)` returns how many edges it drew."""
    sample(seeds[0], 0)
    edges, turn, start = 0, 0, time.process_time()
    while (spent := time.process_time() - start) < seconds:
        edges += sample(seeds[turn % len(seeds)], turn)
        turn += 1
    return edges / spent / 1e6


def _ours(graph: Graph) -> Any:
    sampler = NumbaNeighborSampler(graph, FAN_OUT)
    return lambda seeds, key: sum(len(hop.indices) for hop in sampler.sample(seeds, key).hops)


def _numpy(graph: Graph) -> Any:
    local_of = np.full(graph.num_nodes, -1, np.int32)

    def sample(seeds: IntArray, key: int) -> int:
        rng, n_id, edges = np.random.default_rng(key), seeds, 0
        local_of[n_id] = np.arange(len(n_id))
        for fan_out in FAN_OUT:
            source = _floyd(graph, n_id, fan_out, rng)
            new = np.unique(source[local_of[source] < 0])
            local_of[new] = len(n_id) + np.arange(len(new))
            n_id = np.concatenate([n_id, new])
            _ = local_of[source]  # the block's local ids
            edges += len(source)
        local_of[n_id] = -1
        return edges

    return sample


def _floyd(graph: Graph, n_id: IntArray, fan_out: int, rng: np.random.Generator) -> IntArray:
    """Neighbours without replacement, all rows at once. Source: Floyd, CACM 30 (1987)."""
    degree = graph.indptr[n_id + 1] - graph.indptr[n_id]
    many = degree > fan_out
    few, wide = n_id[~many], n_id[many]
    counts = degree[~many]
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    whole = graph.indices[np.repeat(graph.indptr[few], counts) + within]
    picked = np.empty((fan_out, len(wide)), np.int64)
    draws = rng.random((fan_out, len(wide)))
    for j in range(fan_out):
        top = degree[many] - fan_out + j
        position = (draws[j] * (top + 1)).astype(np.int64)
        repeated = (picked[:j] == position).any(axis=0)
        picked[j] = np.where(repeated, top, position)
    return np.concatenate([graph.indices[(graph.indptr[wide] + picked).ravel()], whole])


def _pyg(graph: Graph) -> Any | None:
    """What NeighborLoader calls, without its conversion to Data objects: in its favour."""
    colptr, row = torch.from_numpy(graph.indptr), torch.from_numpy(graph.indices.astype(np.int64))
    fan_out = list(FAN_OUT)
    if pyg_op_resolves():

        def sample(seeds: IntArray, _: int) -> int:
            found = torch.ops.pyg.neighbor_sample(
                colptr,
                row,
                torch.from_numpy(seeds),
                fan_out,
                None,
                None,
                None,
                None,
                True,
                False,
                True,
                False,
                "uniform",
                False,
            )
            return len(found[0])

        return sample
    try:
        import torch_sparse  # noqa: F401  # registers the op
    except ImportError:
        return None
    op = torch.ops.torch_sparse.neighbor_sample
    return lambda seeds, _: len(op(colptr, row, torch.from_numpy(seeds), fan_out, False, True)[1])


def _reads(table: np.ndarray, seconds: float) -> float:
    """Million independent random reads of 4 bytes per CPU-second from an array as long as the
    graph's.
    """
    count, done, turn = 1_000_000, 0, 0
    _read_at_random(table, 1, np.uint64(0))
    start = time.process_time()
    while (spent := time.process_time() - start) < seconds:
        _read_at_random(table, count, np.uint64(turn))
        done += count
        turn += 1
    return done / spent / 1e6


@njit(cache=True)
def _read_at_random(table, count, key):  # type: ignore[no-untyped-def]
    total, size = np.int64(0), np.uint64(len(table))
    for i in range(count):
        word = mix64(key * np.uint64(0x9E3779B97F4A7C15) + np.uint64(i))
        total += table[((word >> np.uint64(32)) * size) >> np.uint64(32)]
    return total


if __name__ == "__main__":
    typer.run(main)
