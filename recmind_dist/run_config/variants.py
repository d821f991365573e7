"""Variants: what each changes of the config that it is applied to."""

from typing import Any

_ALONE: dict[str, Any] = {"alignment": {"weight": 0}, "train": {"warmup_epochs": 0}}
"""No alignment between views."""
_UNGATED: dict[str, Any] = {"gate": {"sides": "none", "withheld_items": 0.0}}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with `changes` laid over them, group by group."""
    out = dict(values)
    for key, change in changes.items():
        both = isinstance(change, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], change) if both else change
    return out


def _alone(kind: str, loss: str | None = None, **model: Any) -> dict[str, Any]:
    changes = merged(_ALONE, {"model": {"kind": kind, **model}})
    if loss == "bpr":
        changes = merged(changes, {"loss": {"kind": "bpr"}, "train": {"batch_of": "pairs"}})
    return changes


VARIANT_DEFAULTS: dict[str, dict[str, Any]] = {
    "lightgcn_bpr": {"loss": {"regularization": 1e-3}},
    "bpr_mf": {"loss": {"regularization": 1e-3}},
    "rlmrec": {"alignment": {"weight": 0.1}},
}
"""What a variant has where the config does not say it; the config's own value goes before."""

VARIANTS: dict[str, dict[str, Any]] = {
    "recmind": {},
    "popularity": _alone("lightgcn", init="normal"),
    # the graph alone
    "lightgcn": _alone("lightgcn", init="normal"),
    "lightgcn_bpr": _alone("lightgcn", "bpr", init="normal"),
    "bpr_mf": merged(_alone("mf", "bpr", init="normal"), {"sampler": {"num_neighbors": []}}),
    "xsimgcl": _alone("xsimgcl", init="normal"),
    # graph and text without gates
    "lightgcn_text": _alone("lightgcn", init="text"),
    "alpharec": _alone("alpharec", init="normal", projection_hidden_dim=256),
    "rlmrec": {
        "model": {"kind": "paper", "init": "normal", "readout": "graph", **_UNGATED},
        "train": {"warmup_epochs": 0},
    },
    "late_fusion": {"model": {"kind": "paper", "readout": "alpha", **_UNGATED}},
    # text alone; the first learns nothing
    "text_only": _alone("recmind"),
    "llm_only": {
        "model": {"kind": "paper", "readout": "text", **_UNGATED},
        "alignment": {"weight": 0},
    },
    # RecMind without one thing
    "no_alignment": _ALONE,
    "no_user_alignment": {"alignment": {"sides": "items"}},
    "no_item_alignment": {"alignment": {"sides": "users"}},
    "no_warmup": {"train": {"warmup_epochs": 0}},
    "gate_items_only": {"model": {"gate": {"sides": "items"}}},
}
