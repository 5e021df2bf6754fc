"""A sync run that is interrupted by Ctrl-C, or by an exception that ends a generator."""

from typing import Any

import pytest

from quaestor import (
    Event,
    MigrationApplied,
    MigrationRegistry,
    MigrationStarted,
    RunFinished,
    RunStarted,
)
from tests.databases import drivers
from tests.functions import ab, are_free, is_free, number_of, recorded, recorded_in
from tests.interruption import Interruption
from tests.meeting import Moment, Told
from tests.processes import interrupted


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.driver("pymongo")
def test_ctrl_c(uri: str, name: str, kind: str) -> None:
    """SIGINT while a function runs: KeyboardInterrupt, the function has ended, what came before stays recorded."""
    ended = interrupted("sync", kind, uri, name)

    assert "KeyboardInterrupt" in ended.errors
    assert "quaestor: in migration 'b', 2 of 2" in ended.errors
    assert ended.lines == ["started", "function ended", "failed"]
    assert ended.records == ["a"]
    assert ended.released


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_generator_exit(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """A function that raises GeneratorExit, as broken generators do, fails like any other and releases the lease."""

    @registry.register("a", transaction=transaction)
    def leaves(db: Any) -> None:
        db.users.insert_one({})
        raise GeneratorExit

    with pytest.raises(RuntimeError, match="raised GeneratorExit"):
        registry.run_sync(db, "app")
    assert recorded(db) == []
    assert is_free(db)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", [RunStarted, MigrationStarted, MigrationApplied, RunFinished])
def test_many_at_an_event(dbs: list[Any], kind: type[Event], *, again: bool) -> None:
    """Whenever it is interrupted, and however often, the call ends when all that it began has: every lease is free, and
    what is told as applied is recorded. The next call does the rest.
    """
    running = Interruption()
    interruptions = [running.interrupt] * (2 if again else 1)
    told = Told({kind: lambda: interruptions and interruptions.pop()()})
    with pytest.raises(KeyboardInterrupt):
        running.call(lambda: ab().run_many_sync(dbs, "app", on_event=told, concurrency=2))

    assert are_free(dbs)
    for one in dbs:
        applied = [event for event in told if isinstance(event, MigrationApplied) and event.database == one.name]
        assert [event.name for event in applied] == recorded(one)
    assert [result.error for result in ab().run_many_sync(dbs, "app", lease_timeout=0)] == [None] * 5
    assert recorded_in(dbs) == [["a", "b"]] * 5


def test_many_as_one_ends(dbs: list[Any], registry: MigrationRegistry) -> None:
    """Interrupted just when one database is done, where the next would begin: the other one is waited for."""
    started, interrupted, ended = Moment(), Moment(), []

    @registry.register("a")
    def takes_its_time(db: Any) -> None:
        if number_of(db) == "01":
            started.has_come()
            interrupted.wait()
            db.effects.insert_one({})
            ended.append(number_of(db))
        started.wait()

    def hook() -> None:
        running.interrupt()
        interrupted.has_come()

    running = Interruption()
    told = Told({RunFinished: lambda: interrupted.has_come() if ended else hook()})
    with pytest.raises(KeyboardInterrupt):
        running.call(lambda: registry.run_many_sync(dbs, "app", on_event=told, concurrency=2))

    assert ended == ["01"]
    assert recorded(dbs[0]) == recorded(dbs[1]) == ["a"]
    assert are_free(dbs)
