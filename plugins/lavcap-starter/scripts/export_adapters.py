"""Packs a checkpoint of ``train_starter.py`` into the file that the preset names.

    python scripts/export_adapters.py run/step-00001000 lavcap_starter/adapters/starter.safetensors

Parameters become float16 (half the size; the projector and the updates are well within its range), and the facts of
the training go into the file's metadata.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file


def main() -> None:
    """Reads, converts, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("file", type=Path)
    parser.add_argument("--note", default="", help="what the checkpoint was chosen by")
    args = parser.parse_args()
    state = load_file(args.checkpoint / "trained.safetensors")
    small = {name: value.to(torch.float16).contiguous() for name, value in state.items()}
    if any(not torch.isfinite(value).all() for value in small.values()):
        raise SystemExit("a parameter is out of float16's range")
    facts = json.loads((args.checkpoint / "facts.json").read_text(encoding="utf-8"))
    metadata = {"facts": json.dumps(facts), "licence": "Apache-2.0", "note": args.note}
    args.file.parent.mkdir(parents=True, exist_ok=True)
    save_file(small, args.file, metadata=metadata)
    print(f"{args.file}: {len(small)} tensors, {args.file.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
