"""SPICE's jars: where they come from, what they are compared with, and that nothing half-done is left."""

from __future__ import annotations

import hashlib
import json
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from lavcap_core import cli
from lavcap_core.errors import BuildError
from lavcap_metrics import corenlp

CODE, MODELS = corenlp.JARS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LAVCAP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(corenlp, "_theirs", lambda: tmp_path / "pycocoevalcap")
    return tmp_path / "cache" / "spice" / "stanford-corenlp-3.6.0"


@pytest.fixture
def source(tmp_path):
    """A folder with files that look like the jars."""
    folder = tmp_path / "source" / "inner"
    folder.mkdir(parents=True)
    for name, entry in corenlp.JARS.items():
        with zipfile.ZipFile(folder / name, "w") as jar:
            jar.writestr(entry, f"made of {name}")
    return folder.parent


def digest(path, kind="sha256"):
    return hashlib.new(kind, path.read_bytes()).hexdigest()


def test_missing(cache):
    with pytest.raises(BuildError) as error:
        corenlp.find()
    assert error.value.code == "E040"
    assert f"SPICE needs {CODE} and {MODELS}, not found in {cache}" in str(error.value)
    assert "lavcap metrics install-spice" in str(error.value)


def test_from_a_folder(source, cache, capsys):
    assert cli.main(["metrics", "install-spice", "--from", str(source)]) == 0
    said = capsys.readouterr().out
    assert corenlp.find() == [cache / CODE, cache / MODELS]
    for name in corenlp.JARS:
        assert (cache / name).read_bytes() == (source / "inner" / name).read_bytes()
        assert corenlp.installed()[name].sha256 == digest(cache / name)
        assert digest(cache / name) in said
    assert "what it holds only" in said
    assert sorted(path.name for path in cache.iterdir()) == ["installed.json", MODELS, CODE]


def test_a_folder_named_in_the_settings(source):
    assert corenlp.find(str(source / "inner")) == [source / "inner" / CODE, source / "inner" / MODELS]


def test_jars_that_pycocoevalcap_fetched(source, tmp_path, capsys):
    (source / "inner").rename(tmp_path / "pycocoevalcap")
    assert corenlp.find() == [tmp_path / "pycocoevalcap" / name for name in corenlp.JARS]


def test_sums_that_lie_beside_are_compared(source, cache):
    inner = source / "inner"
    (inner / f"{CODE}.sha1").write_text(digest(inner / CODE, "sha1") + "\n")
    (inner / f"{MODELS}.sha256").write_text(f"{digest(inner / MODELS)}  {MODELS}\n")
    found = corenlp.install(source)
    assert [found[name].checked for name in corenlp.JARS] == [
        str(inner / f"{CODE}.sha1"),
        str(inner / f"{MODELS}.sha256"),
    ]
    before = (cache / CODE).read_bytes()
    with zipfile.ZipFile(inner / CODE, "a") as jar:
        jar.writestr("more", "of it")
    with pytest.raises(BuildError) as error:
        corenlp.install(source)
    assert error.value.code == "E041"
    assert (cache / CODE).read_bytes() == before
    assert corenlp.find()


@pytest.mark.parametrize("content", [b"no archive", None], ids=["no archive", "another jar"])
def test_what_is_no_such_jar_is_refused(source, cache, content):
    path = source / "inner" / MODELS
    if content is None:
        with zipfile.ZipFile(path, "w") as jar:
            jar.writestr("other", "")
    else:
        path.write_bytes(content)
    with pytest.raises(BuildError) as error:
        corenlp.install(source)
    assert error.value.code == "E041"
    assert list(cache.iterdir()) == []


def test_a_jar_that_changes_later_is_refused(source, cache):
    corenlp.install(source)
    with zipfile.ZipFile(cache / CODE, "a") as jar:
        jar.writestr("more", "of it")
    with pytest.raises(BuildError) as error:
        corenlp.find()
    assert error.value.code == "E041"


def test_an_empty_folder(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert cli.main(["metrics", "install-spice", "--from", str(tmp_path / "empty")]) == 2
    assert "E040" in capsys.readouterr().err


@pytest.fixture
def archive(source):
    """The publisher's archive, as far as it matters."""
    path = source.parent / corenlp.ARCHIVE
    with zipfile.ZipFile(path, "w") as packed:
        for name in corenlp.JARS:
            packed.write(source / "inner" / name, f"stanford-corenlp-full-2015-12-09/{name}")
    return path


def test_from_the_archive(archive, cache, source, monkeypatch):
    with pytest.raises(BuildError) as error:
        corenlp.install(archive)
    assert error.value.code == "E041"
    assert f"{digest(archive, 'sha1')}, and another project's installer says {corenlp.ARCHIVE_SHA1}" in str(error.value)
    monkeypatch.setattr(corenlp, "ARCHIVE_SHA1", digest(archive, "sha1"))
    corenlp.install(archive)
    assert (cache / MODELS).read_bytes() == (source / "inner" / MODELS).read_bytes()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(source, archive, monkeypatch):
    """Maven Central and the publisher, on this machine."""
    for name in corenlp.JARS:
        path = source / "inner" / name
        path.with_name(f"{name}.sha1").write_text(digest(path, "sha1"))
    handler = partial(Quiet, directory=str(source.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        at = f"http://127.0.0.1:{server.server_port}/"
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(corenlp, "MAVEN", f"{at}source/inner/")
        monkeypatch.setattr(corenlp, "PUBLISHER", at)
        monkeypatch.setattr(corenlp, "ARCHIVE_SHA1", digest(archive, "sha1"))
        yield at
        server.shutdown()


def test_from_maven_central(server, cache):
    found = corenlp.install()
    assert found[CODE].source == f"{server}source/inner/{CODE}"
    assert found[CODE].checked == f"SHA-1 {digest(cache / CODE, 'sha1')}, published beside it"
    assert json.loads((cache / "installed.json").read_text())[MODELS]["sha256"] == digest(cache / MODELS)
    assert corenlp.find()


def test_damaged_on_its_way(server, source, cache):
    (source / "inner" / f"{MODELS}.sha1").write_text("0" * 40)
    with pytest.raises(BuildError) as error:
        corenlp.install()
    assert error.value.code == "E041"
    assert list(cache.iterdir()) == []


def test_from_the_publisher_if_maven_central_has_none(server, source, cache):
    (source / "inner" / f"{MODELS}.sha1").unlink()
    found = corenlp.install()
    assert found[CODE].source == server + corenlp.ARCHIVE
    assert corenlp.find()


def test_no_network(monkeypatch, cache):
    monkeypatch.setattr(corenlp, "MAVEN", "http://127.0.0.1:9/")
    monkeypatch.setattr(corenlp, "PUBLISHER", "http://127.0.0.1:9/")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(BuildError) as error:
        corenlp.install()
    assert error.value.code == "E042"
    assert "--from FOLDER" in str(error.value)
