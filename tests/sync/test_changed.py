# Generated from tests/async/test_changed.py by tools/sync_tests.py
"""Migrations that have changed since they were applied."""

from typing import Any

import pytest

from quaestor import MigrationRegistry, SyncRunner
from tests.databases import drivers
from tools.commands import Commands


def first(db: Any) -> None:
    """Applied."""


def changed(db: Any) -> None:
    """The same migration in a later release."""
    db.things.find_one({})


def same(db: object) -> None:
    # The same as the first: only words have changed.
    ...


def make_runner(db: Any, *functions: Any) -> SyncRunner:
    registry = MigrationRegistry()
    for name, function in zip("abc", functions, strict=False):
        registry.register(name)(function)
    return SyncRunner(registry, db, "app")


def find_changed(runner: SyncRunner) -> list[str]:
    return [one.name for one in runner.status().migrations if one.changed]


def test_changed(db: Any) -> None:
    """A change of a function is seen in the status until it is accepted. Words, and unknown migrations, don't count."""
    assert make_runner(db, first, first).run() == ["a", "b"]
    later = make_runner(db, changed, same)
    assert find_changed(later) == ["a"]
    assert find_changed(make_runner(db, first, first)) == []
    assert find_changed(make_runner(db)) == []
    before = {one["_id"]: one for one in db.app_migrations.find()}

    assert later.mark_accepted(["a", "b"]) == ["a"]

    assert find_changed(later) == []
    assert find_changed(make_runner(db, first, first)) == ["a"]
    records = {one["_id"]: one for one in db.app_migrations.find()}
    assert records["b"] == before["b"]
    assert records["a"].pop("checksum") != before["a"].pop("checksum")
    assert records["a"] == before["a"]
    assert later.mark_accepted(["a", "b"]) == []
    (entry,) = [one for one in later.history() if one.what == "accepted"]
    assert (entry.name, entry.user) == ("a", before["a"]["user"])


def test_no_checksum(db: Any) -> None:
    """A migration that an earlier release recorded hasn't changed, as far as is known, until it is accepted. So it is
    with one whose function has no source. A duplicate record of 0.1.0 counts as the others.
    """
    db.app_migrations.insert_many([{"name": "a"}, {"name": "a"}, {"_id": "b", "name": "b"}])
    without_source: dict[str, Any] = {}
    exec("def function(db): ...", without_source)  # noqa: S102 - such a function has no source
    runner = make_runner(db, first, without_source["function"], first)
    assert find_changed(runner) == []
    assert runner.mark_accepted(["a", "b", "c"]) == ["a"]
    assert find_changed(make_runner(db, changed, changed, changed)) == ["a"]
    assert runner.run() == ["c"]
    assert find_changed(make_runner(db, changed, changed, without_source["function"])) == ["a"]


@pytest.mark.parametrize("applied", [True, False])
def test_marked(db: Any, applied: bool) -> None:
    """What was marked as applied is known as it was then; what is applied once more, as it was the last time."""
    runner, later = make_runner(db, first), make_runner(db, changed)
    runner.run()
    runner.mark_pending(["a"])
    (later.mark_applied(["a"]) if applied else later.run())
    assert find_changed(later) == []
    assert find_changed(runner) == ["a"]


def test_run_computes_nothing(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run isn't about what has changed: it reads no source of an applied migration, and goes on."""
    seen: list[Any] = []
    make_runner(db, first).run()
    monkeypatch.setattr("quaestor._functions.compute_checksum", seen.append)
    runner = make_runner(db, changed, first)
    assert [one.name for one in runner.plan()] == ["b"]
    assert runner.run(strict=True) == ["b"]
    assert seen == [first]
    assert runner.run() == []
    assert seen == [first]


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_commands(db: Any, commands: Commands) -> None:
    """Accepting is two reads, a lease, and for each migration a check, an update and an entry in the history. Without
    any change it's a read.
    """
    make_runner(db, first, first).run()
    later = make_runner(db, changed, changed)
    commands.sent.clear()
    later.mark_accepted(["a", "b"])
    assert commands.names == ["find", "findAndModify", "find", *["update"] * 3 * 2, "update"]
    commands.sent.clear()
    later.mark_accepted(["a", "b"])
    assert commands.names == ["find"]
