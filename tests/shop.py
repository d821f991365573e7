"""A small shop whose files have none of the usual names — CSV log, JSONL items, Parquet users — and
`recmind` run on it.
"""

import json
import os
import subprocess
import sys
import time
import zlib
from pathlib import Path

import polars as pl

from recmind_dist.ingest import SyntheticSettings, synthesize
from tests.tiny_language_model import WORDS

RECMIND = Path(sys.executable).parent / "recmind"
SIZE = ("num_users=200", "num_items=80", "num_edges=2400")
CONFIG = """
run_dir: runs/shop
dataset:
  name: shop
  interactions:
    path: log.csv
    columns: {user: buyer_ref, item: sku, time: bought_at}
  items: {path: things.jsonl, id: code}
  users: {path: people.parquet, id: ref}
text:
  model: bert
  item_template: "{label}. {kinds}"
  user_template: "A {trade} person who liked: {items}"
  max_tokens: 24
  user_max_tokens: 32
  lora: {r: 4, texts_per_step: 8}
sampler: {propagation: sampled, num_neighbors: [5, 5], hide_batch_edges: true}
model:
  kind: paper
  embedding_dim: 16
  text_layers: 0
  projection_hidden_dim: 0
  gate: {heldout_share: 0.1, learning_rate: null}
loss: {kind: bpr, regularization: 1.0e-4}
alignment: {weight: 0.1, queue_size: 128}
table: {learning_rate: 1.0e-2}
scaling: {num_workers: 2}
zero: {stage: 2, learning_rate: 1.0e-3}
train: {batch_of: pairs, batch_size: 512, warmup_epochs: 1, epochs: 2, log_every_steps: 1}
evaluation: {norm_exponent: null, every_epochs: 1}
"""


def make_shop(home: Path) -> Path:
    """Writes log, item and user files and shop.yaml into `home`, from home/synth, which is made if
    it is not there.

    Item i0 has no line in the item file, i1 a label of 100,000 characters; user u-new has a text
    and no interaction.

    Returns:
        The config, which names its files relative to `home`.
    """
    if not (home / "synth").exists():
        synthesize(SyntheticSettings(num_users=200, num_items=80, num_edges=2400), home / "synth")
    log = pl.read_parquet(home / "synth" / "interactions.parquet")
    date = pl.from_epoch(1_600_000_000 + 60 * pl.col("time")).dt.strftime("%Y-%m-%dT%H:%M:%S")
    user, item = pl.col("user").alias("buyer_ref"), pl.col("item").alias("sku")
    extra = (pl.lit(2).alias("qty"), pl.lit('north, "old" town').alias("shop"))
    log.select(user, item, date.alias("bought_at"), *extra).write_csv(home / "log.csv")
    items = pl.read_parquet(home / "synth" / "items.parquet").filter(pl.col("id") != "i0")
    with (home / "things.jsonl").open("w") as out:
        for row in items.iter_rows(named=True):
            label = "space " * 16_667 if row["id"] == "i1" else label_of(row["id"], row["title"])
            nested = {"weight": 3.5, "sizes": [1, 2]}
            out.write(
                json.dumps(
                    {"code": row["id"], "label": label, "kinds": [row["category"]], "more": nested}
                )
                + "\n"
            )
    users = pl.read_parquet(home / "synth" / "users.parquet").rename(
        {"id": "ref", "category": "trade"}
    )
    users = pl.concat([users, pl.DataFrame({"ref": ["u-new"], "trade": ["coffee"]})])
    users.with_columns(born=pl.lit(1980)).write_parquet(home / "people.parquet")
    config = home / "shop.yaml"
    config.write_text(CONFIG)
    return config


def label_of(item: str, title: str) -> str:
    """A title in words that the tiny language model knows; ends in the item's number."""
    words = [WORDS[zlib.crc32(word.encode()) % len(WORDS)] for word in title.split()[:5]]
    return f"{' '.join(words)} {item[1:]}"


def environment(ray_home: Path, **more: str) -> dict[str, str]:
    """The environment of a command whose Ray, if it starts one, keeps to `ray_home` (a short path:
    it holds sockets).
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    path = f"{RECMIND.parent}:{os.environ['PATH']}"
    return {
        **kept,
        "PATH": path,
        "OMP_NUM_THREADS": "1",
        "RAY_TMPDIR": str(ray_home),
        "PYTHONUNBUFFERED": "1",
        **more,
    }


def recmind(
    words: list[str], home: Path, ray_home: Path, timeout_s: float = 280
) -> subprocess.CompletedProcess[str]:
    """`recmind …` in the directory `home`."""
    command = [str(RECMIND), *words]
    return subprocess.run(
        command,
        cwd=home,
        env=environment(ray_home),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def ray_processes(ray_home: Path) -> list[int]:
    """Processes that were started, by whomever, with `environment(ray_home)`."""
    mark, found = f"RAY_TMPDIR={ray_home}\0".encode(), []
    for directory in Path("/proc").iterdir():
        try:
            if directory.name.isdigit() and mark in (directory / "environ").read_bytes():
                found.append(int(directory.name))
        except OSError:
            continue  # gone meanwhile, or another user's
    return found


def wait_until_none(ray_home: Path, timeout_s: float = 30) -> list[int]:
    """Processes of `ray_home` that are still there after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (found := ray_processes(ray_home)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found
