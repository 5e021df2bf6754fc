# Generated from tests/async/test_phases.py by tools/sync_tests.py
"""Phases, delays and steps in a database: what runs, what is left for later, and what says so."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from quaestor import (
    DatabaseResult,
    Event,
    InvalidOptionError,
    MigrationDelayedError,
    MigrationRegistry,
    MigrationsWaiting,
    PlanChangedError,
    RunFinished,
    RunStarted,
    SyncRunner,
)
from tests.databases import drivers
from tests.functions import notes, recorded
from tools.commands import Commands

DAY = timedelta(days=1)
YEARS = 3000 * DAY


def migrations(calls: list[str], options: Mapping[str, Mapping[str, Any]]) -> MigrationRegistry:
    registry = MigrationRegistry()
    for name, given in options.items():
        registry.register(name, **given)(notes(calls, name))
    return registry


def rollout(calls: list[str]) -> MigrationRegistry:
    """An old clean-up, which a deploy migration needs, and a new one, which nothing needs."""
    return migrations(
        calls,
        {
            "cleaned": {"phase": "post_deploy"},
            "next": {"depends_on": ["cleaned"]},
            "clean": {"depends_on": ["next"], "phase": "post_deploy"},
        },
    )


def delayed(calls: list[str]) -> MigrationRegistry:
    """One that waits for years, one that needs it, and one that doesn't."""
    return migrations(
        calls,
        {
            "first": {},
            "drop": {"depends_on": ["first"], "delay": YEARS},
            "after": {"depends_on": ["drop"]},
            "other": {},
        },
    )


def record(db: Any, name: str, age: timedelta) -> datetime:
    """Write a record of this age; returns its date as it is stored."""
    date = datetime.now(UTC) - age
    date = date.replace(microsecond=date.microsecond // 1000 * 1000)
    db.app_migrations.insert_one({"_id": name, "name": name, "appliedAt": date})
    return date


def test_rollout(db: Any) -> None:
    """The deploy migrations run with what they need; the rest waits for the run after the rollout, and says so once."""
    calls: list[str] = []
    events: list[Event] = []
    runner = SyncRunner(rollout(calls), db, "app", on_event=events.append)

    assert [(one.name, one.reason, one.is_waiting) for one in runner.plan(phase="deploy")] == [
        ("cleaned", "needed by next", False),
        ("next", "asked for", False),
        ("clean", "waits for phase post_deploy", True),
    ]
    assert runner.run(phase="deploy") == calls == ["cleaned", "next"]
    waiting = MigrationsWaiting(db.name, "app", events[0].run, {}, (), ("clean",))
    assert [type(event) for event in events[:2]] == [RunStarted, MigrationsWaiting]
    assert [event for event in events if isinstance(event, MigrationsWaiting)] == [waiting]
    assert runner.status().names("pending") == ["clean"]

    events.clear()
    assert runner.run(phase="deploy") == []
    assert [type(event) for event in events] == [RunStarted, MigrationsWaiting, RunFinished]
    events.clear()
    assert runner.run(phase="post_deploy") == ["clean"]
    assert not any(isinstance(event, MigrationsWaiting) for event in events)


def test_delay(db: Any) -> None:
    """A delayed migration and what needs it wait, until its dependency has been applied for long enough."""
    calls: list[str] = []
    events: list[Event] = []
    runner = SyncRunner(delayed(calls), db, "app", on_event=events.append)
    until = record(db, "first", DAY) + YEARS

    assert [(one.name, one.is_waiting, one.delayed_until, one.waits_for) for one in runner.plan()] == [
        ("other", False, None, ()),
        ("drop", True, until, ()),
        ("after", True, None, ("drop",)),
    ]
    assert [(one.name, one.state, one.delayed_until) for one in runner.status().migrations] == [
        ("first", "applied", None),
        ("drop", "waiting", until),
        ("after", "waiting", None),
        ("other", "pending", None),
    ]
    assert runner.run() == ["other"]
    assert runner.run() == []
    found = [event for event in events if isinstance(event, MigrationsWaiting)]
    assert [(one.delayed, one.dependents, one.post_deploy) for one in found] == [({"drop": until}, ("after",), ())] * 2

    db.app_migrations.update_one({"_id": "first"}, {"$set": {"appliedAt": datetime.now(UTC) - YEARS}})
    assert runner.run() == ["drop", "after"]
    assert calls == ["other", "drop", "after"]


def test_new_database(db: Any) -> None:
    """A delay doesn't count in a database that had no records before the run; nor in its plan and its status."""
    runner = SyncRunner(delayed([]), db, "app")
    assert runner.status().names("pending") == ["first", "drop", "after", "other"]
    assert [one.is_waiting for one in runner.plan()] == [False] * 4
    assert runner.run() == ["first", "drop", "after", "other"]


def test_delayed_target(db: Any) -> None:
    """A target that waits is refused with its date, and nothing runs."""
    calls: list[str] = []
    runner = SyncRunner(delayed(calls), db, "app")
    until = record(db, "first", DAY) + YEARS
    for ask in (runner.run, runner.plan, runner.pin):
        with pytest.raises(MigrationDelayedError, match=f"until {until:%Y-%m-%d %H:%M} UTC") as caught:
            ask(["other", "after"])
        assert caught.value.delayed == {"drop": until}
    assert calls == []
    assert db.app_migrations_lock.count_documents({}) == 0
    assert runner.run(["after"], ignore_delays=True) == ["drop", "after"]


def test_steps(db: Any) -> None:
    """Each run calls so many functions, until nothing is left."""
    calls: list[str] = []
    runner = SyncRunner(delayed(calls), db, "app")
    assert [one.name for one in runner.plan(steps=3, ignore_delays=True)] == ["first", "drop", "after"]
    assert runner.run(steps=3, ignore_delays=True) == ["first", "drop", "after"]
    assert runner.run(steps=3, concurrency=4) == ["other"]
    assert runner.run(steps=3) == []


def test_pins(db: Any) -> None:
    """The id of a plan covers what is carried out, and not what waits."""
    runner = SyncRunner(rollout([]), db, "app")
    deploy, first = runner.pin(phase="deploy"), runner.pin(steps=1)
    assert [one.is_waiting for one in deploy.migrations] == [False, False, True]
    assert deploy.id == runner.pin(steps=2).id != first.id
    with pytest.raises(PlanChangedError):
        runner.run(plan_id=deploy.id)
    assert runner.run(phase="deploy", plan_id=deploy.id) == ["cleaned", "next"]


def test_bad_arguments(db: Any) -> None:
    """They are refused when the method is called; a target of the other phase, too."""
    runner = SyncRunner(rollout([]), db, "app")
    for ask in (runner.run, runner.plan, runner.pin):
        with pytest.raises(InvalidOptionError, match="phase must be 'deploy', 'post_deploy' or None"):
            ask(phase="all")  # type: ignore[arg-type]
        with pytest.raises(InvalidOptionError, match="steps must be a whole number, at least 1, not 0"):
            ask(steps=0)
        with pytest.raises(InvalidOptionError, match="the targets 'clean' are of phase 'post_deploy'"):
            ask(["next", "clean"], phase="deploy")


def test_many(several: Callable[[int], list[Any]]) -> None:
    """Each database has its own delays."""
    new, old = several(2)
    until = record(old, "first", DAY) + YEARS
    events: list[Event] = []
    results = delayed([]).run_many_sync([new, old], phase="deploy", on_event=events.append)
    assert results == [
        DatabaseResult(new.name, ["first", "drop", "after", "other"]),
        DatabaseResult(old.name, ["other"]),
    ]
    (waiting,) = [event for event in events if isinstance(event, MigrationsWaiting)]
    assert (waiting.database, waiting.delayed) == (old.name, {"drop": until})
    results = delayed([]).run_many_sync([old], steps=1, ignore_delays=True)
    assert results == [DatabaseResult(old.name, ["drop"])]
    with pytest.raises(InvalidOptionError, match="steps"):
        _ = delayed([]).run_many_sync([old], steps=-1)


def test_by_the_registry(db: Any) -> None:
    """The registry's method takes them, too."""
    assert rollout([]).run_sync(db, phase="deploy", steps=1) == ["cleaned"]
    db.app_migrations.delete_many({})
    record(db, "first", DAY)
    assert delayed([]).run_sync(db, ignore_delays=True) == ["drop", "after", "other"]


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_commands(db: Any, commands: Commands) -> None:
    """What waits needs no lease: a run with nothing else to do is one read."""
    record(db, "first", DAY)
    record(db, "other", DAY)
    commands.sent.clear()
    assert SyncRunner(delayed([]), db, "app").run() == []
    assert commands.names == ["find"]
    assert recorded(db) == ["first", "other"]
