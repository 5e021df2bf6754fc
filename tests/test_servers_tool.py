"""The tool that gets other servers: what it makes of wheels, and what it says where it can't."""

import shutil
import subprocess
from pathlib import Path

import pytest
from pymongo import MongoClient

from tools import mongod, servers

ROOT = Path(__file__).parents[1]


@pytest.fixture
def wheels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed is a `mongod` that says its version and where it looks for libraries, and an OpenSSL."""

    def install(target: Path, *arguments: str) -> None:
        executable = target / "bin" / "mongod"
        executable.parent.mkdir(parents=True, exist_ok=True)
        executable.write_text('#!/bin/sh\necho "db version v4.4.2 $LD_LIBRARY_PATH"\n')
        libraries = target / "driver" / ".libs"
        libraries.mkdir(parents=True, exist_ok=True)
        for name in ("libssl-0123.so.1.0.2n", "libcrypto-4567.so.1.0.2n", "libz-89ab.so.1"):
            (libraries / name).touch()

    monkeypatch.setattr(servers, "_install", install)


@pytest.mark.usefixtures("wheels")
@pytest.mark.skipif(not (shutil.which("cc") or shutil.which("gcc")), reason="there is no C compiler")
def test_version(tmp_path: Path) -> None:
    """The folder for PATH has a `mongod` that finds OpenSSL by the names that it looks for, and libcurl."""
    folder = servers.prepare("4.4.2", tmp_path)
    assert servers.prepare("4.4.2", tmp_path) == folder
    said = subprocess.run([folder / "mongod"], capture_output=True, text=True, check=True).stdout
    libraries = Path(said.split()[-1])
    assert {"libssl.so.1.0.0", "libcrypto.so.1.0.0", "libcurl.so.4", "libz-89ab.so.1"} <= {
        path.name for path in libraries.iterdir()
    }


@pytest.mark.usefixtures("wheels")
def test_version_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version than the wheel's, or no compiler: the error says so, and nothing is left that looks complete."""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(mongod.NoServerError, match="a C compiler"):
        servers.prepare("4.4.2", tmp_path)
    monkeypatch.setattr(servers, "_compile_stub", lambda folder, version: None)
    with pytest.raises(mongod.NoServerError, match=r"MongoDB 5\.0\.32 doesn't start"):
        servers.prepare("5.0.32", tmp_path)
    assert not list(tmp_path.glob("*/mongod"))


def test_documentdb(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MONGODB_URI then names the stand-in."""
    monkeypatch.setenv("MONGODB_URI", uri)
    with (
        servers.environment(servers.DOCUMENTDB, tmp_path) as variables,
        MongoClient(variables["MONGODB_URI"]) as client,
    ):
        assert client.admin.command("hello")["maxWireVersion"] == 13


def test_sessions_of_nox() -> None:
    """Nox has a session for each of the servers."""
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    assert all(f'"{name}"' in noxfile for name in (*servers.VERSIONS, *servers.LOOK_ALIKES, servers.DOCUMENTDB))
