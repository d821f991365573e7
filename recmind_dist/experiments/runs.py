"""Many runs of one study: each arm at several seeds, several processes at once."""

import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from recmind_dist.errors import TrainingError
from recmind_dist.launch.device import gpus_here
from recmind_dist.launch.in_process import leave_ray
from recmind_dist.pipeline.carry_over import embed_beside
from recmind_dist.pipeline.embed import embed
from recmind_dist.pipeline.in_process import train_in_process
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.pipeline.text_dtype import same_config
from recmind_dist.pipeline.train import prepare_texts
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextEncoder, Texts, TextStore, store_path
from recmind_dist.text.lower_states import LowerStates
from recmind_dist.text.reuse import EmbeddedTexts
from recmind_dist.text.source import encoder_key
from recmind_dist.training.finished_run import read_run
from recmind_dist.types import Say

Configure = Callable[[str, list[str]], RunConfig]
"""(variant, overrides) → the study's config with both applied."""
TrainOne = Callable[[dict[str, object]], tuple[str, float]]
"""A run's config as plain data → what `train_and_evaluate` returns. Runs in another process."""


@dataclass(frozen=True)
class Arm:
    """One row of a study: a named set of settings."""

    name: str
    variant: str = "recmind"
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArmRuns:
    """The outcome of an arm: its good runs, by seed, and a sentence for each failed one."""

    arm: Arm
    config: RunConfig
    runs: list[RunDirectory]
    failures: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.arm.name


def run_arms(
    arms: Sequence[Arm],
    configure: Configure,
    home: Path,
    seeds: int,
    jobs: int = 2,
    say: Say = print,
    train: TrainOne | None = None,
) -> list[ArmRuns]:
    """Trains and evaluates each arm at `seeds` seeds, in `<home>/runs/<arm>-seed<k>`, unless done
    already.

    A run whose loss is not finite is left out and named; every other error ends the study.

    Args:
        jobs: processes at once, each with one rank of scaling.threads_per_worker threads
        train: trains and evaluates a run, for models that this package lacks; `train_and_evaluate`
            by default
    """
    configs = [[_config_of(arm, configure, home, k) for k in range(seeds)] for arm in arms]
    prepared = prepare_all([config for row in configs for config in row])
    flat = [config for config, _ in prepared]
    with lower_states(prepared, jobs, say):
        embed_all(prepared, say)
        sentences_of_all = _run_all(flat, jobs, say, train or train_and_evaluate)
    found = []
    for i, arm in enumerate(arms):
        of_arm = slice(i * seeds, (i + 1) * seeds)
        row, sentences = flat[of_arm], sentences_of_all[of_arm]
        done = [config for config, sentence in zip(row, sentences, strict=True) if not sentence]
        runs = [RunDirectory(config.run_dir) for config in done]
        found.append(ArmRuns(arm, row[0], runs, [sentence for sentence in sentences if sentence]))
    return found


def _config_of(arm: Arm, configure: Configure, home: Path, k: int) -> RunConfig:
    base = configure(arm.variant, list(arm.overrides))
    train = base.train.model_copy(update={"seed": base.train.seed + k})
    name = "".join(c if c.isalnum() else "-" for c in arm.name.replace("α", "alpha"))
    changes = {
        "train": train,
        "scaling": base.scaling.model_copy(update={"num_workers": 1}),
        "compare": (),
        "storage_uri": None,
        "run_dir": home / "runs" / f"{name}-seed{train.seed}",
    }
    return base.model_copy(update=changes).absolute()


def prepare_all(configs: Sequence[RunConfig]) -> list[tuple[RunConfig, Texts | None]]:
    """Prepares all data. Returns the configs as the data resolve them, which is what finished runs'
    directories hold, each with its texts.

    Models differ in texts: those whose gates learn on held-out edges leave their titles out.
    """
    found = []
    for given in configs:
        pipeline = Pipeline(given, say_nothing)
        graph = pipeline.prepare_for_texts()
        config = pipeline.config
        reads = config.variant != "popularity"
        found.append((config, prepare_texts(config, graph).texts if reads else None))
    return found


@contextmanager
def lower_states(
    prepared: Sequence[tuple[RunConfig, Texts | None]], jobs: int, say: Say
) -> Iterator[None]:
    """Keeps what the layers below the adapters make of the texts, while runs with adapters are to
    be made on CPUs: each of them would make it twice.
    """
    todo: dict[Path, RunConfig] = {}
    for config, texts in prepared:
        if texts is None or config.text.lora is None or not config.has_warmup or is_done(config):
            continue
        cache = config.absolute().cache_dir / config.dataset.name
        todo.setdefault(LowerStates.path(cache, config.text, texts), config)
    if gpus_here():
        todo = {}
    try:
        if todo:
            say(f"states below the adapters: of {len(todo)} language models")
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(min(jobs, len(todo)), spawn) as pool:
                values = [config.model_dump(mode="json") for config in todo.values()]
                list(pool.map(record_lower_states, values))
        yield
    finally:
        for path in todo:
            shutil.rmtree(path, ignore_errors=True)


def record_lower_states(values: dict[str, object]) -> None:
    """Keeps the states of a run's texts, and embeds these. Runs in another process."""
    config = RunConfig.model_validate(values)
    torch.set_num_threads(config.scaling.threads_per_worker)
    [(config, texts)] = prepare_all([config])
    assert texts is not None, "the caller has looked"
    assert config.text.lora is not None, "the caller has looked"
    cache = config.absolute().cache_dir / config.dataset.name
    if LowerStates.record(cache, TextEncoder.load(config.text), texts, config.text.lora):
        embed(config, texts, None, say_nothing)


def embed_all(prepared: Sequence[tuple[RunConfig, Texts | None]], say: Say) -> None:
    """Embeds each set of texts once."""
    done: dict[Path, EmbeddedTexts] = {}
    first: dict[str, EmbeddedTexts] = {}
    for config, texts in prepared:
        if texts is None:
            continue
        path = store_path(texts, config.text, config.cache_dir / config.dataset.name)
        if path in done:
            continue
        before = first.get(key := encoder_key(config.text))
        if before is None or texts.count == 0:
            store = TextStore.open(embed(config, texts, None, say).path)
        else:  # arms that deal or hide texts have most of them in common
            store = embed_beside(config, texts, before, say)
        done[path] = EmbeddedTexts(texts, store)
        first.setdefault(key, done[path])


def _run_all(configs: list[RunConfig], jobs: int, say: Say, train: TrainOne) -> list[str]:
    """For each config "", or a sentence where its loss is not finite."""
    leave_ray()
    sentences = [""] * len(configs)
    todo = [i for i, config in enumerate(configs) if not is_done(config)]
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max(1, min(jobs, len(todo))), spawn) as pool:
        futures = {i: pool.submit(train, configs[i].model_dump(mode="json")) for i in todo}
        try:
            for count, (i, future) in enumerate(futures.items(), 1):
                sentences[i], seconds = future.result()
                outcome = sentences[i] or f"done in {seconds:.0f} s"
                say(f"[{count}/{len(todo)}] {configs[i].run_dir.name}: {outcome}")
        except BrokenProcessPool as error:
            sentence = "a run's process was killed, perhaps for lack of memory: lower --jobs"
            raise TrainingError(sentence) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sentences


def is_done(config: RunConfig) -> bool:
    """Whether a run directory holds results of just this config."""
    run = RunDirectory(config.run_dir)
    if not (run.results.is_file() and run.per_user.is_file() and run.config.is_file()):
        return False
    recorded = read_run(run.path)[1].absolute()
    # where data and vectors lie changes no result
    recorded = recorded.model_copy(update={"cache_dir": config.absolute().cache_dir})
    return same_config(recorded, config.absolute())


def train_and_evaluate(values: dict[str, object]) -> tuple[str, float]:
    """Trains and evaluates a run. Returns why it is left out, or "", and its seconds."""
    start = time.monotonic()
    config = RunConfig.model_validate(values)
    try:
        run = train_in_process(config, say_nothing)
        Pipeline.of_run(run.path, say_nothing).evaluate()
    except TrainingError as error:
        return f"left out: {error}", time.monotonic() - start
    return "", time.monotonic() - start


def say_nothing(_: str) -> None:
    """Prints nothing."""
