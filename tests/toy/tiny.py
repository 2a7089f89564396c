"""LAVCap's pipeline at tiny size: the real classes with random weights, read by the usual loading code."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)


def write_models(folder, hidden=16, layers=1):
    """Writes a CLIP and a Llama with a tokenizer of bytes; CED needs no files for random weights."""
    torch.manual_seed(0)
    sizes = {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
    }
    vision = CLIPVisionConfig(**sizes, image_size=32, patch_size=16, projection_dim=192)
    CLIPVisionModelWithProjection(vision).save_pretrained(folder / "clip")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(["<s>", "</s>", *letters])}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder / "llama")
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, num_key_value_heads=1, bos_token_id=0, eos_token_id=1)
    LlamaForCausalLM(config).save_pretrained(folder / "llama")
    return folder


def settings(folder):
    """Changes to a preset of LAVCap that make it tiny, as behind ``--set``."""
    return [
        "audio_encoder.model=null",
        "audio_encoder.size=tiny",
        f"visual_encoder.model={folder / 'clip'}",
        f"decoder.model={folder / 'llama'}",
        "generate.max_new_tokens=8",
        "generate.beams=2",
    ]
