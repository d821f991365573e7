"""Keys and values that configs once had, each with what to write instead. Sorted by name.

A config that still has one is refused with its sentence: "shop.yaml:12: <key> was removed:
<sentence>". A deleted value stands as "key: value", without places of lists ("compare: simgcl" for
any entry of `compare`).
"""

DELETED_KEYS: dict[str, str] = {
    "alignment.items": "write alignment.sides: both, users or items",
    "alignment.momentum": "leave it out: it is always 0.99",
    "alignment.temperature": "leave it out: it is always 0.2",
    "alignment.users": "write alignment.sides: both, users or items",
    "checkpoint.background": "leave it out: saves are always written while training goes on",
    "checkpoint.keep_best": "leave it out: the best one is always kept",
    "checkpoint.max_failures": "leave it out: three failed saves in a row end a run",
    "checkpoint.wait_s": "leave it out: a save waits ten minutes for late ranks",
    "compare: simgcl": "write xsimgcl: it needs one propagation a step instead of three",
    "dataset.include_unseen": "leave it out; take ids that the log does not have out of the file",
    "evaluation.norm_exponent_grid": "leave it out: it is always 0, 0.25, 0.5, 0.75 and 1",
    "evaluation.user_block": "leave it out: it is always 1024",
    "loss.contrast": "write model.kind: xsimgcl, and its weight as model.contrast.weight",
    "loss.tail_exponent": "set model.gate.tail_exponent, for the gates' held-out pairs",
    "loss.text_weight": "leave it out: the text view's ranking loss weighs as much as the graph's",
    "model.alpha": "leave it out: it is always 0.5; readout: graph and text are 1 and 0",
    "model.base": "write model.kind: alpharec, which propagates texts alone",
    "model.contrast.layer": "leave it out: the first layer is contrasted",
    "model.contrast.noise": "leave it out: it is always 0.1",
    "model.contrast.temperature": "leave it out: it is always 0.2",
    "model.fallback": "leave it out: model.missing_text says what stands in for a missing text",
    "model.gate.cold_share": "set model.gate.withheld_items, which needs sampler.propagation: full",
    "model.gate.enabled": "write model.gate.sides: none for no gates",
    "model.gate.fixed": "leave it out: benchmarks/controls.py has the graph view alone",
    "model.gate.fold_back": "leave it out: gates learn in every epoch from one held-out slice",
    "model.gate.hidden_dim": "leave it out: gates are linear, the mix has 16 hidden units",
    "model.gate.redraw_epochs": "leave it out: one held-out slice serves the whole run",
    "model.gate.seed": "set graph.seed: the held-out slice belongs to the split of the data",
    "model.hide_text_share": "leave it out: a tenth of the texts is hidden in a step",
    "model.init: text_neighbours": "write text, which does the same",
    "model.init_scale": "leave it out: it is 0.1",
    "model.item_scale": "leave it out; evaluation.norm_exponent decides how norms count",
    "model.readout: gate": (
        "write model.kind: recmind for views weighed node by node, readout: alpha for one weight"
    ),
    "model.readout: mix": "write model.kind: recmind",
    "model.text_whitening": "leave it out; model.text_components: null takes texts unwhitened",
    "model.use_text": "write model.kind: lightgcn for a model without texts",
    "sampler.batches_per_propagation": (
        "multiply train.batch_size by it, which is the same update; where gates learn, "
        "set model.gate.batch_size to a quarter of the old train.batch_size"
    ),
    "sampler.prefetch": "leave it out: two batches are made ahead",
    "scaling.address": "set the environment variable RAY_ADDRESS",
    "scaling.heartbeat_s": "leave it out: rank 0 writes a heartbeat every ten seconds",
    "scaling.start_attempts": "leave it out: a start makes ten waits of scaling.start_timeout_s",
    "table.beta1": "leave it out: it is always 0.9, as torch has it",
    "table.beta2": "leave it out: it is always 0.999, as torch has it",
    "table.eps": "leave it out: it is always 1e-8, as torch has it",
    "table.hot_every_steps": "leave it out with table.hot_rows: copies of rows saved no bytes",
    "table.hot_rows": "leave it out: copies of rows saved no bytes; fewer sampler.num_neighbors do",
    "text.batch_tokens": "leave it out: it follows from the device and its free memory",
    "text.chunk_rows": "leave it out: a chunk is its shard, of at most 8,192 rows",
    "text.lora.alpha": "leave it out: it is always twice text.lora.r",
    "text.lora.target_modules": "leave it out: it follows from the model's layers",
    "text.max_retries": "leave it out: a shard whose worker died is tried three times more",
    "text.model_revision": "write the commit or tag behind text.model: owner/name@revision",
    "text.shard_rows": "leave it out: it follows from the number of items, or users",
    "text.start_timeout_s": "leave it out: an extraction without any worker ends after ten minutes",
    "text.window": "leave it out: 4,096 texts are always sorted together",
    "variant: simgcl": "write xsimgcl: it needs one propagation a step instead of three",
    "zero.gradient_clipping": "leave it out: always off; lower zero.learning_rate instead",
    "zero.weight_decay": "leave it out: always off; loss.regularization is for the table",
}
