"""Files of a language model that differ from the settings or from each other are heeded or told."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, normalizers

from recmind_dist.export.text_model import write_text_model
from recmind_dist.pipeline.embed import embed
from recmind_dist.recommend.bundle_text import TEXT_MODEL
from recmind_dist.run_config.run_config import RunConfig
from recmind_dist.text import EmbedReport, Texts
from recmind_dist.text.backbone import check_model, model_notes
from recmind_dist.text.encoder import TextEncoder
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.source import encoder_key, sentence_files
from tests.tiny_language_model import make_bert

TEXTS = ["Space WAR", "a LOVE story of a king and a queen", "night"]
SENTENCES = "sentence_bert_config.json"


def load(directory: Path) -> TextEncoder:
    return TextEncoder.load(TextSettings(model=str(directory), dtype="fp32"))


def key(directory: Path) -> str:
    return encoder_key(TextSettings(model=str(directory), dtype="fp32"))


def keeps_capitals(directory: Path) -> Path:
    path = directory / "tokenizer.json"
    rust = Tokenizer.from_file(str(path))
    rust.normalizer = normalizers.NFC()
    rust.save(str(path))
    return directory


def write(directory: Path, name: str, **values: Any) -> Path:
    path = directory / name
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(before | values))
    return directory


def test_texts_are_lowered_where_sentence_transformers_would(tmp_path: Path) -> None:
    directory = keeps_capitals(make_bert(tmp_path / "model"))
    before, first_key = load(directory).encode(TEXTS, 16), key(directory)
    by_hand = load(directory).encode([text.lower() for text in TEXTS], 16)
    assert np.abs(before - by_hand).max() > 0.01
    for asked, wanted in ((False, before), (True, by_hand)):
        write(directory, SENTENCES, do_lower_case=asked)
        np.testing.assert_array_equal(load(directory).encode(TEXTS, 16), wanted)
        assert (key(directory) != first_key) is asked
    settings = TextSettings(model=str(directory), dtype="fp32")
    write_text_model(settings, None, tmp_path / "bundle")
    kept = tmp_path / "bundle" / TEXT_MODEL
    np.testing.assert_array_equal(load(kept).encode(TEXTS, 16), by_hand)


def test_an_older_name_of_that_file_counts_and_a_tokenizer_that_lowers_stays(
    tmp_path: Path,
) -> None:
    directory = make_bert(tmp_path / "model")
    before = load(directory).encode(TEXTS, 16)
    write(directory, "sentence_roberta_config.json", do_lower_case=True)
    assert sentence_files(directory) == ["sentence_roberta_config.json"]
    np.testing.assert_array_equal(load(directory).encode(TEXTS, 16), before)
    keeps_capitals(directory)
    lowered = load(directory).encode([text.lower() for text in TEXTS], 16)
    np.testing.assert_array_equal(load(directory).encode(TEXTS, 16), lowered)


@pytest.mark.parametrize(
    ("capitals", "asked", "kind", "said"),
    [
        (True, True, "PreTrainedTokenizerFast", "do_lower_case: true, .* letters are kept"),
        (False, False, "PreTrainedTokenizerFast", "do_lower_case: false, .* letters are lowered"),
        (False, False, "BertTokenizer", "do_lower_case: false, .* letters are kept"),
        (False, True, "BertTokenizer", None),
        (True, False, "PreTrainedTokenizerFast", None),
        (False, None, "PreTrainedTokenizerFast", None),
    ],
)
def test_case_that_two_files_tell_otherwise_is_said_as_it_is_read(
    tmp_path: Path, capitals: bool, asked: bool | None, kind: str, said: str | None
) -> None:
    directory = make_bert(tmp_path / "model")
    if capitals:
        keeps_capitals(directory)
    values = {"do_lower_case": asked, "tokenizer_class": kind, "mask_token": "[UNK]"}
    write(directory, "tokenizer_config.json", **values)
    notes = model_notes(TextSettings(model=str(directory)))
    assert len(notes) == (said is not None)
    if said is None:
        return
    assert (load(directory).tokenizer.backend_tokenizer.normalizer.normalize_str("A") == "a") is (
        "lowered" in notes[0]
    )
    assert notes[0] in check_model(TextSettings(model=str(directory), user_max_tokens=96))
    assert re.search(said, notes[0])


@pytest.mark.parametrize(
    ("file", "values", "tokens", "said"),
    [
        (SENTENCES, {"max_seq_length": 48}, {}, "text.max_tokens 64, text.user_max_tokens 96: sen"),
        (SENTENCES, {"max_seq_length": 64}, {}, "text.user_max_tokens 96: sentence_bert_config"),
        (SENTENCES, {"max_seq_length": 96}, {}, None),
        (
            SENTENCES,
            {"max_seq_length": 100},
            {"max_tokens": 128},
            "text.max_tokens 128: sentence_b",
        ),
        (SENTENCES, {"max_seq_length": None}, {"max_tokens": 128}, None),
        ("tokenizer_config.json", {"model_max_length": 90}, {}, "text.user_max_tokens 96: tokeniz"),
        ("tokenizer_config.json", {"model_max_length": 10**30}, {"max_tokens": 128}, None),
    ],
)
def test_budgets_above_the_authors_own_are_said(
    tmp_path: Path, file: str, values: dict[str, Any], tokens: dict[str, int], said: str | None
) -> None:
    directory = write(make_bert(tmp_path / "model"), file, **values)
    notes = model_notes(TextSettings(model=str(directory), **tokens))
    assert [note[: len(said or "")] for note in notes] == ([said] if said else [])


@pytest.mark.parametrize(
    ("kinds", "pooling", "said"),
    [
        (["Transformer", "Pooling", "Normalize"], "auto", True),
        (["Transformer", "Pooling", "Normalize"], "mean", False),
        (["Transformer", "Pooling"], "auto", False),
    ],
)
def test_a_step_of_the_models_files_that_is_left_out_is_said_where_texts_are_embedded(
    tmp_path: Path,
    kinds: list[str],
    pooling: str,
    said: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = make_bert(tmp_path / "model")
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (directory / "modules.json").write_text(json.dumps(modules))
    config = RunConfig.model_validate(
        {
            "cache_dir": tmp_path / "cache",
            "dataset": {"name": "x", "interactions": "log.csv"},
            "text": {"model": str(directory), "pooling": pooling, "dtype": "fp32"},
        }
    )
    report = EmbedReport(tmp_path / "store", embedded=3, total=3, skipped_shards=0)
    monkeypatch.setattr("recmind_dist.pipeline.embed.embed_texts", lambda *_: report)
    monkeypatch.setattr("recmind_dist.pipeline.embed.store_path", lambda *_: report.path)
    lines: list[str] = []
    embed(config, Texts(TEXTS, []), None, lines.append)
    note = "text.model: its files bring vectors to length 1, which is left to whitening"
    assert lines == [*([note] if said else []), "embedded 3 of 3 texts"]
    lines.clear()
    embed(config, Texts(TEXTS, []), tmp_path / "adapter", lines.append)  # the second extraction
    assert lines == ["embedded 3 of 3 texts with the adapter"]
