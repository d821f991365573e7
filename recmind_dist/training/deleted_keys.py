"""Keys and values that configs once had, each with what to write instead. Sorted by name.

A config that still has one is refused with its sentence: "shop.yaml:12: <key> was removed: <sentence>".
A deleted value stands as "key: value", without places of lists ("compare: simgcl" for any entry of `compare`).
"""

DELETED_KEYS: dict[str, str] = {
    "sampler.propagation: auto": (
        "write full below about two million interactions, else sampled (docs/distribution.md)"
    ),
    "table.hot_every_steps": "leave it out with table.hot_rows: copies of rows saved no bytes",
    "table.hot_rows": "leave it out: copies of rows saved no bytes; fewer sampler.num_neighbors do",
}
