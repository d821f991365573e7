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


def prepare() -> dict[str, Work]:
    folder, name, batch, layers, dim, users = (
        Path(sys.argv[2]),
        sys.argv[3],
        *map(int, sys.argv[4:8]),
    )
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
    config = Config(model="LightGCN", dataset=name, config_dict=options)
    init_seed(1, True)
    dataset = create_dataset(config)
    config["eval_batch_size"] = (
        users * dataset.item_num
    )  # RecBole counts scores: by default it would take users one by one
    train_data, _, test_data = data_preparation(config, dataset)
    model = get_model(config["model"])(config, train_data.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    batches = iter(train_data)

    def steps(order: dict[str, Any]) -> dict[str, Any]:
        """The body of RecBole's Trainer._train_epoch."""
        nonlocal batches
        model.train()
        pairs, start = 0, time.perf_counter()
        for _ in range(order["count"]):
            interaction = next(batches, None)
            if interaction is None:
                batches = iter(train_data)
                interaction = next(batches)
            trainer.optimizer.zero_grad()
            loss = model.calculate_loss(interaction.to(trainer.device))
            loss.backward()
            trainer.optimizer.step()
            loss.item()
            pairs += len(interaction)
        return {
            "seconds": time.perf_counter() - start,
            "pairs": pairs,
            "steps_per_epoch": len(train_data),
        }

    def evaluate(_: dict[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        found = trainer.evaluate(test_data, load_best_model=False, show_progress=False)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "users": len(test_data.uid_list), "metrics": dict(found)}

    return {"steps": steps, "evaluate": evaluate}


serve(prepare)
