"""Does adapting the language model pay, for text alone and inside RecMind?

    python benchmarks/adaptation.py prepare configs/amazon-beauty.yaml DATA   # graph, texts, config
    python benchmarks/adaptation.py run DATA models/minilm OUT --jobs 6

Item vectors of each arm, in the coordinates of the untouched model's whitening, w_i:

    frozen  w_i
    head    A w_i                             users' softmax
    row     A w_i + V_i, faded in by degree   users' softmax
    align   w'_i: texts through LoRA          InfoNCE with a trained graph tower, users and items
    users   A w'_i                            users' softmax
    both    A w'_i                            the sum of the two

Users' softmax: the mean of a user's other items → the item, on cosine × a learnt scale; an item
counts as degree^.5 among the negatives, so that scores need not carry all of popularity. Nothing
that trains vectors reads the edges that RecMind's gates learn from. Rates and fading are chosen by
text alone on validation at the first seed. Test figures are by histories to the training edge,
"folded" with the validation item. RecMind is trained in processes of its own while the next arms'
vectors are made.
"""

import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that the file is a script, too

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.adaptation_data import Data, metrics, text_alone
from benchmarks.adaptation_recmind import RecMindRuns
from benchmarks.adaptation_vectors import (
    CachedEncoder,
    TextAdapter,
    Towers,
    Whiten,
    fade,
    graph_tower,
    train_head,
)
from recmind_dist.graph import Graph
from recmind_dist.text.encoder import TextEncoder
from recmind_dist.text.settings import LoraSettings

OBJECTIVES = {"align": ("align",), "users": ("users",), "both": ("align", "users")}
ARMS = ("frozen", "head", "row", "both", "align", "users")
HEAD_RATES, LORA_RATES = (1e-3, 3e-3), "2e-4,8e-4"
RANK = 16
STEPS = 300  # of tower and heads; of adapters at least
FADES = (0.0, 1.0, 3.0, 10.0, 30.0)  # k of degree / (degree + k)

app = typer.Typer(pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Setup:
    """What all arms of a data set share.

    Attributes:
        w_IT: the untouched model's whitened vectors.
        layers: adapted layers, from the top.
        steps: of tower and heads.
        lora_steps: of adapters.
        batch_items: that go through the language model in one of these, about.
    """

    data: Data
    encoder: CachedEncoder
    whiten: Whiten
    w_IT: Tensor
    layers: int
    steps: int
    lora_steps: int
    batch_items: int

    @staticmethod
    def make(data: Data, model: Path, layers: int, dtype: str, **schedule: int) -> "Setup":
        """Reads the model and embeds all texts."""
        changes = {"model": str(model), "model_sha256": None, "dtype": dtype}
        settings = data.config.text.model_copy(update=changes)
        loaded = TextEncoder.load(settings, data.device)
        encoder = CachedEncoder(loaded, data.texts, settings.max_tokens, layers)
        pooled = encoder.all()
        whiten = Whiten(data, pooled)
        return Setup(data, encoder, whiten, whiten(pooled), layers, **schedule)

    def vectors(self, arm: str, towers: Towers, seed: int, rate: float) -> dict[str, Tensor]:
        """Item vectors of an arm, and by another name what else of it is ranked alone."""
        if arm == "frozen":
            return {arm: self.w_IT}
        if arm in ("head", "row"):
            rows, steps = arm == "row", self.steps
            x = train_head(self.data, self.w_IT, rows=rows, rate=rate, steps=steps, seed=seed)
            return {arm: x}
        lora = LoraSettings(r=RANK, last_layers=self.layers, learning_rate=rate)
        adapter = TextAdapter(
            self.data, self.encoder, self.whiten, towers, OBJECTIVES[arm], lora, seed
        )
        adapter.train(self.lora_steps, self.batch_items)
        x, projected = adapter.vectors()
        return {arm: x} if arm == "users" else {arm: x, f"{arm}, projected": projected}


class Choices:
    """What validation of text alone decides at the first seed, and later seeds keep."""

    def __init__(self, setup: Setup, lora_rates: Sequence[float], log: "Log") -> None:
        self.setup, self.log, self._lora_rates = setup, log, lora_rates
        self.rate: dict[str, float] = {"frozen": 0.0}
        self.fade: float | None = None

    def vectors(self, arm: str, towers: Towers, seed: int) -> dict[str, Tensor]:
        """As `Setup.vectors`, at the rate with the best NDCG."""
        rates = [self.rate[arm]] if arm in self.rate else self._candidates(arm)
        found = {rate: self.setup.vectors(arm, towers, seed, rate) for rate in rates}
        if len(rates) > 1:
            score = {rate: self._validate(found[rate][arm])["ndcg@20"] for rate in rates}
            self.rate[arm] = max(rates, key=lambda rate: score[rate])
            self.log.say(f"{arm}: NDCG@20 " + ", ".join(f"{r:g}: {score[r]:.4f}" for r in rates))
        self.rate.setdefault(arm, rates[0])
        chosen = found[self.rate[arm]]
        return {arm: self._faded(chosen[arm])} if arm == "row" else chosen

    def _candidates(self, arm: str) -> Sequence[float]:
        if arm == "row" and "head" in self.rate:
            return [self.rate["head"]]
        return self._lora_rates if arm in OBJECTIVES else HEAD_RATES

    def _faded(self, x_IT: Tensor) -> Tensor:
        """At the k with the best sum of Recall@20 over all and over cold items."""
        data, w_IT = self.setup.data, self.setup.w_IT
        if self.fade is None:
            found = {k: self._validate(fade(data, w_IT, x_IT, k)) for k in FADES}
            score = {k: m["recall@20"] + np.nan_to_num(m["cold@20"]) for k, m in found.items()}
            self.fade = max(FADES, key=lambda k: score[k])
            told = (f"{k:g} {m['recall@20']:.4f}/{m['cold@20']:.4f}" for k, m in found.items())
            self.log.say(f"row: Recall@20 of all/cold by k: {', '.join(told)}")
        return fade(data, w_IT, x_IT, self.fade)

    def _validate(self, x_IT: Tensor) -> dict[str, Any]:
        return text_alone(self.setup.data, x_IT, "valid")


class Log:
    """Prints, and appends a JSON line a ranking: what a kill leaves is whole."""

    def __init__(self, out: Path, name: str) -> None:
        self._started, self._name = time.perf_counter(), name
        self._file = out / f"adaptation-{name}.jsonl"
        self._hits: dict[tuple[str, str], list[np.ndarray[Any, Any]]] = {}

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._started

    def say(self, line: str) -> None:
        print(f"{self.seconds:6.1f} s  {line}", flush=True)

    def add(self, where: str, arm: str, seed: int, split: str, found: dict[str, Any]) -> None:
        """Keeps users' own hits on test for the summary."""
        hits = found.pop("hits")
        if split == "test":
            self._hits.setdefault((where, arm), []).append(hits)
        row = {"data": self._name, "where": where, "arm": arm, "seed": seed, "split": split}
        with self._file.open("a") as file:
            file.write(json.dumps(row | found | {"seconds": round(self.seconds, 1)}) + "\n")
        values = "  ".join(f"{found[m]:.4f}" for m in ("recall@20", "recall@40", "ndcg@20"))
        cold = f"{found['cold@20']:.4f}"
        self.say(f"seed {seed}  {where:10s} {arm:16s} {split:5s}  {values}  cold {cold}")

    def summary(self) -> None:
        """Test means over seeds, and gains over `frozen` with 95 % intervals over users."""
        print(f"\n{self._name}, test: Recall@20, Recall@40, NDCG@20; gains over frozen in %")
        for (where, arm), hits in self._hits.items():
            base = self._hits.get((where, "frozen"), hits)
            if where == "text alone":
                base = base[:1] * len(hits)  # frozen vectors know no seed
            both = min(len(hits), len(base))
            own, other = (np.mean(side[:both], axis=0) for side in (hits, base))
            gain, percent = own - other, 100.0 / np.maximum(other.mean(1), 1e-9)
            half = 1.96 * gain.std(1) / math.sqrt(gain.shape[1])
            pairs = zip(gain.mean(1) * percent, half * percent, strict=True)
            gains = "  ".join(f"{middle:+6.1f} ± {width:4.1f}" for middle, width in pairs)
            means = "  ".join(f"{mean:.4f}" for mean in own.mean(1))
            print(f"{where:10s} {arm:16s} n={both}  {means}   {gains}", flush=True)


@app.command()
def prepare(config_file: Path, folder: Path) -> None:
    """Writes what `run` reads: the graph, item texts, the resolved config, the gates' slice."""
    from recmind_dist.pipeline.run import Pipeline
    from recmind_dist.run_config.load import load_run_config
    from recmind_dist.sampling.edge_masks import heldout_slice
    from recmind_dist.text import build_texts

    pipeline = Pipeline(load_run_config(config_file))
    source = pipeline.prepare()
    config, graph = pipeline.config, Graph.open(source)
    assert config.gate is not None, "RecMind has gates"
    heldout = heldout_slice(graph, config.gate.heldout_share, config.graph.seed)
    texts = build_texts(graph, config.text, users=False).items
    shutil.copytree(source, folder / "graph")
    (folder / "config.json").write_text(config.model_dump_json())
    (folder / "texts.json").write_text(json.dumps([text or "" for text in texts]))
    np.save(folder / "heldout.npy", np.flatnonzero(heldout))


@app.command()
def run(
    folder: Path,
    model: Path,
    out: Path,
    seeds: Annotated[int, typer.Option(help="how many")] = 3,
    arms: Annotated[str, typer.Option(help="names, by commas")] = ",".join(ARMS),
    layers: Annotated[int, typer.Option(help="adapted layers, from the top")] = 6,
    epochs: Annotated[int, typer.Option(help="passes of adapters over the items")] = 25,
    steps: Annotated[int, typer.Option(help="of tower and heads; of adapters at least")] = STEPS,
    batch_items: Annotated[int, typer.Option(help="through the language model a step")] = 1024,
    rates: Annotated[str, typer.Option(help="of adapters, by commas")] = LORA_RATES,
    dtype: Annotated[str, typer.Option(help="of the language model")] = "bf16",
    jobs: Annotated[int, typer.Option(help="RecMinds trained at once; 0: none")] = 0,
    keep: Annotated[str, typer.Option(help="arms whose vectors stay in OUT as .npy")] = "",
    budget_s: Annotated[float, typer.Option(help="no arm is begun later")] = 150.0,
    end_s: Annotated[float, typer.Option(help="RecMinds still trained then are left out")] = 1e6,
) -> None:
    """Trains and ranks all arms at each seed, one after another."""
    torch.backends.cuda.matmul.allow_tf32 = True  # in this process: RecMind has others
    end = time.monotonic() + end_s
    out.mkdir(parents=True, exist_ok=True)
    data = Data(folder, "cuda" if torch.cuda.is_available() else "cpu")
    log = Log(out, data.graph.name)
    schedule = {
        "steps": steps,
        "lora_steps": max(steps, epochs * math.ceil(data.num_items / batch_items)),
        "batch_items": batch_items,
    }
    setup = Setup.make(data, model, layers, dtype, **schedule)
    log.say(f"{data.num_users} users, {data.num_items} items, {len(data.item_E)} pairs")
    choices = Choices(setup, [float(rate) for rate in rates.split(",")], log)
    with RecMindRuns(data, jobs) as recmind:
        for seed in range(seeds):
            towers = graph_tower(data, setup.w_IT, steps, seed)
            log.add("graph", "tower", seed, "valid", metrics(data, *towers, "valid"))
            for arm in arms.split(","):
                if log.seconds > budget_s:
                    log.say(f"seed {seed}, {arm}: no time is left")
                    continue
                found = choices.vectors(arm, towers, seed)
                for name, x_IT in found.items():
                    for split in ("valid", "test"):
                        log.add("text alone", name, seed, split, text_alone(data, x_IT, split))
                if arm in keep.split(","):
                    kept = found[arm].half().cpu().numpy()
                    np.save(out / f"{data.graph.name}-{arm}-{seed}.npy", kept)
                recmind.begin(arm, found[arm], seed)
                _log_finished(recmind, log, until=0.0)
        _log_finished(recmind, log, until=end)
        log.say(f"rates {choices.rate}, k of the fading {choices.fade}")
        log.summary()


def _log_finished(recmind: RecMindRuns, log: Log, until: float) -> None:
    for arm, seed, outcome in recmind.finished(until):
        if isinstance(outcome, BaseException):
            log.say(f"seed {seed}  RecMind on {arm}: {type(outcome).__name__}: {outcome}")
            continue
        for (where, split), ranking in outcome.items():
            log.add(where, arm, seed, split, ranking)


if __name__ == "__main__":
    app()
