"""Everything a run is, in one tree: the settings of all rooms, the variant, and where it keeps its
files.
"""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from recmind_dist.checkpoint import CheckpointSettings
from recmind_dist.config import Settings
from recmind_dist.distributed.settings import ScalingSettings, ZeroSettings
from recmind_dist.embedding.settings import TableSettings
from recmind_dist.evaluation import EvaluationSettings
from recmind_dist.graph import GraphSettings
from recmind_dist.ingest import DatasetSettings
from recmind_dist.model.settings import (
    AlignmentSettings,
    AnyModelSettings,
    FusedSettings,
    GateSettings,
    LossSettings,
    PaperSettings,
    RecMindSettings,
    TextModelSettings,
)
from recmind_dist.run_config.train_settings import TrainSettings
from recmind_dist.run_config.update_settings import UpdateSettings
from recmind_dist.sampling.settings import SamplerSettings
from recmind_dist.text.settings import TextSettings

Variant = Literal[
    "recmind",
    "popularity",
    "lightgcn",
    "lightgcn_bpr",
    "bpr_mf",
    "xsimgcl",
    "lightgcn_text",
    "alpharec",
    "rlmrec",
    "text_only",
    "llm_only",
    "late_fusion",
    "no_alignment",
    "no_user_alignment",
    "no_item_alignment",
    "no_warmup",
    "gate_items_only",
]


class RunConfig(Settings):
    """One run. `load_run_config` reads it from YAML."""

    run_dir: Path = Path("runs/run")
    """Where results, metrics and checkpoints go."""
    cache_dir: Path = Path("cache")
    """Where prepared data, graphs and text vectors go; runs on the same data share them."""
    storage_uri: str | None = None
    """s3://…, gs://… or a path that outlives this machine: committed checkpoints, the run's small
    files and text vectors go there too, and a run whose directory is empty or older comes back from
    there. Variants of `compare` go to `<storage_uri>-<variant>`."""
    variant: Variant = "recmind"
    """A named set of settings, laid over this file."""
    compare: tuple[Variant, ...] = ()
    """Variants trained and evaluated beside this one, each in `<run_dir>-<variant>`."""
    profile: bool = False
    """Write where the time of the first steps goes, as a Chrome trace and as text, to
    <run_dir>/profile.
    """
    fetch: tuple[Literal["ml-100k", "minilm", "smollm2"], ...] = ()
    """Data and models to bring first, where they are absent."""
    dataset: DatasetSettings
    graph: GraphSettings = GraphSettings()
    text: TextSettings = TextSettings()
    sampler: SamplerSettings = SamplerSettings()
    model: AnyModelSettings = RecMindSettings()
    loss: LossSettings = LossSettings()
    alignment: AlignmentSettings = AlignmentSettings()
    table: TableSettings = TableSettings()
    zero: ZeroSettings = ZeroSettings()
    scaling: ScalingSettings = ScalingSettings()
    train: TrainSettings = Field(default_factory=TrainSettings)
    update: UpdateSettings = UpdateSettings()
    checkpoint: CheckpointSettings = Field(default_factory=CheckpointSettings)
    evaluation: EvaluationSettings = Field(default_factory=EvaluationSettings)

    @field_validator("run_dir", "cache_dir")
    @classmethod
    def _a_directory(cls, value: Path) -> Path:
        if re.match(r"[a-z][a-z0-9+]*:/", str(value)):  # else a directory named s3: would be made
            raise ValueError(
                f"{value}: a mounted directory is needed here: give the URI as storage_uri, "
                "beside it"
            )
        return value.expanduser()

    @field_validator("storage_uri")
    @classmethod
    def _no_password(cls, value: str | None) -> str | None:
        if value and "@" in value.partition("://")[2].partition("?")[0]:
            raise ValueError("holds a password or key: take it out and give it by the environment")
        return value

    @property
    def trains(self) -> bool:
        """Whether there is anything to learn; otherwise `evaluate` does all."""
        return self.variant not in ("popularity", "text_only")

    @property
    def _parts_do_not_fit(self) -> bool:
        """Whether a partition whose cuts are to save messages does not divide evenly among the
        workers. Elastic runs take any.
        """
        made_for_cuts = (
            self.graph.partition in ("fennel", "metis") and self.graph.placement == "partitioned"
        )
        fixed = not self.scaling.elastic
        return made_for_cuts and fixed and self.graph.num_parts % self.scaling.max_workers != 0

    @property
    def gate(self) -> GateSettings | None:
        """The model's gates, None where it has none."""
        model = self.model
        if isinstance(model, RecMindSettings):
            return model.gate
        return model.gate if isinstance(model, PaperSettings) and model.has_gates else None

    @property
    def heldout_gates(self) -> bool:
        """Whether gates learn from held-out edges: only then is a slice held out, and its titles
        kept from user texts.
        """
        if self.updates:
            return False
        return self.trains and self.gate is not None and self.gate.learn_on == "heldout"

    @property
    def starts_from_run(self) -> bool:
        """Whether the run begins from another one, whose dense parameters it takes over."""
        return self.update.of is not None

    @property
    def updates(self) -> bool:
        """Whether the run takes rows, item vectors and user texts over too, by external id. Its
        gates stay as they are: they know what a degree is worth, and would learn from edges that
        the rows have seen.
        """
        return self.starts_from_run and self.update.rows == "carried"

    @property
    def aligns(self) -> bool:
        """Whether graph and text views are pulled together at all."""
        return self.model.has_text_view and self.alignment.weight > 0

    @property
    def has_warmup(self) -> bool:
        """Whether there is a phase of alignment alone."""
        return self.aligns and self.train.warmup_epochs > 0

    @property
    def users_have_text(self) -> bool:
        """Whether users have texts of their own, not only their items'."""
        return isinstance(self.model, FusedSettings) and self.model.users_have_text

    @property
    def only_items_have_text(self) -> bool:
        """Whether text views are made of items' texts alone."""
        return self.model.has_text_view and not self.users_have_text

    @property
    def recent_decay(self) -> float:
        return self.model.recent_decay if isinstance(self.model, RecMindSettings) else 0.0

    @property
    def text_components(self) -> int | None:
        """Principal components kept of the text vectors; 0: all; None: they are not whitened."""
        return self.model.text_components if isinstance(self.model, TextModelSettings) else 0

    @property
    def propagates_fully(self) -> bool:
        """Whether training propagates the whole graph, not sampled blocks."""
        return self.sampler.propagation == "full"

    @property
    def owners_draw(self) -> bool:
        """Whether the owner of a node draws its neighbours, for all ranks: where no other has its
        edges, or where batches hide edges, of which only the owners of their ends are told.
        """
        if self.graph.placement == "partitioned":
            return True
        sampler = self.sampler
        return not self.propagates_fully and sampler.hide_batch_edges and sampler.backend != "pyg"

    @property
    def _may_be_full(self) -> bool:
        """Whether propagation is full, or may turn out so."""
        open_yet = self.sampler.propagation == "auto" and self.graph.placement == "replicated"
        return self.propagates_fully or open_yet

    @property
    def gate_batch_size(self) -> int:
        return self.gate.batch_size if self.gate is not None and self.heldout_gates else 0

    def identity(self) -> dict[str, Any]:
        """The settings that decide what a step computes: a checkpoint is continued only under the
        same ones.

        The language model and the templates are not here: the key of the texts that they make
        (`RunStores.texts_key`) stands for them.
        """
        rooms = {"sampler", "model", "loss", "alignment", "table", "zero", "train"}
        values = self.model_dump(mode="json", include=rooms)
        for room, free in (("zero", "stage"), ("train", "log_every_steps")):
            del values[room][free]
        judged = {"metric", "ks", "norm_exponent"}
        values["evaluation"] = self.evaluation.model_dump(mode="json", include=judged)
        lora = self.text.lora if self.model.reads_text else None
        values["lora"] = lora.model_dump(mode="json") if lora else None
        return {**values, "updates": self.updates} if self.starts_from_run else values

    def overrides_beside(self, variant: str) -> list[str]:
        """Overrides that put another variant's run into directories beside this one's."""
        words = [f"run_dir={self.run_dir}-{variant}"]
        if self.storage_uri:
            place, mark, query = self.storage_uri.partition("?")
            words.append(f'storage_uri="{place.rstrip("/")}-{variant}{mark}{query}"')
        return words

    def absolute(self) -> "RunConfig":
        """The same with absolute paths: workers of Ray have current directories of their own."""
        model = Path(self.text.model)
        text = (
            self.text.model_copy(update={"model": str(model.absolute())})
            if model.is_dir()
            else self.text
        )
        paths: dict[str, Any] = {
            "run_dir": self.run_dir.absolute(),
            "cache_dir": self.cache_dir.absolute(),
        }
        if self.update.of is not None:
            of = self.update.of.absolute()
            paths["update"] = self.update.model_copy(update={"of": of})
        if self.storage_uri and "://" not in self.storage_uri:
            paths["storage_uri"] = str(Path(self.storage_uri).absolute())
        return self.model_copy(update={**paths, "text": text})

    @model_validator(mode="after")
    def _rooms_agree(self) -> "RunConfig":
        if faults := self.faults():
            raise ValueError("; ".join(faults))
        return self

    def faults(self) -> list[str]:
        """What settings of two rooms cannot be together, one sentence each. What still follows from
        the data counts as if it fitted.
        """
        faults = [sentence for wrong, sentence in self._checks() if wrong]
        if self.trains:
            faults += self.model.faults(full=self._may_be_full, loss_kind=self.loss.kind)
        return faults

    def _checks(self) -> list[tuple[bool, str]]:
        """What settings of two rooms cannot be together: (whether it is so, the sentence)."""
        hops, layers = len(self.sampler.num_neighbors), self.model.num_layers
        full, workers = self.propagates_fully, self.scaling.max_workers
        return [
            *self._checks_of_placement(),
            (
                self.train.batch_of == "users" and self.sampler.hide_batch_edges,
                "train.batch_of: users would hide all edges of a batch's users: set "
                "sampler.hide_batch_edges: false",
            ),
            (
                not full and hops not in (0, layers),
                f"sampler.num_neighbors has {hops} hops, model.num_layers is {layers}: "
                "give one fan-out per layer",
            ),
            (
                self.model.reads_text
                and not isinstance(self.model, RecMindSettings)  # is its graph alone then
                and not self.dataset.items
                and not self.dataset.users,
                f"model.kind: {self.model.kind} reads texts: name a file with texts as "
                "dataset.items or dataset.users, or set variant: lightgcn",
            ),
            (
                self.model.init == "text" and self.text_components is None,
                "model.init: text needs whitened texts: leave model.text_components: null out",
            ),
            (
                isinstance(self.model, PaperSettings)
                and not self.model.reads_out_text
                and not self.aligns,
                "model.kind: paper without alignment: no loss reads a text: set alignment.weight "
                "above 0, or model.readout: alpha",
            ),
            (
                isinstance(self.model, RecMindSettings)
                and not self.model.has_text_view
                and self.model.init == "text",
                "model.views: graph reads no texts: set model.init: normal",
            ),
            (
                0 < self.train.batch_size < workers,
                f"train.batch_size {self.train.batch_size} is below scaling.num_workers "
                f"{workers}: raise it",
            ),
            (
                self.variant in self.compare,
                f"compare names {self.variant}, which is this run's own variant: leave it out",
            ),
        ]

    def _checks_of_placement(self) -> list[tuple[bool, str]]:
        """What a partitioned graph cannot be together with."""
        full, workers = self.propagates_fully, self.scaling.max_workers
        partitioned = self.graph.placement == "partitioned"
        return [
            (
                partitioned and self.dataset.weights is not None,
                "dataset.weights with graph.placement: partitioned: ranks have their own edges' "
                "weights alone: set graph.placement: replicated, or leave the weights out",
            ),
            (
                self._parts_do_not_fit,
                f"graph.placement: partitioned with graph.partition: {self.graph.partition} into "
                f"graph.num_parts {self.graph.num_parts}, which scaling.num_workers {workers} does "
                "not divide: cuts and balance would be lost: set num_parts to a multiple of the "
                "workers, or partition: hash",
            ),
            (
                full and partitioned,
                "graph.placement: partitioned needs sampler.propagation: sampled: full propagation "
                "hides edges by a map of all",
            ),
            (
                self.sampler.backend == "pyg" and partitioned,
                "graph.placement: partitioned needs sampler.backend: numba: pyg-lib's draws depend "
                "on the rank",
            ),
        ]
