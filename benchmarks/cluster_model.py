"""Step time, bytes and memory of clusters that are not here: measured seconds of work, replayed
bytes, a stated network.

Legend: P workers, b pairs of each, N nodes and E sampled edges of a batch.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # so that the file runs as a script too

import numpy as np
from scipy.optimize import nnls

from recmind_dist.distributed.grid import grid_shape
from recmind_dist.evaluation.topk import ITEM_BLOCK
from recmind_dist.launch.network import GROUPS, OTHER_FILES
from recmind_dist.pipeline.simulated_traffic import StepTraffic
from recmind_dist.propagation.gathered_matrix import columns_at_once

TEXT_DIM, JUDGED = 384, 10_000  # of evaluation.max_users
MAPPED_BYTES = 8 + 8
"""Of a node on every rank: where its edges start, and its table row; one copy a machine."""
NODE_BYTES = 8 + 4 + 8 / 5
"""The same in a rank's own memory: degree, a slot of the sampler, and of items, a fifth of the
nodes, the cumulated chance of being drawn (tests/dist/test_memory_by_node.py)."""
RECMIND_NODE_BYTES = 4 + 8 / 5
"""RecMind's beside: degrees without held-out edges, chances of the gates' negatives."""
PLANNED = ((5e7, 1e9), (5e8, 1e10))  # nodes and edges of graphs that are only reckoned with


@dataclass(frozen=True)
class Work:
    """Seconds of one core as a function of a batch: per sampled edge, per node, per step. Fitted on
    one worker alone.
    """

    per_edge: float
    per_node: float
    fixed: float

    @staticmethod
    def fit(edges: list[float], nodes: list[float], seconds: list[float]) -> "Work":
        """Least squares of terms that are not negative, errors relative."""
        weight = 1.0 / np.array(seconds)
        columns = np.stack([edges, nodes, np.ones(len(edges))], 1) * weight[:, None]
        found, _ = nnls(columns, np.ones(len(seconds)))
        return Work(*(float(x) for x in found))

    def seconds(self, batch: StepTraffic) -> float:
        """Of one batch."""
        return self.per_edge * batch.edges + self.per_node * batch.nodes + self.fixed


@dataclass(frozen=True)
class Exchange:
    """CPU-seconds of an exchange: per call, and per byte that leaves a rank, its picking and
    ordering of rows included.
    """

    per_call_s: float
    per_byte_s: float

    @staticmethod
    def fit(sent: list[float], seconds: list[float], calls: int) -> "Exchange":
        """Through measured sizes, of which the first is of a few rows: what that takes is what
        `calls` cost.
        """
        return Exchange(seconds[0] / calls, _slope(sent, seconds))


def _slope(sent: list[float], seconds: list[float]) -> float:
    """Seconds a byte above the first point, not negative."""
    more, rest = np.array(sent[1:]) - sent[0], np.array(seconds[1:]) - seconds[0]
    return max(float(more @ rest / (more @ more)), 0.0)


@dataclass(frozen=True)
class Network:
    """What is assumed of a cluster's network."""

    gbit_s: float = 25.0
    efficiency: float = 0.7
    latency_us: float = 30.0
    """Of a message; messages of an exchange are sent one after the other."""

    def seconds(self, sent: float, calls: int, messages: int) -> float:
        """Of `calls` exchanges of so many messages each, in which a rank sends so many bytes."""
        return (
            8 * sent / (self.gbit_s * 1e9 * self.efficiency)
            + calls * messages * self.latency_us * 1e-6
        )


def messages_of_few_bytes(world_size: int) -> int:
    """That a rank sends in an exchange of ids or a sum: to every rank, or in two legs."""
    shape = grid_shape(world_size)
    return world_size - 1 if shape is None else sum(shape) - 2


@dataclass(frozen=True)
class Model:
    """One worker's step.

    Attributes:
        train, sample: work of the training and the sampling thread.
        per_row: of updating a row of the table, which is not in `train`: owners do it once, however
            many ranks need the row.
        exchange: measured between two ranks here, through shared memory, above what reading as many
            own rows costs.
        gloo: the same as ranks of two machines do it, over the loopback network.
        layers: hops.
        partitioned: whether owners look pairs up, and draw.
        hides: whether batches hide their edges, so that owners draw in any case.
        batch_growth: work of the sampling thread on many ranks over that on one.
        gates: whether a second batch trains gates on shared negatives, with newest items and
            content views, as RecMind's.
    """

    train: Work
    sample: Work
    per_row: float
    exchange: Exchange
    gloo: Exchange
    layers: int
    partitioned: bool
    hides: bool = True
    batch_growth: float = 1.0
    gates: bool = False

    @property
    def _hop_exchanges(self) -> int:
        """Ids and replies of each hop, where owners draw."""
        return 2 * self.layers if self.partitioned or self.hides else 0

    @property
    def id_exchanges(self) -> int:
        """Of the sampling thread a step: pairs to the users' owners, items and negatives back;
        hidden pairs to the owners of their ends; hops; wanted rows.
        """
        plain = 2 * self.partitioned + self.hides + self._hop_exchanges + 1
        # bits of shared negatives; pairs, items, bits, newest items; hops; content views
        gates = (1 + 5) * self.partitioned + self._hop_exchanges + 1
        return plain + gates * self.gates

    @property
    def id_calls(self) -> int:
        """Of a process group for them: it has to be told first how much pairs, hidden pairs, each
        hop's two and wanted rows will be.
        """
        told = self.partitioned + self.hides + self._hop_exchanges + 1
        of_gates = 3 * self.partitioned + self._hop_exchanges + 1
        return self.id_exchanges + told + of_gates * self.gates

    @property
    def row_exchanges(self) -> int:
        """Of the training thread a step: rows, content views, gradients, losses."""
        return 3 + self.gates

    def training(self, batch: StepTraffic) -> float:
        """Seconds of the training thread without exchanges."""
        return self.train.seconds(batch) + self.per_row * batch.owned

    def here(self, batch: StepTraffic, world_size: int, cores: int) -> float:
        """Seconds of a step on this machine, where both threads of a rank share one core, and ranks
        the cores.
        """
        alone = self.training(batch) + self.sample.seconds(batch)
        if world_size == 1:
            return alone
        calls = self.id_exchanges + self.row_exchanges
        sent = sum(batch.sent.values())
        return (alone + calls * self.exchange.per_call_s + sent * self.exchange.per_byte_s) * max(
            1.0, world_size / cores
        )

    def there(self, batch: StepTraffic, world_size: int, network: Network) -> float:
        """Seconds of a step on a cluster, where a worker has a core for each of its two threads:
        what the slower one does.
        """
        if world_size == 1:
            return max(self.training(batch), self.sample.seconds(batch))
        return max(self.paths(batch, world_size, network).values())

    def paths(self, batch: StepTraffic, world_size: int, network: Network) -> dict[str, float]:
        """Seconds of a step on a cluster, by what may hold it back.

        What a byte costs here by gloo it costs there too. Copying in gloo's threads and the wire
        add up for the thread that waits for them, though in part they go on at once.
        """
        ids = batch.sent["ids"]
        rest = sum(batch.sent.values()) - ids
        work = self.training(batch) + rest * self.gloo.per_byte_s
        sample = self.sample.seconds(batch) * self.batch_growth + ids * self.gloo.per_byte_s
        few, many = messages_of_few_bytes(world_size), world_size - 1
        on_the_way = network.seconds(rest, self.row_exchanges - 1, many)
        on_the_way += network.seconds(0, 1, few)  # losses
        return {
            "training": work + on_the_way,
            "sampling": sample + network.seconds(ids, self.id_calls, few),
        }


@dataclass(frozen=True)
class Machine:
    """What is assumed of a worker's machine beside the network."""

    gflops: float = 30.0
    """Of a core that multiplies matrices."""
    disk_gb_s: float = 0.5
    """Of the shared storage, for each worker."""


def occasions(
    num_nodes: float,
    num_items: float,
    num_judged: float,
    world_size: int,
    dim: int,
    text_dim: int,
    layers: int,
    network: Network,
    machine: Machine,
) -> dict[str, float]:
    """Seconds of what happens beside steps, of the default RecMind on a partitioned graph. None of
    it was measured on a cluster.

    "texts": at the start a rank reads its share of the items' vectors, sends rows home, and passes
    its vectors in float64 to all ranks for four means: of neighbours and of theirs, of users' items
    and of the newest. "validation": states of each layer of graph and text views pass by all ranks,
    then of items both views and the texts for means of users' newest items, the texts for those of
    all, and blocks of items; a rank multiplies its share of the `num_judged` users, at most 262,144
    of them, with all items. "checkpoint": rows with Adam's state to storage, while training goes
    on.

    Args:
        layers: of both views.
    """
    peers = world_size - 1
    others, blocks = peers / world_size, -(-text_dim // columns_at_once(int(num_nodes), world_size))
    texts = num_items * text_dim * 2 / world_size
    means = 4 * 8 * num_nodes * text_dim * others
    states = dim * 2 * layers * num_nodes + num_items * (2 * dim + 2 * text_dim)
    final = 2 * dim + text_dim + 1
    items = num_items * (final + 2) * 4 * others  # two columns are ids
    columns = columns_at_once(int(num_nodes), world_size)
    passes = 2 * layers * -(-dim // columns) + 2 + -(-num_items // (world_size * ITEM_BLOCK))
    flops = 2 * num_judged * num_items * final / world_size
    rows = num_nodes * (3 * 4 * dim + 8) / world_size
    return {
        "texts": texts / (machine.disk_gb_s * 1e9)
        + network.seconds(texts * others + means, 4 * blocks + 1, peers),
        "validation": network.seconds(4 * states * others + items, int(passes), peers)
        + flops / (machine.gflops * 1e9),
        "checkpoint": rows / (machine.disk_gb_s * 1e9),
    }


def memory_bytes(
    num_nodes: float,
    num_edges: float,
    world_size: int,
    dim: int,
    optimizer: str = "adam",
    text_dim: int = 0,
) -> dict[str, float]:
    """What a rank of a partitioned graph needs: its rows and their optimizer, its edges, and some
    numbers for every node.

    Own rows take 12 bytes beside. Of RecMind's texts four vectors a row in float16: its own, its
    neighbours' mean, and of a user's items the mean and that of the newest. A held-out edge takes 8
    bytes on every rank, which are left out.

    Args:
        text_dim: of RecMind's texts; 0: LightGCN.
    """
    state = 2 * 4 * dim + 8 if optimizer == "adam" else 4
    by_node = MAPPED_BYTES + NODE_BYTES + (RECMIND_NODE_BYTES if text_dim else 0)
    return {
        "table": num_nodes / world_size * (4 * dim + state),
        "edges": 2 * num_edges / world_size * 4,
        "texts": num_nodes / world_size * 4 * 2 * text_dim,
        "nodes": num_nodes * by_node + num_nodes / world_size * 12,
    }


def main() -> None:
    """Prints what a rank of the planned graphs holds, and how long it takes beside its steps:
    `python benchmarks/cluster_model.py [WORKERS …]`.
    """
    worlds = [int(word) for word in sys.argv[1:]] or [8, 64, 512]
    print(
        "| edges | nodes | workers | table, Adam | table, row-wise Adagrad | edges | by node | "
        "sum, Adam | sum, Adagrad | more of RecMind |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for nodes, edges in PLANNED:
        for world in worlds:
            adam, adagrad = (
                memory_bytes(nodes, edges, world, 64, name) for name in ("adam", "adagrad")
            )
            recmind = memory_bytes(nodes, edges, world, 64, text_dim=TEXT_DIM)
            parts = (
                adam["table"],
                adagrad["table"],
                adam["edges"],
                adam["nodes"],
                sum(adam.values()),
                sum(adagrad.values()),
                sum(recmind.values()) - sum(adam.values()),
            )
            cells = " | ".join(f"{part / 2**30:.1f}" for part in parts)
            print(f"| {edges:.0e} | {nodes:.0e} | {world} | {cells} |")
    print(f"\n| nodes | workers | texts, s | {JUDGED:,} users, s | checkpoint, s | sockets |")
    print("|---|---|---|---|---|---|")
    for nodes, _ in PLANNED:
        for world in worlds:
            found = occasions(
                nodes, nodes / 5, JUDGED, world, 64, TEXT_DIM, 2, Network(), Machine()
            )
            cells = " | ".join(f"{seconds:.0f}" for seconds in found.values())
            print(f"| {nodes:.0e} | {world} | {cells} | {GROUPS * world + OTHER_FILES} |")


if __name__ == "__main__":
    main()
