"""Runs, rollbacks and marks over many databases: what is done in each, which events there are, and that a failure in
one stays in it.
"""

from collections.abc import Callable
from typing import Any

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from quaestor import (
    AsyncRunner,
    CircularDependencyError,
    DatabaseFinished,
    DatabaseResult,
    DatabaseSkippedError,
    DependencyConflictError,
    Event,
    InvalidDatabaseError,
    InvalidOptionError,
    InvalidPrefixError,
    IrreversibleMigrationError,
    LeaseTimeoutError,
    MigrationApplied,
    MigrationRegistry,
    MigrationRolledBack,
    MigrationStarted,
    QuaestorError,
    RollbackFinished,
    RollbackStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    UnknownMigrationError,
    UnknownRecordsError,
)
from tests.databases import both_kinds_async, drivers, opened_async
from tests.functions import (
    NOWHERE,
    Broken,
    ab_async,
    are_free_async,
    is_free_async,
    nothing_async,
    number_of,
    recorded_async,
    recorded_in_async,
)
from tests.leases import HELD
from tests.meeting import Count, Events, Meeting, Moment
from tools.commands import Commands

pytestmark = pytest.mark.anyio

real = pytest.mark.parametrize("driver", drivers("pymongo", "motor"), indirect=True)
"""For what the mocks do not have."""


async def leaves_an_effect(db: Any) -> None:
    """A migration that inserts a document."""
    await db.effects.insert_one({})


@pytest.mark.parametrize("concurrency", [1, 8, 100])
async def test_migrated(several: Callable[[int], list[Any]], concurrency: int) -> None:
    """All of 20 are migrated, and the results are in the order given; again there is nothing to do."""
    registry = ab_async()
    registry.register("c", depends_on=["a"])(leaves_an_effect)
    dbs = several(20)[::-1]

    results = await registry.run_many(iter(dbs), "app", concurrency=concurrency)

    assert results == [DatabaseResult(one.name, ["a", "b", "c"], None) for one in dbs]
    for one in dbs:
        assert await recorded_async(one) == ["a", "b", "c"]
        assert await one.effects.count_documents({}) == 1
        assert await is_free_async(one)
    again = await registry.run_many(dbs, "app", concurrency=concurrency)
    assert again == [DatabaseResult(one.name, [], None) for one in dbs]


async def test_no_databases() -> None:
    """Without databases there are no results."""
    assert await ab_async().run_many([], "app") == []


async def test_order_of_results(dbs: list[Any], registry: MigrationRegistry) -> None:
    """The results are in the order given, also where the first ends last."""
    ended = Moment()

    def hook(event: Event) -> None:
        if isinstance(event, RunFinished) and event.database == dbs[-1].name:
            ended.has_come()

    @registry.register("a")
    async def a(observed: Any) -> None:
        if observed.name == dbs[0].name:
            await ended.wait_async()

    results = await registry.run_many(dbs, "app", on_event=hook, concurrency=2)
    assert [result.database for result in results] == [one.name for one in dbs]


@pytest.mark.parametrize("concurrency", [2, 3])
async def test_at_most(registry: MigrationRegistry, several: Callable[[int], list[Any]], concurrency: int) -> None:
    """Up to `concurrency` databases are migrated at once; in each, one migration at a time."""
    meeting, at_once = Meeting(concurrency), Count()
    in_each: dict[str, Count] = {}

    async def body(db: Any) -> None:
        with at_once.one_more(), in_each.setdefault(db.name, Count()).one_more():
            await meeting.wait_async()

    for name in "ab":
        registry.register(name)(body)
    dbs = several(6)
    results = await registry.run_many(dbs, "app", concurrency=concurrency)

    assert [result.applied for result in results] == [["a", "b"]] * 6
    assert at_once.most == concurrency
    assert [in_each[one.name].most for one in dbs] == [1] * 6


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("kind", [Broken, SystemExit, KeyboardInterrupt, StopAsyncIteration])
async def test_failure_in_one(
    dbs: list[Any], registry: MigrationRegistry, kind: type[BaseException], concurrency: int
) -> None:
    """An exception of a migration is the error of its database, with a note, even SystemExit; the result has what was
    applied before. The others are migrated, and the next call does the rest.
    """
    error = kind("own")
    fixed: list[bool] = []
    registry.register("a")(nothing_async)

    @registry.register("b")
    async def fails(db: Any) -> None:
        if number_of(db) == "02" and not fixed:
            raise error

    registry.register("c")(nothing_async)

    results = await registry.run_many(dbs, "app", concurrency=concurrency)

    assert results[2].error is error
    assert error.__notes__ == ["quaestor: in migration 'b', 2 of 3"]
    assert [result.applied for result in results] == [["a"] if one == 2 else ["a", "b", "c"] for one in range(5)]
    assert [result.error for result in results if result.error is not error] == [None] * 4
    assert await recorded_in_async(dbs) == [result.applied for result in results]
    assert await are_free_async(dbs)
    fixed.append(True)
    assert (await registry.run_many(dbs, "app"))[2] == DatabaseResult(dbs[2].name, ["b", "c"], None)


@pytest.mark.parametrize("is_async", [False, True])
@both_kinds_async
async def test_both_kinds(dbs: list[Any], registry: MigrationRegistry, sync_dbs: Any, *, is_async: bool) -> None:
    """Functions of both kinds run in all databases; an exception is the error of its database."""
    error = SystemExit("own")

    @registry.register("a")
    def plain(db: Any) -> None:
        db.effects.insert_one({"name": db.name})
        if (number_of(db), is_async) == ("01", False):
            raise error

    @registry.register("b")
    async def awaited(db: Any) -> None:  # stays async
        await db.effects.insert_one({"name": db.name})
        if (number_of(db), is_async) == ("01", True):
            raise error

    results = await registry.run_many(dbs, "app", sync_db=sync_dbs)

    assert [result.error for result in results] == [None, error, None, None, None]
    for one, result in zip(dbs, results, strict=True):
        expected = ["a", "b"] if one is not dbs[1] else ["a"] * is_async
        assert result.applied == await recorded_async(one) == expected
        written = 1 if one is dbs[1] and not is_async else 2
        assert [effect["name"] async for effect in one.effects.find()] == [one.name] * written
        assert await is_free_async(one)


async def test_refused_in_one(dbs: list[Any]) -> None:
    """What is refused in one database is its error: a lease timeout, unknown records, or a prefix that is too long with
    its name. The others are migrated.
    """
    prefix = "p" * (255 - len(f"{dbs[0].name}._migrations_progress"))
    long = dbs[0].client[f"{dbs[0].name}_with_more"]
    await dbs[1][f"{prefix}_migrations_lock"].insert_one(HELD)
    await dbs[3][f"{prefix}_migrations"].insert_one({"_id": "from tomorrow", "name": "from tomorrow"})

    events = Events()
    options: dict[str, Any] = {"strict": True, "lease_timeout": 0, "concurrency": 2, "on_event": events}
    results = await ab_async().run_many([*dbs, long], prefix, **options)

    failed = {event.database: event.error for event in events if isinstance(event, RunFailed)}
    assert failed == {result.database: result.error for result in results if result.error is not None}
    assert [result.database for result in results] == [one.name for one in [*dbs, long]]
    assert [type(result.error) for result in results if result.error is not None] == [
        LeaseTimeoutError,
        UnknownRecordsError,
        InvalidPrefixError,
    ]
    assert [result.applied for result in results] == [["a", "b"], [], ["a", "b"], [], ["a", "b"], []]
    assert await dbs[1][f"{prefix}_migrations_lock"].find_one() == HELD


async def test_targets(dbs: list[Any]) -> None:
    """Targets and their dependencies are applied in each database, also from a generator."""
    registry = ab_async()
    registry.register("c", depends_on=["a"])(nothing_async)

    results = await registry.run_many(dbs, "app", targets=(name for name in ["c"]))  # type: ignore[arg-type]

    assert [(result.applied, result.error) for result in results] == [(["a", "c"], None)] * 5
    assert await recorded_in_async(dbs) == [["a", "c"]] * 5


async def test_same_database_twice(db: Any, registry: MigrationRegistry) -> None:
    """A database that is passed twice is migrated once: one run waits for the other and finds nothing to do."""
    registry.register("a")(leaves_an_effect)

    results = await registry.run_many([db, db, db], "app")

    assert [(result.database, result.error) for result in results] == [(db.name, None)] * 3
    assert sorted(result.applied for result in results) == [[], [], ["a"]]
    assert await db.effects.count_documents({}) == 1
    assert await recorded_async(db) == ["a"]
    assert await is_free_async(db)


async def test_events(dbs: list[Any], registry: MigrationRegistry) -> None:
    """The hook gets the events of each database in order, one at a time. They all have the id of the one run."""
    meeting, events = Meeting(5), Events()

    async def body(db: Any) -> None:
        await meeting.wait_async()

    for name in "ab":
        registry.register(name)(body)

    await registry.run_many(dbs, "app", on_event=events)

    assert events.calls.most == 1
    assert len(events) == 5 * 7
    (run,) = {event.run for event in events}
    for one in dbs:
        of_one = [event for event in events if event.database == one.name]
        assert [event for event in of_one if not isinstance(event, MigrationApplied)] == [
            RunStarted(one.name, "app", run, ("a", "b")),
            MigrationStarted(one.name, "app", run, "a", 1, 2),
            MigrationStarted(one.name, "app", run, "b", 2, 2),
            RunFinished(one.name, "app", run, ("a", "b")),
            DatabaseFinished(one.name, "app", run, ("a", "b")),
        ]


async def test_unsound_graph(dbs: list[Any], registry: MigrationRegistry, commands: Commands) -> None:
    """An unsound graph is an error before the first command."""
    registry.register("a", depends_on=["b"])(nothing_async)
    registry.register("b", depends_on=["a"])(nothing_async)

    with pytest.raises(CircularDependencyError):
        await registry.run_many(dbs, "app")
    assert commands.sent == []


async def hook(event: Event) -> None: ...  # stays async


@real
@pytest.mark.parametrize("count", [0, 5])
async def test_bad_options(dbs: list[Any], commands: Commands, count: int) -> None:
    """An argument that is wrong for any database is refused before the first command, with databases or without."""
    options: list[tuple[dict[str, Any], type[QuaestorError], str]] = [
        ({"prefix": ""}, InvalidPrefixError, "must not be empty"),
        ({"prefix": "p" * 250}, InvalidPrefixError, "bytes too long"),
        ({"concurrency": 0}, InvalidOptionError, "concurrency must be a whole number, from 1 to 100, not 0"),
        ({"lease_ttl": 0}, InvalidOptionError, "lease_ttl must be a number of seconds"),
        ({"lease_timeout": -1}, InvalidOptionError, "lease_timeout must be a number of seconds"),
        ({"on_event": hook}, InvalidOptionError, "on_event must be a `def` function"),
        ({"targets": ["z"]}, UnknownMigrationError, "z"),
        ({"targets": "a"}, InvalidOptionError, "targets must be a list of names, not a str"),
    ]
    for option, error, words in options:
        with pytest.raises(error) as caught:
            await ab_async().run_many(dbs[:count], **{"prefix": "app"} | option)
        assert words in str(caught.value)
    assert commands.sent == []


@pytest.mark.parametrize("position", [0, 3])
async def test_bad_databases(dbs: list[Any], commands: Commands, position: int) -> None:
    """Anything but a list of databases is refused before the first command; the error says which one is wrong."""
    db = dbs[position]
    for wrong in (db.name, None, db.client, db.things):
        with pytest.raises(InvalidDatabaseError) as not_a_database:
            await ab_async().run_many([*dbs[:position], wrong, *dbs[position:]], "app")
        assert not_a_database.value.__notes__ == [f"quaestor: it is databases[{position}]"]
    for name in ("admin", "config", "local"):
        with pytest.raises(InvalidDatabaseError) as of_mongodb:
            await ab_async().run_many([*dbs[:position], db.client[name], *dbs[position:]], "app")
        assert f"databases[{position}] is {name!r}, MongoDB's own" in str(of_mongodb.value)
    for wrong in (db, db.client, None, 7):
        with pytest.raises(InvalidOptionError) as not_a_list:
            await ab_async().run_many(wrong, "app")
        assert str(not_a_list.value) == f"databases must be a list of databases, not {type(wrong).__name__}."
    assert commands.sent == []


@real
@pytest.mark.parametrize("work", ["run", "mark"])
async def test_no_server(several: Callable[[int], list[Any]], driver: str, work: str) -> None:
    """After ten databases in a row that find no server no further one is started, and the result says which."""
    registry, events = undoable(), Events()
    options: Any = {"on_event": events, "concurrency": 5}
    async with opened_async(driver, NOWHERE, "x", serverSelectionTimeoutMS=10) as nowhere:
        dbs = [*(nowhere.client[f"n{number}"] for number in range(30)), *several(1)]
        if work == "run":
            results = await registry.run_many(dbs, "app", **options)
        else:
            results = await registry.mark_many(dbs, "app", ["a"], **options)

    errors = [result.error for result in results]
    skipped = [error for error in errors if isinstance(error, DatabaseSkippedError)]
    assert 17 <= len(skipped) <= 21  # after the tenth, up to four were in progress
    assert errors[-1] is skipped[-1], "although its server can be reached"
    assert len(skipped[0].unreachable) == 10
    assert {type(error) for error in errors[:10]} == {ServerSelectionTimeoutError}
    ended = [event for event in events if isinstance(event, DatabaseFinished)]
    assert [event.database for event in ended if event.error is skipped[-1]][-1] == dbs[-1].name
    assert {event.work for event in events if isinstance(event, RunFailed | DatabaseFinished)} == {work}


# rollbacks and marks


def undoable(undo_b: Callable[[Any], Any] = nothing_async) -> MigrationRegistry:
    """Three migrations: b and c depend on a, and c has no rollback."""
    registry = MigrationRegistry()
    registry.register("a")(leaves_an_effect)
    registry.register("b", depends_on=["a"])(nothing_async)
    registry.register("c", depends_on=["a"])(nothing_async)
    registry.register_rollback("b")(undo_b)

    @registry.register_rollback("a")
    async def undo_a(db: Any) -> None:
        await db.effects.delete_one({})

    return registry


@pytest.mark.parametrize("concurrency", [1, 8])
async def test_rolled_back(dbs: list[Any], concurrency: int) -> None:
    """Targets and what depends on them are undone in each, dependents first; again there is nothing to do. The events
    are those of a rollback, and they all have the id of the one call.
    """
    registry, events = undoable(), Events()
    await registry.run_many(dbs, "app", targets=["b"])

    results = await registry.rollback_many(dbs, "app", iter(["a"]), on_event=events, concurrency=concurrency)  # type: ignore[arg-type]

    assert results == [DatabaseResult(one.name, [], None, rolled_back=["b", "a"]) for one in dbs]
    assert await recorded_in_async(dbs) == [[]] * 5
    assert await are_free_async(dbs)
    (run,) = {event.run for event in events}
    for one in dbs:
        assert await one.effects.count_documents({}) == 0
        of_one = [event for event in events if event.database == one.name]
        assert [event for event in of_one if not isinstance(event, MigrationRolledBack)] == [
            RollbackStarted(one.name, "app", run, ("b", "a")),
            MigrationStarted(one.name, "app", run, "b", 1, 2, undo=True),
            MigrationStarted(one.name, "app", run, "a", 2, 2, undo=True),
            RollbackFinished(one.name, "app", run, ("b", "a")),
            DatabaseFinished(one.name, "app", run, (), rolled_back=("b", "a"), work="rollback"),
        ]
        assert str(of_one[-1]) == "Finished: 2 migrations rolled back"
    assert await registry.rollback_many(dbs, "app", ["a"]) == [DatabaseResult(one.name, [], None) for one in dbs]


async def test_last_ones_are_rolled_back(dbs: list[Any]) -> None:
    """What came last, or after one of them, is found out in each database."""
    registry = undoable()
    await registry.run_many(dbs, "app", targets=["b"])
    await registry.rollback_many(dbs[:1], "app", ["b"])

    last = await registry.rollback_many(dbs, "app", last=1)

    assert [result.rolled_back for result in last] == [["a"], *[["b"]] * 4]
    await registry.run_many(dbs, "app", targets=["b"])
    after = await registry.rollback_many(dbs, "app", to="a")
    assert after == [DatabaseResult(one.name, [], None, rolled_back=["b"]) for one in dbs]


async def test_rollback_without_dependents(dbs: list[Any]) -> None:
    """Where an applied migration depends on a target, it's an error, and nothing is undone."""
    registry = undoable()
    await registry.run_many(dbs, "app", targets=["a"])
    await registry.run_many(dbs[:1], "app", targets=["b"])

    results = await registry.rollback_many(dbs, "app", ["a"], with_dependents=False)

    assert isinstance(results[0].error, DependencyConflictError)
    assert [result.rolled_back for result in results] == [[], *[["a"]] * 4]
    with pytest.raises(DependencyConflictError):
        await AsyncRunner(registry, dbs[0], "app").rollback(["a"], with_dependents=False)


@pytest.mark.parametrize("kind", [Broken, SystemExit])
async def test_failed_rollback_in_one(dbs: list[Any], kind: type[BaseException]) -> None:
    """What fails in one database, or can't be undone there, is its error; the result has what was undone before it."""
    error, events = kind("own"), Events()

    async def undo_b(db: Any) -> None:
        if number_of(db) == "02":
            raise error

    registry = undoable(undo_b)
    registry.register("d", depends_on=["b"])(nothing_async)
    registry.register_rollback("d")(nothing_async)
    await registry.run_many(dbs, "app", targets=["d"])
    await registry.run_many(dbs[:1], "app")

    results = await registry.rollback_many(dbs, "app", ["a"], on_event=events, concurrency=2)

    assert [result.rolled_back for result in results] == [
        [],
        ["d", "b", "a"],
        ["d"],
        ["d", "b", "a"],
        ["d", "b", "a"],
    ]
    assert isinstance(results[0].error, IrreversibleMigrationError)
    assert results[2].error is error
    assert error.__notes__ == ["quaestor: while rolling back migration 'b', 2 of 3"]
    failed = {event.database: event.work for event in events if isinstance(event, RunFailed)}
    assert failed == {dbs[0].name: "rollback", dbs[2].name: "rollback"}
    assert await recorded_in_async(dbs) == [["a", "b", "c", "d"], [], ["a", "b"], [], []]
    assert await are_free_async(dbs)


@both_kinds_async
async def test_rollback_of_both_kinds(dbs: list[Any], registry: MigrationRegistry, sync_dbs: Any) -> None:
    """Rollbacks of both kinds run in all databases."""

    @registry.register("a")
    async def awaited(db: Any) -> None:  # stays async
        await db.effects.insert_one({})

    @registry.register_rollback("a")
    def undo(db: Any) -> None:
        db.effects.delete_one({})

    await registry.run_many(dbs, "app", sync_db=sync_dbs)
    results = await registry.rollback_many(dbs, "app", ["a"], sync_db=sync_dbs)

    assert results == [DatabaseResult(one.name, [], None, rolled_back=["a"]) for one in dbs]
    assert [await one.effects.count_documents({}) for one in dbs] == [0] * 5


async def test_marked(dbs: list[Any]) -> None:
    """Migrations are marked in each database, without a call, and what was marked already isn't in the result."""
    registry, events = undoable(), Events()
    await registry.run_many(dbs[:1], "app", targets=["a"])

    applied = await registry.mark_many(dbs, "app", iter(["b", "a"]), on_event=events)  # type: ignore[arg-type]

    assert [result.marked for result in applied] == [["b"], *[["a", "b"]] * 4]
    assert await recorded_in_async(dbs) == [["a", "b"]] * 5
    assert [await one.effects.count_documents({}) for one in dbs] == [1, 0, 0, 0, 0]
    finished = [event for event in events if isinstance(event, DatabaseFinished) and event.database == dbs[1].name]
    assert finished == [DatabaseFinished(dbs[1].name, "app", finished[0].run, (), marked=("a", "b"), work="mark")]
    assert str(finished[0]) == "Finished: 2 migrations marked"
    pending = await registry.mark_many(dbs, "app", ["b"], "pending", concurrency=2)
    assert pending == [DatabaseResult(one.name, [], None, marked=["b"]) for one in dbs]
    assert await recorded_in_async(dbs) == [["a"]] * 5

    again = await registry.mark_many(dbs, "app", ["b"], with_dependencies=True)
    assert [result.marked for result in again] == [["b"]] * 5
    await dbs[3].app_migrations.update_one({"name": "a"}, {"$set": {"checksum": "another"}})
    accepted = await registry.mark_many(dbs, "app", registry.migrations, state="accepted")
    assert [result.marked for result in accepted] == [[], [], [], ["a"], []]
    assert await are_free_async(dbs)


async def test_mark_refused_in_one(dbs: list[Any]) -> None:
    """A mark that the records of one database don't allow is its error; the others are marked."""
    registry, events = undoable(), Events()
    await registry.mark_many(dbs, "app", ["a"])
    await registry.mark_many(dbs[1:2], "app", ["a"], "pending")
    await dbs[4].app_migrations.insert_one({"_id": "old", "name": "old"})

    results = await registry.mark_many(dbs, "app", ["b"], on_event=events)

    assert [result.marked for result in results] == [["b"], [], ["b"], ["b"], ["b"]]
    assert isinstance(results[1].error, DependencyConflictError)
    assert [event.work for event in events if isinstance(event, RunFailed)] == ["mark"]
    gone = await registry.mark_many(dbs, "app", ["old"], "pending")
    assert [type(result.error) for result in gone] == [*[UnknownMigrationError] * 4, type(None)]
    assert gone[4].marked == ["old"]


@real
async def test_bad_names_and_states(dbs: list[Any], commands: Commands) -> None:
    """An argument that is wrong for any database is refused before the first command."""
    registry = undoable()
    wrong: list[tuple[tuple[Any, ...], type[QuaestorError], str]] = [
        (("applied", ["z"]), UnknownMigrationError, "z"),
        (("accepted", ["z"]), UnknownMigrationError, "z"),
        (("pending", "a"), InvalidOptionError, "names must be a list of names, not a str"),
        (("done", ["a"]), InvalidOptionError, "state must be 'applied', 'pending' or 'accepted', not 'done'."),
        (([], ["a"]), InvalidOptionError, "state must be 'applied', 'pending' or 'accepted', not []."),
    ]
    with pytest.raises(InvalidOptionError, match="with_dependencies is for the state 'applied', not 'pending'"):
        await registry.mark_many(dbs, "app", ["a"], "pending", with_dependencies=True)
    for (state, names), error, words in wrong:
        with pytest.raises(error) as refused:
            await registry.mark_many(dbs, "app", names, state)
        assert words in str(refused.value)
    meant: list[tuple[dict[str, Any], type[QuaestorError], str]] = [
        ({"targets": ["z"]}, UnknownMigrationError, "z"),
        ({"to": "z"}, UnknownMigrationError, "z"),
        ({"targets": "a"}, InvalidOptionError, "targets must be a list of names, not a str"),
        ({"last": 0}, InvalidOptionError, "last must be a whole number"),
        ({}, InvalidOptionError, "exactly one of targets, last and to"),
        ({"targets": ["a"], "last": 1}, InvalidOptionError, "exactly one of targets, last and to"),
    ]
    for options, error, words in meant:
        with pytest.raises(error) as unknown:
            await registry.rollback_many(dbs, "app", **options)
        assert words in str(unknown.value)
    with pytest.raises(InvalidOptionError):
        await registry.rollback_many(dbs, "app", ["a"], concurrency=0)
    with pytest.raises(InvalidPrefixError):
        await registry.mark_many(dbs, "", ["a"])
    assert commands.sent == []
