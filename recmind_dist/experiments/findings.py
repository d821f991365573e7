"""What an experiment found: table.md, table.json and figure.png in one directory."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recmind_dist.evaluation.significance import Comparison
from recmind_dist.experiments.runs import Arm, ArmRuns, Configure, run_arms, say_nothing
from recmind_dist.graph import Graph
from recmind_dist.pipeline.run import Pipeline
from recmind_dist.report.metrics_log import plain
from recmind_dist.report.tables import markdown_table
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import write_bytes, write_json
from recmind_dist.types import Say

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Study:
    """The config that an experiment varies, its own directory, and how much to run.

    Attributes:
        source: a finished run, of the experiment that goes from one data set to another.
        encoders: directories of language models beside the config's own.
    """

    configure: Configure
    home: Path
    seeds: int = 3
    jobs: int = 2
    say: Say = print
    source: Path | None = None
    encoders: tuple[Path, ...] = ()

    def run(self, arms: Sequence[Arm], shared: bool = False) -> list[ArmRuns]:
        """See `run_arms`.

        Args:
            shared: in the folder of all experiments, where an arm of one name is one set of runs.
        """
        home = self.shared if shared else self.home
        return run_arms(arms, self.configure, home, self.seeds, self.jobs, self.say)

    @property
    def shared(self) -> Path:
        """<run_dir>/experiment-arms: runs that several experiments read, and their item files."""
        return self.home.parent / "experiment-arms"

    def graph(self) -> tuple[RunConfig, Graph]:
        """The config as the data resolve it, and its graph."""
        pipeline = Pipeline(self.configure("recmind", []), say_nothing)
        graph = Graph.open(pipeline.prepare())
        return pipeline.config, graph


@dataclass(frozen=True)
class TableOf:
    """Rows under a caption; a cell is a number, a text or None."""

    caption: str
    headers: tuple[str, ...]
    rows: list[list[Any]]

    def markdown(self) -> str:
        return f"{self.caption}\n\n{markdown_table(self.headers, self.rows)}"

    def to_json(self) -> dict[str, Any]:
        """Rows as objects keyed by the headers."""
        rows = [dict(zip(self.headers, row, strict=True)) for row in self.rows]
        return {"caption": self.caption, "rows": rows}


@dataclass(frozen=True)
class Findings:
    """The outcome of one experiment. `claim` is what the paper expects, `answer` what was found,
    `follows` what to do about it.
    """

    name: str
    title: str
    claim: str
    answer: str
    tables: list[TableOf]
    notes: list[str] = field(default_factory=list)
    follows: str = ""
    dataset: str = ""

    def to_json(self) -> dict[str, Any]:
        """As in table.json."""
        return vars(self) | {"tables": [table.to_json() for table in self.tables]}

    def write(self, home: Path, draw: Callable[[], "Figure"]) -> None:
        """Writes table.md, table.json and figure.png into `home`, each whole or not at all."""
        parts = [
            f"# {self.title}\n",
            f"The paper expects: {self.claim}\n\nSeen: {self.answer}\n",
            *([f"What follows: {self.follows}\n"] if self.follows else []),
            "".join(f"- {note}\n" for note in self.notes),
            *(table.markdown() for table in self.tables),
        ]
        write_bytes(home / "table.md", "\n".join(parts).encode())
        write_json(home / "table.json", plain(self.to_json()))
        out = io.BytesIO()
        draw().savefig(out, format="png", dpi=120)
        write_bytes(home / "figure.png", out.getvalue())


def how_made(found: Sequence[ArmRuns], seeds: int) -> list[str]:
    """The notes of every page: data, length, seeds, protocol, and failed runs."""
    config = found[0].config
    epochs, first = config.train.epochs, config.train.seed
    lora = "with adapters in the warm-up" if config.text.lora else "frozen, without adapters"
    notes = [
        f"{config.dataset.name}, split {config.graph.split}, full ranking on the test split, best "
        f"checkpoint by validation {config.evaluation.metric}.",
        f"{epochs} epochs of the joint phase a run; seeds {first} to {first + seeds - 1}; "
        f"language model {lora}.",
        "Intervals are 95 %, p two-sided: paired bootstrap over users and seeds, 2,000 resamples. "
        "Below three seeds, or at p of .05 and above, a difference is called not significant.",
    ]
    return notes + [f"{arm.name}: {failure}" for arm in found for failure in arm.failures]


def interval(low: float | None, high: float | None, percent: bool = True) -> str | None:
    """`+1.2 … +5.0 %`; None without an interval."""
    if low is None or high is None:
        return None
    return f"{100 * low:+.1f} … {100 * high:+.1f} %" if percent else f"{low:+.3f} … {high:+.3f}"


def gain_and_interval(found: Comparison | None) -> tuple[str | None, str | None]:
    """`+3.1 %` and `+1.2 … +5.0 %`; None where there is none."""
    if found is None or found.gain is None:
        return None, None
    return f"{100 * found.gain:+.1f} %", interval(found.low, found.high)
