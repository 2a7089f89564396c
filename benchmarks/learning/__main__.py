"""Is anything learnt? LAVCap's Table II at small size: hear, see, both, with OT loss; three seeds, real clips.

    python -m benchmarks.learning

Fetches real sounds and pictures (Tux Paint's to learn from, GCompris' and others to be tested on), makes a small
random language model for each seed, trains the rows of ``table2.yaml`` with `lavcap sweep`, and measures every model
before and after its training. Started again, it goes on where it was. Everything is written into ``work`` beside this
file. It needs the distributions of this repository, apt-get and dpkg (a Debian, or a system of its kind), pip, and
resvg-py.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
WORK = HERE / "work"
SEEDS = (0, 1, 2)
ROWS = ("audio", "visual", "both", "both-ot-1", "both-ot-0-1", "both-ot-0-01")
COLUMNS = ("loss", "swapped", "names", "mrr", "recall1", "recall5")

Results = dict[str, dict[str, dict[str, Any]]]
"""For each row and seed, what was measured: ``untrained`` and ``trained``."""


def prepare(work: Path, seeds: Sequence[int]) -> None:
    """Fetches the clips and makes the language models."""
    from benchmarks.learning import decoder, fetch
    from lavcap_core.manifest import read_manifest

    fetch.fetch(work)
    captions = {caption for item in read_manifest(work / "data/train.jsonl") for caption in item.captions}
    (work / "decoders").mkdir(exist_ok=True)
    for seed in seeds:
        decoder.make(work / "decoders" / str(seed), captions, seed)


def train(work: Path, seed: int, jobs: int) -> None:
    """The sweep of one seed, in processes of one thread each."""
    words = [sys.executable, "-m", "lavcap_core.cli", "sweep", str(HERE / "table2.yaml"), "--jobs", str(jobs)]
    words += ["--out", str(_runs(work, seed)), "--quiet"]
    words += ["--set", f"train.seed={seed}", "--set", f"decoder.model={work / 'decoders' / str(seed)}"]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})


def _runs(work: Path, seed: int) -> Path:
    return work / "runs" / f"seed-{seed}"


def evaluate(work: Path, seeds: Sequence[int]) -> Results:
    """Measures all models; what was measured of a run is kept beside it."""
    results: Results = {row: {} for row in ROWS}
    test = None
    for seed in seeds:
        for row in ROWS:
            store = _runs(work, seed) / f"{row}.measured.json"
            newest = _newest(_runs(work, seed) / row)
            if not store.exists() or store.stat().st_mtime < newest.stat().st_mtime:
                test = test or _test(work, _runs(work, seed) / f"{row}.yaml")
                _write(store, _evaluate(_runs(work, seed) / f"{row}.yaml", newest, test))
            results[row][str(seed)] = json.loads(store.read_text(encoding="utf-8"))
    _write(work / "results.json", results)
    return results


def _newest(run: Path) -> Path:
    from lavcap_core.run.checkpoint import checkpoints

    return checkpoints(run)[-1] / "trained.safetensors"


def _write(file: Path, value: Any) -> None:
    from lavcap_core.files import replace_text

    replace_text(file, json.dumps(value, indent=1) + "\n")


def _build(spec_file: Path) -> Any:
    """The model of a run as its training began with it."""
    from lavcap_core.builder import build_recipe, build_use
    from lavcap_core.spec import read

    spec = read(spec_file)
    build_use(spec.pipeline.backend).seed(spec.filled()["train"]["seed"])
    return build_recipe(spec)


def _test(work: Path, spec_file: Path) -> Any:
    """The test clips, encoded once: the encoders are frozen, and the same in all rows."""
    from benchmarks.learning.measure import Test, encode
    from lavcap_core.manifest import read_manifest

    recipe = _build(spec_file)
    return Test(*(encode(recipe, read_manifest(work / "data" / name)) for name in ("test.jsonl", "queries.jsonl")))


def without_training(work: Path) -> dict[str, Any]:
    """What the frozen encoders' tokens find as they are, before any projection: they share a space already."""
    from benchmarks.learning.measure import find
    from lavcap_core.builder import build

    store = work / "encoders.json"
    if not store.exists():
        _write(store, find(build("aligner", "sinkhorn"), _test(work, _runs(work, SEEDS[0]) / "both.yaml")))
    found: dict[str, Any] = json.loads(store.read_text(encoding="utf-8"))
    return found


def _evaluate(spec_file: Path, weights: Path, test: Any) -> dict[str, Any]:
    from benchmarks.learning.measure import measure
    from lavcap_core.pipeline import load_weights

    recipe = _build(spec_file)
    untrained = measure(recipe, test)
    load_weights(recipe, str(weights))
    return {"untrained": untrained, "trained": measure(recipe, test)}


# --- what came out ----------------------------------------------------------------------------------------------------


def table(results: Results) -> str:
    """Mean and standard deviation over the seeds, untrained and trained, in Markdown."""
    lines = [f"| | | {' | '.join(COLUMNS)} |", f"|---|---|{'---:|' * len(COLUMNS)}"]
    for row, seeds in results.items():
        for state in ("untrained", "trained"):
            cells = [_spread([found[state].get(column) for found in seeds.values()]) for column in COLUMNS]
            lines.append(f"| {row if state == 'untrained' else ''} | {state} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    if len(numbers) == 1:
        return f"{numbers[0]:.3f}"
    return f"{statistics.mean(numbers):.3f} ± {statistics.stdev(numbers):.3f}"


def verdicts(results: Results) -> list[str]:
    """For each row, whether training lowered the held-out loss and raised retrieval, and in how many seeds."""
    lines = []
    for row, seeds in results.items():
        lower = [found["trained"]["loss"] < found["untrained"]["loss"] for found in seeds.values()]
        said = f"{row}: the loss is lower in {sum(lower)} of {len(lower)} seeds"
        pairs = [(found["untrained"], found["trained"]) for found in seeds.values()]
        if all("mrr" in one for pair in pairs for one in pair):
            higher = [_change(before, after) for before, after in pairs]
            rises = sum(after["mrr"] > before["mrr"] for before, after in pairs)
            said += f", the reciprocal rank higher in {rises} ({', '.join(higher)})"
        lines.append(said)
    return lines


def _change(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    return f"{before['mrr']:.3f} to {after['mrr']:.3f}"


def main() -> None:
    """Does all of it, as far as it is not done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--jobs", type=int, default=2, help="trainings at the same time, of one thread each (default 2)"
    )
    args = parser.parse_args()
    began = time.monotonic()
    WORK.mkdir(exist_ok=True)
    prepare(WORK, SEEDS)
    print(f"clips and language models are there after {_minutes(began)}", flush=True)
    for seed in SEEDS:
        train(WORK, seed, args.jobs)
        print(f"seed {seed} is trained after {_minutes(began)}", flush=True)
    report(evaluate(WORK, SEEDS), without_training(WORK))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = (used.ru_utime + used.ru_stime + time.process_time()) / 60
    print(f"all after {_minutes(began)}, with {spent:.1f} min of processor time")


def report(results: Results, encoders: Mapping[str, Any]) -> None:
    """Prints the table, what it is to be compared with, and whether anything was learnt."""
    from benchmarks.learning.measure import chance, retrieval

    print(f"\n{table(results)}\n\nretrieval at random: {chance(35)}")
    print(f"by the encoders' own tokens: {retrieval(list(encoders['ranks'].values()))}")
    for kind in ("animals", "instruments"):
        print(f"reciprocal rank of {kind}: {parts(results, encoders, kind)}")
    print(*verdicts(results), sep="\n")


def parts(results: Results, encoders: Mapping[str, Any], kind: str) -> dict[str, str]:
    """Mean reciprocal rank of the instruments alone, or of the animals: untrained, trained, and by the encoders."""

    def mrr(ranks: Mapping[str, int]) -> float:
        chosen = [1 / rank for name, rank in ranks.items() if ("instruments" in name) == (kind == "instruments")]
        return sum(chosen) / len(chosen)

    found = {"encoders": f"{mrr(encoders['ranks']):.3f}"}
    for row, seeds in results.items():
        for state in ("untrained", "trained"):
            values = [mrr(one[state]["ranks"]) for one in seeds.values() if "ranks" in one[state]]
            if values:
                found[f"{row} {state}"] = _spread(values)
    return found


def _minutes(began: float) -> str:
    return f"{(time.monotonic() - began) / 60:.1f} min"


if __name__ == "__main__":
    main()
