"""Draws the pictures of the README: the pipeline, and a real transport plan over a real clip.

    python docs/pictures/make_pictures.py [--clip FILE] [--out FOLDER]

The plan is the one that the preset `starter` makes of the clip, with six frames (its weights are fetched at first use).
What was trained on top (adapters) isn't read: the plan doesn't depend on it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import colors
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from numpy.typing import NDArray

import lavcap_core as lavcap
from lavcap_core import media, presets
from lavcap_core.builder import build_use

CLIP = Path(__file__).parent / "out-of-step.mp4"
SETTINGS = ("weights=null", "visual_encoder.frames=6", "visual_encoder.floor=0.15")

INK, FAINT = "#1b1b1b", "#6b6b6b"
# Colours of Okabe and Ito (2008), which colour-blind readers can tell apart, made lighter for use behind black text.
AUDIO, VISUAL, JOINT, WORDS = "#cfe6f5", "#fbe0b8", "#cdeee1", "#eadff0"

mpl.rcParams.update({"font.family": "DejaVu Sans", "font.size": 9, "text.color": INK, "axes.labelcolor": INK})
mpl.rcParams["svg.hashsalt"] = "lavcap"


@dataclass(frozen=True)
class Box:
    """A part of the pipeline: left, bottom, width, height in the units of the drawing; title; lines below it."""

    x: float
    y: float
    w: float
    h: float
    title: str
    lines: str
    colour: str


BOXES = {
    "clip": Box(0.0, 1.5, 1.5, 1.2, "clip", "sound, 16 kHz\nframes", "#eeeeee"),
    "audio": Box(2.2, 2.5, 1.9, 1.2, "audio_encoder", "ced\nyamnet", AUDIO),
    "visual": Box(2.2, 0.5, 1.9, 1.2, "visual_encoder", "clip, timm\nefficientnet_lite", VISUAL),
    "aligner": Box(5.3, 1.4, 1.5, 1.4, "aligner", "sinkhorn\nemd\not", JOINT),
    "fuser": Box(7.9, 1.4, 1.7, 1.4, "fuser", "ot_att\nconcat, joint,\nqformer, ...", JOINT),
    "decoder": Box(10.7, 1.4, 1.8, 1.4, "decoder", "llama: any causal\nlanguage model", WORDS),
}


def draw_pipeline(path: Path) -> None:
    """The pipeline's slots, what can stand in them, and what flows between them with LAVCap's widths."""
    figure = Figure(figsize=(11, 3.7))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set(xlim=(-0.1, 14.6), ylim=(0.15, 4.6))
    axes.axis("off")
    for box in BOXES.values():
        _box(axes, box)
    _arrow(axes, (1.5, 2.4), (2.2, 3.1))
    _arrow(axes, (1.5, 1.8), (2.2, 1.1))
    _arrow(axes, (4.1, 3.1), (5.3, 2.4))
    _arrow(axes, (4.1, 1.1), (5.3, 1.8))
    _arrow(axes, (6.8, 2.1), (7.9, 2.1))
    _arrow(axes, (9.6, 2.1), (10.7, 2.1))
    _arrow(axes, (12.5, 2.1), (13.1, 2.1))
    for x, y, words in (
        (4.95, 3.12, "62 × 768"),
        (4.95, 1.08, "20 × 768"),
        (7.35, 2.35, "tokens,\nplan"),
        (7.35, 1.85, "62 × 20"),
        (10.15, 2.35, "82 × 768"),
    ):
        axes.text(x, y, words, ha="center", va="center" if y != 2.35 else "bottom", color=FAINT, fontsize=8.5)
    axes.text(13.2, 2.1, "a sentence", va="center", fontsize=10, style="italic")
    axes.text(0.0, 4.3, "bold: a key of the spec", weight="bold", va="center")
    axes.text(2.7, 4.3, "below: plugins that can stand there", va="center")
    axes.text(6.35, 4.3, "grey: tokens × width, with the preset lavcap and 10 s of clip", va="center", color=FAINT)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _box(axes: Any, box: Box) -> None:
    shape = FancyBboxPatch(
        (box.x, box.y), box.w, box.h, boxstyle="round,pad=0,rounding_size=0.12", fc=box.colour, ec=INK, lw=0.9
    )
    axes.add_patch(shape)
    middle = box.x + box.w / 2
    axes.text(middle, box.y + box.h - 0.14, box.title, ha="center", va="top", weight="bold", fontsize=9.5)
    axes.text(middle, box.y + (box.h - 0.3) / 2, box.lines, ha="center", va="center", linespacing=1.25)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=INK, lw=1, shrinkA=1, shrinkB=1)
    )


@dataclass(frozen=True)
class Seen:
    """What the starter made of a clip: A audio tokens, V visual tokens, T spectrogram frames of F bins.

    Attributes:
        frames: [V, S, S, 3] uint8.
        frame_times: [V] seconds, the middle of what a frame stands for.
        frame_names: [V], the strongest class.
        log_mel: [F, T], 100 frames per second.
        seconds: length of the clip.
        times: [A] seconds, the middle of each audio window that names something.
        names: [A], the strongest class.
        plan: [A, V] times A V, so that 1 is an even share.
        epsilon: weight of the plan's entropy.
        hop: seconds from one audio window to the next.
    """

    frames: NDArray[np.uint8]
    frame_times: NDArray[np.float32]
    frame_names: list[str]
    log_mel: NDArray[np.float32]
    seconds: float
    times: NDArray[np.float32]
    names: list[str]
    plan: NDArray[np.float32]
    epsilon: float
    hop: float


def look(clip: Path) -> Seen:
    """Runs the starter's encoders and aligner on a clip's first window."""
    import torch

    from lavcap_core.data import collate
    from lavcap_starter.yamnet import PATCH_HOP, log_mel

    recipe = _recipe()
    window = media.read(clip, recipe.request()).windows[0]
    with torch.inference_mode():
        audio, visual = (collate([features]) for features in recipe.prepare(window))
        sounds, pictures = recipe.encode(audio, visual, torch.tensor([window.seconds]))
        aligned = recipe.aligner(sounds, pictures)
    assert window.frames is not None
    heard, seen = sounds.mask[0], pictures.mask[0]
    plan = aligned.alignment.plan[0][heard][:, seen]
    return Seen(
        frames=window.frames[seen.numpy()],
        frame_times=pictures.times[0][seen].numpy(),
        frame_names=_names(recipe.visual_encoder, visual, "picture", seen),
        log_mel=log_mel(torch.from_numpy(window.waveform)).T.numpy(),
        seconds=window.seconds,
        times=sounds.times[0][heard].numpy(),
        names=_names(recipe.audio_encoder, audio, "sound", heard),
        plan=(plan * plan.numel()).numpy(),
        epsilon=recipe.aligner.transport.epsilon,
        hop=PATCH_HOP,
    )


def _recipe() -> Any:
    """The preset's recipe without its decoder: the plan needs none."""
    from lavcap_core.recipes.captioner import Captioner

    preset = presets.find("starter")
    assert preset is not None, "pip install lavcap-starter"
    spec = lavcap.check(preset, SETTINGS)
    parts: dict[str, Any] = {}
    for name in ("audio_encoder", "visual_encoder", "aligner"):
        use = spec.parts[name]
        assert use is not None
        parts[name] = build_use(use, spec.wiring.inputs[name])
    nothing: Any = None
    windows: Any = spec.sections["windows"]
    return Captioner(**parts, fuser=nothing, decoder=nothing, windows=windows).eval()


def _names(encoder: Any, batch: Any, kind: str, mask: Any) -> list[str]:
    """The strongest class of each token that is not masked."""
    from lavcap_starter.classes import load
    from lavcap_starter.tokens import Vocabulary, evidence

    speaker = encoder.speaker
    vocabulary = Vocabulary(speaker.table, speaker.weights, speaker.links)
    strongest = evidence(encoder.posteriors(batch), vocabulary)[0][mask].argmax(dim=-1).tolist()
    names = load(kind).names
    return [names[index] for index in strongest]


def draw_plan(seen: Seen, path: Path) -> None:
    """Frames at the left, spectrogram below, and the plan between them."""
    rows = len(seen.frames)
    figure = Figure(figsize=(10, 6.1), dpi=100)
    left, width, low, height = 0.235, 0.655, 0.265, 0.655
    axes = figure.add_axes((left, low, width, height))
    image = _heat(axes, seen)
    title = f"Transport plan at epsilon {seen.epsilon:g}: mass of each pair of sound and frame, 1 is an even share"
    figure.text(0.5, 0.955, title, ha="center", fontsize=10.5)
    for row in range(rows):
        _thumbnail(figure, seen, row, (left - 0.085, low + height * (1 - (row + 1) / rows), 0.075, height / rows))
    sound = figure.add_axes((left, 0.085, width, 0.12))
    _spectrogram(sound, seen)
    bar = figure.colorbar(image, cax=figure.add_axes((0.91, low, 0.014, height)), extend="both")
    bar.set_ticks([1 / 4, 1 / 2, 1, 2, 4], labels=["¼", "½", "1", "2", "4"])
    bar.ax.minorticks_off()
    figure.savefig(path, dpi=100)
    _shrink(path)


def _heat(axes: Any, seen: Seen) -> Any:
    """Cells as wide as the hop between audio windows, at their times; windows that name nothing stay grey."""
    axes.set_facecolor("#dddddd")
    image = None
    for column, time in enumerate(seen.times):
        edges = (time - seen.hop / 2, time + seen.hop / 2)
        cells = seen.plan[column][:, None]
        norm = colors.LogNorm(1 / 4, 4)
        image = axes.imshow(cells, cmap="PuOr_r", norm=norm, aspect="auto", extent=(*edges, len(cells), 0))
        for row, value in enumerate(seen.plan[column]):
            shade = "w" if not 0.36 < value < 2.8 else INK
            axes.text(time, row + 0.5, f"{value:.2f}", ha="center", va="center", fontsize=8.5, color=shade)
    axes.set(xlim=(0, seen.seconds), ylim=(len(seen.frames), 0), xticks=[], yticks=[])
    return image


def _thumbnail(figure: Figure, seen: Seen, row: int, place: tuple[float, float, float, float]) -> None:
    axes = figure.add_axes(place)
    axes.imshow(seen.frames[row][::2, ::2])
    axes.axis("off")
    text = f"{seen.frame_names[row]}\n{seen.frame_times[row]:.1f} s"
    figure.text(place[0] - 0.008, place[1] + place[3] / 2, text, ha="right", va="center")


def _spectrogram(axes: Any, seen: Seen) -> None:
    axes.imshow(
        seen.log_mel, origin="lower", aspect="auto", cmap="Greys", extent=(0, seen.log_mel.shape[1] / 100, 0, 64)
    )
    axes.set(xlim=(0, seen.seconds), ylim=(0, 64), xlabel="seconds", yticks=[])
    axes.set_ylabel("log-mel\nspectrogram", rotation=0, ha="right", va="center", labelpad=6)
    for start, end, name in _runs(seen):
        axes.add_line(Line2D((start + 0.04, end - 0.04), (70, 70), color=INK, lw=1, clip_on=False))
        axes.text((start + end) / 2, 75, name, ha="center", va="bottom", fontsize=8.5, clip_on=False)


def _runs(seen: Seen) -> list[tuple[float, float, str]]:
    """Start, end and name of neighbouring audio windows that name the same."""
    runs: list[tuple[float, float, str]] = []
    for time, name in zip(seen.times.tolist(), seen.names, strict=True):
        start, end = time - seen.hop / 2, time + seen.hop / 2
        if runs and runs[-1][2] == name and abs(runs[-1][1] - start) < 1e-3:
            runs[-1] = (runs[-1][0], end, name)
        else:
            runs.append((start, end, name))
    return runs


def _shrink(path: Path) -> None:
    """A palette of 256 colours: a third of the size."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(
            path, optimize=True
        )


def main() -> None:
    """Draws both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clip", type=Path, default=CLIP)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--only", choices=("pipeline", "plan"))
    args = parser.parse_args()
    if args.only != "plan":
        draw_pipeline(args.out / "pipeline.svg")
    if args.only != "pipeline":
        draw_plan(look(args.clip), args.out / "plan.png")


if __name__ == "__main__":
    main()
