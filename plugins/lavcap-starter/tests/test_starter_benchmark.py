import importlib.util
import json
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def captions():
    pytest.importorskip("PIL")
    spec = importlib.util.spec_from_file_location("starter_captions", ROOT / "benchmarks" / "captions.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rcc(files, version):
    """A Qt resource file with one folder ``data``."""
    names, data, offsets = b"", b"", {}
    for name in ("data", *files):
        offsets[name] = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    stamp = b"\0" * 8 if version >= 2 else b""
    tree = struct.pack(">IHII", 0, 2, 1, 1) + stamp + struct.pack(">IHII", offsets["data"], 2, len(files), 2) + stamp
    for name, (content, packed) in files.items():
        stored = struct.pack(">I", len(content)) + zlib.compress(content) if packed else content
        tree += struct.pack(">IHHHI", offsets[name], int(packed), 0, 0, len(data)) + stamp
        data += struct.pack(">I", len(stored)) + stored
    head = 20
    return struct.pack(">4sIIII", b"qres", version, head, head + len(tree), head + len(tree) + len(data)) + (
        tree + data + names
    )


@pytest.mark.parametrize("version", [1, 2, 3])
def test_resource_files_are_read(captions, version):
    resources = captions.Resources(rcc({"moo.ogg": (b"sound", False), "cow.svg": (b"<svg/>" * 9, True)}, version))
    assert resources.read("/data/moo.ogg") == b"sound"
    assert resources.read("cow.svg") == b"<svg/>" * 9


def test_what_is_no_resource_file_is_refused(captions):
    with pytest.raises(ValueError, match="no Qt resource file"):
        captions.Resources(b"RIFF" + b"\0" * 40)


def test_words_count_where_they_begin_a_word(captions):
    assert captions.names("A cow is mooing loudly", ["moo"])
    assert captions.names("Cats meow", ["cat"])
    assert not captions.names("Cattle low on a ramp", ["cat", "ram"])
    assert not captions.names("Smooth music plays", ["moo"])
    assert captions.names("A person claps", ["clap"])
    assert not captions.names("Anything", [])


def test_the_list_is_whole(captions):
    rows = captions.items()
    assert {row.suite for row in rows} == {
        "gcompris-farm",
        "gcompris-instruments",
        "ovos",
        "gcompris-memory",
        "tuxpaint",
    }
    counts = [sum(row.suite == suite for row in rows) for suite in ("gcompris-farm", "gcompris-instruments", "ovos")]
    assert counts == [9, 26, 10]
    assert len({(row.suite, row.clip) for row in rows}) == len(rows)
    assert all(row.source and not set(row.source) & set(row.kind) for row in rows)
    # What names everything names nothing.
    assert not {"animal", "music", "sound", "instrument"} & {word for row in rows for word in row.source + row.kind}


def test_pictures_that_have_nothing_to_do_with_the_sound_are_drawn(captions):
    assert captions.logo().size == (480, 360)
    flat, loud = captions.curve([0.0] * 1000), captions.curve([1.0, -1.0] * 500)
    assert np.asarray(flat).sum() < np.asarray(loud).sum()


def test_the_adapters_are_what_the_preset_trains():
    with safe_open(ROOT / "lavcap_starter" / "adapters" / "starter.safetensors", framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
        facts = json.loads(file.metadata()["facts"])
    layers = {name for name in state if ".lora_A." in name}
    assert len(layers) == 30 * 4
    assert {name for name in state if "lora" not in name} == {
        "fuser.gate",
        "decoder.modality.weight",
        "decoder.projector.weight",
        "decoder.projector.bias",
    }
    assert all(torch.isfinite(value).all() for value in state.values())
    assert any(value.abs().max() > 0 for name, value in state.items() if ".lora_B." in name)
    assert facts["steps"] > 0
    assert (ROOT / "lavcap_starter" / "adapters" / "starter.safetensors").stat().st_size < 8 * 2**20
