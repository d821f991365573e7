"""Other models as settings of this one: what each changes of the config it is applied to."""

from typing import Any

_PLAIN: dict[str, Any] = {
    "model": {
        "use_text": False,
        "init": "normal",
        "readout": "graph",
        "text_layers": 0,
        "users_have_text": True,
        "content_view": False,
        "recent_decay": 0.0,
        "gate": {"enabled": False, "withheld_items": 0.0},
    },
    "alignment": {"weight": 0},
    "train": {"warmup_epochs": 0},
}
_UNGATED: dict[str, Any] = {
    "gate": {"enabled": False, "withheld_items": 0.0},
    "content_view": False,
    "recent_decay": 0.0,
}


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`values` with `changes` laid over them, group by group."""
    out = dict(values)
    for key, change in changes.items():
        both = isinstance(change, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], change) if both else change
    return out


VARIANTS: dict[str, dict[str, Any]] = {
    "recmind": {},
    "popularity": _PLAIN,
    # graph alone
    "lightgcn": _PLAIN,
    "lightgcn_bpr": merged(_PLAIN, {"loss": {"kind": "bpr"}, "train": {"batch_of": "pairs"}}),
    "bpr_mf": merged(
        _PLAIN,
        {
            "model": {"num_layers": 0},
            "sampler": {"num_neighbors": []},
            "loss": {"kind": "bpr"},
            "train": {"batch_of": "pairs"},
        },
    ),
    "xsimgcl": merged(_PLAIN, {"loss": {"contrast": {"kind": "xsimgcl"}}}),
    # graph and text without gates
    "lightgcn_text": merged(_PLAIN, {"model": {"use_text": True, "init": "text_neighbours"}}),
    "alpharec": merged(
        _PLAIN,
        {
            "model": {
                "use_text": True,
                "base": "text",
                "projection_hidden_dim": 256,
                "users_have_text": False,
            }
        },
    ),
    "rlmrec": {
        "model": {"use_text": True, "init": "normal", "readout": "graph", **_UNGATED},
        "train": {"warmup_epochs": 0},
    },
    "text_only": merged(
        _PLAIN, {"model": {"use_text": True, "users_have_text": False}}
    ),  # nothing is learnt
    "llm_only": {"model": {"readout": "text", **_UNGATED}, "alignment": {"weight": 0}},
    "late_fusion": {"model": {"readout": "alpha", **_UNGATED}},
    # RecMind without one thing
    "no_alignment": {"alignment": {"weight": 0}, "train": {"warmup_epochs": 0}},
    "no_user_alignment": {"alignment": {"users": False}},
    "no_item_alignment": {"alignment": {"items": False}},
    "no_warmup": {"train": {"warmup_epochs": 0}},
    "gate_items_only": {"model": {"gate": {"sides": "items"}}},
}
