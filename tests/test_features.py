"""The feature cache: what is cached, under which key, what comes back, and what no accident can do to it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import settings, write_models
from torch import nn
from toys import TOY, TOY_SPEC, TRAIN_SPEC

from lavcap_core import media
from lavcap_core.backends.torch import TorchBackend
from lavcap_core.builder import build_recipe
from lavcap_core.cli import main
from lavcap_core.data import AUDIO, Batch, Ready, Tokens
from lavcap_core.errors import DataError, MediaError
from lavcap_core.manifest import Item, read_manifest
from lavcap_core.presets import find
from lavcap_core.run import contents, feature_keys, shards
from lavcap_core.run.datasets import ManifestDataset
from lavcap_core.run.feature_keys import ingredients, why_not
from lavcap_core.run.features import Features, encoders, prepare, prepare_reported, prune
from lavcap_core.run.shards import Entry, Shards, compact
from lavcap_core.run.train import train
from lavcap_core.spec import read, read_text
from lavcap_core.testing.clips import numbered_picture, tone, write_clip, write_picture
from lavcap_core.tuning import keep_eval

CPU = TorchBackend("cpu", "float32")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAVCAP_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def media_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    write_clip(folder / "both.mp4", 3)
    write_clip(folder / "uneven.mp4", 2.5, sound=tone(1.8))
    write_clip(folder / "shown.mp4", 1.5, sound=tone(2.6))
    write_clip(folder / "deaf.mp4", 2, audio=None)
    write_clip(folder / "blind.wav", 2, video=None, audio="pcm_s16le", sound=tone(2.0, channels=1), layout="mono")
    write_picture(folder / "still.png", numbered_picture(7))
    old = time.time() - 60
    for path in folder.iterdir():
        os.utime(path, (old, old))
    return folder


def items(folder):
    names = ["both.mp4", "uneven.mp4", "shown.mp4", "deaf.mp4", "blind.wav"]
    found = [Item(str(folder / name), name, captions=(f"a {name}",)) for name in names]
    pictured = replace(found[-1], name="pictured", image=str(folder / "still.png"))
    return [*found, pictured, replace(found[0], name="later", start=1.0, end=2.5)]


def toy_spec(folder, *changes):
    return read_text(TOY_SPEC, overrides=[f"train.cache_folder={folder}", *changes])


class Counting(ManifestDataset):
    """Notes which clips are read, and for what."""

    def __init__(self, *args):
        super().__init__(*args)
        self.reads = []

    def read(self, index, recipe, seed, ready=frozenset()):
        self.reads.append((self.names[index], ready))
        return super().read(index, recipe, seed, ready)


def toy_run(tmp_path, dataset, *changes):
    spec = toy_spec(tmp_path / "features", *changes)
    recipe = build_recipe(spec)
    cached, report = prepare_reported(dataset, Features(recipe, CPU, spec))
    return cached, report, recipe


def shard_files(tmp_path):
    return sorted((tmp_path / "features").rglob("*.safetensors"))


# --- what comes back -------------------------------------------------------------------------------------------------


def live(recipe, dataset, index):
    """A clip's tokens without a cache, alone in its batch."""
    sample = dataset.read(index, recipe, (0,))
    batch = Batch.of([sample])
    with torch.inference_mode():
        audio, visual = recipe.eval().encode(batch.audio, batch.visual, batch.seconds)
    return sample.seconds, audio, visual


def same(ready, tokens):
    if tokens is None:
        return ready is None
    assert torch.equal(ready.mask, tokens.mask[0])
    assert ready.times == pytest.approx(tokens.times[0])
    return torch.allclose(ready.data.float()[ready.mask], tokens.data[0][ready.mask], rtol=1e-3, atol=1e-5)


def test_cached_tokens_are_those_of_the_encoders(toy, media_folder, tmp_path):
    data = Counting(items(media_folder))
    cached, report, recipe = toy_run(tmp_path, data)
    assert report.computed == {"audio": 7, "visual": 7}
    data.reads.clear()
    for index, name in enumerate(data.names):
        sample = cached.read(index, recipe, (0,))
        seconds, audio, visual = live(recipe, ManifestDataset(data.items), index)
        assert sample.seconds == seconds, name
        assert same(sample.audio, audio), name
        assert same(sample.visual, visual), name
    assert cached.read(3, recipe, (0,)).audio is None
    assert cached.read(4, recipe, (0,)).visual is None
    assert {ready for _, ready in data.reads} == {frozenset(["audio", "visual"])}  # no file was opened for anything


def test_captions_names_and_prompts_stay_those_of_the_dataset(toy, media_folder, tmp_path):
    item = replace(items(media_folder)[0], captions=("one", "two", "three"), prompt="say")
    cached, _, recipe = toy_run(tmp_path, ManifestDataset([item]))
    drawn = {cached.read(0, recipe, (0, epoch)).caption for epoch in range(20)}
    assert drawn == {"one", "two", "three"} == set(cached.captions(0))
    assert (cached.read(0, recipe, (0,)).name, cached.read(0, recipe, (0,)).prompt) == ("both.mp4", "say")
    assert (cached.names, list(cached.lengths)) == (["both.mp4"], [10.0])
    assert cached.identity(0) == ManifestDataset([item]).identity(0)


def test_a_second_run_computes_nothing(toy, media_folder, tmp_path):
    toy_run(tmp_path, ManifestDataset(items(media_folder)))
    data = Counting(items(media_folder))
    _, report, _ = toy_run(tmp_path, data)
    assert (report.computed, data.reads) == ({}, [])


def test_only_what_is_missing_is_computed(toy, media_folder, tmp_path):
    toy_run(tmp_path, ManifestDataset(items(media_folder)[:3]))
    data = Counting(items(media_folder))
    _, report, _ = toy_run(tmp_path, data)
    assert report.computed == {"audio": 4, "visual": 4}
    assert {name for name, _ in data.reads} == set(data.names[3:])


def test_one_file_under_two_names_is_computed_once(toy, media_folder, tmp_path):
    item = items(media_folder)[0]
    cached, report, recipe = toy_run(tmp_path, ManifestDataset([item, replace(item, name="again", captions=("b",))]))
    assert report.computed == {"audio": 1, "visual": 1}
    assert cached.read(1, recipe, (0,)).caption == "b"


def test_all_names_of_a_broken_file_are_reported(toy, media_folder, tmp_path):
    (tmp_path / "text.mp4").write_text("no clip")
    broken = [Item(str(tmp_path / "text.mp4"), name, captions=("a",)) for name in ("one", "two", "three")]
    _, report, _ = toy_run(tmp_path, ManifestDataset([broken[0], items(media_folder)[0], *broken[1:]]))
    assert set(report.failed) == {"one", "two", "three"}
    assert all(reason.startswith("M002 ") for reason in report.failed.values())


def test_clips_that_cannot_be_read_are_reported_and_harm_no_other(toy, media_folder, tmp_path):
    (tmp_path / "text.mp4").write_text("no clip")
    broken = Item(str(tmp_path / "text.mp4"), "broken", captions=("a",))
    gone = Item(str(tmp_path / "gone.mp4"), "gone", captions=("a",))
    data = ManifestDataset([broken, items(media_folder)[0], gone])
    cached, report, recipe = toy_run(tmp_path, data)
    assert set(report.failed) == {"broken", "gone"}
    assert report.failed["broken"].startswith("M002 ")
    assert report.failed["gone"].startswith("M001 ")
    assert cached.read(1, recipe, (0,)).audio is not None
    for index, code in ((0, "M002"), (2, "M001")):
        with pytest.raises(MediaError) as error:
            cached.read(index, recipe, (0,))
        assert error.value.code == code


def test_values_that_are_not_finite_are_never_kept(toy, media_folder, tmp_path):
    spec = toy_spec(tmp_path / "features")
    recipe = build_recipe(spec)
    prepared = recipe.audio_encoder.prepare

    def spoilt(clip):
        return torch.full_like(prepared(clip), float("nan")) if clip.seconds > 2.9 else prepared(clip)

    type(recipe.audio_encoder).prepare, kept = staticmethod(spoilt), type(recipe.audio_encoder).prepare
    try:
        cached, report = prepare_reported(ManifestDataset(items(media_folder)[:2]), Features(recipe, CPU, spec))
        assert report.failed == {"both.mp4": "D032 the audio encoder gives values that are not finite"}
        assert cached.read(1, recipe, (0,)).audio is not None
        with pytest.raises(DataError) as error:
            cached.read(0, recipe, (0,))
        assert error.value.code == "D030"
    finally:
        type(recipe.audio_encoder).prepare = kept


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([0.1, -3.0, 60000.0], torch.float16),
        ([0.0, 0.0], torch.float16),
        ([1e-3, 70000.0], torch.float32),
        ([3e-8, -2e-8], torch.float32),
    ],
)
def test_half_precision_only_where_it_is_precise(values, kept):
    data = torch.tensor([values])
    found = compact(data)
    assert found.dtype is kept
    assert (found.float() - data).norm() <= 1e-3 * data.norm()


def test_a_clips_tokens_do_not_depend_on_its_neighbours(toy, media_folder, tmp_path):
    spec = toy_spec(tmp_path / "features")
    shapes = []
    recipe = build_recipe(spec)
    recipe.audio_encoder.register_forward_pre_hook(lambda module, args: shapes.append(args[0].lengths.tolist()))
    prepare(ManifestDataset(items(media_folder)), recipe, CPU, spec)
    assert all(len(set(lengths)) == 1 for lengths in shapes)  # no padding
    assert max(map(len, shapes)) > 1  # and batches all the same


def test_a_dataset_without_identities_stays_as_it_is(toy, media_folder, tmp_path):
    class Drawn(ManifestDataset):
        def identity(self, index):
            return None

    data = Drawn(items(media_folder))
    cached, report, _ = toy_run(tmp_path, data)
    assert cached is data
    assert not report.same
    assert not (tmp_path / "features").exists()


# --- what is cached --------------------------------------------------------------------------------------------------


class Part(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.Sequential(*parts)


def frozen(*parts):
    return Part(*parts).requires_grad_(False)


@pytest.mark.parametrize(
    ("encoder", "reason"),
    [
        (frozen(nn.Linear(2, 2)), None),
        (Part(nn.Linear(2, 2)), "it is trained"),
        (frozen(nn.Dropout(0.1)), "it has dropout in training"),
        (frozen(nn.Dropout(0.0)), None),
        (keep_eval(frozen(nn.Dropout(0.1))), None),
        (frozen(keep_eval(nn.Dropout(0.1))), None),
        (frozen(nn.BatchNorm1d(2)), "its statistics change in training"),
        (frozen(keep_eval(nn.BatchNorm1d(2))), None),
        (object(), "it is no torch module"),
    ],
)
def test_which_encoders_are_cached(encoder, reason):
    assert why_not(encoder) == reason


def test_an_encoder_that_augments_is_not_cached():
    encoder = frozen(nn.Linear(2, 2))
    encoder.augments = True
    assert why_not(encoder) == "its input is augmented in training"


def test_asking_leaves_modes_as_they_were():
    part = frozen(nn.Dropout(0.1), nn.Linear(2, 2))
    part.parts[0].train(False)
    modes = [module.training for module in part.modules()]
    why_not(part)
    assert [module.training for module in part.modules()] == modes


def test_filling_is_in_eval_mode_and_leaves_the_mode(toy, media_folder, tmp_path):
    spec = toy_spec(tmp_path / "features")
    recipe = build_recipe(spec).train()
    modes = []
    recipe.audio_encoder.register_forward_pre_hook(lambda module, args: modes.append(module.training))
    prepare(ManifestDataset(items(media_folder)[:1]), recipe, CPU, spec)
    assert modes == [False]
    assert recipe.audio_encoder.training


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return write_models(tmp_path_factory.mktemp("models"))


FROZEN = ["audio_encoder.tune={mode: freeze}", "audio_encoder.spec_augment=null"]


def lavcap_spec(models, *changes):
    return read(find("lavcap"), [*settings(models), *FROZEN, *changes])


def keys(spec, backend=CPU, change=None):
    recipe = encoders(spec)
    if change is not None:
        change(recipe)
    found = Features(recipe, backend, spec).shards
    return {modality: shards.key for modality, shards in found.items()}


@pytest.fixture(scope="module")
def base_keys(models):
    return keys(lavcap_spec(models))


def nudge(tensor):
    with torch.no_grad():
        tensor.view(-1)[0] += 1e-6


@pytest.mark.parametrize(
    ("changed", "settings"),
    [
        ({"audio"}, ["audio_encoder.front_end=kaldi"]),
        ({"audio"}, ["audio_encoder.pool=none"]),
        ({"audio"}, ["audio_encoder.seed=5"]),
        ({"visual"}, ["visual_encoder.frames=10"]),
        ({"audio", "visual"}, ["windows.seconds=5.0", "windows.hop=5.0"]),
        ({"audio", "visual"}, ["windows.limit=5.0"]),
        (set(), ["windows.hop=5.0"]),
        (
            set(),
            ["audio_encoder.tune.rank=3", "train.lr=1e-3", "generate.beams=1", "fuser=concat", "decoder.tune.rank=2"],
        ),
    ],
)
def test_a_setting_changes_the_keys_of_what_depends_on_it(models, base_keys, changed, settings):
    found = keys(lavcap_spec(models, *settings))
    assert {modality for modality in base_keys if found[modality] != base_keys[modality]} == changed


@pytest.mark.parametrize(
    ("changed", "change"),
    [
        ({"audio"}, lambda recipe: nudge(next(recipe.audio_encoder.parameters()))),
        ({"audio"}, lambda recipe: nudge(next(recipe.audio_encoder.buffers()))),
        ({"audio"}, lambda recipe: recipe.audio_encoder.register_buffer("more", torch.ones(1), persistent=False)),
        ({"audio"}, lambda recipe: recipe.audio_encoder.double()),
        ({"visual"}, lambda recipe: nudge(list(recipe.visual_encoder.parameters())[-1])),
        ({"visual"}, lambda recipe: setattr(recipe.visual_encoder, "mean", (0.5, 0.5, 0.5))),
        ({"visual"}, lambda recipe: setattr(recipe.visual_encoder, "table", np.arange(3))),
        ({"visual"}, lambda recipe: setattr(recipe.visual_encoder.model.config, "num_attention_heads", 1)),
        ({"visual"}, lambda recipe: setattr(recipe.visual_encoder, "image_size", 64)),
        ({"visual"}, lambda recipe: setattr(recipe.visual_encoder, "labels", np.array(["a", "b"]))),
        (set(), lambda recipe: recipe.train()),
    ],
)
def test_weights_and_attributes_change_the_keys(models, base_keys, changed, change):
    found = keys(lavcap_spec(models), change=change)
    assert {modality for modality in base_keys if found[modality] != base_keys[modality]} == changed


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.relu, torch.tanh),
        (write_clip, write_picture),
        (Path("a"), Path("b")),
        (nn.ReLU, nn.GELU),
        (np.float32(1), np.float32(2)),
        (np.array(["a"]), np.array(["b"])),
        (np.array([None, "a"], dtype=object), np.array([None, "b"], dtype=object)),
    ],
)
def test_functions_paths_and_texts_count_by_what_they_are(one, other):
    def hashed(value):
        module = nn.Linear(1, 1)
        module.told = value
        return feature_keys._attributes_hash(module)

    assert hashed(one) == hashed(one)
    assert hashed(one) != hashed(other)


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (feature_keys, "FEATURES_RULE", 99),
        (media, "FRAME_RULE", 99),
        (feature_keys, "version", lambda name: "99.0"),
    ],
)
def test_rules_and_versions_change_the_keys(models, base_keys, monkeypatch, place, name, value):
    monkeypatch.setattr(place, name, value)
    found = keys(lavcap_spec(models))
    assert all(found[modality] != base_keys[modality] for modality in base_keys)


def test_precision_changes_the_keys(models, base_keys):
    found = keys(lavcap_spec(models), TorchBackend("cpu", "bfloat16"))
    assert all(found[modality] != base_keys[modality] for modality in base_keys)


def test_the_encoders_own_source_changes_the_key(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    for text in ("SCALE = 1", "SCALE = 2"):
        (tmp_path / "mine" / "__init__.py").write_text("")
        (tmp_path / "mine" / "scale.py").write_text(text)
    package = type(sys)("mine")
    package.__file__ = str(tmp_path / "mine" / "__init__.py")
    monkeypatch.setitem(sys.modules, "mine", package)
    encoder = type("Mine", (nn.Module,), {"__module__": "mine.encoder"})()
    before = feature_keys._sources(encoder)
    (tmp_path / "mine" / "scale.py").write_text("SCALE = 3")
    assert feature_keys._sources(encoder) != before


def test_a_component_of_the_same_name_from_another_place_has_another_key(toy, tmp_path):
    spec = toy_spec(tmp_path)
    recipe = build_recipe(spec)
    audio = spec.pipeline.audio_encoder
    other = replace(audio, distribution="lavcap-core")
    one = ingredients("audio", recipe, CPU, spec)
    spec = replace(spec, pipeline=spec.pipeline.model_copy(update={"audio_encoder": other}))
    assert ingredients("audio", recipe, CPU, spec) != one


def test_entries_of_another_key_are_not_looked_at(tmp_path):
    mine, other = Shards(tmp_path, "a"), Shards(tmp_path, "b")
    other.add("clip", Entry(Ready(torch.ones(2, 3), torch.ones(2, dtype=torch.bool)), 1.0))
    other.flush()
    mine.open()
    other.open()
    assert ("clip" in mine, "clip" in other) == (False, True)


# --- the content of files --------------------------------------------------------------------------------------------


def replaced(path, content, when):
    """Another file of the same size and time of change in its place."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    os.utime(temporary, (when, when))
    temporary.replace(path)


def rewritten(path, content, when):
    path.write_bytes(content)
    os.utime(path, (when, when))


@pytest.mark.parametrize("change", [replaced, rewritten])
def test_a_file_with_the_size_and_time_of_the_one_before_is_another_one(tmp_path, monkeypatch, change):
    monkeypatch.setattr(contents, "_SETTLED", 0)
    path = tmp_path / "clip.bin"
    path.write_bytes(b"one")
    os.utime(path, (1e9, 1e9))
    time.sleep(0.05)  # a tick of the file system's clock
    found = contents.Contents(tmp_path / "contents.sqlite")
    first = found.hash(path)
    assert found.hash(path) == first
    change(path, b"two", 1e9)
    assert found.hash(path) != first


def test_a_file_is_read_again_only_when_it_may_have_changed(tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "_SETTLED", 0)
    path = tmp_path / "clip.bin"
    path.write_bytes(b"one")
    time.sleep(0.05)
    file = tmp_path / "contents.sqlite"
    found = contents.Contents(file)
    digest = found.hash(path)
    found.flush()
    opened = []
    usual = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *args: opened.append(self) or usual(self, *args))
    assert contents.Contents(file).hash(path) == digest
    assert opened == []


def test_a_file_that_was_just_written_is_not_trusted_to_stay(tmp_path):
    path = tmp_path / "clip.bin"
    path.write_bytes(b"one")
    found = contents.Contents(tmp_path / "contents.sqlite")
    found.hash(path)
    assert not found._pending


@pytest.mark.parametrize("content", [b"no database at all, but long enough to look like one" * 50, b""])
def test_hashes_are_right_whatever_happened_to_their_file(tmp_path, content):
    path = tmp_path / "clip.bin"
    path.write_bytes(b"one")
    os.utime(path, (1e9, 1e9))
    (tmp_path / "contents.sqlite").write_bytes(content)
    found = contents.Contents(tmp_path / "contents.sqlite")
    assert found.hash(path) == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"
    found.flush()


def test_a_clip_that_is_replaced_is_computed_again(toy, media_folder, tmp_path):
    clip = tmp_path / "clip.wav"
    clip.write_bytes((media_folder / "blind.wav").read_bytes())
    data = ManifestDataset([Item(str(clip), "clip", captions=("a",))])
    cached, _, recipe = toy_run(tmp_path, data)
    loud = cached.read(0, recipe, (0,)).audio.data
    stamp = clip.stat()
    sound = bytearray(clip.read_bytes())
    sound[1000:] = bytes(len(sound) - 1000)
    clip.write_bytes(sound)
    os.utime(clip, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    cached, report, recipe = toy_run(tmp_path, data)
    assert report.computed == {"audio": 1, "visual": 1}
    assert cached.read(0, recipe, (0,)).audio.data.max() < loud.max()


def test_a_clip_that_changes_while_it_is_read_is_not_kept(toy, media_folder, tmp_path):
    clip = tmp_path / "clip.wav"
    clip.write_bytes((media_folder / "blind.wav").read_bytes())

    class Busy(ManifestDataset):
        def read(self, *args):
            clip.write_bytes(clip.read_bytes() + b"\0\0")
            return super().read(*args)

    _, report, _ = toy_run(tmp_path, Busy([Item(str(clip), "clip", captions=("a",))]))
    assert report.failed == {"clip": "D033 it was changed while it was read"}
    assert shard_files(tmp_path) == []


# --- accidents -------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_of_a_shard_is_noticed(tmp_path):
    kept = Shards(tmp_path, "key")
    kept.add("clip", Entry(Ready(torch.ones(2, 3).half(), torch.ones(2, dtype=torch.bool), torch.ones(2)), 1.0))
    kept.flush()
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        kept.open()
        assert kept.damaged == [path.name], place
        assert "clip" not in kept
    path.write_bytes(whole[:-1])
    kept.open()
    assert "clip" not in kept
    path.write_bytes(whole)
    kept.open()
    assert kept.read("clip").tokens.data.shape == (2, 3)


def test_clips_of_a_damaged_shard_are_computed_again_and_it_is_said(toy, media_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(shards, "_CLIPS", 3)
    data = ManifestDataset(items(media_folder))
    before, _, recipe = toy_run(tmp_path, data)
    samples = [before.read(index, recipe, (0,)) for index in range(len(data.names))]
    victim = next(path for path in shard_files(tmp_path) if path.parent.name.startswith("loudness"))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    capsys.readouterr()
    after, report, _ = toy_run(tmp_path, data)
    assert set(report.computed) == {"audio"}
    assert 1 <= report.computed["audio"] <= 3
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert victim.name in said[0]
    assert "damaged" in said[0]
    for index, sample in enumerate(samples):
        found = after.read(index, recipe, (0,))
        assert (found.audio is None and sample.audio is None) or torch.equal(found.audio.data, sample.audio.data)
    assert toy_run(tmp_path, data)[1].computed == {}
    assert capsys.readouterr().err == ""


def write_manifest(tmp_path, count):
    """Wav files of different content."""
    rows = []
    for number in range(count):
        path = tmp_path / f"{number}.wav"
        write_clip(
            path, 1, video=None, audio="pcm_s16le", sound=tone(1.0 + 0.1 * number, 16000, 1), rate=16000, layout="mono"
        )
        rows.append(json.dumps({"clip": path.name, "caption": f"tone {number}"}))
    (tmp_path / "list.jsonl").write_text("\n".join(rows))
    return tmp_path / "list.jsonl"


def filling(site, manifest, tmp_path, *more, **environment):
    path = os.pathsep.join([str(site.folder), str(TOY), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, str(TOY / "filling.py"), str(manifest), str(tmp_path / "features"), *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
    )


def finished(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


def test_killed_while_filling_it_goes_on_after_the_last_whole_shard(toy, tmp_path):
    manifest = write_manifest(tmp_path, 8)
    process = filling(toy, manifest, tmp_path, "0.3")
    deadline = time.monotonic() + 60
    while len(shard_files(tmp_path)) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    there = sum(path.parent.name.startswith("loudness") for path in shard_files(tmp_path))
    assert 1 <= there < 8
    data = ManifestDataset(read_manifest(manifest))
    cached, report, recipe = toy_run(tmp_path, data)
    assert report.computed["audio"] == 8 - there
    assert all(cached.read(index, recipe, (0,)).audio is not None for index in range(8))


def test_two_runs_at_once(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "_CLIPS", 2)
    data = ManifestDataset(read_manifest(write_manifest(tmp_path, 7)))
    spec = toy_spec(tmp_path / "features")
    recipes = [build_recipe(spec) for _ in range(2)]
    start = threading.Barrier(2)

    def run(recipe):
        kept = Features(recipe, CPU, spec)
        start.wait()
        return prepare_reported(data, kept)

    with ThreadPoolExecutor(2) as pool:
        (one, first), (other, second) = pool.map(run, recipes)
    assert first.computed["audio"] + second.computed["audio"] >= 7
    for index in range(7):
        left, right = (cached.read(index, recipes[0], (0,)) for cached in (one, other))
        assert torch.equal(left.audio.data, right.audio.data)
    assert toy_run(tmp_path, data)[1].computed == {}


def test_processes_of_one_run_share_the_work(toy, tmp_path):
    toy_run(tmp_path, ManifestDataset(read_manifest(write_manifest(tmp_path, 5))))
    more = write_manifest(tmp_path, 12)  # 7 are missing, for two processes
    port = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000), "WORLD_SIZE": "2"}
    pair = [filling(toy, more, tmp_path, RANK=rank, LOCAL_RANK=rank, **port) for rank in ("0", "1")]
    first, second = map(finished, pair)
    assert json.loads(first) == {"computed": {"audio": 7, "visual": 7}, "failed": {}, "read": 12}
    assert second == ""


def test_threads_read_at_once(toy, media_folder, tmp_path):
    data = ManifestDataset(items(media_folder))
    cached, _, recipe = toy_run(tmp_path, data)
    wanted = [cached.read(index, recipe, (0,)) for index in range(len(data.names))]
    wrong = []

    def work():
        for _ in range(20):
            for index, sample in enumerate(wanted):
                found = cached.read(index, recipe, (0,))
                if sample.audio is not None and not torch.equal(found.audio.data, sample.audio.data):
                    wrong.append(index)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_full_disk_is_said_and_nothing_half_is_left(toy, media_folder, tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.os, "fsync", full)
    with pytest.raises(DataError) as error:
        toy_run(tmp_path, ManifestDataset(items(media_folder)))
    assert error.value.code == "D031"
    assert "No space left" in str(error.value)
    monkeypatch.undo()
    assert not [path for path in (tmp_path / "features").rglob("*") if path.suffix in (".tmp", ".safetensors")]


def test_what_killed_writers_left_is_removed_when_it_is_old(toy, media_folder, tmp_path):
    toy_run(tmp_path, ManifestDataset(items(media_folder)[:1]))
    folder = shard_files(tmp_path)[0].parent
    for name, age in ((".old.tmp", 7200), (".young.tmp", 1)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (time.time() - age,) * 2)
    toy_run(tmp_path, ManifestDataset(items(media_folder)[:1]))
    assert [path.name for path in folder.glob(".*.tmp")] == [".young.tmp"]


def test_pruning_removes_what_was_not_used_for_long(toy, media_folder, tmp_path):
    data = ManifestDataset(items(media_folder)[:1])
    toy_run(tmp_path, data)
    toy_run(tmp_path, data, "audio_encoder.width=3", "visual_encoder.width=3")
    folders = sorted(path.parent for path in (tmp_path / "features").glob("*/about.json"))
    assert len(folders) == 4
    for folder in folders:
        os.utime(folder / "about.json", (time.time() - 9 * 86400,) * 2)
    toy_run(tmp_path, data)  # uses two of them
    assert prune(tmp_path / "features", 10) == (0, 0)
    count, size = prune(tmp_path / "features", 8)
    assert count == 2
    assert size > 0
    assert toy_run(tmp_path, data)[1].computed == {}


def test_pruning_removes_nothing_but_the_caches_own_files(toy, media_folder, tmp_path):
    toy_run(tmp_path, ManifestDataset(items(media_folder)[:1]))
    folder = shard_files(tmp_path)[0].parent
    (folder / "notes.txt").write_text("mine")
    (folder / "mine.safetensors").write_text("mine")
    for left in (".left.tmp", ".about.json.123"):
        (folder / left).write_text("half")
    for content in ("{}", "[]", "no json"):
        other = tmp_path / "features" / f"site{content}"
        other.mkdir()
        (other / "about.json").write_text(content)
    for about in (tmp_path / "features").glob("*/about.json"):
        os.utime(about, (1e9, 1e9))
    assert prune(tmp_path / "features", 8)[0] == 2
    assert sorted(path.name for path in folder.iterdir()) == ["mine.safetensors", "notes.txt"]
    others = {path.name for path in (tmp_path / "features").iterdir() if path != folder}
    assert others == {"siteno json", "site[]", "site{}"}


# --- commands --------------------------------------------------------------------------------------------------------


def command_spec(tmp_path, **train):
    manifest = write_manifest(tmp_path, 4)
    (tmp_path / "held-out.jsonl").write_text('{"clip": "3.wav", "caption": "a"}\n{"clip": "gone.wav", "caption": "b"}')
    settings = {"data": manifest.name, "validation": "held-out.jsonl", "cache_folder": "features", **train}
    text = TRAIN_SPEC.partition("train:")[0] + "train: " + json.dumps(settings)
    (tmp_path / "toy.yaml").write_text(text)
    return str(tmp_path / "toy.yaml")


def test_the_command_says_what_is_kept_and_what_failed(toy, tmp_path, capsys):
    spec = command_spec(tmp_path)
    assert main(["data", "features", spec, "--workers", "1"]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == ["gone.wav: M001 no such file"]
    first, second, third = said.out.splitlines()
    assert first == "train.data: 4 clips, 4 computed now (audio), 0 errors"
    assert second == "train.validation: 2 clips, nothing computed now, 1 errors"
    assert third.startswith(f"audio_encoder: 4 clips in {tmp_path / 'features' / 'loudness-'}")
    assert third.endswith(" kB each")
    (tmp_path / "features" / "of-yore").mkdir()
    about = json.dumps(dict.fromkeys(["rule", "modality", "component", "weights"], "?"))
    (tmp_path / "features" / "of-yore" / "about.json").write_text(about)
    os.utime(tmp_path / "features" / "of-yore" / "about.json", (1e9, 1e9))
    main(["data", "features", spec, "--prune", "30"])
    assert capsys.readouterr().out.splitlines()[-1] == "removed the features of 1 encoders, 0.0 MB"


@pytest.mark.parametrize("days", ["0", "-1", "nan", "soon"])
def test_what_was_just_computed_is_not_pruned(toy, tmp_path, capsys, days):
    with pytest.raises(SystemExit) as stopped:
        main(["data", "features", command_spec(tmp_path), "--prune", days])
    assert stopped.value.code == 2
    assert "--prune" in capsys.readouterr().err


def test_the_command_says_why_an_encoder_is_not_cached(models, tmp_path, capsys):
    (tmp_path / "list.jsonl").write_text('{"clip": "gone.wav", "caption": "b"}')
    changes = [f"train.data={tmp_path / 'list.jsonl'}", f"train.cache_folder={tmp_path / 'features'}"]
    words = [word for change in [*settings(models), *changes] for word in ("--set", change)]
    assert main(["data", "features", "lavcap", *words]) == 1
    assert "audio_encoder: not cached, it is trained" in capsys.readouterr().out


def test_a_spec_without_data_is_refused(toy, tmp_path, capsys):
    (tmp_path / "toy.yaml").write_text(TOY_SPEC)
    assert main(["data", "features", str(tmp_path / "toy.yaml")]) == 2
    assert "C024" in capsys.readouterr().err


@pytest.mark.parametrize("cache", [False, True])
def test_training_on_clips_of_a_test_is_refused(toy, tmp_path, cache):
    spec = command_spec(tmp_path, validation=None, cache=cache)
    manifest = tmp_path / "list.jsonl"
    rows = [json.loads(line) | {"split": "test"} for line in manifest.read_text().splitlines()]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(DataError, match="C027"):
        train(read(spec), tmp_path / "run", quiet=True)


def test_training_goes_the_same_way_with_the_cache_and_reads_each_clip_once(toy, tmp_path, monkeypatch):
    reads, losses = [], {}
    usual = media.read_item
    monkeypatch.setattr(media, "read_item", lambda item, request: reads.append(item.name) or usual(item, request))
    for cache in (False, True):
        spec = read(command_spec(tmp_path, validation=None, cache=cache, epochs=3, batch=2, lr=1e-2))
        reads.clear()
        train(spec, tmp_path / f"run-{cache}", quiet=True)
        log = (tmp_path / f"run-{cache}" / "log.jsonl").read_text().splitlines()
        losses[cache] = [json.loads(line)["loss"] for line in log]
        assert len(reads) == (4 if cache else 12)
    assert losses[True] == pytest.approx(losses[False], rel=1e-3)


# --- LAVCap's classes ------------------------------------------------------------------------------------------------


def losses(recipe, dataset, seed=3):
    """Loss terms of all clips in one batch, in training mode with all dropout off but that of nothing frozen."""
    torch.manual_seed(seed)
    batch = Batch.of([dataset.read(index, recipe, (0, index)) for index in range(len(dataset.names))])
    found = recipe.eval()(batch)
    return found.caption, found.alignment


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("changes", "cached", "left_out"),
    [
        (FROZEN, {"audio", "visual"}, {}),
        ([], {"visual"}, {"audio_encoder": "it is trained"}),
        (["visual_encoder.tune.mode=lora", *FROZEN], {"audio"}, {"visual_encoder": "it is trained"}),
        (
            [FROZEN[0], "audio_encoder.spec_augment={}"],
            {"visual"},
            {"audio_encoder": "its input is augmented in training"},
        ),
    ],
)
def test_the_loss_is_that_of_live_encoders(models, media_folder, tmp_path, dtype, changes, cached, left_out):
    spec = read(find("lavcap"), [*settings(models), *changes, f"train.cache_folder={tmp_path / 'features'}"])
    torch.manual_seed(0)
    recipe, backend = build_recipe(spec), TorchBackend("cpu", dtype)
    features_ = Features(recipe, backend, spec)
    assert (set(features_.shards), features_.left_out) == (cached, left_out)
    data = Counting(items(media_folder))
    with_cache, report = prepare_reported(data, features_)
    assert set(report.computed) == cached
    with backend.autocast():
        caption, alignment = losses(recipe, ManifestDataset(data.items))
        found = losses(recipe, with_cache)
    tolerance = 1e-3 if dtype == "float32" else 1e-2
    assert torch.allclose(found[0].float(), caption.float(), rtol=tolerance)
    assert torch.allclose(found[1].float(), alignment.float(), rtol=tolerance, atol=1e-5)


def test_no_frame_is_decoded_for_a_cached_visual_encoder(models, media_folder, tmp_path, monkeypatch):
    spec = read(find("lavcap"), [*settings(models), f"train.cache_folder={tmp_path / 'features'}"])
    recipe = build_recipe(spec)
    cached = prepare(ManifestDataset(items(media_folder)), recipe, CPU, spec)
    requests = []
    usual = media.read_item
    monkeypatch.setattr(media, "read_item", lambda item, request: requests.append(request) or usual(item, request))
    samples = [cached.read(index, recipe, (0,)) for index in (0, 1, 4)]
    assert [request.frames for request in requests] == [0, 0, 0]
    assert all(isinstance(sample.audio, torch.Tensor) for sample in samples)
    assert all(isinstance(sample.visual, Ready) for sample in samples[:2])


def test_modalities_together_make_a_batch(models, media_folder, tmp_path):
    spec = read(find("lavcap"), [*settings(models), f"train.cache_folder={tmp_path / 'features'}"])
    recipe = build_recipe(spec)
    cached = prepare(ManifestDataset(items(media_folder)), recipe, CPU, spec)
    batch = Batch.of([cached.read(index, recipe, (0,)) for index in range(5)])
    assert isinstance(batch.visual, Tokens)
    assert batch.pairs().tolist() == [True, True, True, False, False]
    assert AUDIO not in batch.visual.modality
