"""The decoder without weights, on torch's meta device: to count what it costs.

A local model says its size and has its tokenizer; of published ones the sizes are known, and a text is taken to have as
many ids as words and marks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from lavcap_core.component import Context
from lavcap_core.pretrained import reading, unknown_size
from lavcap_llama.decoder import LlamaDecoder, assemble, dtype_of
from lavcap_llama.load import FILES, find, gguf_options
from lavcap_llama.plugin import DecoderConfig

__all__ = ["KNOWN", "WordTokenizer", "build"]


def _llama(
    vocabulary: int, width: int, mlp: int, depth: int, heads: int, groups: int, dtype: str = "bfloat16", **more: Any
) -> Mapping[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "dtype": dtype,
        "tie_word_embeddings": False,
        **more,
    }


_LLAMA_2_7B = _llama(32000, 4096, 11008, 32, 32, 32, "float16")

KNOWN: Mapping[str, Mapping[str, Any]] = {
    "meta-llama/Llama-2-7b-hf": _LLAMA_2_7B,
    "meta-llama/Llama-2-7b-chat-hf": _LLAMA_2_7B,
    "lmsys/vicuna-7b-v1.5": _LLAMA_2_7B,
    "meta-llama/Llama-2-13b-hf": _llama(32000, 5120, 13824, 40, 40, 40, "float16"),
    "meta-llama/Llama-2-13b-chat-hf": _llama(32000, 5120, 13824, 40, 40, 40, "float16"),
    "meta-llama/Llama-3.1-8B-Instruct": _llama(128256, 4096, 14336, 32, 32, 8),
    "meta-llama/Llama-3.2-1B-Instruct": _llama(128256, 2048, 8192, 16, 32, 8, tie_word_embeddings=True),
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": _llama(32000, 2048, 5632, 22, 32, 4),
    "mistralai/Mistral-7B-v0.1": _llama(32000, 4096, 14336, 32, 32, 8, model_type="mistral"),
    "Qwen/Qwen2.5-0.5B-Instruct": _llama(151936, 896, 4864, 24, 14, 2, model_type="qwen2", tie_word_embeddings=True),
    "HuggingFaceTB/SmolLM2-135M-Instruct": _llama(49152, 576, 1536, 30, 9, 3, tie_word_embeddings=True),
}
"""What the published configurations of language models say of their size, as transformers names it."""


class WordTokenizer:
    """Stands for a tokenizer that isn't there: an id for each word and each mark."""

    bos_token_id = 1
    eos_token_id = 2
    chat_template = None

    def __call__(self, text: str, **options: Any) -> SimpleNamespace:
        """``input_ids``, all 0: their number is what counts."""
        return SimpleNamespace(input_ids=[0] * len(self.tokenize(text)))

    def tokenize(self, text: str) -> list[str]:
        """Words and marks."""
        return re.findall(r"\w+|[^\w\s]", text)


def build(config: DecoderConfig, context: Context) -> LlamaDecoder:
    """What `lavcap_llama.decoder.build` gives, on the meta device and without reading weights.

    Raises:
        PortError, BuildError: as there; B050 if the size of the model isn't known.
        WeightsError: W080 if there is no such folder, W082 if local files are broken.
    """
    place, file = find(context.locate(config.model))
    sizes, tokenizer = _sizes(place, file)
    local = not isinstance(tokenizer, WordTokenizer)
    model = AutoModelForCausalLM.from_config(sizes, dtype=dtype_of(config) or sizes.dtype)
    # Of instructions drawn at random the first stands for all; without a tokenizer there is no chat template.
    settled = {"random_prompts": False, "template": config.template if local else "plain"}
    decoder = assemble(config.model_copy(update=settled), context, model.eval(), tokenizer)
    decoder.assumes = (_prompt(decoder, local),)  # type: ignore[assignment]
    return decoder


def _sizes(place: str, file: str | None) -> tuple[Any, Any]:
    """Configuration of a model of transformers, and a tokenizer."""
    if not Path(place).is_dir():
        if place not in KNOWN:
            raise unknown_size(place, KNOWN)
        return AutoConfig.for_model(**KNOWN[place]), WordTokenizer()
    options: dict[str, Any] = {"local_files_only": True, **({} if file is None else gguf_options(file))}
    with reading(place, FILES, "W081", "W082"):
        sizes = AutoConfig.from_pretrained(place, **options)
        options.pop("quantization_config", None)
        return sizes, AutoTokenizer.from_pretrained(place, **options)


def _prompt(decoder: LlamaDecoder, local: bool) -> str:
    count = sum(len(part) for part in decoder.text.prompts(1)[0] if not isinstance(part, str))
    return f"a prompt of {count} tokens" + ("" if local else ", one for each word and mark: the tokenizer is not here")
