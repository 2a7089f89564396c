"""A small language model that knows nothing yet: a Llama of 1.2 M random weights, and a tokenizer for its captions."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

__all__ = ["make", "tokenizer"]

VOCABULARY = 600
"""Tokens at most; a word that is in no caption is spelt in bytes."""
_SPECIAL = ("<s>", "</s>", "<pad>")


def make(folder: Path, captions: Iterable[str], seed: int) -> None:
    """Writes model and tokenizer, unless the folder is there.

    Args:
        folder: where to.
        captions: those of training, from which the tokenizer is made.
        seed: of the weights.
    """
    if folder.exists():
        return
    temporary = folder.with_name(f".{folder.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    words = tokenizer(captions)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=192,
        intermediate_size=384,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=True,
    )
    LlamaForCausalLM(config).save_pretrained(temporary)
    words.save_pretrained(temporary)
    temporary.rename(folder)


def tokenizer(captions: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte pairs of some captions."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(_SPECIAL), initial_alphabet=letters, show_progress=False
    )
    inner.train_from_iterator(sorted(captions), trainer)
    start, end, pad = _SPECIAL
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=start, eos_token=end, pad_token=pad)
