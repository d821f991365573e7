"""`recmind validate`: what a run would refuse, found in seconds and before anything starts."""

import tempfile
from functools import partial
from pathlib import Path

from recmind_dist.ingest.dataset import inputs_of
from recmind_dist.ingest.first_rows import FirstRows, read_first_rows
from recmind_dist.launch.machine import check_machine
from recmind_dist.model.settings import RecMindSettings
from recmind_dist.pipeline.run import Pipeline, asset_path
from recmind_dist.pipeline.train import prepare_texts, refuse_texts_alone
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text.backbone import check_model
from recmind_dist.text.prompts import refuse_unknown_fields
from recmind_dist.text.source import is_on_hub_alone
from recmind_dist.text.template import Template
from recmind_dist.types import Say


def validate(config: RunConfig, say: Say = print) -> None:
    """Looks at the first rows of every file, at the language model's directory and at this machine.

    A data set that has no more than these rows is prepared whole, in a temporary folder.

    Raises:
        RecmindError: what the run would refuse, in its words.
    """
    absent: list[str] = [name for name in config.fetch if not asset_path(name).exists()]
    for name in absent:
        say(f"{name}: not there yet: `recmind run` fetches it")
    input_bytes, reads_text = 0, config.model.reads_text
    if "ml-100k" not in absent:
        input_bytes = sum(p.stat().st_size for ps in inputs_of(config.dataset).values() for p in ps)
        reads_text = _check_files(config, say)
    if reads_text:
        _check_model(config, absent, say)
    else:
        refuse_texts_alone(config)
    for line in check_machine(config, input_bytes):
        say(line)


def _check_files(config: RunConfig, say: Say) -> bool:
    """Returns whether the run will read texts: where there are none, it trains the graph view."""
    first = read_first_rows(config.dataset)
    if not first.longer:
        return _prepare_aside(config, say).model.reads_text
    for line in first.lines:
        say(line)
    _check_templates(config, first)
    files = ", ".join(path.name for path in first.longer[:3])
    say(f"{files}{' …' if first.longer[3:] else ''}: looked at the first rows only")
    model = config.model
    of_items = isinstance(model, RecMindSettings) and not model.users_have_text
    return model.reads_text and not (of_items and config.dataset.items is None)


def _prepare_aside(config: RunConfig, say: Say) -> RunConfig:
    """Returns the config with what follows from the data."""
    with tempfile.TemporaryDirectory(prefix="recmind-validate-") as folder:
        there = {"cache_dir": Path(folder), "fetch": ()}
        pipeline = Pipeline(config.model_copy(update=there), partial(_say_but, folder, say))
        graph = pipeline.prepare_for_texts()
        if pipeline.config.update.of is None:
            prepare_texts(pipeline.config, graph)
        return pipeline.config


def _say_but(folder: str, say: Say, line: str) -> None:
    """Says a line, unless it names the temporary folder."""
    if folder not in line:
        say(line)


def _check_templates(config: RunConfig, first: FirstRows) -> None:
    text, items = config.text, first.columns["item"]
    if not config.model.reads_text:
        return
    if text.item_template is not None:
        refuse_unknown_fields(Template.parse(text.item_template).fields, "item_template", items)


def _check_model(config: RunConfig, absent: list[str], say: Say) -> None:
    if any(asset_path(name) == Path(config.text.model) for name in absent):
        return
    if is_on_hub_alone(config.text):
        say(f"text.model {config.text.model}: not there yet: `recmind run` fetches it from the hub")
        return
    say(check_model(config.text))
