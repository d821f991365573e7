"""The model card of a bundle: README.md with the fields of the Hugging Face hub."""

from typing import Any

from recmind_dist.run_config.run_config import RunConfig


def model_card(content: dict[str, Any], config: RunConfig, results: dict[str, Any]) -> str:
    """The card's text.

    Args:
        content: of the bundle's manifest.
        results: of results.json; empty: not evaluated.
    """
    metrics = results.get("metrics", {})
    lines = [
        "---",
        "library_name: recmind-dist",
        "tags: [recommender-system, graph-neural-network, lightgcn]",
        "---",
        f"# {config.variant} on {content['name']}",
        "",
        f"{content['num_users']} users, {content['num_items']} items. The score of an item for a "
        "user is the inner product of their vectors.",
        "",
    ]
    lines += [f"- {name}: {value:.4f}" for name, value in metrics.items()]
    return "\n".join(lines) + "\n"
