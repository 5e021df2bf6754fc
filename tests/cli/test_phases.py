"""Phases, delays and steps on the command line; rolling back the last; marks with dependencies."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cli.conftest import Project
from tests.cli.test_commands import lines

ROLLOUT = """
from datetime import timedelta
from shop.migrations import registry

@registry.register("cleaned", phase="post_deploy")
def cleaned(db):
    db.effects.insert_one({"_id": "cleaned"})

@registry.register("next", ["cleaned"], description="What the release needs.")
def next_(db):
    db.effects.insert_one({"_id": "next"})

@registry.register("clean", ["next"], phase="post_deploy")
def clean(db):
    db.effects.insert_one({"_id": "clean"})

@registry.register("drop", ["next"], delay=timedelta(days=3000))
def drop(db):
    db.effects.insert_one({"_id": "drop"})

@registry.register("after", ["drop"])
def after(db):
    db.effects.insert_one({"_id": "after"})
"""


@pytest.fixture
def rollout(project: Project) -> Project:
    """A project with a deploy migration that needs a clean-up, a later clean-up, and a delayed one."""
    for name in ("first", "second", "aside"):
        (project.folder / f"shop/migrations/{name}.py").unlink()
    project.write("shop/migrations/rollout.py", ROLLOUT)
    return project


def record(db: Any, *names: str) -> datetime:
    """Record these, a day after each other, the last yesterday; returns the date of the last."""
    dates = [datetime.now(UTC) - timedelta(days=number) for number in range(len(names), 0, -1)]
    db.app_migrations.insert_many(
        [{"_id": name, "name": name, "appliedAt": date} for name, date in zip(names, dates, strict=True)]
    )
    return dates[-1]


def test_gate_of_a_rollout(rollout: Project) -> None:
    """The check of a deploy fails while a deploy migration is pending, and names what it needs, too."""
    record(rollout.db, "another")
    arguments = ["check", "--phase", "deploy", "--allow-unknown"]
    assert rollout.quaestor(*arguments, code=1)[0].startswith("2 pending: cleaned, next.")
    rollout.quaestor("run", "--phase", "deploy")
    assert rollout.effects() == {"cleaned", "next"}
    output, _ = rollout.quaestor(*arguments)
    assert "2 applied, 1 pending, 2 waiting" in output
    assert "Not needed for the rollout: clean." in output
    assert rollout.quaestor("check", "--allow-unknown", code=1)[0].startswith("1 pending: clean.")
    assert rollout.quaestor("check", "--allow-unknown", "--phase", "post_deploy", code=1)[0].startswith("1 pending:")
    rollout.quaestor("run", "--phase", "post_deploy")
    assert rollout.effects() == {"cleaned", "next", "clean"}
    rollout.quaestor("check", "--allow-unknown")


def test_show_a_delay(rollout: Project) -> None:
    assert "delay      3000 days after what it needs\n" in rollout.quaestor("show", "drop")[0]


def test_plan(rollout: Project) -> None:
    """The plan shows what would be applied, and below it what would wait, and for what."""
    until = record(rollout.db, "cleaned", "next") + timedelta(days=3000)
    output, _ = rollout.quaestor("plan", "--phase", "deploy")
    assert lines(output) == [
        ["Up", "to", "date:", "nothing", "to", "apply."],
        ["waiting", "why"],
        ["drop", "delayed", "until", f"{until:%Y-%m-%d}", f"{until:%H:%M}", "UTC"],
        ["after", "waits", "for", "drop"],
        ["clean", "waits", "for", "phase", "post_deploy"],
    ]
    output, _ = rollout.quaestor("run", "--dry-run", "--steps", "1")
    assert [row[:2] for row in lines(output)] == [["to", "apply"], ["1", "clean"], [], ["waiting", "why"]] + [
        [name, why] for name, why in (("drop", "delayed"), ("after", "waits"))
    ]
    planned = json.loads(rollout.quaestor("plan", "--json")[0])
    assert [(one["name"], one["is_delayed"], one["waits_for"]) for one in planned] == [
        ("clean", False, []),
        ("drop", True, []),
        ("after", False, ["drop"]),
    ]
    assert planned[1]["delayed_until"].startswith(f"{until:%Y-%m-%dT%H:%M}")
    assert [row[:2] for row in lines(rollout.quaestor("plan", "--no-delay")[0])[1:]] == [
        ["1", "clean"],
        ["2", "drop"],
        ["3", "after"],
    ]
    pinned = rollout.quaestor("plan", "--pin", "--phase", "deploy", "--no-delay", "--steps", "1")[0].strip()
    rollout.quaestor("run", "--plan", pinned, code=1)
    rollout.quaestor("run", "--plan", pinned, "--phase", "deploy", "--no-delay", "--steps", "1")
    assert rollout.effects() == {"drop"}


def test_run(rollout: Project) -> None:
    """A run says what it leaves; a delayed target is refused with its date; the status shows until when it waits."""
    until = record(rollout.db, "cleaned", "next") + timedelta(days=3000)
    output, _ = rollout.quaestor("run", "--phase", "deploy")
    assert f"3 migrations left for later: drop (delayed until {until:%Y-%m-%d %H:%M} UTC), after (depends" in output
    assert "clean (phase post_deploy)" in output
    events = rollout.quaestor("run", "--phase", "deploy", "--json")[0].splitlines()
    (waiting,) = [event for event in map(json.loads, events) if event["event"] == "MigrationsWaiting"]
    assert (waiting["dependents"], waiting["post_deploy"], list(waiting["delayed"])) == (["after"], ["clean"], ["drop"])

    _, errors = rollout.quaestor("run", "after", code=1)
    assert f"'drop' (until {until:%Y-%m-%d %H:%M} UTC)" in errors
    assert "--no-delay" in errors
    assert "'clean' are of phase 'post_deploy'" in rollout.quaestor("run", "clean", "--phase", "deploy", code=2)[1]
    output, _ = rollout.quaestor("status")
    assert f"delayed until {until:%Y-%m-%d %H:%M}" in output
    assert "2 applied, 1 pending, 2 waiting." in output
    rollout.quaestor("run", "--steps", "0", code=2)
    rollout.quaestor("run", "--phase", "predeploy", code=2)
    rollout.quaestor("run", "after", "--no-delay")
    assert rollout.effects() == {"drop", "after"}


def test_many(rollout: Project) -> None:
    """The options are for a pattern, too. What waits isn't counted as something to apply."""
    record(rollout.db, "cleaned", "next")
    pattern = ["--db", f"{rollout.db.name}*"]
    output, _ = rollout.quaestor("plan", *pattern)
    assert "1 migration to apply in 1 of 1 database." in output
    assert "0 migrations to apply in 0 of 1 database." in rollout.quaestor("plan", *pattern, "--phase", "deploy")[0]
    rollout.quaestor("check", *pattern, "--phase", "deploy")
    rollout.quaestor("check", *pattern, code=1)
    rollout.quaestor("run", *pattern)
    output, _ = rollout.quaestor("status", *pattern)
    assert lines(output)[0][-2:] == ["applied", "waiting"]
    rollout.quaestor("run", *pattern, "--no-delay", "--steps", "1")
    assert rollout.effects() == {"clean", "drop"}


def test_rollback(project: Project) -> None:
    """The last by the records, or all after one; exactly one way to say which."""
    record(project.db, "first", "aside", "second")
    assert "Pass what to roll back" in project.quaestor("rollback", code=2)[1]
    assert "Pass what to roll back" in project.quaestor("rollback", "first", "--last", "1", code=2)[1]
    assert "last must be a whole number" in project.quaestor("rollback", "--last", "0", "--yes", code=2)[1]
    output, _ = project.quaestor("rollback", "--last", "1", "--dry-run")
    assert lines(output)[1] == ["1", "second"]
    assert "No rollback is registered for aside" in project.quaestor("rollback", "--to", "first", "--yes", code=1)[1]
    project.quaestor("rollback", "--to", "aside", "--yes")
    assert project.recorded() == {"first", "aside"}
    assert "Nothing to roll back" in project.quaestor("rollback", "--to", "aside")[0]
    assert "'second' isn't applied" in project.quaestor("rollback", "--to", "second", "--yes", code=2)[1]
    record(project.db, "from tomorrow")
    assert "can't undo: from tomorrow" in project.quaestor("rollback", "--last", "1", "--yes", code=1)[1]


def test_mark(project: Project) -> None:
    """A mark can take along what the migration depends on."""
    output, _ = project.quaestor("mark", "applied", "second", "--with-dependencies")
    assert "first, second" in output
    assert project.recorded() == {"first", "second"}
    _, errors = project.quaestor("mark", "pending", "second", "--with-dependencies", code=2)
    assert "for `mark applied`, not for `mark pending`" in errors
