"""The toy components themselves."""

import torch
from torch import nn
from torch.nn import functional

from lavcap_core.data import AUDIO, VISUAL, Sample, Tokens
from lavcap_core.errors import MediaError
from lavcap_core.scores import Score

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


class Speller(nn.Module):
    """Spells captions letter by letter from the mean of its tokens and the letter before; all of it is trained."""

    width = 16

    def __init__(self, inputs, dropout):
        super().__init__()
        self.project = nn.Linear(inputs, self.width)
        self.letters = nn.Embedding(128, self.width)
        self.drop = nn.Dropout(dropout)
        self.out = nn.Sequential(nn.Linear(2 * self.width, 64), nn.GELU(), nn.Linear(64, 128))

    def _logits(self, tokens, letters):
        mask = tokens.mask[..., None]
        mean = (tokens.data * mask).sum(1) / mask.sum(1).clamp(min=1)
        heard = self.drop(self.project(mean))[:, None].expand(-1, letters.shape[1], -1)
        return self.out(torch.cat([heard, self.letters(letters)], dim=2)).float()

    def loss(self, tokens, captions, prompts=None):
        longest = max(map(len, captions)) + 1
        codes = torch.zeros(len(captions), longest + 1, dtype=torch.long)
        for row, caption in enumerate(captions):
            codes[row, 1 : len(caption) + 1] = torch.tensor([ord(letter) for letter in caption])
        codes = codes.to(tokens.data.device)
        losses = functional.cross_entropy(
            self._logits(tokens, codes[:, :-1]).transpose(1, 2), codes[:, 1:], reduction="none"
        )
        counts = self.caption_tokens(captions).to(losses.device)
        return (losses * (torch.arange(longest, device=losses.device) < counts[:, None])).sum(1)

    def caption_tokens(self, captions):
        return torch.tensor([len(caption) + 1 for caption in captions])

    def generate(self, tokens, options, prompts=None):
        codes = torch.zeros(len(tokens.data), 1, dtype=torch.long, device=tokens.data.device)
        for _ in range(options.max_new_tokens):
            codes = torch.cat([codes, self._logits(tokens, codes[:, -1:]).argmax(2)], dim=1)
        rows = [row[1:] for row in codes.tolist()]
        return ["".join(map(chr, row[: row.index(0)] if 0 in row else row)) for row in rows]


class Tones:
    """Clip i is i + 1 half seconds of loudness i; no file is read."""

    def __init__(self, config):
        self.config = config
        self.numbers = range(config.first, config.first + config.count)
        self.names = [f"tone-{number}" for number in self.numbers]
        self.lengths = [1.0 + number % 3 for number in self.numbers]
        self.splits = {config.split} - {None}

    def captions(self, index):
        return [f"tone {self.numbers[index] % 4}", f"sound {self.numbers[index] % 4}"]

    def identity(self, index):
        return None

    def read(self, index, recipe, seed, ready=frozenset()):
        number = self.numbers[index]
        if number in self.config.broken:
            raise MediaError("M002", "is broken", file=self.names[index])
        loudness = float("nan") if number in self.config.silly else float(number % 4)
        drawn = self.captions(index)[torch.Generator().manual_seed(sum(seed)).initial_seed() % 2]
        return Sample(self.names[index], drawn, torch.full((1 + number % 3,), loudness))


class Exact:
    def __call__(self, candidates, references):
        hits = [float(c in r) for c, r in zip(candidates, references, strict=True)]
        return Score({"exact": sum(hits) / len(hits)}, {"exact": hits})


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


def speller(config, context):
    return Speller(context.inputs["tokens"].width, config.dropout)


def tones(config, context):
    return Tones(config)


def exact(config, context):
    return Exact()
