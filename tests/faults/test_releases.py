"""Instances of two releases on one database: this one, and one whose records say `name` and `appliedAt` alone.

The other is the state of `main` before there was a history, with its own tests/faults/instance.py; and mongo-quaestor
0.1.0 by its records, because it knows no lease.
"""

import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from quaestor import Event, InterruptedMigrationError
from tests.faults.applications import Application, State, old_record, state
from tests.faults.instance import Orders, Start, caller
from tests.faults.works import IN_TRANSACTION, LAST, NAMES, PLAIN, WORKS, Work, left, once, undone

BEFORE_THE_HISTORY = "67b018bc1369f08055fdc7644d1edc3003d07f29"
"""The commit of the other release."""

OLD_FIELDS, NEW_FIELDS = {"_id", "name", "appliedAt"}, {"durationMs", "run", "host", "quaestor", "checksum", "source"}


@pytest.fixture(scope="session")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the earlier release. It takes a clone with all commits."""
    root = Path(__file__).parents[2]
    git = ["git", "-C", str(root)]
    shallow = subprocess.run(
        [*git, "rev-parse", "--is-shallow-repository"], capture_output=True, text=True, check=False
    )
    if shallow.stdout.strip() != "false":
        pytest.skip("the earlier release takes a clone with all commits")
    command = [*git, "archive", BEFORE_THE_HISTORY, "src", "tests", "tools"]
    archive = subprocess.run(command, capture_output=True, check=True)
    folder = tmp_path_factory.mktemp("earlier")
    with tarfile.open(fileobj=BytesIO(archive.stdout)) as files:
        files.extractall(folder, filter="data")
    return folder


@pytest.fixture(params=["earlier first", "earlier second"])
def releases(request: pytest.FixtureRequest, earlier: Path) -> list[Path | None]:
    """The folders of the first and the second instance."""
    return [earlier, None] if request.param == "earlier first" else [None, earlier]


def call(orders: Orders, *call: Any) -> Any:
    """Make a call with this release, in this process."""

    def ignore(_: Event) -> None:
        """An event hook."""

    return caller(replace(orders, calls=[call]), ignore)()


def list_fields(db: Any) -> dict[str, set[str]]:
    """The fields of each record."""
    return {record["name"]: set(record) for record in db.app_migrations.find()}


def test_one_waits_for_the_other(orders: Orders, work_db: Any, start: Start, releases: Sequence[Path | None]) -> None:
    """Of two releases that run at once, one waits for the other and finds nothing left to do; so with a rollback."""
    first, second = releases
    held = [*WORKS[:2], replace(LAST, held=True)]
    holder = start(replace(orders, works=held), release=first).go()
    holder.until("stopped")
    waiter = start(orders, release=second).go()
    assert waiter.until("LeaseAwaited")["holder"] == holder.process.pid
    holder.go()

    assert (holder.outcome()["names"], waiter.outcome()["names"]) == (NAMES, [])
    assert left(work_db) == once(WORKS)
    fields = list_fields(work_db).values()
    assert all(one == OLD_FIELDS if first is not None else one >= OLD_FIELDS | NEW_FIELDS for one in fields)

    undone_by = start(replace(orders, calls=[("rollback", NAMES)]), release=second).go()
    assert undone_by.outcome()["names"] == NAMES[::-1]
    assert left(work_db) == undone(WORKS)


def test_many_at_once(orders: Orders, work_db: Any, start: Start, earlier: Path) -> None:
    """Four instances, two of each release, start at once: every migration runs once."""
    instances = [start(orders, release=release) for release in (earlier, None) * 2]
    for instance in instances:
        instance.go()

    names = [name for instance in instances for name in instance.outcome()["names"]]
    assert sorted(names) == NAMES
    assert left(work_db) == once(WORKS)


@pytest.mark.parametrize(("driver", "work"), [("pymongo", PLAIN), ("pymongo-async", IN_TRANSACTION)])
def test_killed(orders: Orders, work_db: Any, start: Start, releases: Sequence[Path | None], work: Work) -> None:
    """A holder of one release that is killed before its record is replaced by one of the other."""
    first, second = releases
    orders = replace(orders, works=[work, LAST], lease_ttl=1)
    victim = start(replace(orders, stopped_at="before insert records"), release=first).go()
    victim.until("stopped")
    victim.kill()

    assert start(orders, release=second).go().outcome()["names"] == [work.name, LAST.name]
    found = left(work_db)
    assert (found.records, found.holder) == ([work.name, LAST.name], None)
    times = 1 if work.transaction else 2
    assert (found.ended[work.name], found.ended[LAST.name]) == (times, 1)


@pytest.mark.parametrize(("driver", "work"), [("motor", PLAIN), ("pymongo", IN_TRANSACTION)])
def test_frozen(orders: Orders, work_db: Any, start: Start, releases: Sequence[Path | None], work: Work) -> None:
    """A holder of one release that was frozen past its lease records nothing after one of the other came."""
    first, second = releases
    orders = replace(orders, works=[work], lease_ttl=1)
    frozen = start(replace(orders, stopped_at="before insert records"), release=first).go()
    frozen.until("stopped")
    frozen.freeze()
    assert start(orders, release=second).go().outcome()["names"] == [work.name]
    records = list(work_db.app_migrations.find())

    frozen.go()
    frozen.thaw()

    assert frozen.outcome()["type"] == "LeaseLostError"
    assert list(work_db.app_migrations.find()) == records
    assert left(work_db).holder is None


@pytest.mark.parametrize("driver", ["motor"])
def test_by_turns(orders: Orders, work_db: Any, start: Start, earlier: Path) -> None:
    """What the earlier release doesn't know is in its way nowhere: more fields, a history, a protection, start marks.
    What is missing in its own records is unknown here, and can be accepted.
    """

    def run_earlier(*method: Any, works: Sequence[Work] = WORKS) -> Any:
        there = replace(orders, works=works, calls=[method])
        return start(there, release=earlier).go().outcome()["names"]

    call(orders, "protect", "production")
    work_db.app_migrations_lock.insert_one({"_id": {"start": "c"}, "owner": "x", "startedAt": datetime.now(UTC)})
    guarded = replace(orders, works=[*WORKS[:2], replace(LAST, stops=True)])
    with pytest.raises(InterruptedMigrationError):
        call(guarded, "run")
    assert run_earlier("run") == NAMES
    status = call(guarded, "status")
    assert (status.names("applied"), status.lease, status.protected_as) == (NAMES, None, "production")
    unknown = [(one.release, one.duration, one.last_failure, one.changed) for one in status.migrations]
    assert unknown == [(None, None, None, False)] * len(NAMES)
    assert [(entry.what, entry.run) for entry in call(orders, "history")] == [("applied", None)] * 3
    assert call(guarded, "run") == [], "the mark of what is recorded is void"

    assert call(orders, "mark_accepted", NAMES) == NAMES
    assert run_earlier("run") == []
    assert run_earlier("mark_pending", ["c"]) == ["c"]
    assert call(orders, "mark_applied", ["c"]) == ["c"]
    assert run_earlier("rollback", NAMES) == NAMES[::-1]
    assert call(orders, "run") == NAMES
    assert call(orders, "rollback", ["b"]) == ["b"]
    assert run_earlier("run") == ["b"]
    assert list_fields(work_db)["b"] == OLD_FIELDS
    happened = [entry.what for entry in call(orders, "history") if entry.what != "applied"]
    assert happened == ["rolled_back", "marked_applied", *["accepted"] * 3]
    assert call(orders, "read_protection") == "production"


def test_records_of_0_1_0(app: Application, db: Any) -> None:
    """The records of mongo-quaestor 0.1.0, duplicates too, are read, accepted, undone, and in the history."""
    app.leaves_effects("a", "b", "c")
    db.app_migrations.insert_many([old_record("a"), old_record("b"), old_record("b")])

    assert {entry.name for entry in app.call("history")} == {"a", "b"}
    assert app.run() == ["c"]
    assert app.call("mark_accepted", ["a", "b", "c"]) == ["a", "b"]
    assert app.call("mark_accepted", ["a", "b", "c"]) == []
    assert [migration.changed for migration in app.call("status").migrations] == [False] * 3
    assert app.call("rollback", ["b"]) == ["b"]
    (undone_now, *_) = app.call("history", ["b"])
    assert (undone_now.what, undone_now.record.run, undone_now.record.quaestor) == ("rolled_back", None, None)
    assert undone_now.record.checksum is not None
    assert state(db) == State(["a", "c"], ["c", "undo b"])
