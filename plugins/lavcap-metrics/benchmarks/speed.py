"""How long metrics take beside the slowest program that they wait for, METEOR's Java process.

    python benchmarks/speed.py [--clips 944] [--references 5]

Everything is measured in this run, on captions that are made up: METEOR's jar alone (started, all clips scored,
ended) as pycocoevalcap speaks with it; its whole pipeline without SPICE; and the metrics of this package, each in a
new process of Python, so that no Java process is warm. Ratios matter; seconds depend on what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

WORDS = """
a the man woman dog car engine bird wind water crowd child speaks barks runs passes by chirps blows flows cheers laughs
while and then as followed loudly softly nearby in distance background on street sound of music playing vehicle rain
"""


def captions(clips: int, references: int) -> tuple[list[str], list[list[str]]]:
    """Captions as long as those of AudioCaps, with capitals and full stops; the same in every run."""
    generator = random.Random(1)

    def caption() -> str:
        return " ".join(generator.choices(WORDS.split(), k=generator.randrange(6, 15))).capitalize() + "."

    return [caption() for _ in range(clips)], [[caption() for _ in range(references)] for _ in range(clips)]


def ours(names: Sequence[str], tokeniser: str, candidates: list[str], told: list[list[str]]) -> None:
    """Metrics in threads, as `lavcap evaluate` runs them."""
    from lavcap_core.builder import build

    def score(name: str) -> None:
        build("metric", name, **({} if name == "diversity" else {"tokeniser": tokeniser}))(candidates, told)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(score, names))


def jar_alone(candidates: list[str], told: list[list[str]]) -> None:
    """METEOR's jar, as pycocoevalcap speaks with it, on captions that need no tokeniser."""
    from pycocoevalcap.meteor.meteor import Meteor

    Meteor().compute_score(dict(enumerate(told)), {i: [text] for i, text in enumerate(candidates)})


def theirs(candidates: list[str], told: list[list[str]]) -> None:
    """Pycocoevalcap's pipeline, one metric after the other, without SPICE."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenise = PTBTokenizer().tokenize
    gts = tokenise({i: [{"caption": text} for text in texts] for i, texts in enumerate(told)})
    res = tokenise({i: [{"caption": text}] for i, text in enumerate(candidates)})
    for scorer in (Bleu(4), Meteor(), Rouge(), Cider()):
        scorer.compute_score(gts, res)


THREE = ("bleu", "rouge_l", "cider_d")
FIVE = (*THREE, "meteor", "diversity")
AGAIN = "all but SPICE, in a Python that has done so before"
RUNS: dict[str, Callable[[list[str], list[list[str]]], None]] = {
    "METEOR's jar alone": jar_alone,
    "all but SPICE": lambda *texts: ours(FIVE, "ptb", *texts),
    AGAIN: lambda *texts: ours(FIVE, "ptb", *texts),
    "pycocoevalcap, all but SPICE": theirs,
    "BLEU, ROUGE-L, CIDEr-D": lambda *texts: ours(THREE, "ptb", *texts),
    "BLEU, ROUGE-L, CIDEr-D, no tokeniser": lambda *texts: ours(THREE, "none", *texts),
}


def seconds(name: str, clips: int, references: int) -> float:
    """Wall-clock seconds of a run in a process of its own, from before its imports to its last score."""
    command = [sys.executable, __file__, "--run", name, "--clips", str(clips), "--references", str(references)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    """Prints the table, or the seconds of one run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clips", type=int, default=944)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, in turns; the shortest counts")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        texts = captions(args.clips, args.references)
        if args.run == AGAIN:
            ours(FIVE, "ptb", *captions(2, 1))
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            RUNS[args.run](*texts)
        print(time.perf_counter() - start)
        return
    found = {name: float("inf") for name in RUNS}
    for _ in range(args.rounds):
        found = {name: min(best, seconds(name, args.clips, args.references)) for name, best in found.items()}
    jar = found["METEOR's jar alone"]
    print(f"{args.clips} clips, {args.references} references each; best of {args.rounds}")
    for name, value in found.items():
        print(f"{name:52} {value:7.2f} s   {value / jar:5.2f} of METEOR's jar")


if __name__ == "__main__":
    main()
