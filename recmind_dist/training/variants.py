"""Other models as settings of this one: what each changes of the config it is applied to."""

from typing import Any

VARIANTS: dict[str, dict[str, Any]] = {
    "recmind": {},
    "lightgcn": {
        "model": {
            "use_text": False,
            "init": "normal",
            "readout": "graph",
            "item_scale": False,
            "gate": {"enabled": False},
        },
        "alignment": {"weight": 0},
        "train": {"warmup_epochs": 0},
    },
    "popularity": {
        "model": {"use_text": False, "init": "normal", "gate": {"enabled": False}},
        "alignment": {"weight": 0},
    },
    "llm_only": {"model": {"readout": "text", "gate": {"enabled": False}}, "alignment": {"weight": 0}},
    "late_fusion": {"model": {"readout": "alpha", "gate": {"enabled": False}}},
    "no_alignment": {"alignment": {"weight": 0}, "train": {"warmup_epochs": 0}},
    "no_user_alignment": {"alignment": {"users": False}},
    "no_item_alignment": {"alignment": {"items": False}},
    "no_warmup": {"train": {"warmup_epochs": 0}},
    "gate_items_only": {"model": {"gate": {"sides": "items"}}},
}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with `changes` laid over them, group by group."""
    out = dict(values)
    for key, change in changes.items():
        both = isinstance(change, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], change) if both else change
    return out
