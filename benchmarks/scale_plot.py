"""The figure of benchmarks/scale.py: samples a second, and bytes a rank sends, by the number of
workers.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

KINDS = ("rows", "gradients", "ids", "queue", "dense")


def draw(
    path: Path, points: dict[str, list[tuple[int, float, float]]], predicted: list[dict[str, float]]
) -> None:
    """Writes a PNG.

    Args:
        points: "measured" and "model" → (workers, samples/s, bytes sent a rank and step);
        predicted: rows of larger clusters, with workers, step_s, efficiency and bytes by kind.
    """
    figure, (speed, sent) = plt.subplots(1, 2, figsize=(10, 4))
    for name, marker in (("measured", "o"), ("model", "x")):
        speed.plot([p[0] for p in points[name]], [p[1] for p in points[name]], marker, label=name)
    speed.set(
        xlabel="workers on this machine",
        ylabel="samples/s",
        title="partitioned, measured and modelled",
    )
    speed.set_ylim(bottom=0)
    speed.legend()
    if predicted:
        workers = [str(int(row["workers"])) for row in predicted]
        bottom = [0.0] * len(predicted)
        for kind in KINDS:
            height = [row[kind] / 1e6 for row in predicted]
            sent.bar(workers, height, bottom=bottom, label=kind)
            bottom = [b + h for b, h in zip(bottom, height, strict=True)]
        for k, row in enumerate(predicted):
            sent.text(k, bottom[k], f"{100 * row['efficiency']:.0f} %", ha="center", va="bottom")
        sent.set(xlabel="workers, predicted (efficiency on top)", ylabel="MB sent a rank and step")
        sent.legend()
    else:
        sent.plot([p[0] for p in points["measured"]], [p[2] / 1e6 for p in points["measured"]], "o")
        sent.set(xlabel="workers", ylabel="MB sent a rank and step, replayed")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
