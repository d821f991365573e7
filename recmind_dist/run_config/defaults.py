"""What a config leaves open follows from the data, by one small rule a key.

`resolve` gives a value to each key that is left at its marker (0, -1, none, auto: docs/config.md),
and says in a line what each rule chose and why. A key that the config names keeps its value. The
figures behind the rules: docs/model.md.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from recmind_dist.config import Settings
from recmind_dist.errors import ConfigError
from recmind_dist.model.settings import (
    FOLLOWS,
    FusedSettings,
    LightGCNSettings,
    RecMindSettings,
)
from recmind_dist.run_config.data_facts import DataFacts
from recmind_dist.run_config.run_config import RunConfig

FULL_PROPAGATION_EDGES = 2_000_000
"""Training interactions up to which a step propagates the whole graph: docs/distribution.md."""
FAN_OUT = 10
STEPS_AN_EPOCH = 8
STEPS = 240
"""Of a run, where an epoch is no more than `STEPS_AN_EPOCH`."""
BPR_STEPS = 600
SAMPLED_PAIRS = 32_768
"""Interactions of a batch of users whose neighbourhoods are sampled, about, at most."""
FEWEST_PAIRS = 4096
"""The same at least, however many nodes they reach."""
SAMPLED_NODES = 1 << 19
"""Nodes that the neighbourhoods of a batch may reach: their rows, texts and gradients are a step's
memory."""
RECENT_DECAY = 0.6
ITEM_VECTORS = 500_000
"""Items whose vectors learn from the log in one process: 16 bytes a number, 3 GB at 384 of them."""
HELD_OUT = 400
HELD_OUT_SHARE = 0.03
"""Of the training interactions, that gates learn from at most where a fifth of the users is few."""
GATE_BATCH = 512
GATE_USERS = 20


@dataclass(frozen=True)
class Resolved:
    """A config without markers, and what was decided: one line a rule."""

    config: RunConfig
    lines: tuple[str, ...] = ()

    def with_values(self, room: str, line: str, **values: Any) -> "Resolved":
        """The same with other values in a group ("train", "model.gate"), and a line more."""
        return Resolved(_changed(self.config, room.split("."), values), (*self.lines, line))


Rule = Callable[[Resolved, DataFacts], Resolved]


def resolve(config: RunConfig, facts: DataFacts) -> Resolved:
    """Applies all rules. What is resolved already stays as it is.

    Raises:
        ConfigError: the settings that follow do not fit those that the config names.
    """
    found = Resolved(config)
    for rule in RULES:
        found = rule(found, facts)
    if faults := found.config.faults():
        raise ConfigError("; ".join(faults))
    return found


def propagation(found: Resolved, facts: DataFacts) -> Resolved:
    """Full up to two million interactions, else 10 neighbours a layer."""
    config = found.config
    if config.sampler.propagation == "auto":
        small = facts.num_edges <= FULL_PROPAGATION_EDGES
        kind = "full" if small and config.graph.placement == "replicated" else "sampled"
        line = f"{kind} propagation: {facts.num_edges:,} interactions"
        if small and kind == "sampled":
            line += ", but graph.placement is partitioned"
        found = found.with_values("sampler", line, propagation=kind)
    if not config.sampler.num_neighbors and config.model.num_layers:
        layers = config.model.num_layers
        fan_outs = (FAN_OUT,) * layers
        changed = _changed(found.config, ["sampler"], {"num_neighbors": fan_outs})
        found = replace(found, config=changed)
    return found


def item_text(found: Resolved, facts: DataFacts) -> Resolved:
    """All fields that hold words."""
    config = found.config
    if config.text.item_template is not None or facts.item_template is None:
        return found
    line = f'item text "{facts.item_template}": all fields that hold words'
    if facts.skipped_fields:
        line += f" (not {', '.join(facts.skipped_fields)})"
    if not config.model.reads_text:
        return found
    return found.with_values("text", line, item_template=facts.item_template)


def user_text(found: Resolved, facts: DataFacts) -> Resolved:
    """Says which words about users no model reads."""
    config = found.config
    grouped = config.evaluation.groups.users
    unread = [name for name in facts.user_fields if name not in grouped]
    if not unread or not isinstance(config.model, FusedSettings) or config.model.users_have_text:
        return found
    line = f"user fields {', '.join(unread)} are not read: users' texts are their items'"
    if config.model.reads_text:
        line += "; model.text_layers: 0 reads text.user_template, which may name them"
    return replace(found, lines=(*found.lines, line))


def texts(found: Resolved, facts: DataFacts) -> Resolved:
    """Item vectors learn alone where there are no two different texts. RecMind is LightGCN there if
    too few users teach the gates, or if vectors may not learn and the log has no order, so that
    nothing is left to mix.
    """
    model = found.config.model
    if not isinstance(model, RecMindSettings) or model.users_have_text or not model.reads_text:
        return found
    learn = model.missing_text == "learnt" and model.item_offsets is not False
    learn &= facts.num_items <= ITEM_VECTORS or model.item_offsets is True
    if facts.num_texts > 1:
        if facts.text_share == 1.0:
            return found
        without = round((1 - facts.text_share) * facts.num_items)
        how = "their vectors learn from the log" if learn else "their neighbours' stand in"
        line = f"{without:,} of {facts.num_items:,} items have no text: {how}"
        return replace(found, lines=(*found.lines, line))
    why = "all items have the same text" if facts.num_texts else "no item has a text"
    if learn and facts.gate_users >= GATE_USERS:
        line = f"graph alone: {why}; item vectors learn from the log instead"
        found = found.with_values("model", line, item_offsets="alone")
        if found.config.text.lora is None:
            return found
        return found.with_values("text", "no text is read: no adapters (text.lora)", lora=None)
    no_recent = model.recent_decay == 0 or (facts.no_order and model.recent_decay == FOLLOWS)
    if no_recent or facts.gate_users < GATE_USERS:
        line = f"graph alone, LightGCN: {why}, and "
        few = f"{facts.gate_users} users have two interactions or more"
        line += f"the log has no order ({facts.no_order})" if no_recent else few
        plain = LightGCNSettings(embedding_dim=model.embedding_dim, num_layers=model.num_layers)
        return Resolved(found.config.model_copy(update={"model": plain}), (*found.lines, line))
    line = f"graph alone, no text views: {why}"
    return found.with_values("model", line, views="graph", init="normal")


def item_vectors(found: Resolved, facts: DataFacts) -> Resolved:
    """On where texts are read, for catalogues that one process holds."""
    model = found.config.model
    if not isinstance(model, RecMindSettings) or model.item_offsets is not None:
        return found
    few = facts.num_items <= ITEM_VECTORS
    line = f"items' text vectors learn from the log: {facts.num_items:,} items"
    if not model.reads_text:
        changed = _changed(found.config, ["model"], {"item_offsets": False})
        return replace(found, config=changed)
    if not few:
        line = f"items' text vectors stay as they are: {facts.num_items:,} items"
        line += f", more than {ITEM_VECTORS:,}"
    return found.with_values("model", line, item_offsets=few)


def newest_items(found: Resolved, facts: DataFacts) -> Resolved:
    """On where the log has an order."""
    model = found.config.model
    if not isinstance(model, RecMindSettings) or model.recent_decay != FOLLOWS:
        return found
    if facts.no_order:
        line = f"newest items count as all others: the log has no order ({facts.no_order})"
        return found.with_values("model", line, recent_decay=0.0)
    line = f"newest items count more, {RECENT_DECAY} from one to the next: the log has an order"
    return found.with_values("model", line, recent_decay=RECENT_DECAY)


def batch_size(found: Resolved, facts: DataFacts) -> Resolved:
    """An eighth of the users, as a power of two from 8 to 4096, fewer where a sampled batch would
    have more than 32,768 interactions, or more than 4,096 and reach more than half a million
    nodes; of pairs a sixteenth.
    """
    train = found.config.train
    if train.batch_size:
        return found
    least = found.config.scaling.max_workers
    if train.batch_of == "pairs":
        size = max(_power_of_two(facts.num_edges / 16, 256, 16_384), least)
        line = f"batch of {size:,} pairs: {facts.num_edges:,} interactions"
    else:
        users = facts.num_users / STEPS_AN_EPOCH
        if not found.config.propagates_fully:
            reaching = _pairs_reaching(SAMPLED_NODES, found.config, facts)
            pairs = min(SAMPLED_PAIRS, max(reaching, FEWEST_PAIRS))
            users = min(users, pairs * facts.num_users / facts.num_edges)
        size = max(_power_of_two(users, 8, 4096), least)
        line = f"batch of {size:,} users: {facts.num_users:,} users"
    return found.with_values("train", line, batch_size=size)


def epochs(found: Resolved, facts: DataFacts) -> Resolved:
    """240 steps (600 under BPR) of epochs, at least 5; a tenth of them between validations."""
    train = found.config.train
    if not train.epochs:
        count = facts.num_edges if train.batch_of == "pairs" else facts.num_users
        steps = -(-count // train.batch_size)
        steps = min(steps, train.steps_per_epoch) if train.steps_per_epoch else steps
        wanted = BPR_STEPS if found.config.loss.kind == "bpr" else STEPS
        number = max(round(wanted / steps), 5)
        line = f"{number} epochs: {steps} batches in each"
        if train.patience:
            line += f", fewer if validation is no better {train.patience} times in a row"
        found = found.with_values("train", line, epochs=number)
    if found.config.evaluation.every_epochs:
        return found
    every = max(found.config.train.epochs // 10, 1)
    changed = _changed(found.config, ["evaluation"], {"every_epochs": every})
    return replace(found, config=changed)


def held_out(found: Resolved, facts: DataFacts) -> Resolved:
    """An interaction each of a fifth of the users; of up to a half where that is fewer than 400."""
    gate = found.config.gate
    if gate is None or gate.heldout_share or not found.config.heldout_gates:
        return found
    wanted = min(HELD_OUT, HELD_OUT_SHARE * facts.num_edges) / max(facts.gate_users, 1)
    share = round(min(max(wanted, 0.2), 0.5), 2)
    line = f"gates learn from an interaction of {100 * share:.0f} % of the users"
    line += f", which no other part trains on: {facts.gate_users:,} users have two or more"
    return found.with_values("model.gate", line, heldout_share=share)


def norm_exponent(found: Resolved, facts: DataFacts) -> Resolved:
    """0 for RecMind, whose gates learn it item by item; chosen on validation for other models."""
    if found.config.evaluation.norm_exponent != FOLLOWS:
        return found
    value = 0.0 if isinstance(found.config.model, RecMindSettings) else None
    changed = _changed(found.config, ["evaluation"], {"norm_exponent": value})
    return replace(found, config=changed)


def gate_batch(found: Resolved, facts: DataFacts) -> Resolved:
    """All held-out pairs, up to 512."""
    gate = found.config.gate
    if gate is None or gate.batch_size or not found.config.heldout_gates:
        return found
    pairs = round(gate.heldout_share * facts.gate_users)
    size = max(min(pairs, GATE_BATCH), found.config.scaling.max_workers, 1)
    line = f"gates learn from {size:,} pairs a step: about {pairs:,} are held out for them"
    return found.with_values("model.gate", line, batch_size=size)


RULES: tuple[Rule, ...] = (
    propagation,
    item_text,
    user_text,
    texts,
    item_vectors,
    newest_items,
    batch_size,
    epochs,
    held_out,
    gate_batch,
    norm_exponent,
)


def _pairs_reaching(num_nodes: int, config: RunConfig, facts: DataFacts) -> float:
    """Interactions from whose items sampled hops reach about so many distinct nodes, as if they
    drew all alike; without bound where there are no more, or where a hop takes all neighbours.
    """
    of_all = num_nodes / (facts.num_users + facts.num_items)
    if of_all >= 1 or min(config.sampler.num_neighbors, default=0) < 0:
        return math.inf
    draws = -math.log1p(-of_all) * (facts.num_users + facts.num_items)
    a_pair, hop = 1, 1
    for fan_out in config.sampler.num_neighbors:
        hop *= fan_out
        a_pair += hop
    return draws / a_pair


def _power_of_two(value: float, low: int, high: int) -> int:
    """The power of two next to `value`, in [low, high], which are powers of two themselves."""
    power = low
    while power < high and power * 1.5 <= value:
        power *= 2
    return power


def _changed(settings: Any, path: list[str], values: dict[str, Any]) -> Any:
    """Settings with other values in one group. Shape of the tree stays as it is."""
    if not path:
        return settings.model_copy(update=values)
    inner: Settings = getattr(settings, path[0])
    return settings.model_copy(update={path[0]: _changed(inner, path[1:], values)})
