# ruff: noqa: E402  (threads are confined before the libraries that start them are imported)
"""RecBole's LightGCN: training steps and its full-sort evaluation. Runs in RecBole's own
environment.

Words: threads, folder of the atomic files, their name, batch size, layers, dimension, users scored
at once.
"""

import sys
import time
from pathlib import Path
from typing import Any

from protocol import Work, confine, serve

THREADS = int(sys.argv[1])
confine(THREADS)

import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, get_trainer, init_seed


class LightGCN:
    """RecBole's model, data and trainer.

    Args:
        users: scored at once in evaluation.
    """

    def __init__(self, folder: Path, name: str, options: dict[str, Any], users: int) -> None:
        config = Config(model="LightGCN", dataset=name, config_dict=options)
        init_seed(1, True)
        dataset = create_dataset(config)
        # RecBole counts scores: by default it would take users one by one
        config["eval_batch_size"] = users * dataset.item_num
        self.train, _, self.test = data_preparation(config, dataset)
        model = get_model(config["model"])(config, self.train.dataset)
        self.model = model.to(config["device"])
        self.trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, self.model)
        self.batches = iter(self.train)

    def steps(self, order: dict[str, Any]) -> dict[str, Any]:
        """The body of RecBole's Trainer._train_epoch. {"count"}."""
        self.model.train()
        optimizer, device = self.trainer.optimizer, self.trainer.device
        pairs, start = 0, time.perf_counter()
        for _ in range(order["count"]):
            interaction = next(self.batches, None)
            if interaction is None:
                self.batches = iter(self.train)
                interaction = next(self.batches)
            optimizer.zero_grad()
            loss = self.model.calculate_loss(interaction.to(device))
            loss.backward()
            optimizer.step()
            loss.item()
            pairs += len(interaction)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "pairs": pairs, "steps_per_epoch": len(self.train)}

    def evaluate(self, _: dict[str, Any]) -> dict[str, Any]:
        """Full-sort evaluation of the test split."""
        start = time.perf_counter()
        found = self.trainer.evaluate(self.test, load_best_model=False, show_progress=False)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "users": len(self.test.uid_list), "metrics": dict(found)}


def prepare() -> dict[str, Work]:
    folder, name = Path(sys.argv[2]), sys.argv[3]
    batch, layers, dim, users = map(int, sys.argv[4:8])
    torch.set_num_threads(THREADS)
    options = {
        "data_path": str(folder),
        "load_col": {"inter": ["user_id", "item_id"]},
        "benchmark_filename": ["train", "valid", "test"],
        "train_batch_size": batch,
        "n_layers": layers,
        "embedding_size": dim,
        "learning_rate": 1e-3,
        "reg_weight": 1e-4,
        "require_pow": True,
        "metrics": ["Recall", "NDCG"],
        "topk": [20],
        "valid_metric": "Recall@20",
        "eval_args": {"mode": {"valid": "full", "test": "full"}},
        "use_gpu": False,
        "show_progress": False,
        "worker": 0,
        "checkpoint_dir": str(folder / "saved"),
        "user_inter_num_interval": "[0,inf)",
        "item_inter_num_interval": "[0,inf)",
    }
    model = LightGCN(folder, name, options, users)
    return {"steps": model.steps, "evaluate": model.evaluate}


serve(prepare)
