# Generated from tests/async/test_events.py by tools/sync_tests.py
"""The events that a hook gets, and the log."""

import logging
from typing import Any

import pytest

from quaestor import (
    Event,
    InvalidOptionError,
    MigrationApplied,
    MigrationFailed,
    MigrationRegistry,
    MigrationStarted,
    RecordsIgnored,
    RegistryEmpty,
    RunFailed,
    RunStarted,
    SyncRunner,
    log_event,
)
from tests.functions import nothing


@pytest.fixture
def registry() -> MigrationRegistry:
    """Two migrations, of which the second fails."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)

    @registry.register("b")
    def fails(db: Any) -> None:
        raise ValueError("no")

    return registry


def test_empty_registry(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Without migrations every operation gives a warning, and does nothing else, in one database and in many. No run
    says that the database is up to date.
    """
    events: list[Event] = []
    empty = MigrationRegistry()
    runner = SyncRunner(empty, db, "app", on_event=events.append)
    db.app_migrations.insert_one({"_id": "a", "name": "a"})
    assert [runner.run(), runner.rollback([]), runner.mark_applied([])] == [[], [], []]
    assert runner.mark_pending(["a"]) == ["a"]
    (result,) = empty.run_many_sync([db], "app", on_event=events.append)
    assert (result.applied, result.error) == ([], None)
    assert len({event.run for event in events if isinstance(event, RegistryEmpty)}) == 5
    assert not [event for event in events if "Up to date" in str(event)]
    assert empty.run_sync(db, "app") == []
    (warning,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "No migration is registered, so" in warning


def test_events(db: Any, registry: MigrationRegistry) -> None:
    """A hook gets every event of a run, in order, with the database, the prefix and the run's id."""
    events: list[Event] = []
    db.app_migrations.insert_one({"_id": 7})

    with pytest.raises(ValueError, match="no") as caught:
        registry.run_sync(db, "app", on_event=events.append)

    where = (db.name, "app", events[0].run)
    assert len(events[0].run) == 16
    applied = events[3]
    assert isinstance(applied, MigrationApplied)
    assert 0 <= applied.seconds < 60
    assert events == [
        RecordsIgnored(*where, (7,)),
        RunStarted(*where, ("a", "b")),
        MigrationStarted(*where, "a", 1, 2),
        MigrationApplied(*where, "a", 1, 2, applied.seconds),
        MigrationStarted(*where, "b", 2, 2),
        MigrationFailed(*where, "b", 2, 2, caught.value),
        RunFailed(*where, caught.value),
    ]


def test_hook_that_raises(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An exception of a hook is logged, and the run goes on."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)

    def hook(event: Event) -> None:
        raise RuntimeError("hook")

    assert registry.run_sync(db, "app", on_event=hook) == ["a"]

    assert {record.name for record in caplog.records} == {"quaestor"}
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 4
    assert "RuntimeError: hook" in caplog.text


def test_hook_that_is_no_function(db: Any) -> None:
    """A hook must be a `def` function: nothing would a coroutine function or such a `__call__`."""

    class Hook:
        async def __call__(self, event: Event) -> None: ...

    async def hook(event: Event) -> None: ...

    wrong: list[Any] = [hook, Hook(), "log_event", 7]
    for one in wrong:
        with pytest.raises(InvalidOptionError, match="on_event must be a `def` function"):
            MigrationRegistry().run_sync(db, "app", on_event=one)


def test_log(db: Any, registry: MigrationRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """By default progress and failures are logged to the logger `quaestor`."""
    caplog.set_level(logging.INFO, "quaestor")
    db.app_migrations.insert_one({"_id": 7})

    with pytest.raises(ValueError, match="no"):
        registry.run_sync(db, "app")

    where = f"[{db.name}/app]"
    lines = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "quaestor"]
    assert lines[3][1].startswith(f"{where} Applied 'a' (1 of 2) in 0.")
    assert [line for line in lines if line != lines[3]] == [
        ("WARNING", f"{where} {RecordsIgnored(db.name, 'app', '', (7,))}"),
        ("INFO", f"{where} 2 migrations to apply: a, b"),
        ("INFO", f"{where} Applying 'a' (1 of 2)"),
        ("INFO", f"{where} Applying 'b' (2 of 2)"),
        ("ERROR", f"{where} Failed to apply 'b' (2 of 2): ValueError: no"),
        ("ERROR", f"{where} Run failed in migration 'b', 2 of 2"),
    ]


def test_log_by_name(db: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The default hook can be passed explicitly; a run with nothing to do is one line."""
    caplog.set_level(logging.INFO, "quaestor")
    registry = MigrationRegistry()
    registry.register("a")(nothing)

    registry.run_sync(db, "app", on_event=log_event)
    registry.run_sync(db, "app")

    assert caplog.messages[-2:] == [
        f"[{db.name}/app] Applied 1 migration",
        f"[{db.name}/app] Up to date: nothing to apply.",
    ]


def test_log_that_raises(db: Any) -> None:
    """The run goes on after an exception of a log handler, too."""

    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise ConnectionError

    registry = MigrationRegistry()
    registry.register("a")(nothing)
    handler, logger = Broken(), logging.getLogger("quaestor")
    logger.addHandler(handler)
    try:
        assert registry.run_sync(db, "app") == ["a"]
    finally:
        logger.removeHandler(handler)
