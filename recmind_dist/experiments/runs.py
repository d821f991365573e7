"""Many runs of one study: each arm at several seeds, two processes at once, each run trained and
evaluated once.
"""

import multiprocessing
import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path

from recmind_dist.errors import StoreError, TrainingError
from recmind_dist.pipeline.in_process import train_in_process
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.pipeline.text_dtype import same_config
from recmind_dist.pipeline.train import prepare_texts
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import content_key
from recmind_dist.training.evaluate import read_run
from recmind_dist.types import Say

Configure = Callable[[str, list[str]], RunConfig]
"""(variant, overrides) → the study's config with both laid over it."""
TrainOne = Callable[[dict[str, object]], tuple[str, float]]
"""A run's config as plain data → what `train_and_evaluate` returns. It travels to another process,
so it is a function.
"""


@dataclass(frozen=True)
class Arm:
    """One row of a study: a named set of settings."""

    name: str
    variant: str = "recmind"
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArmRuns:
    """What came of an arm: its runs that ended well, by seed, and a sentence for each that did not."""

    arm: Arm
    config: RunConfig
    runs: list[RunDirectory]
    failures: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the arm."""
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
    """Trains and evaluates each arm `seeds` times, in `<home>/runs/<arm>-seed<k>`; what is done
    already is left alone.

    A run whose loss is not finite is left out and named; every other error ends the study.

    Args:
        jobs: processes at once, each with one rank of scaling.threads_per_worker threads.
        train: what trains and evaluates a run, for models that are no options of this package;
        `train_and_evaluate` by default.
    """
    configs = [[_config_of(arm, configure, home, k) for k in range(seeds)] for arm in arms]
    flat = separate_texts([config for row in configs for config in row], home, say)
    outcomes = iter(_run_all(flat, jobs, say, train or train_and_evaluate))
    found = []
    for arm, row in zip(arms, configs, strict=True):
        sentences = [next(outcomes) for _ in row]
        good = [
            RunDirectory(c.run_dir)
            for c, sentence in zip(row, sentences, strict=True)
            if not sentence
        ]
        failures = [sentence for sentence in sentences if sentence]
        found.append(ArmRuns(arm, row[0], good, failures))
    return found


def _config_of(arm: Arm, configure: Configure, home: Path, k: int) -> RunConfig:
    base = configure(arm.variant, list(arm.overrides))
    train = base.train.model_copy(update={"seed": base.train.seed + k})
    scaling = base.scaling.model_copy(update={"num_workers": 1})
    name = "".join(c if c.isalnum() else "-" for c in arm.name.replace("α", "alpha"))
    changes = {
        "train": train,
        "scaling": scaling,
        "compare": (),
        "storage_uri": None,
        "run_dir": home / "runs" / f"{name}-seed{train.seed}",
    }
    return base.model_copy(update=changes).absolute()


def separate_texts(configs: Sequence[RunConfig], home: Path, say: Say) -> list[RunConfig]:
    """Prepares all data and embeds all texts, each set of texts in a cache of its own below `home`.

    Titles of held-out edges are kept from user texts, so models differ in texts, and one cache
    holds one set at a time.
    """
    caches: dict[str, Path] = {}
    out = []
    for config in configs:
        trainer = Pipeline(config, _nothing)
        prepared = (
            prepare_texts(config, trainer.prepare()) if config.variant != "popularity" else None
        )
        if prepared is None or prepared.texts is None:
            out.append(config)
            continue
        key = content_key([prepared.texts.items, prepared.texts.users])[:8]
        own = config.model_copy(update={"cache_dir": (home / f"texts-{key}").absolute()})
        if key not in caches:
            if (
                not own.cache_dir.exists()
            ):  # most vectors, those of items at least, are the same ones
                made = next(reversed(caches.values()), config.cache_dir)
                _copy_cache(made / config.dataset.name, own.cache_dir / config.dataset.name)
            caches[key] = own.cache_dir
            Pipeline(own, say).embed()
        out.append(own)
    return out


def _copy_cache(source: Path, target: Path) -> None:
    partial = target.parent / f".partial-{target.name}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        shutil.copytree(source, partial, ignore=shutil.ignore_patterns(".lock", ".partial-*"))
        partial.rename(target)
    except OSError as error:
        raise StoreError(
            f"{target}: cannot be written ({error.strerror}): free space, or set another run_dir"
        ) from error


def _run_all(configs: list[RunConfig], jobs: int, say: Say, train: TrainOne) -> list[str]:
    """For each config "" or, where its loss is not finite, the sentence that says so."""
    _leave_ray()
    sentences = [""] * len(configs)
    todo = [i for i, config in enumerate(configs) if not is_done(config)]
    with ProcessPoolExecutor(
        max(1, min(jobs, len(todo))), multiprocessing.get_context("spawn")
    ) as pool:
        waiting = {i: pool.submit(train, configs[i].model_dump(mode="json")) for i in todo}
        try:
            for count, (i, future) in enumerate(waiting.items(), 1):
                sentences[i], seconds = future.result()
                told = sentences[i] or f"done in {seconds:.0f} s"
                say(f"[{count}/{len(todo)}] {configs[i].run_dir.name}: {told}")
        except BrokenProcessPool as error:
            raise TrainingError(
                "a run's process was killed, for want of memory perhaps: lower --jobs"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return sentences


def is_done(config: RunConfig) -> bool:
    """Whether a run directory holds results of just this config."""
    run = RunDirectory(config.run_dir)
    if not (run.results.is_file() and run.per_user.is_file() and run.config.is_file()):
        return False
    return same_config(read_run(run.path)[1].absolute(), config.absolute())


def train_and_evaluate(values: dict[str, object]) -> tuple[str, float]:
    """Trains and evaluates a run in this process. Returns why it is left out, if it is, and its
    seconds.
    """
    start = time.monotonic()
    config = RunConfig.model_validate(values)
    try:
        run = train_in_process(config, _nothing)
        Pipeline.of_run(run.path, _nothing).evaluate()
    except TrainingError as error:
        return f"left out: {error}", time.monotonic() - start
    return "", time.monotonic() - start


def _leave_ray() -> None:
    """Ends the Ray that embedding has started, whose workers would take the processors from the
    runs.
    """
    import ray

    if ray.is_initialized():
        ray.shutdown()


def _nothing(_: str) -> None:
    """Says nothing."""
