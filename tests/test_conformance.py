"""The conformance kit against right implementations, which pass it, and deliberately wrong ones, which must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lavcap_core.component import Component, Config, Port
from lavcap_core.data import AUDIO, VISUAL, Aligned, Alignment, Padded, Tokens
from lavcap_core.interfaces import Generate, Transported
from lavcap_core.media import Clip
from lavcap_core.testing.checks import Check, checks_for, from_component, parametrize_with_checks, run

KINDS = ("aligner", "audio_encoder", "decoder", "fuser", "transport", "visual_encoder")


def mean(tokens: Tokens) -> Tensor:
    """[B, 1, D] over valid tokens, 0 where there are none."""
    kept = tokens.data.masked_fill(~tokens.mask[:, :, None], 0)
    return kept.sum(dim=1, keepdim=True) / tokens.mask.sum(dim=1).clamp(min=1)[:, None, None]


# ---------------------------------------------------------------------------------------------------------- fusers


class Fuser(nn.Module):
    """Right: each token plus the mean of the other modality, through a gate that starts at 0."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.gate = nn.Parameter(torch.zeros(()))

    def mean(self, tokens: Tokens) -> Tensor:
        return mean(tokens)

    def receives(self, tokens: Tokens) -> Tensor:
        return tokens.mask[:, :, None]

    def add(self, tokens: Tokens, others: Tokens) -> Tokens:
        return tokens.with_data(tokens.data + self.gate * self.mean(others) * self.receives(tokens))

    def forward(self, audio: Tokens | None, visual: Tokens | None, alignment: Alignment | None) -> Tokens:
        if audio is None or visual is None:
            return self.lone(audio if visual is None else visual)
        return self.after(Tokens.concat([self.add(audio, visual), self.add(visual, audio)]))

    def lone(self, tokens: Tokens) -> Tokens:
        return self.after(tokens)

    def after(self, tokens: Tokens) -> Tokens:
        return tokens


class LiesAboutWidth(Fuser):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.width = width + 1


class FloatMask(Fuser):
    def after(self, tokens: Tokens) -> Tokens:
        return replace(tokens, mask=tokens.mask.float())


class MeanOverPadding(Fuser):
    def mean(self, tokens: Tokens) -> Tensor:
        return tokens.data.mean(dim=1, keepdim=True) if tokens.data.shape[1] else mean(tokens)


class MeanOverBatch(Fuser):
    def mean(self, tokens: Tokens) -> Tensor:
        return mean(tokens).mean(dim=0, keepdim=True)


class AddsToPadding(Fuser):
    def receives(self, tokens: Tokens) -> Tensor:
        return torch.ones_like(tokens.mask)[:, :, None]


class DividesByNothing(Fuser):
    def mean(self, tokens: Tokens) -> Tensor:
        kept = tokens.data.masked_fill(~tokens.mask[:, :, None], 0)
        return kept.sum(dim=1, keepdim=True) / tokens.mask.sum(dim=1)[:, None, None]


class OtherWayForNone(Fuser):
    def lone(self, tokens: Tokens) -> Tokens:
        return tokens.with_data(2 * tokens.data)


class AlwaysAToken(Fuser):
    def after(self, tokens: Tokens) -> Tokens:
        return replace(tokens, mask=tokens.mask | (torch.arange(tokens.mask.shape[1]) == 0))


class AllIsAudio(Fuser):
    def after(self, tokens: Tokens) -> Tokens:
        return replace(tokens, modality=torch.full_like(tokens.modality, AUDIO))


class Milliseconds(Fuser):
    def after(self, tokens: Tokens) -> Tokens:
        return replace(tokens, times=None if tokens.times is None else 1000 * tokens.times)


class WritesToInput(Fuser):
    def add(self, tokens: Tokens, others: Tokens) -> Tokens:
        tokens.data.add_(self.gate.detach() * self.mean(others) * self.receives(tokens))
        return tokens


class Noisy(Fuser):
    def after(self, tokens: Tokens) -> Tokens:
        return tokens.with_data(tokens.data + 0.01 * torch.randn_like(tokens.data))


class OtherWayWithoutGradients(Fuser):
    def after(self, tokens: Tokens) -> Tokens:
        return tokens if torch.is_grad_enabled() else tokens.with_data(2 * tokens.data)


class Detaches(Fuser):
    def after(self, tokens: Tokens) -> Tokens:
        return tokens.with_data(tokens.data.detach() * self.gate)


class RootOfZero(Fuser):
    """Finite forwards; backwards the root's slope at 0 is infinite where the other modality is missing."""

    def mean(self, tokens: Tokens) -> Tensor:
        return ((self.gate * mean(tokens)) ** 2).sum(dim=2, keepdim=True).sqrt()


FUSERS = [
    ("check_shapes", LiesAboutWidth),
    ("check_shapes", FloatMask),
    ("check_padding_invariance", MeanOverPadding),
    ("check_padding_invariance", MeanOverBatch),
    ("check_mask_receives_nothing", AddsToPadding),
    ("check_missing_modality", DividesByNothing),
    ("check_missing_modality", MeanOverBatch),
    ("check_missing_in_pipeline", OtherWayForNone),
    ("check_nothing_from_nothing", AlwaysAToken),
    ("check_nothing_from_nothing", DividesByNothing),
    ("check_modality_kept", AllIsAudio),
    ("check_times_in_clip", Milliseconds),
    ("check_no_inputs_mutated", WritesToInput),
    ("check_deterministic_in_eval", Noisy),
    ("check_inference_mode", OtherWayWithoutGradients),
    ("check_gradients", Detaches),
    ("check_gradients", RootOfZero),
    ("check_gradients", MeanOverPadding),
]


# ------------------------------------------------------------------------------------------------------ transports


class Transport:
    """Right: twenty Sinkhorn steps on scaled kernels."""

    def scale(self, cost: Tensor, pairs: Tensor) -> Tensor:
        return cost / 0.5

    def __call__(self, cost: Tensor, a: Tensor, b: Tensor) -> Transported:
        pairs = (a[:, :, None] > 0) & (b[:, None, :] > 0)
        kernel = (-self.scale(cost.float(), pairs)).masked_fill(~pairs, -torch.inf).exp()
        rows = torch.ones_like(a)
        for _ in range(20):
            columns = b / (kernel * rows[:, :, None]).sum(dim=1).clamp(min=1e-30)
            rows = a / (kernel * columns[:, None]).sum(dim=2).clamp(min=1e-30)
        plan = self.finish(rows[:, :, None] * kernel * columns[:, None], a, b)
        both = pairs.any(dim=(1, 2))
        error = ((plan.sum(dim=1) - b).abs().sum(dim=1) + (plan.sum(dim=2) - a).abs().sum(dim=1)) * both
        return Transported(plan, (plan * cost).masked_fill(~pairs, 0).sum(dim=(1, 2)), error)

    def finish(self, plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return plan


class HalfPrecision(Transport):
    def finish(self, plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return plan.bfloat16()


class HalfTheMass(Transport):
    def finish(self, plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return plan / 2


class HidesItsError(Transport):
    def __call__(self, cost: Tensor, a: Tensor, b: Tensor) -> Transported:
        plan = super().__call__(cost, a, b).plan.roll(1, dims=2) * (a[:, :, None] * b[:, None] > 0)
        return Transported(plan, plan.sum(dim=(1, 2)), torch.zeros(len(plan)))


class IgnoresCost(Transport):
    def finish(self, plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return a[:, :, None] * b[:, None, :]


class MassFromNothing(Transport):
    def finish(self, plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return plan + (plan.sum(dim=(1, 2), keepdim=True) == 0) / plan[0].numel()


class NaNFromNothing(Transport):
    def finish(self, plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return plan / plan.sum(dim=(1, 2), keepdim=True)


class ScalesByPadding(Transport):
    def scale(self, cost: Tensor, pairs: Tensor) -> Tensor:
        return 2 * cost / cost.abs().amax(dim=(1, 2), keepdim=True)


class WritesToCost(Transport):
    def __call__(self, cost: Tensor, a: Tensor, b: Tensor) -> Transported:
        cost.clamp_(max=0.5)
        return super().__call__(cost, a, b)


class RandomStart(Transport):
    def finish(self, plan: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return plan * (1 + 1e-3 * torch.rand(()))


TRANSPORTS = [
    ("check_shapes", HalfPrecision),
    ("check_shapes", NaNFromNothing),
    ("check_marginals", HalfTheMass),
    ("check_marginals", HidesItsError),
    ("check_prefers_low_cost", IgnoresCost),
    ("check_empty_side", MassFromNothing),
    ("check_padding_invariance", ScalesByPadding),
    ("check_no_inputs_mutated", WritesToCost),
    ("check_deterministic_in_eval", RandomStart),
]


# -------------------------------------------------------------------------------------------------------- aligners


class Aligner(nn.Module):
    """Right: cosine similarity, a plan by softmax over all valid pairs, and a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(24, 24)

    def compared(self, tokens: Tokens) -> Tokens:
        return tokens.with_data(nn.functional.normalize(tokens.data, dim=2))

    def pairs(self, audio: Tokens, visual: Tokens) -> Tensor:
        return audio.mask[:, :, None] & visual.mask[:, None, :]

    def plan(self, similarity: Tensor, pairs: Tensor) -> Tensor:
        weight = similarity.float().exp() * pairs
        return weight / weight.sum(dim=(1, 2), keepdim=True).clamp(min=1e-9)

    def loss(self, plan: Tensor, similarity: Tensor) -> Tensor:
        return -(plan * similarity.float()).sum(dim=(1, 2))

    def forward(self, audio: Tokens, visual: Tokens) -> Aligned:
        audio, visual = self.compared(audio), self.compared(visual)
        similarity = (audio.data[:, :, None] * visual.data[:, None]).sum(dim=3)
        plan = self.plan(similarity, self.pairs(audio, visual))
        return Aligned(audio, visual, Alignment(similarity, plan, self.loss(plan, similarity)))


class SumsTheLoss(Aligner):
    def loss(self, plan: Tensor, similarity: Tensor) -> Tensor:
        return super().loss(plan, similarity).sum()


class HalfLoss(Aligner):
    def loss(self, plan: Tensor, similarity: Tensor) -> Tensor:
        return super().loss(self.project(plan.new_ones(1, 24)).sum() * 0 + plan, similarity).bfloat16()


class HalfUnderAutocast(Aligner):
    def plan(self, similarity: Tensor, pairs: Tensor) -> Tensor:
        plan = super().plan(similarity, pairs)
        return plan @ torch.eye(plan.shape[2])


class ForgetsTimes(Aligner):
    def compared(self, tokens: Tokens) -> Tokens:
        return replace(super().compared(tokens), times=None)


class RowsSumToOne(Aligner):
    def plan(self, similarity: Tensor, pairs: Tensor) -> Tensor:
        weight = similarity.exp() * pairs
        return weight / weight.sum(dim=2, keepdim=True).clamp(min=1e-9)


class PaddingIsTokens(Aligner):
    def pairs(self, audio: Tokens, visual: Tokens) -> Tensor:
        return torch.ones_like(super().pairs(audio, visual))


class CentresOverPadding(Aligner):
    def compared(self, tokens: Tokens) -> Tokens:
        middle = tokens.data.mean(dim=1, keepdim=True) if tokens.data.shape[1] else 0
        return super().compared(tokens.with_data(tokens.data - middle))


class LossForNothing(Aligner):
    def loss(self, plan: Tensor, similarity: Tensor) -> Tensor:
        return super().loss(plan, similarity) + 1


class NormalisesInPlace(Aligner):
    def compared(self, tokens: Tokens) -> Tokens:
        tokens.data.div_(tokens.data.norm(dim=2, keepdim=True).clamp(min=1e-6))
        return tokens


class NoisySimilarity(Aligner):
    def compared(self, tokens: Tokens) -> Tokens:
        return super().compared(tokens.with_data(tokens.data + 0.01 * torch.randn_like(tokens.data)))


class RootOfMass(Aligner):
    def loss(self, plan: Tensor, similarity: Tensor) -> Tensor:
        return ((plan * similarity).sum(dim=(1, 2)) ** 2).sqrt()


ALIGNERS = [
    ("check_shapes", SumsTheLoss),
    ("check_shapes", HalfLoss),
    ("check_float32_under_autocast", HalfUnderAutocast),
    ("check_tokens_kept", ForgetsTimes),
    ("check_plan_mass", RowsSumToOne),
    ("check_plan_mass", PaddingIsTokens),
    ("check_padding_invariance", PaddingIsTokens),
    ("check_padding_invariance", CentresOverPadding),
    ("check_missing_modality", LossForNothing),
    ("check_missing_modality", PaddingIsTokens),
    ("check_no_inputs_mutated", NormalisesInPlace),
    ("check_deterministic_in_eval", NoisySimilarity),
    ("check_gradients", RootOfMass),
    ("check_gradients", CentresOverPadding),
]


# -------------------------------------------------------------------------------------------------------- encoders


class AudioEncoder:
    """Right: loudness of each tenth of a second, in all channels."""

    width = 3
    window = 10.0
    modality = AUDIO

    def prepare(self, clip: Clip) -> Tensor:
        assert clip.waveform is not None
        count = len(clip.waveform) // 1600
        frames = torch.from_numpy(clip.waveform)[: count * 1600].reshape(count, 1600)
        return self.level(frames).abs().mean(dim=1, keepdim=True)

    def level(self, frames: Tensor) -> Tensor:
        return frames

    def times(self, batch: Padded) -> Tensor:
        return (torch.arange(batch.data.shape[1]) + 0.5) * 0.1

    def values(self, batch: Padded) -> Tensor:
        return batch.data.flatten(2).mean(dim=2, keepdim=True).expand(-1, -1, 3)

    def __call__(self, batch: Padded) -> Tokens:
        return Tokens.of(self.values(batch), self.modality, self.mask(batch), self.times(batch))

    def mask(self, batch: Padded) -> Tensor:
        return batch.mask


class VisualEncoder(AudioEncoder):
    """Right: brightness of each frame, in all channels."""

    frames = 6
    image_size = 8
    modality = VISUAL

    def prepare(self, clip: Clip) -> Tensor:
        assert clip.frames is not None
        return self.level(torch.from_numpy(clip.frames).float() / 255)

    def times(self, batch: Padded) -> Tensor:
        index = torch.arange(batch.data.shape[1])[None]
        return ((index + 0.5) / batch.lengths.clamp(min=1)[:, None]).clamp(max=1)


class _Width:
    width = 4


class _OverTime:
    def values(self, batch: Padded) -> Tensor:
        return super().values(batch) - super().values(batch).mean(dim=1, keepdim=True)  # type: ignore[misc]


class _AllValid:
    def mask(self, batch: Padded) -> Tensor:
        return torch.ones_like(batch.mask)


class _Divides:
    def values(self, batch: Padded) -> Tensor:
        return super().values(batch) / batch.lengths[:, None, None]  # type: ignore[misc]


class _WrongTimes:
    def times(self, batch: Padded) -> Tensor:
        return 100 * super().times(batch)  # type: ignore[misc]


class _NoisyPrepare:
    def level(self, frames: Tensor) -> Tensor:
        return frames + 0.01 * torch.randn_like(frames)


class _WritesToBatch:
    def values(self, batch: Padded) -> Tensor:
        batch.data.mul_(2)
        return super().values(batch)  # type: ignore[misc]


class _PreparesInPlace:
    def prepare(self, clip: Clip) -> Tensor:
        array = clip.waveform if clip.waveform is not None else clip.frames
        np.negative(array, out=array)
        return super().prepare(clip)  # type: ignore[misc]


class LooksAtFrames(AudioEncoder):
    def prepare(self, clip: Clip) -> Tensor:
        return super().prepare(clip) * (1 if clip.frames is None else 2)


ENCODER_FAULTS = [
    ("shapes", _Width),
    ("padding_invariance", _OverTime),
    ("missing_modality", _AllValid),
    ("missing_modality", _Divides),
    ("times", _WrongTimes),
    ("deterministic_in_eval", _NoisyPrepare),
    ("no_inputs_mutated", _WritesToBatch),
    ("no_inputs_mutated", _PreparesInPlace),
]
AUDIO_ENCODERS = [
    *((f"check_audio_{name}", type(fault.__name__, (fault, AudioEncoder), {})) for name, fault in ENCODER_FAULTS),
    ("check_audio_prepare_ignores_frames", LooksAtFrames),
]
VISUAL_ENCODERS = [
    (f"check_visual_{name}", type(fault.__name__, (fault, VisualEncoder), {})) for name, fault in ENCODER_FAULTS
]


# -------------------------------------------------------------------------------------------------------- decoders


class Decoder(nn.Module):
    """Right: every byte of a caption is drawn from one distribution, which the mean token sets."""

    width = 24

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(24, 128)

    def summary(self, tokens: Tokens) -> Tensor:
        return mean(tokens)[:, 0]

    def caption_tokens(self, captions: Sequence[str]) -> Tensor:
        return torch.tensor([len(caption) + 1 for caption in captions])

    def loss(self, tokens: Tokens, captions: Sequence[str], prompts: Sequence[str] | None = None) -> Tensor:
        scores = self.head(self.summary(tokens)).log_softmax(dim=1)
        ends = [torch.tensor([*caption.encode("ascii"), 0]) for caption in captions]
        return torch.stack([-row[index].sum() for row, index in zip(scores, ends, strict=True)])

    def generate(self, tokens: Tokens, options: Generate, prompts: Sequence[str] | None = None) -> list[str]:
        best = self.head(self.summary(tokens)).argmax(dim=1)
        return [chr(int(index)) * options.max_new_tokens for index in best]


class MeanLoss(Decoder):
    def loss(self, tokens: Tokens, captions: Sequence[str], prompts: Sequence[str] | None = None) -> Tensor:
        return super().loss(tokens, captions, prompts).mean()


class SameCount(Decoder):
    def caption_tokens(self, captions: Sequence[str]) -> Tensor:
        return torch.full((len(captions),), max(len(caption) for caption in captions))


class HearsPadding(Decoder):
    def summary(self, tokens: Tokens) -> Tensor:
        return tokens.data.mean(dim=1)


class MeanOfNothing(Decoder):
    def summary(self, tokens: Tokens) -> Tensor:
        kept = tokens.data.masked_fill(~tokens.mask[:, :, None], 0)
        return kept.sum(dim=1) / tokens.mask.sum(dim=1)[:, None]


class NeedsAToken(Decoder):
    def summary(self, tokens: Tokens) -> Tensor:
        return super().summary(tokens) + (1 if tokens.data.shape[1] == 0 else 0)


class Deaf(Decoder):
    def summary(self, tokens: Tokens) -> Tensor:
        return 0 * mean(tokens)[:, 0]


class OneCaption(Decoder):
    def generate(self, tokens: Tokens, options: Generate, prompts: Sequence[str] | None = None) -> list[str]:
        return super().generate(tokens, options, prompts)[:1]


class Forgetful(Decoder):
    def summary(self, tokens: Tokens) -> Tensor:
        return nn.functional.dropout(super().summary(tokens), 0.5)


class ScalesInPlace(Decoder):
    def generate(self, tokens: Tokens, options: Generate, prompts: Sequence[str] | None = None) -> list[str]:
        tokens.data.mul_(2)
        return super().generate(tokens, options, prompts)


class NoGradient(Decoder):
    def loss(self, tokens: Tokens, captions: Sequence[str], prompts: Sequence[str] | None = None) -> Tensor:
        return super().loss(tokens.with_data(tokens.data.detach() + 0 * tokens.data), captions, prompts)


DECODERS = [
    ("check_loss_shape", MeanLoss),
    ("check_caption_tokens", SameCount),
    ("check_padding_invariance", HearsPadding),
    ("check_missing_modality", MeanOfNothing),
    ("check_missing_modality", NeedsAToken),
    ("check_listens", Deaf),
    ("check_generates_text", OneCaption),
    ("check_deterministic_in_eval", Forgetful),
    ("check_no_inputs_mutated", ScalesInPlace),
    ("check_gradients", NoGradient),
    ("check_gradients", HearsPadding),
]


# ----------------------------------------------------------------------------------------------------------- tests


def maker(kind: str, cls: type):
    return lambda inputs: cls(inputs["audio"].width) if kind == "fuser" else cls()


RIGHT = {
    "aligner": Aligner,
    "audio_encoder": AudioEncoder,
    "decoder": Decoder,
    "fuser": Fuser,
    "transport": Transport,
    "visual_encoder": VisualEncoder,
}
WRONG = {
    "aligner": ALIGNERS,
    "audio_encoder": AUDIO_ENCODERS,
    "decoder": DECODERS,
    "fuser": FUSERS,
    "transport": TRANSPORTS,
    "visual_encoder": VISUAL_ENCODERS,
}


def named(kind: str, name: str) -> Check:
    return next(check for check in checks_for(kind) if check.name == name)


@pytest.mark.parametrize("kind", KINDS)
def test_right_one_passes_all(kind):
    failed = {result.check.name: result.error for result in run(kind, maker(kind, RIGHT[kind])) if result.error}
    assert failed == {}


@pytest.mark.parametrize(
    ("kind", "name", "cls"),
    [
        pytest.param(kind, name, cls, id=f"{kind}-{name}-{cls.__name__}")
        for kind, faults in WRONG.items()
        for name, cls in faults
    ],
)
def test_wrong_one_fails_its_check(kind, name, cls):
    with pytest.raises(AssertionError) as caught:
        named(kind, name)(maker(kind, cls))
    assert str(caught.value), "a check that fails says what is wrong"


@pytest.mark.parametrize("kind", KINDS)
def test_every_check_has_a_wrong_implementation(kind):
    assert {check.name for check in checks_for(kind)} == {name for name, _ in WRONG[kind]}


@pytest.mark.parametrize("kind", KINDS)
def test_every_check_says_what_must_hold(kind):
    assert all(check.summary.endswith(".") for check in checks_for(kind))


def test_unknown_kind_names_the_known():
    with pytest.raises(ValueError, match="no checks for 'oven': the kit knows aligner"):
        checks_for("oven")


def test_unknown_expected_failure_is_an_error():
    with pytest.raises(ValueError, match="no checks of fuser named check_typo"):
        parametrize_with_checks("fuser", maker("fuser", Fuser), expected={"check_typo": "because"})


@parametrize_with_checks("fuser", maker("fuser", Milliseconds), expected={"check_times_in_clip": "milliseconds"})
def test_expected_failures_are_marked(check):
    check()


def test_run_goes_on_after_a_broken_check():
    def broken(inputs):
        raise RuntimeError("no")

    results = run("fuser", broken)
    assert [str(result.error) for result in results] == ["no"] * len(checks_for("fuser"))


class Settings(Config):
    scale: float = 1.0


def test_from_component_builds_with_settings_and_inputs():
    seen = []

    def ports(config, inputs):
        seen.append((config.scale, inputs["audio"].width))
        return {}

    component = Component("fuser", "toy", Settings, "collections:Counter", "A toy.", ports=ports)
    make = from_component(component, scale=2.0)
    with pytest.raises(TypeError):  # Counter takes one argument: that it got two shows that the factory was called
        make({"audio": Port("audio", 24)})
    assert seen == [(2.0, 24)]
