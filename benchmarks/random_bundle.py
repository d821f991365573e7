"""A bundle of random numbers in the format of an exported RecMind: any size, no training, no torch.

Speed does not depend on what vectors say. Users' vectors are folded in by the bundle's own states.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from safetensors.numpy import save_file

from recmind_dist.recommend.bundle import KIND, ROW_GROUP, SCHEMA, Bundle, vector_column
from recmind_dist.recommend.fold_in import FoldIn, Histories
from recmind_dist.recommend.gates import Gates
from recmind_dist.recommend.parquet_files import write_items, write_users
from recmind_dist.storage import atomic_directory, write_bytes, write_manifest
from recmind_dist.types import FloatArray

_HIDDEN = 16
_ADJECTIVES = ("Quiet", "Brass", "Northern", "Paper", "Hollow", "Second", "Amber", "Salt")
_NOUNS = ("Harbour", "Engine", "Orchard", "Letters", "Garden", "Signal", "Winter", "Compass")
_CATEGORIES = ("Books", "Games", "Kids", "Music", "Tools")


@dataclass(frozen=True)
class RandomBundle:
    """Users, items, D of a view, items drawn for a user; the seed; the title of the first item and
    the id of the first user.
    """

    num_users: int
    num_items: int
    dim: int = 64
    history: int = 20
    seed: int = 0
    first_title: str | None = None
    first_user: str | None = None

    def write(self, to: Path) -> Path:
        """Writes the bundle, in place of what is at `to`, and returns `to`."""
        rng = np.random.default_rng(self.seed)
        popularity = rng.permutation(1.0 / np.arange(1, self.num_items + 1))
        content = self._content()
        with atomic_directory(to) as directory:
            degree = np.maximum(1, (popularity * self.num_items).astype(np.int64))
            states = self._states(rng, degree)
            gates = _gate_weights(rng)
            save_file(states, directory / "states.safetensors")
            save_file(gates, directory / "gates.safetensors")
            self._write_items(gates, states, directory / "items.parquet")
            write_bytes(directory / "config.yaml", b"{}\n")
            write_bytes(directory / "README.md", b"# Random numbers\n")
            bundle = Bundle(directory, write_manifest(directory, KIND, SCHEMA, content))
            parts = self._user_rows(rng, popularity / popularity.sum(), FoldIn(bundle))
            write_users(parts, directory / "users.parquet")
            write_manifest(directory, KIND, SCHEMA, content)
        return to

    def _content(self) -> dict[str, Any]:
        fold_in = {
            "num_layers": 2,
            "embedding_dim": self.dim,
            "max_degree": self.num_items,
            "text_layers": 1,
            "users_have_text": False,
            "text_view": True,
            "recent_decay": 0.5,
            "degree_input": True,
        }
        return {
            "name": "random",
            "model": "recmind",
            "num_users": self.num_users,
            "num_items": self.num_items,
            "views": [("graph", self.dim), ("text", self.dim)],
            "norm_exponent": 0.0,
            "fold_in": fold_in,
            "epoch": 1,
            "metrics": {"recall@20": 0.0},
        }

    def _states(self, rng: np.random.Generator, degree: Any) -> dict[str, Any]:
        def normal(*shape: int) -> FloatArray:
            return rng.standard_normal(shape, np.float32)

        views = {name: normal(self.num_items, self.dim) for name in ("base", "text")}
        newest = {f"newest.{k}": view for k, view in enumerate(views.values())}
        base_map = np.eye(self.dim, dtype=np.float32) / 2
        return {"degree": degree, **views, **newest, "base_map": base_map}

    def _write_items(self, gates: dict[str, FloatArray], states: Any, path: Path) -> None:
        mix = Gates(gates, 2, recent=True, degree_input=True)
        feature = np.log1p(states["degree"]) / np.log1p(self.num_items)
        vectors = mix.mix("items", [states["base"], states["text"]], feature.astype(np.float32))
        at = np.arange(self.num_items)
        words = [_ADJECTIVES, _NOUNS]
        titles = [f"{words[0][i % 8]} {words[1][i // 8 % 8]} {i}" for i in at.tolist()]
        titles[0] = self.first_title or titles[0]
        table = pa.table(
            {
                "id": [f"i{i}" for i in at.tolist()],
                "vector": vector_column(vectors),
                "title": titles,
                "degree": states["degree"],
                "category": [_CATEGORIES[i % 5] for i in at.tolist()],
                "year": 1990 + at % 35,
            }
        )
        write_items(table, path)

    def _user_rows(
        self, rng: np.random.Generator, chance: FloatArray, fold_in: FoldIn
    ) -> Iterator[pa.Table]:
        for start in range(0, self.num_users, ROW_GROUP):
            count = min(ROW_GROUP, self.num_users - start)
            drawn = rng.choice(self.num_items, (count, self.history), p=chance)
            lists = [list(dict.fromkeys(row)) for row in drawn.tolist()]
            base = rng.standard_normal((count, self.dim), np.float32)
            ids = [f"u{start + row}" for row in range(count)]
            if start == 0 and self.first_user is not None:
                ids[0] = self.first_user
            yield pa.table(
                {
                    "id": ids,
                    "vector": vector_column(fold_in(Histories.of(lists), base)),
                    "history": pa.array(lists, pa.list_(pa.int32())),
                    "base": vector_column(base),
                }
            )


def _gate_weights(rng: np.random.Generator) -> dict[str, FloatArray]:
    """Of two views: γ₁, γ₂, scale, then the item's bias or the shares of newest items."""
    out = {"users": 5, "items": 4}
    shapes = {
        f"{side}.{name}": shape
        for side, width in out.items()
        for name, shape in {
            "0.weight": (_HIDDEN, 3),
            "0.bias": (_HIDDEN,),
            "2.weight": (width, _HIDDEN),
            "2.bias": (width,),
        }.items()
    }
    return {
        name: rng.standard_normal(shape, np.float32) * np.float32(0.3)
        for name, shape in shapes.items()
    }
