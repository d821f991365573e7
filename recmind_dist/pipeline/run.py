"""All stages of a run in order; each skips what is done. Commands and programs call `Pipeline`."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from recmind_dist.checkpoint.layout import attempt_directories
from recmind_dist.distributed.context import DistContext
from recmind_dist.errors import StoreError, TextError
from recmind_dist.evaluation.groups import check_groups
from recmind_dist.export.write_bundle import write_bundle
from recmind_dist.graph import Graph, prepare_graph, prepare_rows
from recmind_dist.graph.prepare import held_out_are_drawn
from recmind_dist.ingest import dataset_summary, fetch, ingest_dataset
from recmind_dist.launch.device import refuse_cuda_alone, refuse_cuda_for_evaluation
from recmind_dist.launch.device_memory import kept_bytes_of_run
from recmind_dist.launch.in_process import evaluation_context
from recmind_dist.model.settings import FOLLOWS
from recmind_dist.pipeline.embed import embed
from recmind_dist.pipeline.partition_report import PartitionReport, judge_partition
from recmind_dist.pipeline.train import fit, prepare_texts, sync_with_storage
from recmind_dist.report import RunDirectory
from recmind_dist.run_config.data_facts import read_facts
from recmind_dist.run_config.defaults import resolve
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage.manifest import NAME as MANIFEST
from recmind_dist.text import EmbedReport
from recmind_dist.training.evaluate import evaluate_popularity_run, evaluate_run, evaluate_text_run
from recmind_dist.training.finished_run import load_best, read_inputs, read_run
from recmind_dist.training.model_shard import ModelShard
from recmind_dist.training.run_stores import RunStores
from recmind_dist.training.state import Cursor
from recmind_dist.types import Say

DATA = Path("data")
MODELS = Path("models")


class Pipeline:
    """One run, from its files to its results.

    Args:
        config: see `load_run_config`.
        say: called with each line of progress.
    Attributes:
        template_fault: set by `prepare`; see `DataFacts`.
    """

    def __init__(self, config: RunConfig, say: Say = print) -> None:
        self.config = config
        self.say = say
        self.directory = RunDirectory(config.run_dir.absolute())
        self.template_fault = ""

    @staticmethod
    def from_yaml(
        path: str | Path, overrides: list[str] | None = None, say: Say = print
    ) -> "Pipeline":
        """Reads the config from a file. Raises ConfigError, one line per fault."""
        return Pipeline(load_run_config(Path(path), overrides), say)

    @staticmethod
    def of_run(run_dir: str | Path, say: Say = print) -> "Pipeline":
        """An existing run, by its own config.yaml. Raises ConfigError or StoreError."""
        return Pipeline(read_run(Path(run_dir))[1], say)

    def run(self, resume: str = "auto", allow_mismatch: bool = False) -> dict[str, Any]:
        """All stages. Returns the content of results.json."""
        refuse_cuda_for_evaluation(self.config)  # hours before they would be needed
        if self.config.variant == "text_only":
            refuse_cuda_alone(self.config.scaling)
        with self.directory.lock():
            if self.config.trains:
                self._fit(resume, allow_mismatch)
            results = self.evaluate()
            sync_with_storage(self.config)
            return results

    def prepare(self) -> Path:
        """Fetches, ingests, splits and partitions the data, and fills in the settings that the
        config leaves open. Returns the graph's directory.
        """
        for name in self.config.fetch:
            self.say(f"{name}: at {fetch_asset(name)}")
        dataset = ingest_dataset(self.config.dataset, self.config.cache_dir)
        for line in dataset_summary(dataset):
            self.say(line)
        memory_mb = self.config.dataset.memory_mb
        graph = prepare_graph(dataset, self.config.graph, self.config.cache_dir, memory_mb)
        if self.config.graph.placement == "partitioned":
            prepare_rows(graph)
        self.say(f"graph: at {graph}")
        if held_out_are_drawn(dataset, self.config.graph):
            self.say(
                f"graph.split {self.config.graph.split}: the log has no column of times: what is "
                "held out of each user is drawn, by graph.seed"
            )
        if self.config.dataset.weights is not None and not self.config.trains:
            self.say(f"dataset.weights: {self.config.variant} trains nothing: all weigh the same")
        opened = Graph.open(graph, edges=False)
        if not opened.manifest["num_test"]:
            self.say(nothing_held_out(self.config.graph.split))
        else:
            self.say(held_out_line(opened.manifest))
            for line in long_lists(self.config.evaluation.ks, opened.num_items):
                self.say(line)
            check_groups(opened, self.config.evaluation.groups)
        facts = read_facts(self.config, dataset, graph)
        self.template_fault = self.template_fault or facts.template_fault
        if self.template_fault:
            self.say(f"warning: {self.template_fault}")
        resolved = resolve(self.config, facts)
        self.config = resolved.config
        for line in resolved.lines if self.config.trains else ():
            self.say(line)
        return graph

    def prepare_for_texts(self) -> Path:
        """As `prepare`, before texts are read. Raises TextError: the item template names a field
        that the item file lacks, where the run would go on without texts.
        """
        graph = self.prepare()
        if self.template_fault:
            raise TextError(self.template_fault)
        return graph

    def report_partition(self) -> PartitionReport:
        """Prepares the graph and judges its partition: cut, balance, remote rows."""
        graph = self.prepare()
        return judge_partition(self.config, Graph.open(graph))

    def embed(self) -> EmbedReport | None:
        """Embeds all texts with the language model as it came, before any adapter. Returns None for
        a model without text.
        """
        refuse_cuda_alone(self.config.scaling)
        graph = self.prepare_for_texts()
        texts = prepare_texts(self.config, graph).texts
        return None if texts is None else embed(self.config, texts, None, self.say)

    def fit(self, resume: str = "auto", allow_mismatch: bool = False) -> RunStores:
        """Trains to the end of the joint phase, from the last checkpoint."""
        with self.directory.lock():
            inputs = self._fit(resume, allow_mismatch)
            sync_with_storage(self.config)
            return inputs

    def evaluate(self) -> dict[str, Any]:
        """Tests the best checkpoint, and writes and returns results.json.

        Runs on one rank alone in this process, on a GPU if there is one with room, or on
        evaluation.num_workers Ray workers.
        """
        if self.config.variant == "popularity":
            graph = self.prepare()
            return evaluate_popularity_run(self.config, graph, self.directory)
        if self.config.variant == "text_only":
            graph = self.prepare_for_texts()
            prepared = prepare_texts(self.config, graph)
            assert prepared.texts is not None, "prepare_texts refuses it"
            store = embed(self.config, prepared.texts, None, self.say).path
            inputs = RunStores(prepared.graph)
            return evaluate_text_run(
                self.config, prepared.graph, store, self.directory, self.evaluation_context(inputs)
            )
        refuse_cuda_for_evaluation(self.config)
        inputs = read_inputs(self.directory)
        if self._has_open_settings:
            self.prepare()
        if self.config.evaluation.num_workers == 1:
            context = self.evaluation_context(inputs)
            then = partial(self._write_bundle, self.directory.bundle)
            return evaluate_run(self.config, inputs, self.directory, context, then=then)
        from recmind_dist.launch.ray_train import evaluate_on_workers

        evaluate_on_workers(self.config, inputs, self.say)
        return self.directory.read_results()

    def export(self, to: Path, text_model: bool = False) -> None:
        """Writes the bundle of the best checkpoint, on one rank alone.

        Args:
            text_model: whether the language model goes with it, its adapters merged.
        Raises:
            CheckpointError: the run has none.
            StoreError: there is something else at `to`.
        """
        if to.exists() and not (to / MANIFEST).is_file():
            raise StoreError(f"{to}: exists and is no bundle: export to another directory")
        inputs = read_inputs(self.directory)
        if self._has_open_settings:
            self.prepare()
        context = self.evaluation_context(inputs)
        model, cursor = load_best(self.config, inputs, self.directory, context)
        results = self.directory.read_results() if self.directory.results.is_file() else {}
        self._write_bundle(to, model, cursor, results, text_model)

    def _write_bundle(
        self,
        to: Path,
        model: ModelShard,
        cursor: Cursor,
        results: dict[str, Any],
        text_model: bool = False,
    ) -> None:
        config = self.directory.config.read_bytes()
        adapted = self.config.text.lora is not None and self.config.has_warmup
        adapter = self.directory.path / "adapter" if adapted else None
        users = self.directory.per_user
        write_bundle(
            model,
            cursor,
            results,
            config,
            to,
            text_model=text_model,
            adapter=adapter,
            per_user=pl.read_parquet(users) if results and users.is_file() else None,
        )

    @property
    def _has_open_settings(self) -> bool:
        """Whether settings are still to be filled in from the data. In a run's own config.yaml
        none are.
        """
        decay = getattr(self.config.model, "recent_decay", 0.0)
        return decay == FOLLOWS or not self.config.train.batch_size

    def evaluation_context(self, inputs: RunStores) -> DistContext:
        """One rank alone in this process, on a GPU if there is one with room."""
        kept = partial(kept_bytes_of_run, self.config, inputs)
        return evaluation_context(self.config.scaling, kept, self.say)

    def _fit(self, resume: str, allow_mismatch: bool) -> RunStores:
        refuse_cuda_alone(self.config.scaling)
        graph = self.prepare_for_texts()
        prepared = prepare_texts(self.config, graph)
        before = attempt_directories(self.directory.checkpoints)
        inputs = fit(self.config, prepared, self.say, resume, allow_mismatch)
        if attempt_directories(self.directory.checkpoints) != before:
            # a bundle that is there is of the model before this training
            shutil.rmtree(self.directory.bundle, ignore_errors=True)
        return inputs


def held_out_line(manifest: dict[str, Any]) -> str:
    """How much of a graph with a test edge is held out."""
    without, users = manifest["users_without_test"], manifest["num_users"]
    return (
        f"held out: {manifest['num_valid']} interactions for validation, {manifest['num_test']} "
        f"for testing, which {without} of {users} users have none of"
    )


def long_lists(ks: tuple[int, ...], num_items: int) -> list[str]:
    """A line on cut-offs at which a list has more than half of all items."""
    long = ", ".join(str(k) for k in ks if 2 * k > num_items)
    line = (
        f"warning: evaluation.ks {long}: there are {num_items} items, so figures at such K say "
        "little (Recall nears 1 for any model): set lower ones"
    )
    return [line] if long else []


def nothing_held_out(split: str) -> str:
    """The line for a graph without a test edge."""
    if split == "none":
        return "held out: nothing, as graph.split none says: there will be no metrics"
    why, remedy = "", "raise graph.test_share"
    if split == "leave-one-out":
        why, remedy = " (no user has three interactions)", "set graph.split to ratio or global-time"
    return (
        f"warning: graph.split {split} holds nothing out for testing{why}: every metric will be "
        f"empty: {remedy}, or give dataset.test"
    )


def asset_path(name: str) -> Path:
    """Where `fetch_asset` puts an asset, and configs/ look for it."""
    return (DATA if name == "ml-100k" else MODELS) / name


def fetch_asset(name: str) -> Path:
    """Downloads a data set to data/ or a model to models/, where configs/ look for them."""
    if name != "smollm2":
        return fetch(name, asset_path(name).parent)
    from recmind_dist.text.gguf import convert_smollm2, is_converted

    into = asset_path(name)
    if not is_converted(into):
        convert_smollm2(next(fetch(name, MODELS / "gguf").glob("*.gguf")), into)
    return into
