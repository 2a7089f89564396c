"""The toy components themselves."""

import torch
from torch import nn

from lavcap_core.data import AUDIO, VISUAL, Tokens

STEP = 8000


class Loudness(nn.Module):
    window = None

    def __init__(self, width):
        super().__init__()
        self.width = width

    def prepare(self, clip):
        samples = torch.from_numpy(clip.waveform)
        whole = samples[: len(samples) // STEP * STEP]
        return whole.reshape(-1, STEP).square().mean(1)

    def forward(self, batch):
        data = batch.data[..., None].expand(-1, -1, self.width)
        times = (torch.arange(data.shape[1]) + 0.5) * STEP / 16000
        return Tokens.of(data, AUDIO, batch.mask, times)


class Brightness(nn.Module):
    frames = 4
    image_size = 32

    def __init__(self, width):
        super().__init__()
        self.width = width

    def prepare(self, clip):
        return torch.from_numpy(clip.frames).float().mean((1, 2, 3)) / 255

    def forward(self, batch):
        data = batch.data[..., None].expand(-1, -1, self.width)
        times = (torch.arange(data.shape[1]) + 0.5) / batch.lengths[:, None].clamp(min=1)
        return Tokens.of(data, VISUAL, batch.mask, times)


class Join(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width

    def forward(self, audio, visual, alignment):
        return Tokens.concat([part for part in (audio, visual) if part is not None])


class Numbers(nn.Module):
    """Writes how many tokens of each modality it got, and their means."""

    width = 2

    def __init__(self, fail_above):
        super().__init__()
        self.fail_above = fail_above

    def loss(self, tokens, captions, prompts=None):
        return tokens.data.sum((1, 2))

    def caption_tokens(self, captions):
        return torch.tensor([len(caption.split()) for caption in captions])

    def generate(self, tokens, options, prompts=None):
        return [self._write(tokens, row, prompts[row] if prompts else None) for row in range(len(tokens.data))]

    def _write(self, tokens, row, prompt):
        words = [prompt] if prompt else []
        for modality, name in ((AUDIO, "loud"), (VISUAL, "bright")):
            values = tokens.data[row][tokens.mask[row] & (tokens.modality[row] == modality)]
            if len(values):
                if values.max() > self.fail_above:
                    raise RuntimeError("too much for me")
                words.append(f"{name} {len(values)} x {values.mean():.2f}")
        return ", ".join(words) or "nothing"


def loudness(config, context):
    return Loudness(config.width)


def brightness(config, context):
    return Brightness(config.width)


def join(config, context):
    return Join(next(iter(context.inputs.values())).width)


def numbers(config, context):
    return Numbers(config.fail_above)


def holder(config, context):
    return context.build(config.transport)
