"""What the feature cache is worth at the starter's size, as ratios of medians from one run on one machine.

Ratios are of time, and of processor time, which other work on the machine disturbs less.

    python -m benchmarks.features [--clips 50] [--rounds 3] [--threads 1]

Makes films of 10 s (moving noise, 480 x 360, with sound), lets the starter's encoders, YAMNet and EfficientNet-Lite0,
look at them, and trains a Llama of 4.4 M random weights on what they give. It prints

- computing features (reading the files, then the encoders; and the encoders alone) against reading them from the cache
  (opening it, which checks every byte, and making batches),
- an epoch of training without the cache against one with it; an epoch is what two more epochs take longer, halved.

Exit code 1 if features are not read 20 times faster than computed, or an epoch is not 5 times faster. The starter's
weights are fetched once (``lavcap starter fetch``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.learning.decoder import tokenizer
from lavcap_core.builder import build_recipe, build_use
from lavcap_core.data import Batch
from lavcap_core.manifest import read_manifest
from lavcap_core.run.datasets import ManifestDataset
from lavcap_core.run.features import Features, prepare_reported
from lavcap_core.run.train import train
from lavcap_core.spec import Spec, read_text
from lavcap_core.testing.clips import write_clip

SIZE, FPS, SECONDS, BATCH = (480, 360), 25, 10.0, 8
SPEC = """\
lavcap: 1
audio_encoder:  {use: yamnet}
visual_encoder: {use: efficientnet_lite, frames: 5}
aligner:        {use: sinkhorn, project: 256, epsilon: 0.1, iterations: 50}
fuser:          {use: concat}
decoder:        {use: llama, model: decoder, prompt: "{tokens}", tune: {mode: finetune}}
backend:        {use: torch, device: cpu, dtype: float32}
train: {data: clips.jsonl, batch: 8, lr: 1e-3, warmup_steps: 0, save_every: 1000000, cache_folder: features}
"""
THINGS = ("dog barks", "cow moos", "door creaks", "bell rings", "engine hums", "crowd cheers", "clock ticks")


def film(path: Path, number: int) -> None:
    """A landscape of noise that drifts, with a chord, coded as cameras and web sites do."""
    rng = np.random.default_rng(number)
    small = rng.integers(0, 255, (SIZE[1] // 20, SIZE[0] // 20, 3), np.uint8)
    landscape = np.kron(small, np.ones((20, 20, 1), np.uint8))
    seconds = np.arange(round(SECONDS * 44100)) / 44100
    chord = sum(np.sin(2 * np.pi * hertz * seconds) for hertz in rng.uniform(100, 4000, 5)) / 10
    write_clip(
        path,
        SECONDS,
        fps=FPS,
        size=SIZE,
        picture=lambda frame: np.roll(landscape, (frame, 2 * frame), (0, 1)),
        sound=np.stack([chord, chord]).astype(np.float32),
        keyframes=250,
        options={"preset": "veryfast", "bf": "2"},
    )


def prepare(folder: Path, count: int) -> None:
    """Writes films, their manifest and the decoder."""
    captions = [f"A {THINGS[i % 7]} while a {THINGS[i // 7 % 7]}" for i in range(count)]
    rows = [{"clip": f"{i}.mp4", "caption": caption} for i, caption in enumerate(captions)]
    for number in range(count):
        film(folder / f"{number}.mp4", number)
    (folder / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    words = tokenizer(captions)
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 5, "num_attention_heads": 4}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes, **ends)).save_pretrained(folder / "decoder")
    words.save_pretrained(folder / "decoder")


def spec(folder: Path, *changes: str) -> Spec:
    """The spec with changes."""
    return read_text(SPEC, None, folder, changes)


def now() -> Any:
    """Seconds: time, and processor time of all threads."""
    return np.array([time.perf_counter(), time.process_time()])


def timed(work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Seconds, as of `now`."""
    start = now()
    work(*arguments, **options)
    return now() - start


def median(found: Sequence[Any]) -> Any:
    """Of each kind of seconds."""
    return np.median(found, axis=0)


def faster(slow: Any, fast: Any) -> str:
    """A ratio in words."""
    ratios = slow / fast
    return f"{ratios[0]:.1f} x faster ({ratios[1]:.1f} x in processor time)"


class Bench:
    """Computes and reads the features of all clips.

    Args:
        folder: with what `prepare` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self.spec = spec(folder)
        self.recipe: Any = build_recipe(self.spec).eval()
        self.backend = build_use(self.spec.pipeline.backend)
        self.dataset: Any = ManifestDataset(read_manifest(folder / "clips.jsonl"))
        self.indices = range(len(self.dataset.names))
        self.samples = self.read(self.dataset)
        prepare_reported(self.dataset, self.features())

    def features(self) -> Features:
        """The cache, not yet opened."""
        return Features(self.recipe, self.backend, self.spec)

    def read(self, dataset: Any) -> list[Any]:
        """All clips."""
        return [dataset.read(index, self.recipe, (0,)) for index in self.indices]

    def batches(self, samples: Sequence[Any]) -> list[Batch]:
        """Batches of them."""
        return [Batch.of(samples[start : start + BATCH]) for start in range(0, len(samples), BATCH)]

    @torch.inference_mode()
    def encode(self, samples: Sequence[Any]) -> None:
        """What the encoders give for clips that were read."""
        for batch in self.batches(samples):
            self.recipe.encode(batch.audio, batch.visual, batch.seconds)

    def compute(self) -> None:
        """Files to tokens."""
        self.encode(self.read(self.dataset))

    def fetch(self, features: Features) -> None:
        """Cache to tokens, from the hashes of the clips on."""
        cached, report = prepare_reported(self.dataset, features)
        assert not report.computed, "features under another key: was a plugin's source edited meanwhile?"
        self.batches(self.read(cached))


def epochs(folder: Path, rounds: int) -> dict[bool, list[Any]]:
    """Seconds of an epoch without and with the cache, which is filled."""
    found: dict[bool, list[Any]] = {False: [], True: []}
    for round_ in range(rounds):
        for cache in found:
            times = []
            for count in (1, 3):
                run = spec(folder, f"train.cache={str(cache).lower()}", f"train.epochs={count}")
                place = folder / f"run-{round_}-{cache}-{count}"
                times.append(timed(train, run, place, quiet=True))
            found[cache].append((times[1] - times[0]) / 2)
    return found


def main() -> int:
    """Prints the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, args.clips)
        bench = Bench(folder)
        rounds: dict[str, list[Any]] = {"compute": [], "encode": [], "fetch": []}
        for _ in range(args.rounds):
            rounds["compute"].append(timed(bench.compute))
            rounds["encode"].append(timed(bench.encode, bench.samples))
            kept = bench.features()
            rounds["fetch"].append(timed(bench.fetch, kept))
        medians = {name: median(found) for name, found in rounds.items()}
        per_clip = {modality: shards.bytes() / len(shards) / 1000 for modality, shards in kept.shards.items()}
        for name, seconds in medians.items():
            wall, processor = 1000 * seconds / args.clips
            print(f"{name:8}{wall:9.2f} ms a clip, {processor:9.2f} of a processor")
        print("kept    " + ", ".join(f"{modality} {size:.1f} kB a clip" for modality, size in per_clip.items()))
        print(f"reading features, not computing them from files: {faster(medians['compute'], medians['fetch'])}")
        print(f"beside the encoders alone: {faster(medians['encode'], medians['fetch'])}")
        live, cached = map(median, epochs(folder, args.rounds).values())
        print(f"an epoch of {args.clips} clips: {live[0]:.2f} s without the cache, {cached[0]:.2f} s with it", end="")
        print(f": {faster(live, cached)}")
    machine = f"{platform.machine()}, {args.threads} threads of {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{machine}, torch {torch.__version__}, Python {sys.version.split()[0]}")
    return int(bool((medians["compute"] < 20 * medians["fetch"]).any() or (live < 5 * cached).any()))


if __name__ == "__main__":
    sys.exit(main())
