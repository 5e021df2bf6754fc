"""Replica sets in a network (tools/network.py), and members in trouble: other clocks, an arbiter, a full disk."""

import contextlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from pymongo import WriteConcern, timeout
from pymongo.errors import PyMongoError

from tools.mongod import REPLICA_SET, Mongod, NoServerError, client_to, executable
from tools.network import HERE, Network
from tools.replica_set import PATIENCE, ReplicaSet

SERVERS = ("s0", "s1", "s2")
"""The nodes of a cluster's members."""


class Member(Mongod):
    """A mongod in a node of a network.

    Args:
        network: The network.
        node: The node.
        binary, folder, options: As for `Mongod`.
        prefix: A command that starts mongod in its own place, as `env` does.
    """

    def __init__(
        self, network: Network, node: str, binary: str, folder: Path, options: Sequence[str], *, prefix: Sequence[str]
    ) -> None:
        self.network = network
        self.node = node
        self._prefix = prefix
        super().__init__(binary, folder, options)

    @property
    def host(self) -> str:
        """Address and port, as the other nodes see them."""
        return self.network.listens(self.node, self.port)[1]

    def launch(self) -> None:
        """Start the process in its node, and do not wait for it."""
        command = [*self._prefix, *self._command, "--port", str(self.port)]
        command[command.index("127.0.0.1")] = self.network.listens(self.node, self.port)[0]
        with self.network.inside(self.node):
            self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.network.adopt(self.node, self.process.pid)

    def pause(self) -> None:
        """Stop it, with SIGSTOP: its connections stay open, and nothing is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it continue, if it was paused."""
        self.process.send_signal(signal.SIGCONT)


class Cluster(ReplicaSet):
    """A running replica set in a network.

    Attributes:
        arbiter: The member that votes and has no data, if there is one; it is not in `members`.
    """

    members: Sequence[Member]

    def __init__(self, uri: str, members: Sequence[Member], arbiter: Member | None) -> None:
        super().__init__(uri, members)
        self.arbiter = arbiter

    def primary(self) -> Member:
        """The server that is the primary, as soon as there is one that has just taken a majority's write."""
        with client_to(self.uri) as client, timeout(PATIENCE):
            address = None
            while address is None:  # forgotten by the client in this very moment
                address = client.address
        return next(member for member in self.members if member.host == "{}:{}".format(*address))

    def secondaries(self) -> list[Member]:
        """The other members that have data."""
        primary = self.primary()
        return [member for member in self.members if member is not primary]

    def state(self, member: Member) -> Mapping[str, Any]:
        """What a member says of itself: its reply to `hello`, as soon as it answers."""
        with client_to(self.uri, member.host) as client:
            hello: Mapping[str, Any] = client.admin.command("hello")
            return hello


@contextlib.contextmanager
def cluster(
    network: Network,
    *,
    prefixes: Mapping[str, Sequence[str]] | None = None,
    folders: Mapping[str, Path] | None = None,
    arbiter: bool = False,
) -> Iterator[Cluster]:
    """A replica set of three members that answer, and writes are taken. Until it ends, this thread is inside `HERE`.

    Args:
        network: It has the nodes SERVERS.
        prefixes: Commands that start the members in these nodes (see `Member`).
        folders: Where the members in these nodes keep their data.
        arbiter: The last member is one (PSA: primary, secondary, arbiter).

    Raises:
        NoServerError: None can be started.
    """
    binary = executable()
    with (
        network.inside(HERE),
        tempfile.TemporaryDirectory(prefix="quaestor-cluster-", ignore_cleanup_errors=True) as name,
        contextlib.ExitStack() as stack,
    ):
        members: list[Member] = []
        for node in SERVERS:
            folder = (folders or {}).get(node, Path(name)) / node
            prefix = (prefixes or {}).get(node, ())
            members.append(Member(network, node, binary, folder, ("--replSet", REPLICA_SET), prefix=prefix))
            stack.callback(members[-1].kill)
        for member in members:
            member.ready(movable=True)
        data = members[:-1] if arbiter else members
        hosts = [{"_id": number, "host": member.host} for number, member in enumerate(members)]
        if arbiter:
            hosts[-1]["arbiterOnly"] = True
        settings = {"electionTimeoutMillis": 2_000, "heartbeatIntervalMillis": 500, "heartbeatTimeoutSecs": 2}
        uri = f"mongodb://{','.join(member.host for member in data)}/"
        with client_to(uri, members[0].host) as client:
            client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": hosts, "settings": settings})
        group = Cluster(f"{uri}?replicaSet={REPLICA_SET}", data, members[-1] if arbiter else None)
        group.wait()
        yield group


def clock_ahead(seconds: int) -> list[str]:
    """A prefix: the wall clock is ahead by so much (negative: behind), the monotonic clocks are right.

    Raises:
        NoServerError: The package libfaketime isn't installed.
    """
    try:
        files = metadata.files("libfaketime") or []
    except metadata.PackageNotFoundError:
        raise NoServerError("libfaketime isn't installed.") from None
    library = next(Path(str(file.locate())) for file in files if file.name.startswith("libfaketime.so"))
    return [
        *("env", f"LD_PRELOAD={library}", f"FAKETIME={seconds:+d}"),
        *("DONT_FAKE_MONOTONIC=1", "FAKETIME_DONT_FAKE_MONOTONIC=1", "NO_FAKE_STAT=1"),
        "FAKETIME_FORCE_MONOTONIC_FIX=0",  # the fix makes mongod's waits longer: an insert took 250 ms, not 10
    ]


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of so many megabytes, mounted on a folder that exists; return the folder.

    Raises:
        subprocess.CalledProcessError: This process may not mount one: only root may.
    """
    options = f"size={megabytes}m,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "quaestor", folder], check=True)  # noqa: S607 - likewise
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)  # noqa: S607 - wherever the system has it


def fill(disk: Path) -> Path:
    """Fill a disk to its last byte with a file, and return that."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(65_536))
    return ballast


def roll_back(group: Cluster, namespace: tuple[str, str], document: dict[str, Any]) -> None:
    """Insert a document that only the primary has acknowledged, and have it rolled back.

    The primary is cut off from the other members, a new one is elected and takes a write, and the old one rejoins.
    """
    database, collection = namespace
    old = group.primary()
    with client_to(group.uri, old.host) as client:
        target = client[database].get_collection(collection, write_concern=WriteConcern(1))
        target.find_one()  # it is connected, so the write isn't late
        old.network.isolate(old.node, *SERVERS)
        target.insert_one(document)
    wait_until(lambda: any(group.state(other)["isWritablePrimary"] for other in group.members if other is not old))
    with client_to(group.uri) as client, timeout(PATIENCE):
        target = client[database].get_collection(collection, write_concern=WriteConcern(1))
        target.insert_one({"after": "the election"})
    old.network.heal()
    wait_until(lambda: bool(group.state(old)["secondary"]) and not _has(group, old, namespace, document))


def _has(group: Cluster, member: Member, namespace: tuple[str, str], document: Mapping[str, Any]) -> bool:
    database, collection = namespace
    with client_to(group.uri, member.host, readPreference="secondaryPreferred") as client:
        return client[database][collection].find_one({"_id": document["_id"]}) is not None


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; an error of the driver's means that it doesn't yet.

    Raises:
        TimeoutError: It never did.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(PyMongoError), timeout(5):
            if condition():
                return
        time.sleep(0.1)
    raise TimeoutError
