"""What pieces of benchmarks/scale.py leave for the pieces after them, in the benchmarks' cache."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from benchmarks.cluster_model import Exchange, Model, Work
from benchmarks.environments import CACHE
from recmind_dist.errors import RecmindError

if TYPE_CHECKING:
    from benchmarks.scale_groups import Scale

KEPT = ("bytes_errors", "time_errors", "memory_errors", "drawn")


def save(scale: "Scale") -> None:
    """Writes what has been measured."""
    report, model, step = scale.report, scale.model, scale.step_mib
    state = {name: getattr(scale, name) for name in KEPT}
    state |= {name: getattr(report, name) for name in ("rows", "figures", "notes")}
    state["curves"] = [[*key, losses] for key, losses in scale.curves.items()]
    state["model"] = None if model is None else asdict(model)
    state["step_mib"] = None if step is None else asdict(step)
    path = CACHE / "scale" / f"{scale.name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(state))


def load(scale: "Scale") -> None:
    """Takes it up again. Raises RecmindError before the first piece."""
    path = CACHE / "scale" / f"{scale.name}.json"
    if not path.is_file():
        raise RecmindError(f"{path}: not there: run `benchmarks/scale.py --piece fit` first")
    state: dict[str, Any] = json.loads(path.read_text())
    for name in KEPT:
        setattr(scale, name, state[name])
    for name in ("rows", "figures", "notes"):
        setattr(scale.report, name, state[name])
    scale.curves = {(world, placement): losses for world, placement, losses in state["curves"]}
    scale.model = _model(state["model"])
    scale.step_mib = None if state["step_mib"] is None else Work(**state["step_mib"])


def _model(values: dict[str, Any] | None) -> Model | None:
    if values is None:
        return None
    parts: dict[str, Any] = {name: Work(**values[name]) for name in ("train", "sample")}
    parts |= {name: Exchange(**values[name]) for name in ("exchange", "gloo")}
    return Model(**{**values, **parts})
