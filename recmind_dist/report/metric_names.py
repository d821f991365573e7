"""Names of metrics and their headings; docs/metrics.md defines them."""

ACCURACY = {
    "recall": "Recall",
    "ndcg": "NDCG",
    "hitrate": "HitRate",
    "mrr": "MRR",
    "map": "MAP",
    "precision": "Precision",
}
"""Of a user's list against the held-out items, in [0, 1]."""

LISTS = {
    "novelty": "Novelty",
    "popularity": "Popularity",
    "tail": "Long tail",
    "serendipity": "Serendipity",
    "ild_text": "Diversity (text)",
    "ild_category": "Diversity (category)",
    "miscalibration": "Miscalibration",
}
"""Of a user's list alone, or against the user's history; the last three where there are texts or
categories.
"""

CATALOGUE = {"coverage": "Coverage", "gini": "Gini"}
"""Of all users' lists together."""


def metric_label(metric: str) -> str:
    """ "Recall@20" for "recall@20"."""
    if metric.startswith("cold "):
        return f"cold {metric_label(metric.removeprefix('cold '))}"
    name, _, k = metric.partition("@")
    label = (ACCURACY | LISTS | CATALOGUE).get(name, name)
    return f"{label}@{k}" if k else label
