"""Packs a checkpoint of ``lavcap train starter-training`` into the file that the preset names.

    python scripts/export_adapters.py runs/starter-training/checkpoints/step-00001400 adapters.safetensors

Parameters become float16 (half the size; the projector and the updates are well within its range), and the facts of
the training go into the file's metadata.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from lavcap_core.spec import read


def _facts(checkpoint: Path) -> dict[str, Any]:
    """How far the training went, of what, and with which settings; paths are nobody else's concern."""
    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    settings = read(checkpoint / "spec.yaml").pipeline.train
    assert settings is not None
    chosen = settings.model_dump(include={"batch", "lr", "final_lr", "warmup_steps", "lr_factors", "clip", "seed"})
    return {"step": state["step"], "data": state["data"], "versions": state["versions"], "train": chosen}


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
    metadata = {"facts": json.dumps(_facts(args.checkpoint)), "licence": "Apache-2.0", "note": args.note}
    args.file.parent.mkdir(parents=True, exist_ok=True)
    save_file(small, args.file, metadata=metadata)
    print(f"{args.file}: {len(small)} tensors, {args.file.stat().st_size / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
