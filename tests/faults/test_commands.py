"""Faults of network and server at each command of a run: nothing is lost or doubled, and the caller sees none."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.errors import AutoReconnect, PyMongoError

from quaestor import LeaseNotReleased, MigrationApplied
from tests.faults.applications import Application, Failing, State, effect, state, until_expired
from tools.faults import (
    INTERRUPTED,
    LOST,
    NOT_PRIMARY,
    SHUTDOWN,
    STEPPED_DOWN,
    WTIMEOUT,
    Fault,
    fail_command,
    reply_lost,
)

COMMANDS_OF_A_RUN = ("read", "acquire", "check", "record")

FAULTS = [
    *((command, LOST, times) for command in COMMANDS_OF_A_RUN for times in (1, 2)),
    *((command, LOST, 3) for command in ("acquire", "check")),
    *((command, WTIMEOUT, 1) for command in ("acquire", "check", "record")),
    *((command, {"errorCode": code}, 2) for command in COMMANDS_OF_A_RUN for code in (SHUTDOWN, STEPPED_DOWN)),
    *(("record", {"errorCode": code}, 1) for code in (SHUTDOWN, STEPPED_DOWN)),
    *(("record", {"errorCode": code}, times) for code in (NOT_PRIMARY, INTERRUPTED) for times in (1, 2)),
]
"""A command, what happens to it, and how often in a row. After WTIMEOUT it is performed, after all else it is not."""


@pytest.mark.parametrize(("command", "fault", "times"), FAULTS, ids=str)
def test_retried(app: Application, db: Any, failing: Failing, command: str, fault: dict[str, Any], times: int) -> None:
    """A command that fails is sent again: one record, the body called once, no error to the caller."""
    app.leaves_effects("a", "b")

    with failing(command, times=times, **fault) as struck:
        assert app.run() == ["a", "b"]

    assert struck.hits == times
    assert app.bodies == ["a", "b"]
    assert state(db) == State(["a", "b"], ["a", "b"])
    assert app.list_events(LeaseNotReleased) == []


def test_every_reply_lost(app: Application, db: Any, uri: str) -> None:
    """Every write of a run is performed and its reply lost: all the same."""
    app.leaves_effects("a")

    with reply_lost(uri, times="alwaysOn") as struck:
        assert app.run() == ["a"]

    assert struck.hits == 5  # the lease taken, the body's effect, the check, the record, the lease released
    assert app.bodies == ["a"]
    assert state(db) == State(["a"], ["a"])
    assert app.list_events(LeaseNotReleased) == []


def test_record_written_unseen(app: Application, db: Any, uri: str, failing: Failing) -> None:
    """The record is written, and neither that reply nor an answer to any retry comes: it is looked for, and found."""
    with contextlib.ExitStack() as stack:

        @app.migration("a")
        def breaks_the_line(db: Any) -> Generator[Any, Any, None]:
            yield from effect("a", db)
            lost.append(stack.enter_context(reply_lost(uri, times=2)))  # to the check, and to the record

        lost: list[Fault] = []
        with failing("record", skip=1, **LOST) as retries:
            assert app.run(lease_ttl=4.5) == ["a"]  # the first renewal comes too late to be one of the two

    assert lost[0].hits == 2
    assert retries.hits is not None
    assert retries.hits >= 1
    assert app.bodies == ["a"]
    assert state(db) == State(["a"], ["a"])


@pytest.mark.parametrize("command", ["acquire", "check", "record"])
def test_blocked(app: Application, db: Any, failing: Failing, command: str) -> None:
    """A command that the server holds for longer than it is waited for, and performs then: all the same."""
    app.leaves_effects("a")

    with failing(command, blockConnection=True, blockTimeMS=5_500) as struck:
        assert app.run(lease_ttl=1.0) == ["a"]

    assert struck.hits == 1
    assert app.bodies == ["a"]
    assert state(db) == State(["a"], ["a"])


@pytest.mark.parametrize(
    ("fault", "times"),
    [(LOST, 1), (LOST, 2), (WTIMEOUT, 1), ({"errorCode": SHUTDOWN}, 2), ({"errorCode": STEPPED_DOWN}, 2)],
    ids=str,
)
def test_renewal_is_retried(app: Application, db: Any, failing: Failing, fault: dict[str, Any], times: int) -> None:
    """A renewal that fails is sent again in time: the lease is kept while the body goes on."""
    with db.app_migrations_lock.watch() as changes:

        @app.migration("a")
        def outlasts_a_renewal(db: Any) -> Generator[Any, Any, None]:
            with failing("check", times=times, **fault) as struck:
                taken = yield partial(soon, changes)
                yield partial(struck.wait, times)
                renewed = yield partial(soon, changes)
            assert taken["operationType"] in {"insert", "update"}
            assert renewed["updateDescription"]["updatedFields"].keys() == {"beat", "renewedAt"}
            hits.append(struck.hits)
            yield from effect("a", db)

        hits: list[int | None] = []
        assert app.run(lease_ttl=3.0) == ["a"]

    assert hits == [times]
    assert app.bodies == ["a"]
    assert state(db) == State(["a"], ["a"])


def soon(changes: Any) -> Any:
    """The next change of a stream."""
    with pymongo.timeout(30):
        return next(changes)


@pytest.mark.parametrize("times", [1, 2])
def test_release_is_retried(app: Application, db: Any, failing: Failing, times: int) -> None:
    """A release that is lost is sent again."""
    app.leaves_effects("a")
    with contextlib.ExitStack() as stack:
        faults: list[Fault] = []
        app.when[MigrationApplied] = lambda _: faults.append(stack.enter_context(failing("check", times=times, **LOST)))
        assert app.run() == ["a"]

    assert faults[0].hits == times
    assert state(db) == State(["a"], ["a"])
    assert app.list_events(LeaseNotReleased) == []


def test_release_lost(app: Application, db: Any, failing: Failing) -> None:
    """A lease that can't be released is an event: the run is done all the same, and the next one waits."""
    app.leaves_effects("a")
    with contextlib.ExitStack() as stack:
        app.when[MigrationApplied] = lambda _: stack.enter_context(failing("check", times="alwaysOn", **LOST))
        assert app.run(lease_ttl=1.0) == ["a"]

    (event,) = app.list_events(LeaseNotReleased)
    assert isinstance(event.error, PyMongoError)
    assert event.seconds == 1.0
    assert state(db).holder is not None
    app.leaves_effects("b")
    del app.when[MigrationApplied]
    assert app.run(lease_ttl=1.0) == ["b"]
    assert state(db) == State(["a", "b"], ["a", "b"])


def test_cut_off(app: Application, db: Any, failing: Failing) -> None:
    """An instance that can't reach the server for longer than its lease lasts goes on, if nobody has taken over."""
    with contextlib.ExitStack() as stack:

        @app.migration("a")
        def is_cut_off(observed: Any) -> Generator[Any, Any, None]:
            stack.enter_context(failing("check", times="alwaysOn", **LOST))
            yield partial(until_expired, db)
            stack.close()
            yield from effect("a", observed)

        app.leaves_effects("b")
        assert app.run(lease_ttl=1.0) == ["a", "b"]

    assert state(db) == State(["a", "b"], ["a", "b"])
    assert app.list_events(LeaseNotReleased) == []


@pytest.mark.parametrize("pattern", ["", "*"], ids=["one database", "a pattern"])
def test_patience_of_a_command(uri: str, name: str, db: Any, tmp_path: Path, pattern: str) -> None:
    """`quaestor run --patience` says how long a command is retried; then the error says what was waited for."""
    registry = tmp_path / "app.py"
    registry.write_text(REGISTRY)
    db.effects.insert_one({})  # otherwise nothing matches the pattern
    options = {"registry": f"{registry}:registry", "uri": f"{uri}&appName=cli", "db": name + pattern, "prefix": "app"}
    given = [f"--{option}={value}" for option, value in (options | {"patience": 3}).items()]

    with fail_command(uri, ["findAndModify"], appName="cli", times="alwaysOn", closeConnection=True) as struck:
        ended = subprocess.run(
            [sys.executable, "-m", "quaestor", "run", *given], capture_output=True, text=True, timeout=60, check=False
        )

    assert ended.returncode == 75
    said = ended.stdout + ended.stderr
    assert re.search(r"Waited \d+ s to acquire the lease: the server can't be reached", said), said
    assert "longer `patience`" in said
    assert struck.hits is not None
    assert struck.hits > 2, "it was retried"
    assert db.app_migrations.find_one() is None


REGISTRY = """
from quaestor import MigrationRegistry

registry = MigrationRegistry()

@registry.register("a")
def a(db):
    pass
"""


@pytest.mark.parametrize("verb", ["createIndexes", "update"])
def test_error_of_a_body(app: Application, db: Any, uri: str, name: str, verb: str) -> None:
    """A command of a body that the driver does not send again: its error reaches the caller; the next run applies."""
    db.users.insert_one({})

    @app.migration("a")
    def fails(db: Any) -> Generator[Any, Any, None]:
        if verb == "update":
            yield db.users.update_many({}, {"$set": {"active": True}})
        else:
            yield db.users.create_index("email")
        yield from effect("a", db)

    with (
        fail_command(uri, [verb], namespace=f"{name}.users", appName="app", closeConnection=True) as struck,
        pytest.raises(AutoReconnect) as caught,
    ):
        app.run()

    assert struck.hits == 1
    assert type(caught.value) is AutoReconnect
    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 1"]
    assert state(db) == State([], [])
    assert app.run() == ["a"]
    assert state(db) == State(["a"], ["a"])
