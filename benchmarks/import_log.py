"""How fast are reviews imported, and in how much memory? Amazon-2023-like reviews in gzip.

    python benchmarks/import_log.py --quick     # 1 M reviews
    python benchmarks/import_log.py             # 10 M, 1.5 GB of gzip under the cache

The reviews are made once and kept. The import is a process of its own: rows a second are of its
processor time, so that other work on the machine does not count, and its peak memory is the
kernel's.
"""

import gzip
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import numpy as np
import typer

from benchmarks.environments import CACHE
from benchmarks.measure import Report, Spread
from recmind_dist.errors import RecmindError
from recmind_dist.storage import atomic_directory

FULL, QUICK = 10_000_000, 1_000_000
CHUNK = 100_000  # reviews made at a time
WORDS = (
    *("the", "and", "this", "hair", "skin", "soft", "smell", "great", "product", "would", "buy"),
    *("again", "love", "it", "is", "not", "very", "for", "my", "color", "brush", "worked", "price"),
)
LIMIT_GB, LIMIT_RATE = 1.5, 150_000


def main(
    quick: bool = typer.Option(False, help="1 M reviews"),
    rounds: int = typer.Option(1, help="imports"),
) -> None:
    """Imports the reviews and their items with one thread of polars and Arrow."""
    report = Report("import", quick)
    count = QUICK if quick else FULL
    folder = made(count)
    files = [folder / "Reviews.jsonl.gz", folder / "meta_Reviews.jsonl.gz"]
    runs = [imported(files, folder.parent / "import-out", count) for _ in range(rounds)]
    what = f"{count:,} reviews, {files[0].stat().st_size / 1e9:.2f} GB of gzip"
    rate, wall, memory = (Spread(tuple(values)) for values in zip(*runs, strict=True))
    report.add(what, "import amazon2023", "rows/CPU-s", rate, LIMIT_RATE)
    report.add(what, "import amazon2023", "rows/s", wall)
    report.add(what, "import amazon2023", "GB at peak", memory, LIMIT_GB)
    report.figures |= {
        "rows_per_cpu_s": rate.median,
        "rows_per_s": wall.median,
        "peak_memory_gb": memory.high,
    }
    report.note("limit: of rows a second the least wanted, of memory the most allowed")
    report.publish()


def made(count: int) -> Path:
    """A folder with `count` reviews and an item for each ten, made where it is absent."""
    folder = CACHE / "import" / f"reviews-{count}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_directory(folder) as work:
            _write(work, count)
    return folder


def _write(work: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    items, users = max(1, count // 10), max(1, count // 3)
    with gzip.open(work / "Reviews.jsonl.gz", "wt", compresslevel=6, encoding="utf-8") as out:
        for start in range(0, count, CHUNK):
            size = min(CHUNK, count - start)
            drawn = {
                "user": (users * rng.random(size) ** 2).astype(int),
                "item": (items * rng.random(size) ** 2).astype(int),
                "time": rng.integers(1_200_000_000_000, 1_690_000_000_000, size),
                "stars": rng.integers(1, 6, size),
                "words": rng.integers(4, 90, size),
            }
            texts = rng.choice(WORDS, (1000, 100))
            rows = zip(*(values.tolist() for values in drawn.values()), strict=True)
            out.writelines(
                _review(*row, texts[k % 1000, k % 10 :].tolist()) for k, row in enumerate(rows)
            )
    with gzip.open(work / "meta_Reviews.jsonl.gz", "wt", compresslevel=6) as out:
        out.writelines(_item(item) for item in range(items))


def _review(user: int, item: int, time_ms: int, stars: int, words: int, text: list[str]) -> str:
    record = {
        "rating": float(stars),
        "title": " ".join(text[:4]),
        "text": " ".join(text[:words]),
        "images": [],
        "asin": f"B{item:07d}V{user % 3}",
        "parent_asin": f"B{item:09d}",
        "user_id": f"AE{user * 2654435761 % 2**64:026X}",
        "timestamp": time_ms,
        "helpful_vote": user % 5,
        "verified_purchase": True,
    }
    return json.dumps(record) + "\n"


def _item(item: int) -> str:
    record = {
        "main_category": "All Beauty",
        "title": f"Brush {item} for soft hair",
        "average_rating": 4.1,
        "rating_number": 10,
        "features": ["Soft", "Light"],
        "description": ["A brush."],
        "price": 9.99,
        "images": [{"large": f"https://images.example/{item}.jpg", "variant": "MAIN"}],
        "videos": [],
        "store": f"Store {item % 997}",
        "categories": ["Beauty", "Hair"],
        "details": {"Brand": "Acme"},
        "parent_asin": f"B{item:09d}",
        "bought_together": None,
    }
    return json.dumps(record) + "\n"


def imported(files: list[Path], to: Path, count: int) -> tuple[float, float, float]:
    """Reviews a second of processor time, reviews a second, peak memory in GB."""
    shutil.rmtree(to, ignore_errors=True)
    command = [sys.executable, "-m", "recmind_dist.cli", "import", "amazon2023"]
    one_thread = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [*command, *map(str, files), "--to", str(to)],
        env={**os.environ, **one_thread, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    rows = f"{count:,} rows in = {count:,} kept + 0 set aside"
    if done.returncode != 0 or rows not in done.stdout:
        raise RecmindError(f"the import failed: {(done.stderr or done.stdout)[-500:]}")
    print(done.stdout, end="")
    shutil.rmtree(to)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return count / spent, count / wall, after.ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    typer.run(main)
