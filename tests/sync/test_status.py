# Generated from tests/async/test_status.py by tools/sync_tests.py
"""What `status` says of migrations and of the lease, and that it does nothing."""

import os
import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from bson.datetime_ms import DatetimeMS

from quaestor import (
    Event,
    MigrationApplied,
    MigrationContext,
    MigrationRegistry,
    MigrationStatus,
    OrderConflict,
    Status,
    SyncRunner,
)
from tests.databases import drivers, in_transactions, opened
from tests.functions import nothing
from tests.killed import DEATHS, NEEDS, killed
from tests.leases import DEAD, HELD
from tests.meeting import Moment
from tests.operations import (
    CHAIN,
    LONG_AGO,
    records,
    registry,
)
from tools.commands import Commands


def test_states(db: Any) -> None:
    """All registered migrations in the order of a plan, then the unknown ones."""
    migrations = registry({"b": ["z"], "a": ["b", "z"], "z": []}, "sync", [], irreversible=["b"])
    migrations.register("c", transaction=True, description="Says what it does.")(nothing)
    db.app_migrations.insert_many([*records("from tomorrow", "another", "z"), {"_id": 7}])

    status = SyncRunner(migrations, db, "app").status()

    assert (status.database, status.prefix, status.lease) == (db.name, "app", None)
    assert status.migrations == (
        MigrationStatus("c", "pending", transaction=True, description="Says what it does."),
        MigrationStatus("z", "applied", LONG_AGO, has_rollback=True),
        MigrationStatus("b", "pending", depends_on=("z",)),
        MigrationStatus("a", "pending", depends_on=("b", "z"), has_rollback=True),
        MigrationStatus("another", "unknown", LONG_AGO),
        MigrationStatus("from tomorrow", "unknown", LONG_AGO),
    )
    assert status.names("pending") == ["c", "b", "a"]
    assert status.names("applied") == ["z"]
    assert status.names("unknown") == ["another", "from tomorrow"]


def test_applied_at(db: Any) -> None:
    """The time of a record is aware and in UTC."""
    runner = SyncRunner(registry(CHAIN, "sync", []), db, "app")
    before = datetime.now(UTC) - timedelta(milliseconds=1)

    runner.run(["a"])

    applied_at = runner.status().migrations[0].applied_at
    assert applied_at is not None
    assert applied_at.utcoffset() == timedelta(0)
    assert before <= applied_at <= datetime.now(UTC)


def test_records_of_the_old_tool(db: Any) -> None:
    """The latest time of several records counts; without a time in any of them there is none."""
    later = LONG_AGO + timedelta(days=1)
    db.app_migrations.insert_many(
        [
            {"_id": ObjectId(), "name": "a", "appliedAt": LONG_AGO},
            {"_id": ObjectId(), "name": "a", "appliedAt": later},
            {"_id": ObjectId(), "name": "a"},
            {"_id": ObjectId(), "name": "b"},
            {"_id": ObjectId(), "name": "c", "appliedAt": "yesterday"},
        ]
    )

    status = SyncRunner(registry(CHAIN, "sync", []), db, "app").status()

    assert [one.applied_at for one in status.migrations] == [later, None, None, None]
    assert [one.state for one in status.migrations] == ["applied", "applied", "applied", "pending"]


def test_order_conflicts(db: Any) -> None:
    """A migration written later, with a forgotten dependency, is named where it came last, not on a new database.

    So it is once more where it was rolled back and applied again, and where the dependency was added afterwards.
    """
    old = SyncRunner(registry({"b": []}, "sync", []), db, "app")
    runner = SyncRunner(registry({"a": [], "b": []}, "sync", []), db, "app")
    corrected = SyncRunner(registry({"a": ["b"], "b": []}, "sync", []), db, "app")
    past = {"$set": {"appliedAt": LONG_AGO}}  # two records may have the same millisecond
    old.run()
    db.app_migrations.update_one({"name": "b"}, past)
    assert runner.status().order_conflicts == ()
    runner.run()
    assert runner.status().order_conflicts == (OrderConflict("b", "a"),)
    late = registry({"b": []}, "sync", [])
    late.register("a", phase="post_deploy")(nothing)  # on purpose
    assert SyncRunner(late, db, "app").status().order_conflicts == ()
    assert corrected.status().order_conflicts == ()

    runner.rollback(["b", "a"])
    assert runner.run() == ["a", "b"]
    db.app_migrations.update_one({"name": "a"}, past)
    assert runner.status().order_conflicts == ()
    assert corrected.status().order_conflicts == (OrderConflict("a", "b"),)
    db.app_migrations.update_one({"name": "b"}, past)
    runner.rollback(["a"])
    runner.run()
    assert runner.status().order_conflicts == (OrderConflict("b", "a"),)


@in_transactions("pymongo")
def test_order_of_a_concurrent_run(db: Any, transaction: bool) -> None:
    """Migrations that were in progress at the same time end in any order; the next run comes after all of them."""
    migrations, b_recorded = MigrationRegistry(), Moment()

    @migrations.register("a", transaction=transaction)
    def a(db: Any) -> None:
        b_recorded.wait()

    migrations.register("b", transaction=transaction)(nothing)

    def hook(event: Event) -> None:
        if isinstance(event, MigrationApplied) and event.name == "b":
            b_recorded.has_come()

    SyncRunner(migrations, db, "app", on_event=hook).run(concurrency=2)
    status = SyncRunner(migrations, db, "app").status()
    dates = {one.name: one.applied_at for one in status.migrations}
    assert dates["b"] is not None
    assert dates["a"] is not None
    assert dates["b"] <= dates["a"]
    assert status.order_conflicts == ()
    migrations.register("0")(nothing)
    SyncRunner(migrations, db, "app").run()
    db.app_migrations.update_one({"name": "0"}, {"$set": {"appliedAt": datetime.now(UTC) + timedelta(days=1)}})
    assert SyncRunner(migrations, db, "app").status().order_conflicts == (OrderConflict("b", "0"),)


@pytest.mark.parametrize("driver", drivers("pymongo"))
@pytest.mark.parametrize("time", [2**62, -(2**62)])
def test_date_out_of_range(db: Any, time: int) -> None:
    """A record with a year that Python can't represent is still a record, for a status, a run and a rollback."""
    db.app_migrations.insert_one({"_id": "a", "name": "a", "appliedAt": DatetimeMS(time)})
    runner = SyncRunner(registry({"a": [], "b": []}, "sync", []), db, "app")

    assert runner.run() == ["b"]
    assert runner.status().names("applied") == ["a", "b"]
    assert runner.rollback(["a"]) == ["a"]
    assert db.app_migrations.count_documents({}, limit=2) == 1


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_commands(db: Any, driver: str, uri: str, name: str) -> None:
    """A status is four reads, and nothing is written, whatever the client's defaults are."""
    commands = Commands()
    options = {"w": 0, "readPreference": "secondaryPreferred", "readConcernLevel": "local", "tz_aware": True}

    with opened(driver, uri, name, event_listeners=[commands], **options) as watched:
        status = SyncRunner(registry(CHAIN, "sync", []), watched, "app").status()

    assert status.names("pending") == ["a", "b", "c", "d"]
    assert commands.names == ["aggregate", "find", "find", "aggregate"]
    read = [next(iter(command.values())) for command in commands.sent]
    assert read == ["app_migrations_lock", "app_migrations", "app_migrations_progress", "app_migrations_history"]
    assert {command["readConcern"]["level"] for command in commands.sent} == {"majority"}
    assert {command.get("$readPreference", {"mode": "primary"})["mode"] for command in commands.sent} == {"primary"}
    assert db.list_collection_names() == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_commands_while_it_is_held(db: Any, commands: Commands) -> None:
    """If somebody holds the lease, the server's clock, read with it, says whether it has expired: no command more."""
    runner = SyncRunner(registry(CHAIN, "sync", []), db, "app")
    db.app_migrations_lock.insert_one(HELD)
    commands.sent.clear()

    assert runner.status().lease is not None

    assert commands.names == ["aggregate", "find", "find", "aggregate"]


def test_expired(db: Any) -> None:
    """An expired lease isn't shown, and what its holder was at is interrupted; it stays until somebody replaces it."""
    db.app_migrations_lock.insert_one(DEAD | {"migrations": ["a"]})

    status = SyncRunner(registry(CHAIN, "sync", []), db, "app").status()

    assert status.lease is None
    assert [one.name for one in status.migrations if one.interrupted] == ["a"]
    assert db.app_migrations_lock.find_one() == DEAD | {"migrations": ["a"]}


@pytest.mark.parametrize("work", ["run", "rollback"])
def test_lease(db: Any, work: str) -> None:
    """During a run or a rollback the status has the holder, its times, its operation and its migration."""
    migrations = MigrationRegistry()
    runner = SyncRunner(migrations, db, "app", lease_ttl=20)
    seen = []

    def looks(db: Any) -> None:
        seen.append(runner.status())

    for name in ("a", "b"):
        migrations.register(name)(looks)
        migrations.register_rollback(name)(looks)
    runner.run()
    if work == "rollback":
        seen.clear()
        runner.rollback(["a", "b"])

    leases = [status.lease for status in seen]
    order = {"run": [("a",), ("b",)], "rollback": [("b",), ("a",)]}[work]
    assert [lease and lease.migrations for lease in leases] == order
    assert {(lease.work, lease.host, lease.pid) for lease in leases} == {(work, socket.gethostname(), os.getpid())}
    assert leases[0].since == leases[1].since
    assert leases[0].since.utcoffset() == timedelta(0)
    # A server reads its clock once for a command; a mock reads it for each field.
    assert abs(leases[0].expires_at - leases[0].since - timedelta(seconds=20)) < timedelta(seconds=5)
    assert [status.names("applied") for status in seen] == {"run": [[], ["a"]], "rollback": [["a", "b"], ["a"]]}[work]
    assert not any(one.interrupted for status in seen for one in status.migrations)
    assert runner.status().lease is None


def test_lease_of_another(db: Any) -> None:
    """The lease of another instance is shown and left alone; after an unlock there is none."""
    held = HELD | {"work": "rollback", "migrations": ["a"]}
    db.app_migrations_lock.insert_one(held)
    runner = SyncRunner(registry(CHAIN, "sync", []), db, "app")

    lease = runner.status().lease

    assert lease is not None
    assert str(lease) == "elsewhere (process 4711), since 2026-01-01 00:00:00 UTC, rolling back migration 'a'"
    assert list(db.app_migrations_lock.find()) == [held]
    assert runner.unlock() == lease
    assert runner.status().lease is None


@pytest.mark.parametrize("driver", drivers("pymongo"))
@pytest.mark.parametrize("death", DEATHS, ids=", ".join)
def test_killed(db: Any, driver: str, uri: str, name: str, death: tuple[str, str, str]) -> None:
    """A killed process leaves its migration interrupted, until the same operation succeeds."""
    work, migration, _ = death
    killed(driver, death, uri, name)
    runner = SyncRunner(registry(NEEDS, "sync", []), db, "app")

    status = runner.status()

    assert status.lease is None
    assert [one.name for one in status.migrations if one.interrupted] == [migration]
    (state,) = [one.state for one in status.migrations if one.interrupted]
    assert state == {"run": "pending", "rollback": "applied"}[work]
    again = runner.run() if work == "run" else runner.rollback(["a"])
    assert again[0] == migration
    assert not any(one.interrupted for one in runner.status().migrations)


def test_backfills(db: Any) -> None:
    """The status has the progress of a backfill, also after a failure, until its migration is done."""
    migrations = MigrationRegistry()
    runner = SyncRunner(migrations, db, "app")
    another = SyncRunner(migrations, db, "app")
    db.things.insert_many([{"_id": number, "even": number % 2 == 0} for number in range(7)])
    seen: list[Status] = []
    before = datetime.now(UTC) - timedelta(seconds=1)

    @migrations.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for _ in context.batches(db.things, {"even": True}):
            pass
        for _ in context.batches(db.things, size=3, name="all"):
            seen.append(another.status())
            if len(seen) == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run()
    seen.append(another.status())
    assert runner.run() == ["a"]
    seen.append(another.status())

    of_seen = [
        sorted((one.collection, one.done, one.total, one.finished, one.undo) for one in status.migrations[0].backfills)
        for status in seen
    ]
    # When a batch is handed over the one before it is kept.
    first = ("things", 4, 4, True, False)
    assert of_seen == [*(sorted([first, ("things", done, 7, False, False)]) for done in (0, 3, 6, 6, 6)), []]
    assert [status.migrations[0].state for status in seen] == ["pending"] * 5 + ["applied"]
    assert [status.lease is not None for status in seen] == [True, True, True, False, True, False]
    dates_of_seen = [[one.updated_at for one in status.migrations[0].backfills] for status in seen]
    assert dates_of_seen == [sorted(dates) for dates in dates_of_seen]
    dates = [date for dates in dates_of_seen for date in dates]
    assert {date.utcoffset() for date in dates} == {timedelta(0)}
    assert all(before <= date <= datetime.now(UTC) + timedelta(seconds=1) for date in dates)
