"""One experiment by name, from a config file to its table and figure."""

from pathlib import Path

from recmind_dist.experiments.ablation import ablation
from recmind_dist.experiments.data import refuse_missing_data
from recmind_dist.experiments.findings import Findings, Study
from recmind_dist.experiments.gate import gate
from recmind_dist.experiments.gating import gating
from recmind_dist.experiments.priors import priors
from recmind_dist.experiments.probe import probe
from recmind_dist.experiments.texts import texts
from recmind_dist.experiments.transfer import transfer
from recmind_dist.experiments.warmup import warmup
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import directory_lock
from recmind_dist.types import Say

EXPERIMENTS = {
    "warmup": warmup,
    "gating": gating,
    "probe": probe,
    "ablation": ablation,
    "priors": priors,
    "gate": gate,
    "transfer": transfer,
    "texts": texts,
}
# a study embeds once for many runs; with adapters each run would embed again
DEFAULTS = ("text.lora=null",)


def run_experiment(
    name: str,
    path: Path,
    overrides: list[str],
    seeds: int,
    jobs: int,
    say: Say,
    source: Path | None = None,
    encoders: tuple[Path, ...] = (),
) -> Findings:
    """Runs an experiment in `<run_dir>/experiment-<name>`; uses runs that are done already.

    Args:
        overrides: over the file's own settings and `DEFAULTS`
        seeds: runs of each model
        jobs: runs at once
        source, encoders: see `Study`
    Raises:
        ConfigError, DataError: before anything is trained.
    """

    def configure(variant: str, words: list[str]) -> RunConfig:
        return load_run_config(path, [*DEFAULTS, *overrides, *words], variant)

    base = configure("recmind", [])
    refuse_missing_data(base)
    home = (base.run_dir / f"experiment-{name}").absolute()
    study = Study(configure, home, seeds, jobs, say, source, encoders)
    with directory_lock(home):
        findings = EXPERIMENTS[name](study)
    say(f"written: {home}/table.md, table.json, figure.png")
    return findings
