"""Keys and values that configs once had, each with what to write instead. Sorted by name.

A config that still has one is refused with its sentence: "shop.yaml:12: <key> was removed:
<sentence>". A deleted value stands as "key: value", without places of lists ("compare: simgcl" for
any entry of `compare`).
"""

DELETED_KEYS: dict[str, str] = {
    "sampler.propagation: auto": (
        "write full below about two million interactions, else sampled (docs/distribution.md)"
    ),
    "table.hot_every_steps": "leave it out with table.hot_rows: copies of rows saved no bytes",
    "table.hot_rows": "leave it out: copies of rows saved no bytes; fewer sampler.num_neighbors do",
    "compare: simgcl": "write xsimgcl: it needs one propagation a step instead of three",
    "loss.contrast.kind: simgcl": "write xsimgcl: it needs one propagation a step instead of three",
    "loss.tail_exponent": "set model.gate.tail_exponent, for the gates' held-out pairs",
    "model.gate.cold_share": "set model.gate.withheld_items, which needs sampler.propagation: full",
    "model.gate.fold_back": "leave it out: gates learn in every epoch from one held-out slice",
    "model.gate.hidden_dim": "leave it out: gates are linear, the mix has 16 hidden units",
    "model.gate.redraw_epochs": "leave it out: one held-out slice serves the whole run",
    "model.gate.seed": "set graph.seed: the held-out slice belongs to the split of the data",
    "model.item_scale": "leave it out; evaluation.norm_exponent decides how norms count",
    "model.readout: gate": "write mix for views weighed node by node, alpha for one weight",
    "model.text_whitening: center": "write whiten, which ranks 5 % better",
    "variant: simgcl": "write xsimgcl: it needs one propagation a step instead of three",
}
