"""LAVCap as its released code computes and stores it, written out straight and tiny, independently of the plugins.

Modules are named as in the checkpoints that it leaves; LoRA lies around its layers as peft puts it.
"""

from __future__ import annotations

import json
import math

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

WIDTH, HEADS, DEPTH = 128, 2, 3
PROMPT = ("USER: <Speech>", "</Speech> Please describe the audio.\nASSISTANT:")


class Lora(nn.Module):
    def __init__(self, base, rank, alpha):
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        self.factor = alpha / rank

    def forward(self, x):
        return self.base_layer(x) + self.factor * self.lora_B["default"](self.lora_A["default"](x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.proj = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        q, k, v = (f(x).view(*x.shape[:2], HEADS, -1).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        weights = (q @ k.transpose(2, 3) / math.sqrt(WIDTH // HEADS)).softmax(3)
        return self.proj((weights @ v).transpose(1, 2).reshape(x.shape))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.attn, self.mlp = Attention(), Mlp()

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(1, WIDTH, 16, 16)


class Ced(nn.Module):
    def __init__(self, columns):
        super().__init__()
        self.init_bn = nn.Sequential(nn.Identity(), nn.BatchNorm2d(64, momentum=0.01), nn.Identity())
        self.patch_embed = PatchEmbed()
        self.time_pos_embed = nn.Parameter(torch.randn(1, WIDTH, 1, columns) * 0.02)
        self.freq_pos_embed = nn.Parameter(torch.randn(1, WIDTH, 4, 1) * 0.02)
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.output_layer = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 527))

    def forward(self, features):
        """[B, 1024, 64] to [B, 64, D]: the mean over the four rows of frequency."""
        x = self.init_bn(features.transpose(1, 2)[..., None]).squeeze(3)
        x = self.patch_embed.proj(x[:, None]) + self.time_pos_embed + self.freq_pos_embed
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).view(len(x), 4, 64, WIDTH).mean(1)


def save_original_ced(ced, path):
    """The published .pt: query, key and value in one layer, features of its own."""
    state = dict(ced.state_dict())
    for i in range(DEPTH):
        for kind in ("weight", "bias"):
            parts = [state.pop(f"blocks.{i}.attn.{letter}_proj.{kind}") for letter in "qkv"]
            state[f"blocks.{i}.attn.qkv.{kind}"] = torch.cat(parts)
    torch.save({"model": state | {"front_end.0.mel_scale.fb": torch.zeros(257, 64)}}, path)


class Holder(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class Peft(nn.Module):
    """``base_model.model`` around a model whose queries and values have LoRA."""

    def __init__(self, model, targets, rank=8, alpha=32):
        super().__init__()
        model.requires_grad_(False)
        for attention in [m for m in model.modules() if hasattr(m, "q_proj") and hasattr(m, "k_proj")]:
            for name in targets:
                setattr(attention, name, Lora(getattr(attention, name), rank, alpha))
        self.base_model = Holder(model)


class Released(nn.Module):
    """The model.

    Args:
        ced: with 63 columns in time.
        llama: folder of the language model.
        audio, decoder: lora, freeze or finetune.
    """

    def __init__(self, ced, llama, tokenizer, audio="lora", decoder="lora", targets=("q_proj", "v_proj"), rank=8):
        super().__init__()
        model = Ced(64)
        times = F.interpolate(ced.time_pos_embed.data, size=(1, 64), mode="bilinear", align_corners=False)
        model.load_state_dict(ced.state_dict() | {"time_pos_embed": times})
        language = LlamaForCausalLM.from_pretrained(llama)
        self.tokenizer = tokenizer
        self.tokenizer.add_special_tokens({"pad_token": "[PAD]"})
        language.resize_token_embeddings(len(self.tokenizer))
        self.ced, self.language = (model,), (language,)  # not as modules: their names are those below
        self.audio_encoder = self._tuned(model, audio, targets, rank)
        self.llama_decoder = self._tuned(language, decoder, targets, rank)
        self.speech_llama_proj = nn.Linear(WIDTH, language.config.hidden_size)
        self.logit_scale = nn.Parameter(torch.ones([]) * math.log(1 / 0.07))
        self._train(model)

    def _tuned(self, model, mode, targets, rank):
        model.requires_grad_(mode == "finetune")
        return Peft(model, targets, rank) if mode == "lora" else model

    @torch.no_grad()
    def _train(self, ced):
        """Other values for all that training changes, the statistics of a BatchNorm that nobody froze among it."""
        for parameter in self.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape))
        norm = ced.init_bn[1]
        norm.running_mean.copy_(torch.randn(64))
        norm.running_var.copy_(2 * torch.rand(64) + 0.5)
        norm.num_batches_tracked.fill_(1000)
        self.eval()

    def trained_state(self):
        """What the CUDA version stores: trained parameters, and buffers."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return {name: value for name, value in self.state_dict().items() if name not in frozen}

    def fuse(self, features, pictures):
        """Features [B, 1024, 64] and embeddings of frames [B, 20, D] to tokens [B, 84, D] and the OT loss."""
        h_a = F.normalize(self.ced[0](features), dim=2)
        h_v = F.normalize(pictures, dim=2)
        similarity = h_a @ h_v.transpose(1, 2)
        log_plan = sinkhorn(similarity.detach())
        plan = log_plan.exp()
        scale = self.logit_scale.clamp(0, 4.6052)
        loss = ot_loss(log_plan, similarity, scale) + ot_loss(log_plan.mT, similarity.mT, scale)
        return torch.cat([h_a + plan @ h_v, h_v + plan.mT @ h_a], dim=1), loss

    def prompt(self, tokens):
        """Embeddings [L, W] of a sample's prompt around its tokens [84, D]."""
        words = self.language[0].get_input_embeddings()
        ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in PROMPT]
        before = words(torch.tensor([self.tokenizer.bos_token_id, *ids[0]]))
        return torch.cat([before, self.speech_llama_proj(tokens), words(torch.tensor(ids[1]))])

    def loss(self, features, pictures, captions, pad):
        """Cross-entropy and OT loss; ``pad``: whether the language model may write [PAD]."""
        tokens, alignment = self.fuse(features, pictures)
        losses = []
        for row, caption in zip(tokens, captions, strict=True):
            ids = [*self.tokenizer(caption, add_special_tokens=False).input_ids, self.tokenizer.eos_token_id]
            prompt, caption_ids = self.prompt(row), torch.tensor(ids)
            inputs = torch.cat([prompt, self.language[0].get_input_embeddings()(caption_ids)])
            logits = self.language[0](inputs_embeds=inputs[None]).logits[0, len(prompt) - 1 : -1]
            logits = logits if pad else logits[:, : self.tokenizer.pad_token_id]
            losses.append(F.cross_entropy(logits, caption_ids, reduction="none"))
        return torch.cat(losses).mean() + alignment.mean()

    @torch.no_grad()
    def generate(self, features, pictures, beams, length, pad):
        """Ids that are written for each sample."""
        tokens, _ = self.fuse(features, pictures)
        head = self.language[0].get_output_embeddings()

        def forbid(module, inputs, output):
            return output if pad else output.index_fill(2, torch.tensor([self.tokenizer.pad_token_id]), -torch.inf)

        hook = head.register_forward_hook(forbid)
        rows = [
            self.language[0]
            .generate(
                inputs_embeds=self.prompt(row)[None],
                num_beams=beams,
                max_new_tokens=length,
                length_penalty=1.0,
                do_sample=False,
                eos_token_id=self.tokenizer.eos_token_id,
                pad_token_id=self.tokenizer.pad_token_id,
            )[0]
            .tolist()
            for row in tokens
        ]
        hook.remove()
        ends = {self.tokenizer.eos_token_id, self.tokenizer.pad_token_id}
        return [row[: next((i for i, code in enumerate(row) if code in ends), len(row))] for row in rows]


def sinkhorn(similarity, epsilon=0.1, iterations=50):
    """Logarithm of the plan with uniform marginals."""
    kernel = similarity / epsilon
    n, m = kernel.shape[1:]
    u = kernel.new_zeros(len(kernel), n)
    for _ in range(iterations):
        v = -math.log(m) - (kernel + u[:, :, None]).logsumexp(1)
        u = -math.log(n) - (kernel + v[:, None]).logsumexp(2)
    return kernel + u[:, :, None] + v[:, None]


def ot_loss(log_plan, similarity, scale):
    """For each s_j, softmax over the q_i; mean over tokens: [B]."""
    logits = scale * (log_plan @ similarity.mT)
    return -logits.log_softmax(1).diagonal(dim1=1, dim2=2).mean(1)


def save_trainer(model, folder, kind="safetensors"):
    """The folder of transformers' Trainer: safetensors, bin, or shards of either."""
    folder.mkdir()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    (folder / "trainer_state.json").write_text("{}")
    if kind == "safetensors":
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    elif kind == "bin":
        torch.save(state, folder / "pytorch_model.bin")
    else:
        names = sorted(state)
        parts = [names[: len(names) // 2], names[len(names) // 2 :]]
        files = [f"model-{i + 1:05d}-of-00002.safetensors" for i in range(2)]
        for part, file in zip(parts, files, strict=True):
            save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
        places = {name: file for part, file in zip(parts, files, strict=True) for name in part}
        index = {"metadata": {"total_size": 0}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def save_pth(model, file, config=None):
    """The .pth file of the CUDA version."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    held = {"model": model.trained_state(), "optimizer": optimizer.state_dict(), "config": config or {}, "epoch": 3}
    torch.save(held, file)
    return file
