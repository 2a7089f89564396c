"""The decoder: a causal language model that reads projected tokens between words. B batch, N tokens, D width."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LogitsProcessorList, NoRepeatNGramLogitsProcessor, RepetitionPenaltyLogitsProcessor

from lavcap_core.component import Context
from lavcap_core.data import Tokens, padded_length
from lavcap_core.interfaces import Generate
from lavcap_core.tuning import apply_tune
from lavcap_llama.load import load
from lavcap_llama.plugin import DecoderConfig, check_space, check_square, facts
from lavcap_llama.projector import build_projector
from lavcap_llama.sequence import Layout, lay_out
from lavcap_llama.text import Text

__all__ = ["TARGETS", "LlamaDecoder", "assemble", "build", "dtype_of"]

TARGETS = ("q_proj", "v_proj")
"""Linear layers that get LoRA: query and value (LAVCap, III-A2)."""

_DTYPES = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class LlamaDecoder(nn.Module):
    """Any causal language model as decoder (LAVCap eq. 6-8).

    A sample is laid out as [BOS] prompt with the tokens in it, caption, end token, without a gap; what is masked is
    left out, so that padding changes nothing.

    Args:
        model: a causal language model of transformers.
        text: its tokenizer, with the prompt.
        projector: tokens [.., D] to embeddings [.., W].
        modality_embedding: whether a vector per modality, 0 at first, is added after the projection.
    """

    def __init__(self, model: Any, text: Text, projector: nn.Module, modality_embedding: bool = False) -> None:
        super().__init__()
        self.model = model
        self.text = text
        self.projector = projector
        self.width: int = model.get_input_embeddings().embedding_dim
        self.modality = nn.Embedding(2, self.width) if modality_embedding else None
        if self.modality is not None:
            nn.init.zeros_(self.modality.weight)

    def project(self, data: Tensor, modality: Tensor) -> Tensor:
        """Embeddings [n, W] of n tokens [n, D] with their modality [n] (eq. 6)."""
        weight = next(self.projector.parameters())
        embedded: Tensor = self.projector(data.to(weight.dtype))
        if self.modality is not None:
            embedded = embedded + self.modality(modality.long())
        return embedded

    def _embed(self, layout: Layout, tokens: Tokens) -> Tensor:
        words: Tensor = self.model.get_input_embeddings()(layout.ids)
        # Chosen before they are projected: what is masked may hold anything, and must not reach a gradient either.
        values = self.project(tokens.data[layout.source], tokens.modality[layout.source])
        return words.index_put(layout.at, values.to(words.dtype))

    def loss(self, tokens: Tokens, captions: Sequence[str], prompts: Sequence[str] | None = None) -> Tensor:
        """Cross-entropy of the tokens of each caption and its end token, summed: [B] float32 (eq. 8).

        Args:
            tokens: [B, N, D].
            captions: one per sample.
            prompts: instructions that replace the decoder's own, one per sample.

        Raises:
            RunError: C080 if prompts are given and the template has no place for them.
        """
        ends = self.text.captions(captions)
        parts = self.text.prompts(len(captions), prompts, training=self.training)
        # The last id of a caption, the end token, is predicted and never read.
        layout = lay_out(parts, tokens, [ids[:-1] for ids in ends], left=False)
        rows, columns, targets = _targets(layout, ends)
        count = len(captions)
        logits = self._logits(layout, tokens, rows.clamp(max=count - 1), columns)
        losses = functional.cross_entropy(logits.float(), targets, reduction="none")
        return losses.new_zeros(count + 1).index_add(0, rows, losses)[:count]

    def _logits(self, layout: Layout, tokens: Tokens, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits [n, V] at n places only: the head is the dearest layer of a small model, and the largest in memory.

        The head is fed the hidden states of these places instead of all; so whatever a model does to its logits
        afterwards (Gemma's capping, Cohere's scale) is done to these.
        """

        def choose(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            return (inputs[0][rows, columns][None],)

        hook = self.model.get_output_embeddings().register_forward_pre_hook(choose)
        try:
            output = self.model(
                inputs_embeds=self._embed(layout, tokens), attention_mask=layout.mask.long(), use_cache=False
            )
        finally:
            hook.remove()
        logits: Tensor = output.logits[0]
        return logits

    def caption_tokens(self, captions: Sequence[str]) -> Tensor:
        """[B] int64, number of tokens that `loss` counts for each caption, with the end token."""
        return torch.tensor([len(ids) for ids in self.text.captions(captions)])

    @torch.no_grad()
    def generate(self, tokens: Tokens, options: Generate, prompts: Sequence[str] | None = None) -> list[str]:
        """Captions of a batch, stripped; every sample stops on its own end token.

        Penalties see only what was written, not the prompt. Always in eval mode.

        Raises:
            RunError: C080 if prompts are given and the template has no place for them.
        """
        count = tokens.data.shape[0]
        layout = lay_out(self.text.prompts(count, prompts), tokens, [()] * count, left=True)
        with _evaluating(self), _seeded(options.seed if options.sample else None, tokens.data.device):
            ids: Tensor = self.model.generate(
                inputs_embeds=self._embed(layout, tokens),
                attention_mask=layout.mask.long(),
                logits_processor=_penalties(options),
                **_settings(options),
            )
        return self.text.decode(ids, self.model.generation_config.eos_token_id)


def _targets(layout: Layout, ends: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and ids [n] of what is predicted: caption id i stands one place after the column.

    Fillers (see `padded_length`) are of a row beyond the last.
    """
    device = layout.ids.device
    lengths = layout.mask.sum(dim=1).tolist()
    rows = [row for row, ids in enumerate(ends) for _ in ids]
    columns = [int(lengths[row]) - len(ids) + i for row, ids in enumerate(ends) for i in range(len(ids))]
    targets = [target for ids in ends for target in ids]
    fillers = padded_length(len(targets)) - len(targets) if targets else 0
    rows, columns, targets = rows + [len(ends)] * fillers, columns + [0] * fillers, targets + [0] * fillers
    return torch.tensor(rows, device=device), torch.tensor(columns, device=device), torch.tensor(targets, device=device)


def _settings(options: Generate) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "num_beams": options.beams,
        "max_new_tokens": options.max_new_tokens,
        "min_new_tokens": options.min_new_tokens,
        "do_sample": options.sample,
    }
    if options.beams > 1:
        settings["length_penalty"] = options.length_penalty
    if options.sample:
        settings.update(temperature=options.temperature, top_p=options.top_p, top_k=0)
    return settings


def _penalties(options: Generate) -> LogitsProcessorList:
    """Penalties on what was written.

    Named in generate's settings, the one on repetitions would skip as many written tokens as the sample has padding.
    """
    penalties = LogitsProcessorList()
    if options.repetition_penalty != 1:
        penalties.append(RepetitionPenaltyLogitsProcessor(options.repetition_penalty))
    if options.no_repeat_ngram:
        penalties.append(NoRepeatNGramLogitsProcessor(options.no_repeat_ngram))
    return penalties


@contextlib.contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)


@contextlib.contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draws from a seed and leaves the generators of the process as they were."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type):
        torch.manual_seed(seed)
        yield


def _recompute(model: Any) -> None:
    options = {"use_reentrant": False}  # the other kind gives no gradients where a layer's weights are frozen
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=options)
    else:  # its name before transformers 5
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def build(config: DecoderConfig, context: Context) -> LlamaDecoder:
    """Builds the decoder `llama`.

    Raises:
        PortError: P080 if the tokens live in another embedding space, P081 if an identity projector isn't square.
        WeightsError: W080-W083 if the model can't be loaded.
        BuildError: B080 if gguf is missing, B082 if a chat template is, B030 and B031 of LoRA.
    """
    name = context.locate(config.model)
    port = context.inputs.get("tokens")
    if port is not None:
        check_space(port, config.space or facts(name).get("space"))
    return assemble(config, context, *load(name, dtype_of(config)))


def dtype_of(config: DecoderConfig) -> torch.dtype | None:
    """Precision of the weights; None: as they are stored."""
    full = config.dtype == "auto" and config.tune.mode == "finetune"
    return torch.float32 if full else _DTYPES[config.dtype]


def assemble(config: DecoderConfig, context: Context, model: Any, tokenizer: Any) -> LlamaDecoder:
    """The decoder around a language model and its tokenizer, with what is trained of it made so.

    Raises:
        PortError, BuildError: as `build`.
    """
    port = context.inputs.get("tokens")
    width: int = model.get_input_embeddings().embedding_dim
    arrives = width if port is None else int(port.width)
    check_square(config.projector, arrives, width)
    if config.gradient_checkpointing:
        _recompute(model)
    apply_tune(model, config.tune, TARGETS)
    text = Text(tokenizer, config.prompt, config.template, config.instructions, config.random_prompts)
    projector = build_projector(config.projector, arrives, width, model.get_input_embeddings().weight)
    return LlamaDecoder(model, text, projector, config.modality_embedding)
