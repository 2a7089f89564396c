import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, GraniteConfig

from lavcap_core.component import Port, Tune
from lavcap_core.data import AUDIO, VISUAL, Tokens
from lavcap_core.errors import BuildError, PortError, RunError
from lavcap_core.interfaces import Decoder, Generate
from lavcap_core.tuning import load_trained, trained_state
from lavcap_llama.decoder import LlamaDecoder, build
from lavcap_llama.plugin import DecoderConfig
from lavcap_llama.text import Text

from .conftest import Place, tokenizer

Make = Callable[..., LlamaDecoder]
CAPTIONS = ["a dog barks", "rain", "two birds sing in a tree", "a bell"]


def some(*lengths: int, seed: int = 0, width: int = 6) -> Tokens:
    """Audio and visual tokens in turn; the valid ones of a sample are scattered among masked ones."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths) + 2
    mask = torch.zeros(len(lengths), longest, dtype=torch.bool)
    for row, length in enumerate(lengths):
        mask[row, torch.randperm(longest, generator=generator)[:length]] = True
    data = torch.randn(len(lengths), longest, width, generator=generator)
    return replace(Tokens.of(data, AUDIO, mask), modality=(torch.arange(longest) % 2).to(torch.int8).expand_as(mask))


def one(tokens: Tokens, row: int) -> Tokens:
    """A sample alone, without its masked tokens."""
    keep = tokens.mask[row]
    return Tokens(
        tokens.data[row : row + 1, keep], tokens.mask[row : row + 1, keep], tokens.modality[row : row + 1, keep]
    )


@pytest.fixture(scope="module")
def trained(folder: Path) -> LlamaDecoder:
    """A decoder that has learnt CAPTIONS by heart."""
    torch.manual_seed(1)
    decoder = build(DecoderConfig(model=str(folder), tune=Tune(mode="finetune")), Place())
    optimizer = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    tokens = some(3, 5, 1, 4)
    decoder.train()
    for _ in range(80):
        loss = decoder.loss(tokens, CAPTIONS).sum() / decoder.caption_tokens(CAPTIONS).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return decoder.eval()


def test_it_is_a_decoder(make: Make) -> None:
    decoder = make()
    assert isinstance(decoder, Decoder)
    assert decoder.width == 24


def test_loss_is_the_language_models_own_on_the_caption_alone(make: Make) -> None:
    decoder = make()
    tokens = one(some(3), 0)
    embed, ids = decoder.model.get_input_embeddings(), decoder.text._ids
    before, after = [0, *ids("USER: <Audio>")], ids("</Audio> Please describe the audio.\nASSISTANT:")
    caption = [*ids(" a dog barks"), 1]
    inputs = torch.cat(
        [embed(torch.tensor(before)), decoder.projector(tokens.data[0]), embed(torch.tensor(after + caption))]
    )
    labels = torch.tensor([-100] * (len(before) + 3 + len(after)) + caption)
    expected = decoder.model(inputs_embeds=inputs[None], labels=labels[None]).loss * len(caption)
    torch.testing.assert_close(decoder.loss(tokens, ["a dog barks"])[0], expected, rtol=1e-4, atol=1e-4)
    assert decoder.caption_tokens(["a dog barks"]).tolist() == [len(caption)]


def test_the_head_sees_caption_places_only(make: Make) -> None:
    decoder = make()
    seen: list[int] = []
    decoder.model.lm_head.register_forward_hook(lambda head, inputs, output: seen.append(output.shape[1]))
    decoder.loss(some(3, 5), ["a dog", "rain"])
    assert seen == [int(decoder.caption_tokens(["a dog", "rain"]).sum())]
    # and the head is as it was afterwards
    assert decoder.model(inputs_embeds=torch.randn(1, 7, 24)).logits.shape[1] == 7


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_padding_changes_no_loss(make: Make, lengths: list[int], seed: int) -> None:
    decoder = make(prompt="separate", modality_embedding=True)
    tokens = some(*lengths, seed=seed)
    captions = CAPTIONS[: len(lengths)]
    together = decoder.loss(tokens, captions)
    alone = torch.cat([decoder.loss(one(tokens, row), [caption]) for row, caption in enumerate(captions)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-3)


def test_masked_tokens_neither_give_nor_receive_even_when_they_are_not_numbers(make: Make) -> None:
    decoder = make()
    tokens = some(2, 4)
    dirty = tokens.with_data(tokens.data.masked_fill(~tokens.mask[..., None], float("nan")).requires_grad_())
    loss = decoder.loss(dirty, ["a", "b"])
    torch.testing.assert_close(loss, decoder.loss(tokens, ["a", "b"]))
    loss.sum().backward()
    assert dirty.data.grad is not None
    assert not dirty.data.grad[~tokens.mask].any()
    assert dirty.data.grad[tokens.mask].abs().sum() > 0
    assert all(bool(p.grad.isfinite().all()) for p in decoder.parameters() if p.grad is not None)


def test_an_empty_caption_costs_its_end_token(make: Make) -> None:
    decoder = make()
    assert decoder.loss(some(2, 0), ["", "x"]).shape == (2,)
    assert decoder.caption_tokens(["", "x"]).tolist() == [2, 3]  # the space before it, the end; the letter


@pytest.mark.parametrize("options", [Generate(beams=1), Generate(beams=3)])
def test_a_trained_decoder_says_each_caption_and_stops_on_its_own_end(trained: LlamaDecoder, options: Generate) -> None:
    tokens = some(3, 5, 1, 4)
    assert trained.generate(tokens, options) == CAPTIONS
    assert [trained.generate(one(tokens, row), options)[0] for row in range(4)] == CAPTIONS


@pytest.mark.parametrize(
    "options",
    [
        Generate(beams=1, max_new_tokens=12),
        Generate(beams=3, max_new_tokens=12, length_penalty=2.0),
        Generate(beams=2, max_new_tokens=12, repetition_penalty=1.5, no_repeat_ngram=2),
    ],
)
def test_a_batch_writes_what_each_sample_writes_alone(make: Make, options: Generate) -> None:
    decoder = make(prompt="separate")
    tokens = some(0, 6, 2, 1)
    together = decoder.generate(tokens, options)
    assert together == [decoder.generate(one(tokens, row), options)[0] for row in range(4)]
    assert len(set(together)) > 1


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Callable[[LlamaDecoder], list[torch.Tensor]]:
    """Collects the ids that a decoder generates."""

    def watch(decoder: LlamaDecoder) -> list[torch.Tensor]:
        ids: list[torch.Tensor] = []
        generate = decoder.model.generate
        monkeypatch.setattr(decoder.model, "generate", lambda **keys: ids.append(generate(**keys)) or ids[-1])
        return ids

    return watch


def test_lengths_are_obeyed(trained: LlamaDecoder, written: Callable[[LlamaDecoder], list[torch.Tensor]]) -> None:
    ids, tokens = written(trained), some(3, 5, 1, 4)
    trained.generate(tokens, Generate(beams=1, min_new_tokens=30, max_new_tokens=33))
    assert 30 <= ids[0].shape[1] <= 33
    assert not (ids[0][:, :30] == 1).any()
    short = trained.generate(tokens, Generate(beams=1, max_new_tokens=3))
    assert short == [f" {caption}"[:3].strip() for caption in CAPTIONS]


def test_ngrams_do_not_come_twice(make: Make, written: Callable[[LlamaDecoder], list[torch.Tensor]]) -> None:
    decoder = make()
    ids = written(decoder)
    free, bound = (Generate(beams=1, max_new_tokens=40, no_repeat_ngram=n) for n in (0, 1))
    decoder.generate(some(4), free)
    decoder.generate(some(4), bound)
    assert len(ids[0].unique()) < ids[0].numel()
    assert len(ids[1].unique()) == ids[1].numel()


def test_a_seed_repeats_a_drawing_and_leaves_the_generator_alone(make: Make) -> None:
    decoder, tokens = make(), some(3, 4)
    options = Generate(beams=1, sample=True, max_new_tokens=10, seed=5, temperature=1.5, top_p=0.9)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = decoder.generate(tokens, options)
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(8)
    assert decoder.generate(tokens, options) == first
    assert decoder.generate(tokens, replace(options, seed=6)) != first


def test_generation_is_in_eval_mode_and_training_goes_on(make: Make) -> None:
    decoder = make(tune=Tune(mode="lora", dropout=0.9))
    for name, parameter in decoder.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    decoder.train()
    first = decoder.generate(some(3), Generate(beams=1, max_new_tokens=8))
    assert decoder.generate(some(3), Generate(beams=1, max_new_tokens=8)) == first
    assert decoder.training
    a, b = (decoder.loss(some(3), ["a dog"]) for _ in range(2))
    assert not torch.equal(a, b)  # dropout of LoRA is on again


@pytest.mark.parametrize(("mode", "model"), [("freeze", 0), ("lora", 8), ("finetune", 21)])
def test_what_is_trained(make: Make, mode: str, model: int) -> None:
    decoder = make(tune=Tune(mode=mode, rank=2), modality_embedding=True)
    decoder.train()
    decoder.loss(some(3, 2), ["a dog", "rain"]).sum().backward()
    names = [name for name, p in decoder.named_parameters() if p.grad is not None and p.requires_grad]
    assert sum(name.startswith("model.") for name in names) == model
    assert {"projector.weight", "projector.bias", "modality.weight"} <= set(names)
    assert set(trained_state(decoder)) == set(names)


def test_training_projector_and_lora_lowers_the_loss_and_can_be_stored(make: Make) -> None:
    decoder = make(projector={"kind": "mlp"}, tune=Tune(mode="lora", dropout=0.0))
    tokens = some(3, 5, 1, 4)
    optimizer = torch.optim.Adam([p for p in decoder.parameters() if p.requires_grad], lr=3e-2)
    first = decoder.loss(tokens, CAPTIONS).sum().item()
    for _ in range(25):
        loss = decoder.loss(tokens, CAPTIONS).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last = decoder.loss(tokens, CAPTIONS)
    assert last.sum().item() < 0.9 * first
    other = make(projector={"kind": "mlp"}, tune=Tune(mode="lora"))
    load_trained(other, trained_state(decoder))
    torch.testing.assert_close(other.loss(tokens, CAPTIONS), last)


def test_gradient_checkpointing_recomputes_and_changes_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, saving = (
        make(tune=Tune(mode="lora", dropout=0.0)),
        make(tune=Tune(mode="lora", dropout=0.0), gradient_checkpointing=True),
    )
    load_trained(saving, trained_state(plain))
    calls: list[int] = []
    for layer in saving.model.model.layers:
        real = layer._gradient_checkpointing_func
        layer._gradient_checkpointing_func = lambda *a, real=real, **k: calls.append(1) or real(*a, **k)
    gradients: list[torch.Tensor] = []
    for decoder in (plain, saving):
        decoder.train()
        decoder.loss(some(3, 5), ["a dog", "rain"]).sum().backward()
        gradients.append(decoder.projector.weight.grad)
    assert len(calls) == 2
    torch.testing.assert_close(gradients[0], gradients[1])


def test_bfloat16_weights_take_float32_tokens_and_give_float32_losses(make: Make) -> None:
    decoder = make(dtype="bfloat16", tune=Tune(mode="lora"))
    loss = decoder.loss(some(3, 5), ["a dog", "rain"])
    assert decoder.model.dtype == torch.bfloat16
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, make().loss(some(3, 5), ["a dog", "rain"]), rtol=0.05, atol=0.5)
    assert len(decoder.generate(some(3, 5), Generate(max_new_tokens=4))) == 2


def test_a_vector_per_modality_starts_at_zero_and_parts_the_modalities(make: Make) -> None:
    decoder, tokens = make(modality_embedding=True), one(some(4), 0)
    torch.testing.assert_close(decoder.loss(tokens, ["a"]), make().loss(tokens, ["a"]))
    torch.nn.init.normal_(decoder.modality.weight)
    swapped = replace(tokens, modality=(1 - tokens.modality).to(torch.int8))
    assert not torch.allclose(decoder.loss(tokens, ["a"]), decoder.loss(swapped, ["a"]))


def test_separate_prompts_put_each_modality_into_its_wrapper(make: Make) -> None:
    decoder = make(prompt="separate")
    tokens = one(some(5), 0)
    order = torch.argsort(tokens.modality[0].long(), stable=True)
    sorted_ = Tokens(tokens.data[:, order], tokens.mask, tokens.modality[:, order])
    torch.testing.assert_close(decoder.loss(tokens, ["a"]), decoder.loss(sorted_, ["a"]))
    other = make(prompt="audio")
    assert not torch.allclose(other.loss(tokens, ["a"]), other.loss(sorted_, ["a"]))
    only = make(prompt="{audio}")
    heard = tokens.modality[0] == AUDIO
    without = Tokens(tokens.data[:, heard], tokens.mask[:, heard], tokens.modality[:, heard])
    torch.testing.assert_close(only.loss(tokens, ["a"]), only.loss(without, ["a"]))
    assert (tokens.modality == VISUAL).any()


def test_prompts_override_the_instruction_of_each_sample(make: Make) -> None:
    decoder, tokens = make(), some(3, 4)
    same = decoder.loss(tokens, ["a", "b"], prompts=["Please describe the audio."] * 2)
    torch.testing.assert_close(same, decoder.loss(tokens, ["a", "b"]))
    mixed = decoder.loss(tokens, ["a", "b"], prompts=["Please describe the audio.", "What is it?"])
    assert torch.allclose(mixed[0], same[0], rtol=1e-4)
    assert not torch.allclose(mixed[1], same[1])
    written = decoder.generate(tokens, Generate(max_new_tokens=5), prompts=["Who?", "What is it?"])
    assert written[1] == decoder.generate(one(tokens, 1), Generate(max_new_tokens=5), prompts=["What is it?"])[0]


def test_prompts_without_a_place_or_of_another_number_are_errors(make: Make) -> None:
    with pytest.raises(RunError, match="no place") as caught:
        make(prompt="Here: {tokens}").loss(some(2), ["a"], prompts=["b"])
    assert caught.value.code == "C080"
    with pytest.raises(RunError, match="1 prompts for 2 samples"):
        make().generate(some(2, 2), Generate(), prompts=["b"])


def test_an_identity_projector_hands_tokens_through(folder: Path) -> None:
    place = Place({"tokens": Port("fused", 24)})
    config = {"model": str(folder), "projector": {"init": "identity", "gain": 2.5}}
    decoder = build(DecoderConfig(**config), place)
    tokens = some(3, width=24)
    torch.testing.assert_close(decoder.project(tokens.data[0], tokens.modality[0]), 2.5 * tokens.data[0])
    with pytest.raises(PortError) as caught:
        build(DecoderConfig(**config), Place({"tokens": Port("fused", 23)}))
    assert caught.value.code == "P081"


def test_gain_scales_the_first_projection(make: Make) -> None:
    small, large = make(projector={"bias": False}), make(projector={"bias": False, "gain": 10})
    torch.testing.assert_close(large.projector.weight, 10 * small.projector.weight)
    assert small.projector.bias is None


def test_tokens_of_another_space_are_refused_when_it_is_built(folder: Path) -> None:
    place = Place({"tokens": Port("fused", 6, "smollm2-abc")})
    with pytest.raises(PortError) as caught:
        build(DecoderConfig(model=str(folder)), place)
    assert caught.value.code == "P080"
    assert build(DecoderConfig(model=str(folder), space="smollm2-abc"), place).width == 24


def test_chat_template_needs_one(tmp_path: Path, make: Make) -> None:
    from .conftest import save

    bare = save(tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    with pytest.raises(BuildError) as caught:
        build(DecoderConfig(model=str(bare), template="chat"), Place())
    assert caught.value.code == "B082"
    assert len(make(template="chat").generate(some(2), Generate(max_new_tokens=3))) == 1


def test_loss_is_batched_cross_entropy_not_a_mean(make: Make) -> None:
    decoder, tokens = make(), some(3, 3)
    short, long = decoder.loss(tokens, ["a", "a dog barks at the moon"])
    assert long > 2 * short
    count = decoder.caption_tokens(["a dog barks at the moon"])[0]
    uniform = functional.cross_entropy(torch.zeros(1, decoder.model.config.vocab_size), torch.zeros(1).long())
    assert 0.3 * uniform < long / count < 3 * uniform


@pytest.mark.slow
@pytest.mark.skipif("LAVCAP_TEST_SMOLLM2" not in os.environ, reason="LAVCAP_TEST_SMOLLM2 names no GGUF file or folder")
def test_smollm2_answers_a_question_that_comes_as_tokens() -> None:
    name: Any = os.environ["LAVCAP_TEST_SMOLLM2"]
    config = DecoderConfig(model=name, template="chat", prompt="{tokens}", projector={"init": "identity"})
    decoder = build(config, Place({"tokens": Port("fused", 576)}))
    embed, words = decoder.model.get_input_embeddings(), decoder.text._ids
    question = embed(torch.tensor(words("What is the capital of France?"))).detach()
    tokens = Tokens.of(torch.cat([torch.randn(2, 576), question])[None], AUDIO)
    tokens.mask[:, :2] = False
    assert "Paris" in decoder.generate(tokens, Generate(beams=2, max_new_tokens=12))[0]
    texts = ["The capital of France is Paris.", "Paris is of the. France capital The"]
    sense, nonsense = (decoder.loss(tokens, [text]).item() for text in texts)
    assert sense < 0.5 * nonsense
    assert all(type(p) is torch.nn.Parameter and p.is_contiguous() for p in decoder.model.parameters())


@pytest.mark.parametrize("family", ["granite", "gemma2", "gpt2"])
def test_other_families_keep_what_they_do_to_their_logits(family: str) -> None:
    sizes = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    words = tokenizer()
    configs = {
        "granite": lambda: GraniteConfig(vocab_size=len(words), num_key_value_heads=2, logits_scaling=0.3, **sizes),
        "gemma2": lambda: Gemma2Config(
            vocab_size=len(words), num_key_value_heads=2, head_dim=6, final_logit_softcapping=0.5, **sizes
        ),
        "gpt2": lambda: GPT2Config(vocab_size=len(words), n_embd=24, n_layer=2, n_head=4),
    }
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configs[family]()).eval()
    decoder = LlamaDecoder(model, Text(words, "{tokens}"), torch.nn.Linear(6, 24))
    tokens, ids = some(3, 4), [*words.encode(" dog", add_special_tokens=False), 1]
    embed = model.get_input_embeddings()
    for row in range(2):
        alone = one(tokens, row)
        inputs = torch.cat([embed(torch.tensor([0])), decoder.projector(alone.data[0]), embed(torch.tensor(ids))])
        labels = torch.tensor([-100] * (len(inputs) - len(ids)) + ids)
        expected = model(inputs_embeds=inputs[None], labels=labels[None]).loss * len(ids)
        torch.testing.assert_close(decoder.loss(tokens, ["dog"] * 2)[row], expected, rtol=1e-4, atol=1e-4)
    options = Generate(beams=1, max_new_tokens=6)
    model.generation_config.update(eos_token_id=[1], pad_token_id=1)
    assert decoder.generate(tokens, options) == [decoder.generate(one(tokens, row), options)[0] for row in range(2)]
