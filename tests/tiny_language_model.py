"""Real transformers models small enough to make in a test: a BERT and a Llama of two layers, width
32.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

WORDS = ["a", "person", "who", "liked", "movie", "space", "war", "love", "story"]
WORDS += ["comedy", "drama", "thriller", "night", "day", "king", "queen"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WIDTH = 32


def make_bert(directory: Path, seed: int = 0) -> Path:
    """An encoder with [CLS] … [SEP] and a pad token."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(directory)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
    )
    BertModel(config).save_pretrained(directory)
    return directory


def make_llama(directory: Path, seed: int = 0) -> Path:
    """A decoder that adds no special token and has no pad token, only eos."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", eos_token="[SEP]"
    ).save_pretrained(directory)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
    )
    LlamaModel(config).save_pretrained(directory)
    return directory


def _tokenizer() -> Tokenizer:
    digits = [str(i) for i in range(10)]
    pieces = [*SPECIAL, *WORDS, *digits, *(f"##{d}" for d in digits), *':;.,"']
    tokenizer = Tokenizer(
        models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
