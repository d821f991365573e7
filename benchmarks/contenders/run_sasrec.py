# ruff: noqa: E402  (threads are confined before the libraries that start them are imported)
"""RecBole's SASRec, with an item's text as a second input. Runs in RecBole's own environment.

The network, its attention and its initial values are RecBole's. Training is as in the paper, from
all positions of a sequence at once, where RecBole's own loader makes a sequence of each position
and takes many times as long. The loss is softmax over the catalogue, where a sample stands for all
items that are no target of the batch. Sequences of one length share a batch, so little is padded.

Words: threads, a folder with train.npz, the training histories, and, for `text`, texts.npy, a row
an item. Vectors are written there. Shapes: B sequences, L positions, D dims, I items.
"""

import sys
from pathlib import Path
from typing import Any

from protocol import Work, confine, serve

THREADS, FOLDER = int(sys.argv[1]), Path(sys.argv[2])
confine(THREADS)

import numpy as np
import torch
from recbole.config import Config
from recbole.model.sequential_recommender import SASRec
from sequences import SoftmaxLoss, batches, candidates, padded, windows
from torch import Tensor, nn

DIM, LAYERS, HEADS = 64, 2, 2
INFERENCE_BATCH = 512


class WholeSequenceSasrec(SASRec):
    """SASRec whose outputs and loss are those of every position.

    With texts, an item's vector is its own plus a learnt linear map of its text.
    """

    def __init__(self, config: Config, catalogue: "Catalogue", texts: Tensor | None) -> None:
        super().__init__(config, catalogue)
        self.texts = texts
        if texts is not None:
            self.of_text = nn.Linear(texts.shape[1], DIM, bias=False)
            nn.init.normal_(self.of_text.weight, std=config["initializer_range"])

    def items(self) -> Tensor:
        """Vectors of all items; row 0 is the padding. Shape: [I + 1, D]."""
        own: Tensor = self.item_embedding.weight
        return own if self.texts is None else own + self.of_text(self.texts)

    def outputs(self, items: Tensor, sequences: Tensor) -> Tensor:
        """RecBole's forward, at every position. Shape: [B, L] → [B, L, D]."""
        h = nn.functional.embedding(sequences, items)
        h = h + self.position_embedding.weight[: sequences.shape[1]]
        h = self.dropout(self.LayerNorm(h))
        mask = self.get_attention_mask(sequences)
        return self.trm_encoder(h, mask, output_all_encoded_layers=True)[-1]


class Catalogue:
    """What RecBole's models ask of a data set: how many items there are, with the padding."""

    def __init__(self, num_items: int) -> None:
        self.num_items = num_items

    def num(self, field: str) -> int:
        return self.num_items + 1


class Trial:
    """One model at a time, by the orders of the benchmark."""

    def __init__(self) -> None:
        self.train = np.load(FOLDER / "train.npz")

    def start(self, order: dict[str, Any]) -> dict[str, Any]:
        """{"dropout", "learning_rate", "batch_size", "length", "sampled", "text", "seed"}"""
        torch.manual_seed(order["seed"])
        config = Config(model="SASRec", dataset="histories", config_dict=_options(order))
        texts = torch.from_numpy(np.load(FOLDER / "texts.npy")) if order["text"] else None
        self.order, self.rng = order, np.random.default_rng(order["seed"])
        self.model = WholeSequenceSasrec(config, Catalogue(int(self.train["num_items"])), texts)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=order["learning_rate"])
        self.pieces = windows(self.train["indptr"], self.train["items"], order["length"])
        return self.keep({})

    def epoch(self, _: dict[str, Any]) -> dict[str, Any]:
        """Trains on every transition of the training histories once."""
        self.model.train()
        total, count = 0.0, 0
        for batch in batches(self.pieces, self.order["batch_size"], self.rng):
            sequences, targets = batch[:, :-1], batch[:, 1:]
            items = self.model.items()
            wanted = targets > 0
            h = self.model.outputs(items, sequences)[wanted]
            positives = targets[wanted].numpy() - 1
            chosen = candidates(positives, len(items) - 1, self.order["sampled"], self.rng)
            columns, position, log_weight = map(torch.from_numpy, chosen)
            loss = SoftmaxLoss.apply(h, items[1 + columns], position, log_weight)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total, count = total + loss.item() * len(h), count + len(h)
        return {"loss": total / count}

    @torch.no_grad()
    def vectors(self, order: dict[str, Any]) -> dict[str, Any]:
        """Vectors of items, and of users at the end of the histories of a file. {"histories"}."""
        model, histories = self.model.eval(), np.load(FOLDER / order["histories"])
        indptr, items_of = histories["indptr"], histories["items"]
        items = model.items()
        users = torch.zeros(len(indptr) - 1, DIM)  # zeros for who has no history
        length = np.minimum(np.diff(indptr), self.order["length"])
        by_length = np.argsort(length, kind="stable")
        by_length = by_length[length[by_length] > 0]
        for begin in range(0, len(by_length), INFERENCE_BATCH):
            batch = by_length[begin : begin + INFERENCE_BATCH]
            rows = [items_of[indptr[u + 1] - length[u] : indptr[u + 1]] for u in batch]
            h = model.outputs(items, padded(rows))
            users[torch.from_numpy(batch)] = h[torch.arange(len(batch)), length[batch] - 1]
        np.save(FOLDER / "users.npy", users.numpy())
        np.save(FOLDER / "items.npy", items[1:].numpy())
        return {}

    def keep(self, _: dict[str, Any]) -> dict[str, Any]:
        """Remembers the model as it is."""
        self.kept = {k: v.clone() for k, v in self.model.state_dict().items()}
        return {}

    def restore(self, _: dict[str, Any]) -> dict[str, Any]:
        """Takes the remembered model again."""
        self.model.load_state_dict(self.kept)
        return {}


def _options(order: dict[str, Any]) -> dict[str, Any]:
    """RecBole's."""
    return {
        "n_layers": LAYERS,
        "n_heads": HEADS,
        "hidden_size": DIM,
        "inner_size": 4 * DIM,
        "hidden_dropout_prob": order["dropout"],
        "attn_dropout_prob": order["dropout"],
        "loss_type": "CE",
        "train_neg_sample_args": None,
        "MAX_ITEM_LIST_LENGTH": order["length"],
        "use_gpu": False,
    }


def prepare() -> dict[str, Work]:
    torch.set_num_threads(THREADS)
    torch.autograd.set_detect_anomaly(False)  # RecBole's import turns it on: a quarter of the time
    sys.argv = sys.argv[:1]  # RecBole reads the command line
    trial = Trial()
    works: tuple[Work, ...] = (trial.start, trial.epoch, trial.vectors, trial.keep, trial.restore)
    names = ("start", "epoch", "vectors", "keep", "restore")
    return dict(zip(names, works, strict=True))


if __name__ == "__main__":
    serve(prepare)
