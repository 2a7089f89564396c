"""``lavcap data``: manifests of training data: make, check, divide and describe them."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lavcap_core.cli import features
from lavcap_core.errors import RunError
from lavcap_core.files import replace_text
from lavcap_core.manifest import Item, list_hash, read_manifest, write_manifest

if TYPE_CHECKING:
    from lavcap_core.run.data_files import Prepared

__all__ = ["ACTIONS", "command"]


def command(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of every action."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    for name, (summary, add) in ACTIONS.items():
        add(actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}."))


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    sets = parser.add_subparsers(title="data sets", metavar="SET", required=True)
    audiocaps = sets.add_parser("audiocaps", help="AudioCaps' csv and a folder of media", epilog=_NAMES)
    audiocaps.add_argument("list", metavar="CSV", type=Path, help="audiocap_id, youtube_id, start_time, caption")
    audiocaps.add_argument("media", metavar="MEDIA", type=Path, help="the folder, searched with its subfolders")
    audiocaps.add_argument("--frames", metavar="FOLDER", type=Path, help="pictures of each clip's video")
    audiocaps.add_argument("--visual-features", metavar="FOLDER", type=Path, help=".npy files of ready vectors")
    audiocaps.set_defaults(run=_prepare_audiocaps)
    clotho = sets.add_parser("clotho", help="Clotho's csv and its sounds")
    clotho.add_argument("list", metavar="CSV", type=Path, help="file_name, caption_1 to caption_5")
    clotho.add_argument("media", metavar="MEDIA", type=Path, help="the folder, searched with its subfolders")
    clotho.set_defaults(run=_prepare_clotho)
    lavcap = sets.add_parser("lavcap", help="the json files of LAVCap and AVCap, with waveforms and frames")
    lavcap.add_argument("list", metavar="JSON", type=Path, help="such as train.json or test_coco.json")
    lavcap.add_argument(
        "--root", metavar="FOLDER", type=Path, help="with waveforms/ and frames/ (default: beside JSON)"
    )
    lavcap.add_argument("--audio", metavar="FOLDER", type=Path, help="sounds, instead of ROOT/waveforms")
    lavcap.add_argument("--frames", metavar="FOLDER", type=Path, help="frame_0/, frame_1/ ..., instead of ROOT/frames")
    lavcap.add_argument("--visual-features", metavar="FOLDER", type=Path, help=".npy files, instead of visual_feature/")
    lavcap.add_argument(
        "--captions", metavar="JSON", type=Path, help="such as test_coco.json: captions to take instead"
    )
    lavcap.set_defaults(run=_prepare_lavcap)
    for child in (audiocaps, clotho, lavcap):
        _add_out(child, required=True)
        child.add_argument("--split", metavar="NAME", help="mark every clip, such as train")
    _add_reading(audiocaps)


_NAMES = """
Files are named ID, ID_START or ID_START_END (seconds or milliseconds), with or without a Y before; so are folders of
frames and .npy files. A file without a start that is longer than 12 s is the whole video, and 10 s of it are read.
"""


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "One line per finding: id, kind, what. Exit code: 0, or 1 if something is unreadable. The clean manifest "
        "leaves out clips with a finding; partial and without-video don't count."
    )
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="a .jsonl or .csv file")
    parser.add_argument("--shortest", type=float, default=1.0, metavar="SECONDS", help="of a clip (default: 1)")
    parser.add_argument("--silence", type=float, default=-60.0, metavar="DBFS", help="least peak (default: -60)")
    parser.add_argument(
        "--training", action="store_true", help="find clips marked as test (default: if the name says train)"
    )
    _add_out(parser, required=False)
    _add_reading(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_check)


def _split_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Writes MANIFEST.PART.jsonl beside it for each part, or with --out one manifest with its rows marked. Clips of "
        "one source or one file stay together, in the part of the first of them. Clips that are added later move none, "
        "unless they join two such groups or stand before the first of one."
    )
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="a .jsonl or .csv file")
    parser.add_argument("--parts", default="train=0.8,val=0.1,test=0.1", metavar="NAME=SHARE,...", help="sum to 1")
    parser.add_argument("--seed", type=int, default=0, help="another one draws anew (default: 0)")
    _add_out(parser, required=False)
    parser.set_defaults(run=_split)


def _stats_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("manifest", metavar="MANIFEST", type=Path, help="a .jsonl or .csv file")
    parser.add_argument("--read", action="store_true", help="read the files' headers for their length")
    _add_reading(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.set_defaults(run=_stats)


def _add_out(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument("--out", metavar="FILE", type=_jsonl, required=required, help="the manifest (.jsonl) to write")
    parser.add_argument("--force", action="store_true", help="overwrite what is there")


def _jsonl(text: str) -> Path:
    if not text.lower().endswith(".jsonl"):
        raise argparse.ArgumentTypeError("manifests are written as .jsonl")
    return Path(text)


def _add_reading(parser: argparse.ArgumentParser) -> None:
    count = min(8, os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=count, metavar="N", help="threads that read files")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def _prepare_audiocaps(args: argparse.Namespace) -> int:
    from lavcap_core.run.data_audiocaps import audiocaps

    _require_free(args.out, args.force)
    extra = {"frames": args.frames, "visual_features": args.visual_features}
    return _write(
        args, audiocaps(args.list, args.media, split=args.split, workers=args.workers, show=_show(args), **extra)
    )


def _prepare_clotho(args: argparse.Namespace) -> int:
    from lavcap_core.run.data_audiocaps import clotho

    _require_free(args.out, args.force)
    return _write(args, clotho(args.list, args.media, split=args.split))


def _prepare_lavcap(args: argparse.Namespace) -> int:
    from lavcap_core.run.data_lavcap import lavcap

    _require_free(args.out, args.force)
    folders = {name: getattr(args, name) for name in ("root", "audio", "frames", "visual_features", "captions")}
    return _write(args, lavcap(args.list, split=args.split, **folders))


def _require_free(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise RunError("C008", "is there already", help="--force overwrites it, --out names another", file=str(path))


def _save(path: Path, items: Sequence[Item], missing: Sequence[tuple[str, str]] | None = None) -> None:
    """Writes a manifest and, if that was looked for, a list of what is missing; one of an earlier run goes."""
    beside = _beside(path)
    try:
        write_manifest(path, items)
        if missing:
            replace_text(beside, "".join(f"{name}\t{why}\n" for name, why in missing))
        elif missing is not None:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise RunError("C004", f"can't be written: {error.strerror}", file=str(path)) from None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.missing.txt")


def _write(args: argparse.Namespace, made: Prepared) -> int:
    _save(args.out, made.items, made.missing)
    count = len(made.items)
    print(
        f"{args.out}: {count} of {count + len(made.missing)} clips, {sum(len(i.captions) for i in made.items)} captions"
    )
    for note, number in made.notes.items():
        if number:
            print(f"  {number} {note}")
    if made.missing:
        print(f"  {len(made.missing)} missing: {_beside(args.out)}")
    print(f"  sha256 of the list: {list_hash(made.items)}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from lavcap_core.run.data_check import Limits, check, clean

    if args.out is not None:
        _require_free(args.out, args.force)
    items = read_manifest(args.manifest)
    limits = Limits(args.shortest, args.silence, args.training or "train" in args.manifest.stem.lower())
    findings = check(items, limits, workers=args.workers, show=_show(args))
    kinds = Counter(finding.kind for finding in findings)
    if args.json:
        rows = [vars(finding) for finding in findings]
        print(json.dumps({"clips": len(items), "sha256": list_hash(items), "kinds": kinds, "findings": rows}))
    else:
        for finding in findings:
            print(f"{finding.name}: {finding.kind}: {finding.message}")
        summary = ", ".join(f"{number} {kind}" for kind, number in kinds.items()) or "nothing found"
        print(f"{args.manifest}: {len(items)} clips: {summary}")
    if args.out is not None:
        kept = clean(items, findings)
        _save(args.out, kept)
        print(f"{args.out}: {len(kept)} clips", file=sys.stderr if args.json else sys.stdout)
    return 1 if kinds["unreadable"] else 0


def _split(args: argparse.Namespace) -> int:
    from lavcap_core.run.data_split import divide, parse_parts

    parts = parse_parts(args.parts)
    names = [args.out] if args.out else [args.manifest.with_suffix(f".{part}.jsonl") for part in parts]
    for path in names:
        _require_free(path, args.force)
    items = divide(read_manifest(args.manifest), parts, args.seed)
    if args.out:
        _save(args.out, items)
    for part in parts:
        own = [item for item in items if item.split == part]
        path = args.out or args.manifest.with_suffix(f".{part}.jsonl")
        if not args.out:
            _save(path, own)
        print(f"{path}: {part}: {len(own)} of {len(items)} clips, sha256 of the list: {list_hash(own)}")
    return 0


def _stats(args: argparse.Namespace) -> int:
    from lavcap_core.run.data_split import lengths, stats

    items = read_manifest(args.manifest)
    found = stats(items, lengths(items, args.workers, _show(args)) if args.read else None)
    if args.json:
        print(json.dumps(found))
        return 0
    for name, value in found.items():
        text = ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else value
        print(f"{name.replace('_', ' ')}: {text}")
    return 0


def _show(args: argparse.Namespace) -> Callable[[Iterable[Any], int], Iterator[Any]]:
    def show(results: Iterable[Any], total: int) -> Iterator[Any]:
        from tqdm import tqdm

        hidden = args.quiet or not sys.stderr.isatty()
        yield from tqdm(results, total=total, unit="clip", disable=hidden, dynamic_ncols=True)

    return show


ACTIONS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "prepare": ("make a manifest of a data set: its list and its files", _prepare_arguments),
    "check": ("read every file of a manifest, and say what is wrong", _check_arguments),
    "split": ("divide a manifest into parts, such as train, val and test", _split_arguments),
    "stats": ("count clips, captions, words and seconds of a manifest", _stats_arguments),
    "features": ("compute what frozen encoders give for the clips of a spec, and keep it", features.add_arguments),
}
"""What can be done, each with its summary and a function that adds its arguments and sets ``run``."""
