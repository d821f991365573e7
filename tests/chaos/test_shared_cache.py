"""Fault 23: two runs with other held-out slices share a cache, and one starts while the other
extracts.
"""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from recmind_dist.pipeline.run import Pipeline
from recmind_dist.pipeline.train import prepare_texts
from recmind_dist.run_config.load import load_run_config
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import TextEncoder, Texts, TextStore, embed_texts, store_path
from tests.shop import RECMIND, environment, make_shop
from tests.tiny_language_model import make_bert

pytestmark = [pytest.mark.chaos_slow, pytest.mark.timeout(600)]
SLICES = (0.2, 0.4)
"""Shares of the edges that are held out for the gates, whose titles are kept from the texts."""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shop whose graph is prepared."""
    make_shop(tmp_path)
    make_bert(tmp_path / "bert")
    monkeypatch.chdir(tmp_path)
    Pipeline.from_yaml("shop.yaml").prepare()
    return tmp_path


def words_of(share: float) -> list[str]:
    return [f"model.gate.heldout_share={share}", "text.dtype=fp32", "text.lora=null"]


def embedding(
    home: Path, ray_home: Path, share: float, faults: str = ""
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(RECMIND), "embed", "shop.yaml", *words_of(share)],
        cwd=home,
        env=environment(ray_home, RECMIND_FAULTS=faults),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def config_and_texts(home: Path, share: float) -> tuple[RunConfig, Texts]:
    config = load_run_config(Path("shop.yaml"), words_of(share)).absolute()
    [graph] = (home / "cache" / "shop").glob("graph-*")
    texts = prepare_texts(config, graph).texts
    assert texts is not None
    return config, texts


def assert_whole(path: Path, texts: Texts, config: RunConfig) -> None:
    """Every row is the model's own answer for its text."""
    store, encoder = TextStore.open(path), TextEncoder.load(config.text)
    store.verify()
    budgets = {"items": config.text.max_tokens, "users": config.text.user_max_tokens}
    for side, rows in (("items", texts.items), ("users", texts.users)):
        stored = store.read_all(side)
        present = [row for row, text in enumerate(rows) if text is not None]
        expected = encoder.encode([str(rows[row]) for row in present], budgets[side])
        np.testing.assert_allclose(stored[present].astype(np.float32), expected, atol=4e-3)
        assert np.isnan(np.delete(stored, present, axis=0)).all()


def test_row_23_a_run_that_starts_while_another_extracts_takes_nothing_from_it(
    home: Path, ray_home: Path
) -> None:
    begun, go_on = home / "begun", home / "go-on"
    pause = (
        f'[{{"point": "embedded", "step": 1, "action": "pause", '
        f'"once": "{begun}", "until": "{go_on}"}}]'
    )
    first = embedding(home, ray_home, SLICES[0], pause)
    second = None
    try:
        while not begun.exists():
            assert first.poll() is None, first.communicate()[0]
            time.sleep(0.1)
        second = embedding(home, ray_home, SLICES[1])
        said, _ = second.communicate(timeout=240)
        assert second.returncode == 0, said
        assert first.poll() is None, "the first was to be at work all the while"
        go_on.touch()
        said, _ = first.communicate(timeout=240)
        assert first.returncode == 0, said
    finally:
        for process in (first, second):
            if process is not None and process.poll() is None:
                process.kill()
                process.communicate()
    made = [config_and_texts(home, share) for share in SLICES]
    assert made[0][1].users != made[1][1].users, "another slice was to leave other titles out"
    for config, texts in made:
        assert_whole(store_path(texts, config.text, home / "cache" / "shop"), texts, config)
        # no Ray is here: it must not be needed
        again = embed_texts(texts, config.text, home / "cache" / "shop")
        assert again.embedded == 0
