# Generated from tests/async/test_history.py by tools/sync_tests.py
"""The history on every driver: what it says, and what it costs."""

import socket
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from bson import ObjectId
from bson.code import Code
from pymongo.errors import DuplicateKeyError

import quaestor
from quaestor import (
    HistoryEntry,
    MigrationContext,
    MigrationRecord,
    MigrationRegistry,
    RecordedError,
    SyncRunner,
)
from quaestor._author import find_user
from quaestor._mongo import history_documents
from tests.databases import drivers
from tests.functions import Broken, nothing
from tests.leases import HELD
from tests.world import LONG_AGO
from tools.commands import Commands


def fail(db: Any) -> None:
    raise Broken("no room\nfor more")


def runner(db: Any, *, fails: bool = False, **options: Any) -> SyncRunner:
    """A runner of `a`, which can fail, and so can its rollback."""
    migrations = MigrationRegistry()
    migrations.register("a")(fail if fails else nothing)
    migrations.register_rollback("a")(fail if fails else nothing)
    return SyncRunner(migrations, db, **options)


def test_story_of_a_migration(db: Any) -> None:
    """A failure, the record, a failed rollback, a rollback and marks are all there, newest first, with who and when."""
    before = datetime.now(UTC) - timedelta(seconds=60)
    with pytest.raises(Broken):
        runner(db, fails=True, release="1").run()
    runner(db, release="2").run()
    (applied,) = runner(db).history(["a"], limit=1)
    with pytest.raises(Broken):
        runner(db, fails=True).rollback(["a"])
    runner(db).rollback(["a"])
    runner(db).mark_applied(["a"])
    runner(db).mark_pending(["a"])

    entries = runner(db).history()

    assert [(entry.what, entry.undo) for entry in entries] == [
        ("marked_pending", False),
        ("marked_applied", False),
        ("rolled_back", False),
        ("failed", True),
        ("failed", False),
    ]
    assert (applied.what, applied.release, applied.record) == ("applied", "2", entries[2].record)
    assert len({entry.run for entry in (*entries, applied)}) == 6
    for entry in entries:
        assert (entry.name, entry.host, entry.user) == ("a", socket.gethostname(), find_user())
        assert entry.quaestor == quaestor.__version__
        assert entry.at is not None
        assert before < entry.at < datetime.now(UTC) + timedelta(seconds=60)
    assert entries[4].release == "1"
    assert entries[4].error == RecordedError("Broken", "no room")
    assert all(entry.duration_ms is not None for entry in entries[2:])
    assert entries[0].record is not None
    assert (entries[0].record.source, entries[0].record.run) == ("mark", entries[1].run)


def test_document_of_a_failure(db: Any) -> None:
    """A failure is one document, which shows nothing of the document that the server refused."""
    db.users.insert_one({"_id": "ada@example.com"})
    migrations = MigrationRegistry()

    @migrations.register("a")
    def a(db: Any) -> None:
        db.users.insert_one({"_id": "ada@example.com"})

    with pytest.raises(DuplicateKeyError):
        migrations.run_sync(db, release="1")

    (document,) = list(db.app_migrations_history.find())
    assert document.keys() == {
        *("_id", "what", "name", "at", "durationMs", "run", "host", "user", "release", "quaestor", "error")
    }
    assert (document["what"], document["name"]) == ("failed", "a")
    assert document["error"]["type"] == "DuplicateKeyError"
    assert "example.com" not in str(document)


def test_status(db: Any) -> None:
    """The status has the duration and the release of what is applied, and the failure of what isn't."""
    with pytest.raises(Broken):
        runner(db, fails=True).run()
    (failed,) = runner(db).status().migrations
    assert failed.last_failure is not None
    assert (failed.state, failed.last_failure.error) == ("pending", RecordedError("Broken", "no room"))

    runner(db, release="2").run()

    (applied,) = runner(db).status().migrations
    assert (applied.state, applied.release, applied.last_failure) == ("applied", "2", None)
    assert applied.duration is not None


def test_restart_and_unlock(db: Any) -> None:
    """A restarted backfill and an unlock are in the history as well."""
    db.things.insert_many([{"_id": number} for number in range(3)])
    migrations = MigrationRegistry()

    @migrations.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for _ in context.batches(db.things, size=1):
            raise Broken

    with pytest.raises(Broken):
        migrations.run_sync(db)
    SyncRunner(migrations, db).restart_backfill("a")
    db.app_migrations_lock.replace_one({"_id": "lease"}, HELD)
    SyncRunner(migrations, db).unlock()

    found = [(entry.what, entry.name, entry.backfill) for entry in SyncRunner(migrations, db).history()]
    assert found == [("unlocked", None, None), ("restarted", "a", "things"), ("failed", "a", None)]


def test_old_records(db: Any) -> None:
    """Records of earlier releases are in the history with what they have."""
    db.app_migrations.insert_many([{"_id": ObjectId(), "name": "a", "appliedAt": LONG_AGO}, {"name": "b"}])

    assert runner(db).history() == [
        HistoryEntry("applied", "a", LONG_AGO, record=MigrationRecord(LONG_AGO)),
        HistoryEntry("applied", "b", None, record=MigrationRecord()),
    ]


def test_entries_of_others(db: Any) -> None:
    """Entries that people or later releases wrote don't get in the way."""
    db.app_migrations_history.insert_many(
        [
            {},
            {"what": 7},
            {"what": Code("dreamt")},
            {"what": "dreamt", "name": Code("a"), "at": "yesterday", "error": "x", "record": 1, "durationMs": "1"},
        ]
    )

    (entry,) = runner(db).history()
    assert entry == HistoryEntry("dreamt", None, None)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - not one of ours
    assert len(runner(db).status().migrations) == 1


def test_most_failures(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest failures of each migration are kept, 1,000 by default."""
    assert history_documents.MOST_FAILURES == 1000
    monkeypatch.setattr(history_documents, "MOST_FAILURES", 3)
    for number in range(5):
        with pytest.raises(Broken):
            runner(db, fails=True, release=str(number)).run()

    assert [entry.release for entry in runner(db).history()] == ["4", "3", "2"]


@pytest.mark.parametrize("driver", drivers("pymongo"))
@pytest.mark.parametrize("is_held", [False, True])
def test_reads_of_a_status(db: Any, commands: Commands, is_held: bool) -> None:
    """A status takes four reads, whether or not somebody holds the lease."""
    with pytest.raises(Broken):
        runner(db, fails=True).run()
    if is_held:
        db.app_migrations_lock.replace_one({"_id": "lease"}, HELD)
    commands.sent.clear()

    status = runner(db).status()

    assert (status.lease is not None) is is_held
    assert commands.names == ["aggregate", "find", "find", "aggregate"]


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_commands_of_a_failure(db: Any, commands: Commands) -> None:
    """A failure is written after the lease is released, and costs two commands. A run without one costs none."""
    runner(db).run()
    runner(db).rollback(["a"])
    commands.sent.clear()
    with pytest.raises(Broken):
        runner(db, fails=True).run()
    assert commands.names[-3:] == ["update", "update", "find"]
    assert [command["update"] for command in commands.sent if "update" in command][-2:] == [
        "app_migrations_lock",
        "app_migrations_history",
    ]
