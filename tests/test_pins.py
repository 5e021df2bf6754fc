"""Plans with an id, on the store in memory: what the id covers, and that it is checked for the plan that is applied."""

from collections.abc import Callable

import pytest

from quaestor._core import engine
from quaestor._core.definition import MigrationDefinition
from quaestor._core.plan import Change, compute_id
from quaestor.errors import PlanChangedError
from tests.fake_store import Process, Server
from tests.functions import definitions, nothing
from tests.world import LONG_AGO


def change(name: str, function: Callable[..., object] = print) -> Change:
    return Change(name, applies=True, function=function, is_async=False)


def make_id(*changes: Change) -> str:
    return compute_id(changes, lambda function: None if function is print else str(function))


def test_id_covers() -> None:
    """Names, their order and the checksums of their functions, and nothing that differs between two processes."""
    a, b, other = change("a"), change("b"), change("a", len)
    assert make_id(a, b) == make_id(change("a"), change("b")) == "9c8397273e64384c"
    assert (
        len({make_id(), make_id(a), make_id(b), make_id(a, b), make_id(b, a), make_id(other), make_id(other, b)}) == 7
    )
    assert make_id(change("a b")) != make_id(a, b)


@pytest.mark.parametrize("left", [["c"], []], ids=["changed", "nothing left"])
def test_plan_that_is_applied(left: list[str]) -> None:
    """If another instance applies something while this one waits for the lease, the rest is another plan: it's refused,
    unless nothing is left. The lease is released.
    """
    known = definitions({name: [] for name in "abc"})
    server = Server()
    process = Process(server, known)
    pinned = process.start(process.engine.pin(engine.run(process.scope))).finish()
    other = Process(server, known, "other").run({"a", "b", "c"} - {*left})
    other.reach("function a")
    process = Process(server, known).run(plan_id=pinned.id)
    process.reach("sleep")
    other.finish()

    if left:
        with pytest.raises(PlanChangedError) as caught:
            process.finish()
        assert (caught.value.expected, caught.value.migrations) == (pinned.id, left)
    else:
        assert process.finish() == []
    assert server.work == ["a", "b", "c"][: 3 - len(left)]
    assert server.holder is None


def test_nothing_left_but_a_record() -> None:
    """A replacement that is only recorded is no part of the plan: the id covers the functions."""
    known = {
        "a": MigrationDefinition("a", nothing),
        "new": MigrationDefinition("new", nothing, replaces=("old",)),
    }
    server = Server(recorded={"old": LONG_AGO})
    process = Process(server, known)
    pinned = process.start(process.engine.pin(engine.run(process.scope))).finish()
    assert Process(server, definitions({"a": []}), "of an older release").run().finish() == ["a"]

    assert Process(server, known).run(plan_id=pinned.id).finish() == []
    assert server.records == {"a", "new", "old"}


@pytest.mark.parametrize("records", [0, 1, 2])
def test_instance_that_starts_during_the_run(records: int) -> None:
    """An instance with the same id that starts while the first one is applying the plan waits, and finds nothing to do,
    however much of the plan is recorded by then.
    """
    known = definitions({name: [] for name in "abc"})
    server = Server()
    process = Process(server, known)
    pinned = process.start(process.engine.pin(engine.run(process.scope))).finish()
    first = Process(server, known, "first").run(plan_id=pinned.id)
    first.reach(f"function {'abc'[records]}")
    second = Process(server, known).run(plan_id=pinned.id)
    second.reach("sleep")
    assert first.finish() == ["a", "b", "c"]
    assert second.finish() == []
    assert server.work == ["a", "b", "c"]
