"""What do a hundred million edges with a text for every item take on one machine? The default
RecMind, with row-wise Adagrad, on two workers of a partitioned graph: prepared, embedded by a tiny
encoder, trained for 200 steps, validated on sampled users.

    python benchmarks/large_graph.py --quick    # 2 M edges
    python benchmarks/large_graph.py            # 100 M edges, 5 M users, 1 M items

Memory is the proportional set size of all processes, looked at every two seconds: a page that two
processes map counts a half for each. The log is made once and kept; all else is made anew.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import typer

from benchmarks.environments import CACHE
from benchmarks.measure import Report, Spread
from recmind_dist.errors import RecmindError
from recmind_dist.ingest.vocabulary import PLAIN, TRADES

FULL = {"num_users": 5_000_000, "num_items": 1_000_000, "num_edges": 100_000_000}
QUICK = {"num_users": 100_000, "num_items": 20_000, "num_edges": 2_000_000}
WIDTH = 32  # of the encoder
LOOK_S = 2.0
LIMIT_GB, LIMIT_MINUTES, LIMIT_SHARE = 12.0, 30.0, 0.5
CONFIG = """
run_dir: {home}/run
cache_dir: {home}/cache
dataset:
  name: large
  interactions: {data}/interactions.parquet
  items: {data}/items.parquet
  memory_mb: 1024
text: {{model: {model}}}
graph: {{split: ratio, valid_share: 0.02, test_share: 0.02, placement: partitioned}}
scaling: {{num_workers: 2, threads_per_worker: 1}}
train: {{epochs: 1, steps_per_epoch: 200}}
evaluation: {{max_users: 1000}}
table: {{optimizer: adagrad}}
"""


class Watch:
    """The memory of all processes that have a mark in their environment, while it is entered.

    Attributes:
        peak: bytes of all of them together; ranks: the same of each training worker.
    """

    def __init__(self) -> None:
        self.mark = f"RECMIND_LARGE_GRAPH={secrets.token_hex(8)}"
        self.peak, self.ranks = 0, dict[int, int]()
        self._over = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def environment(self) -> dict[str, str]:
        """Of commands that are to be watched."""
        name, _, value = self.mark.partition("=")
        return {**os.environ, name: value, "OMP_NUM_THREADS": "1"}

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOK_S):
            total = 0
            for directory in Path("/proc").iterdir():
                if directory.name.isdigit():
                    size, is_rank = self._size(directory)
                    total += size
                    if is_rank:
                        pid = int(directory.name)
                        self.ranks[pid] = max(self.ranks.get(pid, 0), size)
            self.peak = max(self.peak, total)

    def _size(self, process: Path) -> tuple[int, bool]:
        """Bytes of a process, 0 if it is not marked, and whether it is a training worker."""
        try:
            if f"{self.mark}\0".encode() not in (process / "environ").read_bytes():
                return 0, False
            lines = (process / "smaps_rollup").read_text().splitlines()
            words = (process / "cmdline").read_bytes()
        except OSError:
            return 0, False  # gone meanwhile
        [size] = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
        return 1024 * size, words.startswith(b"ray::") and b"TrainWorker" in words


def main(quick: bool = typer.Option(False, help="2 M edges, under 3 minutes")) -> None:
    """Makes the log if it is absent; then prepare, embed and train, each a command of its own."""
    report = Report("large-graph", quick)
    size = QUICK if quick else FULL
    what = f"{size['num_edges']:,} edges, {size['num_items']:,} texts"
    place = CACHE / "large-graph" / str(size["num_edges"])
    home, data = place / "home", place / "data"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    _write_encoder(home / "encoder")
    config = home / "config.yaml"
    config.write_text(CONFIG.format(home=home, data=data, model=home / "encoder"))
    settings = [f"{name}={value}" for name, value in size.items()]
    _run(["synth", str(data), *settings, "num_communities=1000", "power=0.6"], os.environ)
    total = 0.0
    with Watch() as watch:
        for command in ("prepare", "embed", "train"):
            begun = time.monotonic()
            _run([command, str(config)], watch.environment())
            took = time.monotonic() - begun
            total += took
            report.add(what, command, "s", Spread((took,)))
    ranks = sorted(watch.ranks.values())[-2:]
    share = ranks[-1] / sum(ranks)
    report.add(what, "prepare, embed, train", "minutes", Spread((total / 60,)), LIMIT_MINUTES)
    report.add(what, "all processes", "GB at peak", Spread((watch.peak / 1e9,)), LIMIT_GB)
    report.add(what, "each rank", "GB at peak", Spread(tuple(size / 1e9 for size in ranks)))
    report.add(what, "largest rank of all", "share", Spread((ranks[-1] / watch.peak,)), LIMIT_SHARE)
    report.figures |= {
        "minutes": total / 60,
        "peak_memory_gb": watch.peak / 1e9,
        "rank_share": ranks[-1] / watch.peak,
    }
    report.note(f"limits: the most allowed; the larger rank has {share:.2f} of both ranks' memory")
    report.publish()


def _run(words: list[str], environment: "os._Environ[str] | dict[str, str]") -> None:
    command = [sys.executable, "-m", "recmind_dist", *words]
    if subprocess.run(command, env=dict(environment), check=False).returncode:
        raise RecmindError(f"`recmind {' '.join(words)}` failed: it said why above")


def _write_encoder(directory: Path) -> None:
    """A BERT of one layer with random weights that knows the words of synthetic titles."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    words = sorted({*PLAIN, *TRADES, *(word for trade in TRADES.values() for word in trade)})
    pieces = ["[PAD]", "[UNK]", *words, *"0123456789", *(f"##{digit}" for digit in "0123456789")]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(directory)
    config = BertConfig(
        vocab_size=len(pieces),
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(directory)


if __name__ == "__main__":
    typer.run(main)
