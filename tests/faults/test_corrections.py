"""Faults of network and server at each command of a rollback, a mark, a status and a plan: the caller sees none."""

import socket
from collections.abc import Iterator
from typing import Any, TypeAlias

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from quaestor import LeaseNotReleased, RollbackFinished
from tests.faults.applications import Application, Failing, State, application, state
from tools.faults import INTERRUPTED, LOST, NOT_PRIMARY, SHUTDOWN, STEPPED_DOWN, WTIMEOUT

WRITE_CONFLICT = 112

Outcome: TypeAlias = tuple[list[str], list[str], State]
"""What is run before, what is returned then, and what is left."""

CALLS: dict[str, Outcome] = {
    "rollback": (["a", "b"], ["b", "a"], State([], ["a", "b", "undo a", "undo b"])),
    "mark_pending": (["a", "b"], ["b", "a"], State([], ["a", "b"])),
    "mark_applied": ([], ["a", "b"], State(["a", "b"], [])),
    "mark_accepted": (["a", "b"], ["a", "b"], State(["a", "b"], ["a", "b"])),
}

FAULTS = [
    *(("rollback", command, LOST, 2) for command in ("read", "acquire", "check", "unrecord")),
    *(("rollback", "unrecord", {"errorCode": code}, 1) for code in (SHUTDOWN, STEPPED_DOWN, NOT_PRIMARY, INTERRUPTED)),
    *(("rollback", "unrecord", fault, 2) for fault in (WTIMEOUT, {"errorCode": WRITE_CONFLICT})),
    *(("mark_pending", "unrecord", fault, 2) for fault in (LOST, WTIMEOUT)),
    *(("mark_applied", "record", fault, 2) for fault in (LOST, WTIMEOUT)),
    *(("mark_accepted", "accept", fault, 2) for fault in (LOST, WTIMEOUT)),
]
"""A call, one of its commands, what happens to that, and how often in a row. After WTIMEOUT it is performed."""


@pytest.mark.parametrize(("call", "command", "fault", "times"), FAULTS, ids=str)
def test_retried(
    app: Application, db: Any, failing: Failing, call: str, command: str, fault: dict[str, Any], times: int
) -> None:
    """A command that fails is sent again: each rollback called once, each record there or not, no error."""
    before, names, expected = CALLS[call]
    app.leaves_effects("a", "b")
    if before:
        assert app.run() == before
    app.bodies.clear()
    if call == "mark_accepted":  # as an earlier release recorded them
        db.app_migrations.update_many({}, {"$unset": {"checksum": ""}})

    with failing(command, times=times, **fault) as struck:
        assert app.call(call, ["a", "b"]) == names

    assert struck.hits == times
    assert app.bodies == (["undo b", "undo a"] if call == "rollback" else [])
    assert state(db) == expected
    assert all("checksum" in record for record in db.app_migrations.find())
    assert app.list_events(LeaseNotReleased) == []


def test_blocked(app: Application, db: Any, failing: Failing) -> None:
    """The server holds the removal of a record for longer than it is waited for, and performs it then: all the same."""
    app.leaves_effects("a")
    assert app.run() == ["a"]

    with failing("unrecord", blockConnection=True, blockTimeMS=1_500) as struck:
        assert app.call("rollback", ["a"], lease_ttl=1.0) == ["a"]

    assert struck.hits == 1
    assert app.bodies == ["a", "undo a"]
    assert state(db) == State([], ["a", "undo a"])
    assert len(app.list_events(RollbackFinished)) == 1


@pytest.mark.parametrize(
    ("call", "command"), [("status", "look"), ("status", "read"), ("plan", "read"), ("plan_rollback", "read")]
)
def test_read_is_retried(app: Application, db: Any, failing: Failing, call: str, command: str) -> None:
    """A read that is lost is sent again, and nothing is written."""
    app.leaves_effects("a")
    assert app.run() == ["a"]
    app.leaves_effects("b")
    before = list(db.app_migrations_lock.find())

    with failing(command, times=2, **LOST) as struck:
        answer = app.call(call, *([["a"]] if call == "plan_rollback" else []))

    assert struck.hits == 2
    if call == "status":
        assert (answer.names("applied"), answer.names("pending"), answer.lease) == (["a"], ["b"], None)
    else:
        assert [planned.name for planned in answer] == (["b"] if call == "plan" else ["a"])
    assert list(db.app_migrations_lock.find()) == before
    assert state(db) == State(["a"], ["a"])


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody will."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.mark.parametrize("call", ["status", "plan", "rollback", "mark_applied"])
def test_server_away(driver: str, silent_port: int, call: str) -> None:
    """Where no server answers that is the driver's error, as soon as the driver gives up."""
    app = application(driver, f"mongodb://127.0.0.1:{silent_port}", "shop", serverSelectionTimeoutMS=100)
    app.leaves_effects("a")

    with pytest.raises(ServerSelectionTimeoutError, match=f"127.0.0.1:{silent_port}"):
        app.call(call, *([] if call in {"status", "plan"} else [["a"]]))

    assert app.bodies == []
