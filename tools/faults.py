"""Faults that a real server makes on demand, by MongoDB's fail points.

Only servers started by tools/ know them; others refuse (OperationFailure).
A fail point exists once in a server: a second `fail_command` replaces the first, and ends it when it ends.
The server takes names it does not know, of commands and of options, without a word: look at `Fault.hits`.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pymongo.errors import ConnectionFailure

from tools.mongod import Client, client_to

LOST: dict[str, Any] = {"closeConnection": True}
"""For `fail_command`: not performed, no reply."""

WTIMEOUT: dict[str, Any] = {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}}
"""Likewise: performed, and not known to last."""

SHUTDOWN, STEPPED_DOWN, NOT_PRIMARY, INTERRUPTED = 91, 189, 10107, 11600
"""What a server says that goes: ShutdownInProgress, PrimarySteppedDown, NotWritablePrimary, InterruptedAtShutdown."""


class Fault:
    """A fail point that is set.

    Attributes:
        hits: How often it struck. Known when its context has ended, and never if the server ended before it.
    """

    def __init__(self, client: Client, name: str, mode: str | Mapping[str, int], data: Mapping[str, Any]) -> None:
        self.hits: int | None = None
        self._client = client
        self._name = name
        self._process = self._server_process()
        self._before: int = self._send("configureFailPoint", mode=mode, data=data)["count"]

    def wait(self, hits: int = 1, seconds: float = 10) -> None:
        """Wait until it has struck so often; a command that is being held (blockConnection) has been struck.

        Raises:
            pymongo.errors.ExecutionTimeout: It has not, after so many seconds.
        """
        self._send("waitForFailPoint", timesEntered=self._before + hits, maxTimeMS=int(seconds * 1_000))

    def end(self) -> None:
        """Switch it off. The server does that when it holds no command any more."""
        with contextlib.suppress(ConnectionFailure):  # a server that has ended has no fail point
            count = self._send("configureFailPoint", mode="off")["count"]
            if self._server_process() == self._process:
                self.hits = count - self._before

    def _server_process(self) -> Any:
        return self._client.admin.command("hello")["topologyVersion"]["processId"]

    def _send(self, command: str, **options: Any) -> dict[str, Any]:
        return self._client.admin.command(command, self._name, **options)


@contextlib.contextmanager
def fail_command(
    uri: str, commands: Sequence[str], *, times: int | Literal["alwaysOn"] = 1, skip: int = 0, **data: Any
) -> Iterator[Fault]:
    """The primary fails these commands, as `data` says, until the context ends.

    Args:
        uri: Of the server, or of its replica set. The fault stays with the member that is the primary now.
        commands: Their names: insert, update, find, ... Name an appName if "hello" is one of them.
        times: How many of them fail.
        skip: Let so many pass first, then fail every one; `times` does not count then.
        data: Which ones: `appName="..."` (only those of the clients with that name), `namespace="database.collection"`.
            How: `closeConnection=True` (not performed, no reply); `errorCode=91` (not performed; `errorLabels=[...]`
            instead of those that the server gives that error); `writeConcernError={"code": 64, "errmsg": "..."}`
            (performed!); `blockConnection=True, blockTimeMS=300` (held before it is performed, or before the fault).
            Some errors want more: `errorCode=11000, errorExtraInfo={"keyPattern": {...}, "keyValue": {...}}`.
    """
    mode = {"skip": skip} if skip else "alwaysOn" if times == "alwaysOn" else {"times": times}
    with _fail_point(uri, "failCommand", mode, {"failCommands": commands, **data}) as fault:
        yield fault


@contextlib.contextmanager
def reply_lost(uri: str, *, times: int | Literal["alwaysOn"] = 1) -> Iterator[Fault]:
    """The primary performs a retryable write, of any client, and closes the connection in place of a reply.

    Retryable are inserts, and other writes of one document if they change it; not update_many, delete_many and
    `Database.command`, nor anything on a standalone server.
    The driver's own retry finds the write done and is answered. That the application sees the loss takes a second
    fault, for the retry: `fail_command(uri, ["insert"], skip=1, closeConnection=True, appName="...")`.

    Args:
        uri: Of the replica set. The fault stays with the member that is the primary now.
        times: How many writes.
    """
    mode = "alwaysOn" if times == "alwaysOn" else {"times": times}
    with _fail_point(uri, "onPrimaryTransactionalWrite", mode, {"closeConnection": True}) as fault:
        yield fault


@contextlib.contextmanager
def index_build_held(uri: str) -> Iterator[Fault]:
    """The primary starts index builds, and holds each until the context ends.

    Args:
        uri: Of the server, or of its replica set. The fault stays with the member that is the primary now.
    """
    with _fail_point(uri, "hangAfterStartingIndexBuild", "alwaysOn", {}) as fault:
        yield fault


@contextlib.contextmanager
def _fail_point(uri: str, name: str, mode: str | Mapping[str, int], data: Mapping[str, Any]) -> Iterator[Fault]:
    with client_to(uri) as client:
        address = client.address
    if address is None:
        raise ConnectionFailure("There is no primary.")
    host, port = address
    with client_to(uri, f"{host}:{port}", serverSelectionTimeoutMS=2_000) as client:
        fault = Fault(client, name, mode, data)
        try:
            yield fault
        finally:
            fault.end()
