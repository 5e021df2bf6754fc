# Generated from tests/async/test_pins.py by tools/sync_tests.py
"""Plans with an id, and runs that refuse any other plan."""

import pickle
from typing import Any

import pytest

from quaestor import InvalidOptionError, PlanChangedError, SyncRunner
from tests.databases import drivers
from tests.operations import CHAIN, registry
from tools.commands import Commands


def runner(db: Any, calls: list[str], **options: Any) -> SyncRunner:
    return SyncRunner(registry(CHAIN, "sync", calls), db, "app", **options)


def test_pinned_plan(db: Any) -> None:
    """The plan with this id runs; another run with it has nothing to do, and isn't refused."""
    calls: list[str] = []
    pinned = runner(db, calls).pin()
    assert list(pinned.migrations) == runner(db, calls).plan()
    assert runner(db, calls).run(plan_id=pinned.id) == ["a", "b", "c", "d"]
    assert runner(db, calls).run(plan_id=pinned.id) == []
    assert runner(db, calls).pin().migrations == ()


def test_another_plan(db: Any) -> None:
    """Any other plan is refused, and nothing has run: fewer migrations, another order, an id of nothing to do."""
    calls: list[str] = []
    whole, first = runner(db, calls).pin().id, runner(db, calls).pin(["a"]).id
    assert whole != first
    with pytest.raises(PlanChangedError) as caught:
        runner(db, calls).run(["a"], plan_id=whole)
    assert (caught.value.expected, caught.value.found, caught.value.migrations) == (whole, first, ["a"])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert db.app_migrations.count_documents({}) == 0
    assert runner(db, calls).status().lease is None

    runner(db, calls).run()
    nothing = runner(db, calls).pin().id
    runner(db, calls).mark_pending(["d"])
    with pytest.raises(PlanChangedError):
        runner(db, calls).run(plan_id=nothing)
    assert calls == ["a", "b", "c", "d"]


@pytest.mark.parametrize("plan_id", ["", "latest", "0123456789ABCDEF", 7])
def test_invalid_id(db: Any, plan_id: Any) -> None:
    """What can't be an id is refused when `run` is called, even if there is nothing to do."""
    with pytest.raises(InvalidOptionError, match="plan_id"):
        _ = runner(db, []).run(plan_id=plan_id)


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_commands(db: Any, commands: Commands) -> None:
    """A pin is one read, and a run with an id sends what it would send without."""
    runner(db, []).mark_applied(CHAIN)
    sent = []
    for is_pinned in (False, True):
        runner(db, []).mark_pending(CHAIN)
        db.effects.delete_many({})
        commands.sent.clear()
        plan_id = runner(db, []).pin().id if is_pinned else None
        assert commands.names == ["find"] * is_pinned
        commands.sent.clear()
        runner(db, []).run(plan_id=plan_id)
        sent.append(commands.names)
    assert sent[0] == sent[1]
    commands.sent.clear()
    assert runner(db, []).run(plan_id="0123456789abcdef") == []
    assert commands.names == ["find"]
