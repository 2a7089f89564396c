"""A tiny language model with a tokenizer of bytes, saved and loaded as a real one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lavcap_core.component import Port
from lavcap_llama.decoder import LlamaDecoder, build
from lavcap_llama.plugin import DecoderConfig

CHAT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|bot|>{% endif %}"
)


@dataclass
class Place:
    """What a factory gets, without a pipeline."""

    inputs: Mapping[str, Port] = field(default_factory=lambda: {"tokens": Port("fused", 6)})

    def build(self, use: Any, inputs: Any = None) -> Any:
        raise AssertionError("the decoder holds no components")

    def locate(self, model: str) -> str:
        return model


def tokenizer(chat: bool = True, **special: str) -> PreTrainedTokenizerFast:
    names = ["<s>", "</s>", "<|user|>", "<|bot|>", "<pad>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*names, *letters])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(names)
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **{"bos_token": "<s>", "eos_token": "</s>", **special})
    made.chat_template = CHAT if chat else None
    return made


def save(folder: Path, **special: str) -> Path:
    words = tokenizer(**special)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, bos_token_id=0, eos_token_id=1, initializer_range=0.2, tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def make(folder: Path) -> Callable[..., LlamaDecoder]:
    def make(**settings: Any) -> LlamaDecoder:
        torch.manual_seed(1)
        return build(DecoderConfig(model=str(folder), **settings), Place())

    return make
