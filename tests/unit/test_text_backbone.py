"""Language models as people have them: tensors under other names, few positions, no fused
attention, encoder–decoders, files that say how to pool.
"""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from recmind_dist.errors import TextError
from recmind_dist.export.text_model import write_text_model
from recmind_dist.recommend.bundle_text import TEXT_MODEL
from recmind_dist.text.backbone import check_model, num_positions, refuse_long_texts
from recmind_dist.text.encoder import TextEncoder
from recmind_dist.text.settings import TextSettings
from recmind_dist.text.source import encoder_key, resolve_pooling, resolve_prompt
from tests.tiny_language_model import WIDTH, make_bert, make_llama

TEXTS = ["space war", "a love story of a king and a queen", "night"]
SMALL = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2}


def load(directory: Path, **settings: Any) -> TextEncoder:
    return TextEncoder.load(TextSettings(model=str(directory), dtype="fp32", **settings))


def rename(directory: Path, new_name: Any) -> None:
    """Saves the weights with other names; None drops a tensor."""
    state = load_file(directory / "model.safetensors")
    renamed = {name: tensor for k, tensor in state.items() if (name := new_name(k)) is not None}
    save_file(renamed, directory / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    "new_name",
    [
        lambda name: f"0.auto_model.{name}",
        lambda name: f"module.student.{name}",
        lambda name: None if name.startswith("encoder.layer.1.") else name,
        lambda name: None if name == "embeddings.word_embeddings.weight" else name,
    ],
)
def test_tensors_that_are_not_there_are_refused_by_name(tmp_path: Path, new_name: Any) -> None:
    directory = make_bert(tmp_path / "model")
    rename(directory, new_name)
    with pytest.raises(TextError, match=r"no tensor '(embeddings|encoder)\..* are missing"):
        load(directory)


@pytest.mark.parametrize("left", [[], ["tokenizer_config.json"]])
def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path, left: list[str]) -> None:
    directory = make_bert(tmp_path / "model")
    for file in directory.iterdir():
        if file.name not in ("config.json", "model.safetensors", *left):
            file.unlink()
    with pytest.raises(TextError, match=r"model has no tokenizer \(tokenizer\.json, vocab\.txt"):
        load(directory)


@pytest.mark.parametrize("how", ["gptq", "awq", "bitsandbytes"])
def test_quantised_weights_are_refused(tmp_path: Path, how: str) -> None:
    directory = make_bert(tmp_path / "model")
    config = json.loads((directory / "config.json").read_text())
    asked = {"quantization_config": {"quant_method": how, "bits": 4}}
    (directory / "config.json").write_text(json.dumps(config | asked))
    with pytest.raises(TextError, match=rf"has quantised weights \({how}\)"):
        load(directory)


def first_rows(directory: Path, rows: int) -> None:
    path = directory / "model.safetensors"
    state, name = load_file(path), "embeddings.word_embeddings.weight"
    state[name] = state[name][:rows].clone()
    save_file(state, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("asked", "rows", "said"),
    [
        ({"vocab_size": 20}, 20, r"tokens up to \d+, the model has vectors of 20"),
        ({}, 20, "tensors have other shapes than its config.json asks for"),
        ({"hidden_size": 2 * WIDTH}, None, "tensors have other shapes"),
    ],
)
def test_a_tokenizer_or_a_config_of_another_model_is_refused(
    tmp_path: Path, asked: dict[str, int], rows: int | None, said: str
) -> None:
    directory = make_bert(tmp_path / "model")
    if rows is not None:
        first_rows(directory, rows)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | asked))
    with pytest.raises(TextError, match=said):
        load(directory)


def test_a_checkpoint_with_another_head_and_without_the_pooler_is_whole(tmp_path: Path) -> None:
    directory = make_bert(tmp_path / "model")
    before = load(directory).encode(TEXTS, 16)
    rename(directory, lambda name: None if name.startswith("pooler.") else name)
    state = load_file(directory / "model.safetensors")
    state["cls.predictions.bias"] = torch.zeros(3)
    save_file(state, directory / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_array_equal(load(directory).encode(TEXTS, 16), before)


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        (transformers.BertConfig(max_position_embeddings=128), 128),
        (transformers.RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (transformers.MPNetConfig(max_position_embeddings=130, pad_token_id=1), 128),
        (transformers.GPT2Config(n_positions=96), 96),
        (transformers.T5Config(), None),
        (transformers.LlamaConfig(max_position_embeddings=64), None),
    ],
)
def test_positions_are_those_that_a_text_can_use(config: Any, positions: int | None) -> None:
    assert num_positions(config) == positions


def test_longer_texts_than_positions_are_refused_with_both_keys(tmp_path: Path) -> None:
    directory = make_bert(tmp_path / "model")
    settings = TextSettings(model=str(directory), max_tokens=200, user_max_tokens=129)
    with pytest.raises(
        TextError, match=r"text\.max_tokens 200, text\.user_max_tokens 129: .* 128 positions"
    ):
        refuse_long_texts(directory, settings)
    refuse_long_texts(directory, TextSettings(max_tokens=128, user_max_tokens=128))


def replace_model(directory: Path, model: Any) -> Path:
    """A model of another architecture beside the tokenizer of `make_bert`."""
    make_bert(directory)
    (directory / "model.safetensors").unlink()
    model.save_pretrained(directory)
    return directory


def other_models(vocabulary: int) -> dict[str, Any]:
    bart: dict[str, Any] = {"d_model": WIDTH, "encoder_layers": 1, "decoder_layers": 1}
    bart |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64}
    t5 = transformers.T5Config(
        vocab_size=vocabulary, d_model=WIDTH, d_ff=64, num_layers=1, num_heads=2, d_kv=16
    )
    mpnet = transformers.MPNetConfig(
        vocab_size=vocabulary, intermediate_size=64, max_position_embeddings=130, **SMALL
    )
    bert = {"vocab_size": vocabulary, "intermediate_size": 64, "max_position_embeddings": 64}
    apart = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], **bert, **SMALL}
    xlnet = transformers.XLNetConfig(
        vocab_size=vocabulary, d_model=WIDTH, n_layer=2, n_head=2, d_inner=64
    )
    return {
        "mpnet": transformers.MPNetModel(mpnet),
        "deberta": transformers.DebertaModel(transformers.DebertaConfig(**apart)),
        "deberta v3": transformers.DebertaV2Model(
            transformers.DebertaV2Config(position_buckets=8, share_att_key=True, **apart)
        ),
        "xlnet": transformers.XLNetModel(xlnet),
        "roformer": transformers.RoFormerModel(transformers.RoFormerConfig(**bert, **SMALL)),
        "t5": transformers.T5Model(deepcopy(t5)),
        "t5 encoder": transformers.T5EncoderModel(deepcopy(t5)),
        "bart": transformers.BartModel(transformers.BartConfig(vocab_size=vocabulary, **bart)),
    }


EAGER = ("mpnet", "deberta", "deberta v3", "xlnet", "roformer")
"""Kinds that have no fused attention in transformers."""


@pytest.mark.parametrize("kind", [*EAGER, "t5", "t5 encoder", "bart"])
def test_models_without_fused_attention_and_encoder_decoders_give_vectors(
    tmp_path: Path, kind: str
) -> None:
    torch.manual_seed(0)
    directory = replace_model(tmp_path / "model", other_models(100)[kind])
    settings = {"max_tokens": 16, "user_max_tokens": 16}
    encoder = load(directory, **settings)
    attention = encoder.backbone.config._attn_implementation
    assert attention == ("eager" if kind in EAGER else "sdpa")
    vectors = encoder.encode(TEXTS, 16)
    assert vectors.shape == (3, WIDTH)
    assert np.isfinite(vectors).all()
    np.testing.assert_array_equal(load(directory, **settings).encode(TEXTS, 16), vectors)
    alone = load(directory, **settings).encode(TEXTS[2:], 16)
    np.testing.assert_allclose(alone[0], vectors[2], atol=1e-5)


def pooled_by(directory: Path, **values: object) -> Path:
    (directory / "1_Pooling").mkdir(exist_ok=True)
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(values))
    return directory


@pytest.mark.parametrize(
    ("values", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode_lasttoken": True, "word_embedding_dimension": 32}, "last"),
        ({"pooling_mode": "cls"}, "cls"),
    ],
)
def test_auto_pools_as_the_models_own_file_says(
    tmp_path: Path, values: dict[str, object], pooling: str
) -> None:
    directory = pooled_by(make_bert(tmp_path / "model"), **values)
    assert resolve_pooling(TextSettings(model=str(directory))) == pooling
    by_hand = load(directory, pooling=pooling)
    np.testing.assert_array_equal(load(directory).encode(TEXTS, 16), by_hand.encode(TEXTS, 16))
    keys = [TextSettings(model=str(directory), dtype="fp32"), by_hand.settings]
    assert encoder_key(keys[0]) == encoder_key(keys[1])


def test_the_first_token_is_another_vector_than_the_mean(tmp_path: Path) -> None:
    directory = make_bert(tmp_path / "model")
    first = load(directory, pooling="cls").encode(TEXTS, 16)
    assert np.abs(first - load(directory, pooling="mean").encode(TEXTS, 16)).max() > 0.01


@pytest.mark.parametrize(
    "values",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode_weightedmean_tokens": True},
        {},
    ],
)
def test_a_pooling_that_is_not_ours_is_refused(tmp_path: Path, values: dict[str, object]) -> None:
    directory = pooled_by(make_bert(tmp_path / "model"), **values)
    with pytest.raises(TextError, match=r"set text\.pooling to mean, cls or last"):
        resolve_pooling(TextSettings(model=str(directory)))


def prompted(directory: Path, default: str | None, **prompts: str) -> Path:
    values = {"prompts": prompts, "default_prompt_name": default}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(values))
    return directory


@pytest.mark.parametrize(
    ("default", "prompts", "wanted"),
    [
        (None, {"query": "love: ", "document": "king: "}, "king: {text}"),
        (None, {"query": "love: ", "passage": "queen: "}, "queen: {text}"),
        ("query", {"query": "love: "}, "love: {text}"),
        (None, {"query": "love: "}, None),
        (None, {"document": ""}, None),
        (None, {}, None),
    ],
)
def test_the_models_own_prompt_for_documents_goes_before_texts(
    tmp_path: Path, default: str | None, prompts: dict[str, str], wanted: str | None
) -> None:
    directory = prompted(make_bert(tmp_path / "model"), default, **prompts)
    assert resolve_prompt(TextSettings(model=str(directory))) == wanted
    by_hand = load(directory, prompt=wanted)
    np.testing.assert_array_equal(load(directory).encode(TEXTS, 16), by_hand.encode(TEXTS, 16))
    assert encoder_key(by_hand.settings) == encoder_key(
        TextSettings(model=str(directory), dtype="fp32")
    )
    if wanted is not None:
        without = load(directory, prompt=None).encode(TEXTS, 16)
        assert np.abs(without - by_hand.encode(TEXTS, 16)).max() > 0.01


def test_a_prompt_that_is_no_text_is_refused(tmp_path: Path) -> None:
    directory = prompted(make_bert(tmp_path / "model"), None, document="{text} {text}")
    with pytest.raises(TextError, match=r"is no prompt: set text\.prompt"):
        resolve_prompt(TextSettings(model=str(directory)))


@pytest.mark.parametrize(
    ("kinds", "fault"),
    [
        (["Transformer", "Pooling", "Normalize"], None),
        (["Transformer", "Pooling", "Dense"], "Dense"),
        (["WordEmbeddings", "Pooling"], "WordEmbeddings"),
    ],
)
def test_steps_after_the_model_that_are_not_ours_are_refused(
    tmp_path: Path, kinds: list[str], fault: str | None
) -> None:
    directory = make_bert(tmp_path / "model")
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (directory / "modules.json").write_text(json.dumps(modules))
    if fault is None:
        assert resolve_pooling(TextSettings(model=str(directory))) == "mean"
        return
    with pytest.raises(TextError, match=f"asks for {fault} after the model"):
        resolve_pooling(TextSettings(model=str(directory)))
    assert resolve_pooling(TextSettings(model=str(directory), pooling="cls")) == "cls"


def test_pooling_is_read_where_the_modules_say(tmp_path: Path) -> None:
    directory = make_bert(tmp_path / "model")
    modules = [{"type": "x.Transformer", "path": ""}, {"type": "x.Pooling", "path": "2_Pooling"}]
    (directory / "modules.json").write_text(json.dumps(modules))
    (directory / "2_Pooling").mkdir()
    (directory / "2_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    settings = TextSettings(model=str(directory), dtype="fp32")
    assert resolve_pooling(settings) == "cls"
    write_text_model(settings, None, tmp_path / "bundle")
    kept = TextSettings(model=str(tmp_path / "bundle" / TEXT_MODEL))
    assert resolve_pooling(kept) == "cls"
    (directory / "modules.json").write_text('{"no": "list"}')
    with pytest.raises(TextError, match=r"modules\.json: no list of modules"):
        resolve_pooling(settings)


def test_a_mean_without_the_prompt_is_refused_where_there_is_one(tmp_path: Path) -> None:
    asks: dict[str, object] = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    directory = pooled_by(make_bert(tmp_path / "model"), **asks)
    assert resolve_pooling(TextSettings(model=str(directory))) == "mean"
    prompted(directory, None, document="king: ")
    with pytest.raises(TextError, match="leaves the prompt out of the mean"):
        resolve_pooling(TextSettings(model=str(directory)))
    assert resolve_pooling(TextSettings(model=str(directory), prompt=None)) == "mean"


def test_lengths_that_the_models_files_would_change_are_said(tmp_path: Path) -> None:
    directory = make_bert(tmp_path / "model")
    settings = TextSettings(model=str(directory), max_tokens=16, user_max_tokens=16)
    assert "left to whitening" not in check_model(settings)
    kinds = ["Transformer", "Pooling", "Normalize"]
    (directory / "modules.json").write_text(json.dumps([{"type": f"x.{kind}"} for kind in kinds]))
    assert "vectors to length 1, which is left to whitening" in check_model(settings)


def test_a_tokenizer_that_is_to_add_an_end_does(tmp_path: Path) -> None:
    directory = make_llama(tmp_path / "model")
    end = 3
    assert load(directory).tokenize(TEXTS[:1], 16)["input_ids"][0].tolist()[-1] != end
    path = directory / "tokenizer_config.json"
    asks = json.loads(path.read_text()) | {"add_eos_token": True}
    path.write_text(json.dumps(asks))
    encoder = load(directory, pooling="last")
    batch = encoder.tokenize([TEXTS[0], "night " * 40], 16)
    last = batch["attention_mask"].sum(1) - 1
    assert batch["input_ids"][torch.arange(2), last].tolist() == [end, end]
    assert last[1] == 15  # the end is within the budget
    again = tmp_path / "again"
    encoder.tokenizer.save_pretrained(again)
    (again / "config.json").write_text((directory / "config.json").read_text())
    encoder.backbone.save_pretrained(again)
    ids = load(again, pooling="last").tokenize(TEXTS, 16)["input_ids"]
    torch.testing.assert_close(ids, encoder.tokenize(TEXTS, 16)["input_ids"])


def test_a_bundles_model_is_pooled_and_prompted_as_the_runs(tmp_path: Path) -> None:
    directory = prompted(
        pooled_by(make_bert(tmp_path / "model"), pooling_mode_cls_token=True),
        None,
        document="king ",
    )
    settings = TextSettings(model=str(directory), dtype="fp32")
    write_text_model(settings, None, tmp_path / "bundle")
    np.testing.assert_array_equal(
        load(tmp_path / "bundle" / TEXT_MODEL).encode(TEXTS, 16), load(directory).encode(TEXTS, 16)
    )
