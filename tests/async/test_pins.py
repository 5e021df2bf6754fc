"""Plans with an id, and runs that refuse any other plan."""

import pickle
from typing import Any

import pytest

from quaestor import AsyncRunner, InvalidOptionError, PlanChangedError
from tests.databases import drivers
from tests.operations import CHAIN, registry
from tools.commands import Commands

pytestmark = pytest.mark.anyio


def runner(db: Any, calls: list[str], **options: Any) -> AsyncRunner:
    return AsyncRunner(registry(CHAIN, "async", calls), db, "app", **options)


async def test_pinned_plan(db: Any) -> None:
    """The plan with this id runs; another run with it has nothing to do, and isn't refused."""
    calls: list[str] = []
    pinned = await runner(db, calls).pin()
    assert list(pinned.migrations) == await runner(db, calls).plan()
    assert await runner(db, calls).run(plan_id=pinned.id) == ["a", "b", "c", "d"]
    assert await runner(db, calls).run(plan_id=pinned.id) == []
    assert (await runner(db, calls).pin()).migrations == ()


async def test_another_plan(db: Any) -> None:
    """Any other plan is refused, and nothing has run: fewer migrations, another order, an id of nothing to do."""
    calls: list[str] = []
    whole, first = (await runner(db, calls).pin()).id, (await runner(db, calls).pin(["a"])).id
    assert whole != first
    with pytest.raises(PlanChangedError) as caught:
        await runner(db, calls).run(["a"], plan_id=whole)
    assert (caught.value.expected, caught.value.found, caught.value.migrations) == (whole, first, ["a"])
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert await db.app_migrations.count_documents({}) == 0
    assert (await runner(db, calls).status()).lease is None

    await runner(db, calls).run()
    nothing = (await runner(db, calls).pin()).id
    await runner(db, calls).mark_pending(["d"])
    with pytest.raises(PlanChangedError):
        await runner(db, calls).run(plan_id=nothing)
    assert calls == ["a", "b", "c", "d"]


@pytest.mark.parametrize("plan_id", ["", "latest", "0123456789ABCDEF", 7])
async def test_invalid_id(db: Any, plan_id: Any) -> None:
    """What can't be an id is refused when `run` is called, even if there is nothing to do."""
    with pytest.raises(InvalidOptionError, match="plan_id"):
        _ = runner(db, []).run(plan_id=plan_id)


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_commands(db: Any, commands: Commands) -> None:
    """A pin is one read, and a run with an id sends what it would send without."""
    await runner(db, []).mark_applied(CHAIN)
    sent = []
    for is_pinned in (False, True):
        await runner(db, []).mark_pending(CHAIN)
        await db.effects.delete_many({})
        commands.sent.clear()
        plan_id = (await runner(db, []).pin()).id if is_pinned else None
        assert commands.names == ["find"] * is_pinned
        commands.sent.clear()
        await runner(db, []).run(plan_id=plan_id)
        sent.append(commands.names)
    assert sent[0] == sent[1]
    commands.sent.clear()
    assert await runner(db, []).run(plan_id="0123456789abcdef") == []
    assert commands.names == ["find"]
