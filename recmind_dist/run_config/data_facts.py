"""The few numbers of a prepared data set from which default settings follow."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from recmind_dist.errors import TextError
from recmind_dist.graph import Graph
from recmind_dist.ingest.dataset import KIND, SCHEMA
from recmind_dist.model.settings import RecMindSettings
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.storage import read_manifest
from recmind_dist.text.prompts import refuse_unknown_fields
from recmind_dist.text.template import Template
from recmind_dist.text.word_fields import share_with_text, template_of, word_fields


@dataclass(frozen=True)
class DataFacts:
    """What `resolve` reads of the training graph and its texts.

    Attributes:
        gate_users: users of two training interactions or more, one of which gates may learn from.
        no_order: why the log has no order in time; empty where it has one.
        item_template: of the item text: the config's, or of all fields that hold words.
        skipped_fields: of the item file, which hold numbers, codes or links.
        text_share: of the items, that have a text.
        num_texts: distinct item texts.
        user_fields: of the user file, which hold words.
        template_fault: the sentence on a field that the config's item template names and the item
            file lacks, so that no item may have a text; empty where there is none.
    """

    num_users: int
    num_items: int
    num_edges: int
    gate_users: int
    no_order: str = ""
    item_template: str | None = None
    skipped_fields: tuple[str, ...] = ()
    text_share: float = 0.0
    num_texts: int = 0
    user_fields: tuple[str, ...] = ()
    template_fault: str = ""


def read_facts(config: RunConfig, dataset: Path, graph_path: Path) -> DataFacts:
    """Reads the facts that the config's model asks for.

    Args:
        config: its templates count; where it names none, the fields of the item file do.
        dataset: the directory that `ingest_dataset` returns.
        graph_path: the directory that `prepare_graph` returns.
    """
    text = config.text
    graph = Graph.open(graph_path, edges=False)
    fields = word_fields(graph.item_blocks())
    columns = graph.items_frame(0, 0).columns
    template = text.item_template or template_of(fields)
    share, distinct = share_with_text(graph.item_blocks(), template) if template else (0.0, 0)
    return DataFacts(
        num_users=graph.num_users,
        num_items=graph.num_items,
        num_edges=graph.num_edges,
        gate_users=int((graph.degree[: graph.num_users] >= 2).sum()),
        no_order=_why_no_order(dataset) if isinstance(config.model, RecMindSettings) else "",
        item_template=template,
        skipped_fields=tuple(name for name in columns[1:] if name not in fields),
        text_share=share,
        num_texts=distinct,
        template_fault=_fault_of_template(config, columns),
        user_fields=tuple(word_fields(graph.user_blocks())) if config.dataset.users else (),
    )


def _fault_of_template(config: RunConfig, columns: list[str]) -> str:
    if not (config.text.item_template and config.dataset.items and config.model.reads_text):
        return ""
    try:
        fields = Template.parse(config.text.item_template).fields
        refuse_unknown_fields(fields, "item_template", columns)
    except TextError as error:
        return str(error)
    return ""


def _why_no_order(dataset: Path) -> str:
    """Empty where at least half of the users with several interactions have several times.

    Reads the whole log, a column at a time.
    """
    if not read_manifest(dataset, KIND, SCHEMA)["has_time"]:
        return "no column of times"
    log = pl.scan_parquet(dataset / "interactions.parquet")
    users = log.group_by("user").agg(
        count=pl.len(), ordered=pl.col("time").max() > pl.col("time").min()
    )
    share = users.filter(pl.col("count") > 1).select(pl.col("ordered").mean())
    ordered = share.collect(engine="streaming").item()
    if ordered is None or ordered >= 0.5:
        return ""
    return f"{100 * (1 - ordered):.0f} % of the users have a single time"
