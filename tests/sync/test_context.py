# Generated from tests/async/test_context.py by tools/sync_tests.py
"""The context, a migration's second argument."""

import logging
from typing import Any

import pytest

from quaestor import (
    Event,
    InvalidOptionError,
    MigrationContext,
    MigrationProgressed,
    MigrationRegistry,
    SyncRunner,
)


def test_context(db: Any, registry: MigrationRegistry) -> None:
    """A function with a second argument gets a context: its name, and `progress`, which emits an event; so does a
    rollback.
    """
    events: list[Event] = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        db.effects.insert_one({"migration": context.name})
        context.progress(1)
        context.progress(2, 4)
        assert events[-1] == MigrationProgressed(db.name, "app", events[0].run, "a", 1, 1, 2, 4)

    @registry.register_rollback("a")
    def undo_a(db: Any, context: MigrationContext) -> None:
        context.progress(3, total=4)

    runner = SyncRunner(registry, db, "app", on_event=events.append)
    assert runner.run() == ["a"]
    assert runner.rollback(["a"]) == ["a"]

    assert [event for event in events if isinstance(event, MigrationProgressed)] == [
        MigrationProgressed(db.name, "app", events[0].run, "a", 1, 1, 1, None),
        MigrationProgressed(db.name, "app", events[0].run, "a", 1, 1, 2, 4),
        MigrationProgressed(db.name, "app", events[-1].run, "a", 1, 1, 3, 4, undo=True),
    ]


@pytest.mark.parametrize("prefix", ["app", "100%s"])
def test_logger(db: Any, registry: MigrationRegistry, caplog: pytest.LogCaptureFixture, prefix: str) -> None:
    """Each line of a migration's logger names the database, the prefix and the migration; its record has them and the
    run as attributes, besides those that the line was given.
    """
    events: list[Event] = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        context.logger.warning("%d users", 7, extra={"users": 7})

    registry.run_sync(db, prefix, on_event=events.append)

    (record,) = (record for record in caplog.records if record.name == "quaestor.migration")
    assert record.getMessage() == f"[{db.name}/{prefix}] In 'a': 7 users"
    assert (record.levelno, record.funcName) == (logging.WARNING, "a")
    attributes = {"database": db.name, "prefix": prefix, "migration": "a", "run": events[0].run, "users": 7}
    assert attributes.items() <= vars(record).items()


def test_progress_in_whole_numbers(db: Any, registry: MigrationRegistry) -> None:
    """Progress that is not a whole number is refused by the call."""

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        context.progress(0.5)  # type: ignore[arg-type]  # that is the point

    with pytest.raises(InvalidOptionError, match=r"whole numbers \(int\), not 0.5"):
        SyncRunner(registry, db, "app").run()
