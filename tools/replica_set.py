"""Replica sets whose members can be lost: for tests of what an application sees then."""

import contextlib
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

from pymongo import timeout
from pymongo.errors import AutoReconnect, OperationFailure

from tools.mongod import REPLICA_SET, Client, Mongod, client_to, initiate, started

PATIENCE = 60.0  # seconds until a replica set that does not come to itself is given up
NOBODY_CAUGHT_UP = 262  # ExceededTimeLimit: what a step-down says that found no secondary to take over


@contextlib.contextmanager
def replica_set(nodes: int = 3, *, auth: bool = False) -> Iterator["ReplicaSet"]:
    """A replica set of its own, started here whatever MONGODB_URI says: all members are there, and writes are taken.

    Args:
        nodes: How many members.
        auth: They want a password. The URI is then that of a user who may do everything (role root).

    Raises:
        NoServerError: None can be started.
    """
    with started("--replSet", REPLICA_SET, nodes=nodes, auth=auth) as members:
        uri = initiate(members)
        if auth:
            uri = _with_root(uri)
        group = ReplicaSet(uri, members)
        group.wait()
        yield group


def _with_root(uri: str) -> str:
    """Make the first user, whom a server lets anyone on its own machine make (the localhost exception)."""
    password = secrets.token_urlsafe()
    with client_to(uri) as client:
        client.admin.command("createUser", "root", pwd=password, roles=["root"])
    return uri.replace("://", f"://root:{password}@")


class ReplicaSet:
    """A running replica set. What it does ends when a primary takes writes, or raises PyMongoError after 60 s.

    Attributes:
        uri: Names all members and, where a password is wanted, the user root. Options can be added: `uri + "&..."`.
        members: The servers, in the order of the URI; one alone can be killed, or frozen.
    """

    def __init__(self, uri: str, members: Sequence[Mongod]) -> None:
        self.uri = uri
        self.members = members

    def primary(self) -> Mongod:
        """The server that is the primary, as soon as there is one."""
        with client_to(self.uri) as client, timeout(PATIENCE):
            address = client.address
        return next(node for node in self.members if ("127.0.0.1", node.port) == address)

    def kill_primary(self) -> Mongod:
        """End the primary with SIGKILL, and wait for no other; return it. `restart()` brings it back."""
        node = self.primary()
        node.kill()
        return node

    def restart(self) -> None:
        """Launch every member that was killed, and wait until all are members again.

        Raises:
            NoServerError: One ends at once.
        """
        killed = [node for node in self.members if node.process.poll() is not None]
        for node in killed:
            node.launch()
        for node in killed:
            node.ready()
        self.wait()

    def step_down(self) -> None:
        """Make the primary step down, and wait for a new one: another member, or the same one if it is the only one.

        It is forced where no other member has caught up within 2 s. It cannot be elected again for 4 s (alone: 1 s).
        """
        period = 4 if len(self.members) > 1 else 1
        command = {"replSetStepDown": period, "secondaryCatchUpPeriodSecs": period // 2}
        with client_to(self.uri) as client, timeout(PATIENCE):
            before = _election(client)
            while _election(client) == before:
                with _reconnecting():
                    try:
                        client.admin.command(command)
                    except OperationFailure as error:
                        if error.code != NOBODY_CAUGHT_UP:
                            raise
                        client.admin.command({**command, "force": True})

    def wait(self) -> None:
        """Wait until every member is a primary or a secondary, and the primary takes writes."""
        with timeout(PATIENCE):
            for node in self.members:
                with client_to(self.uri, node.host) as client:
                    _answer(client, "count", "system.version")  # refused in every other state
            with client_to(self.uri) as client:
                _election(client)


def _election(client: Client) -> Any:
    """What tells the election of the primary from every other one; that primary has just taken a majority's write."""
    while True:
        written = _answer(client, "appendOplogNote", data={}, writeConcern={"w": "majority"})
        hello = _answer(client, "hello")
        if "writeConcernError" not in written and hello["isWritablePrimary"]:
            return hello["electionId"]


def _answer(client: Client, command: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    """What a command gives, sent again while the server that it goes to is lost, or not what it should be."""
    while True:
        with _reconnecting():
            return client.admin.command(command, *arguments, **options)


@contextlib.contextmanager
def _reconnecting() -> Iterator[None]:
    """Pass over the errors of a server that goes (the driver then waits for one), not over the end of the time."""
    try:
        yield
    except AutoReconnect as error:
        if error.timeout:
            raise
