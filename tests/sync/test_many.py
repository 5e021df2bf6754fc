# Generated from tests/async/test_many.py by tools/sync_tests.py
"""Runs over many databases: what is applied in each, which events there are, and that a failure in one stays in it."""

from collections.abc import Callable
from typing import Any

import pytest
from pymongo.errors import ServerSelectionTimeoutError

from quaestor import (
    CircularDependencyError,
    DatabaseFinished,
    DatabaseResult,
    DatabaseSkippedError,
    Event,
    InvalidDatabaseError,
    InvalidOptionError,
    InvalidPrefixError,
    LeaseTimeoutError,
    MigrationApplied,
    MigrationRegistry,
    MigrationStarted,
    QuaestorError,
    RunFailed,
    RunFinished,
    RunStarted,
    UnknownMigrationError,
    UnknownRecordsError,
)
from tests.databases import both_kinds, drivers, opened
from tests.functions import (
    NOWHERE,
    Broken,
    ab,
    are_free,
    is_free,
    nothing,
    number_of,
    recorded,
    recorded_in,
)
from tests.leases import HELD
from tests.meeting import Count, Events, Meeting, Moment
from tools.commands import Commands

real = pytest.mark.parametrize("driver", drivers("pymongo"), indirect=True)
"""For what the mocks do not have."""


def leaves_an_effect(db: Any) -> None:
    """A migration that inserts a document."""
    db.effects.insert_one({})


@pytest.mark.parametrize("concurrency", [1, 8, 100])
def test_migrated(several: Callable[[int], list[Any]], concurrency: int) -> None:
    """All of 20 are migrated, and the results are in the order given; again there is nothing to do."""
    registry = ab()
    registry.register("c", depends_on=["a"])(leaves_an_effect)
    dbs = several(20)[::-1]

    results = registry.run_many_sync(iter(dbs), "app", concurrency=concurrency)

    assert results == [DatabaseResult(one.name, ["a", "b", "c"], None) for one in dbs]
    for one in dbs:
        assert recorded(one) == ["a", "b", "c"]
        assert one.effects.count_documents({}) == 1
        assert is_free(one)
    again = registry.run_many_sync(dbs, "app", concurrency=concurrency)
    assert again == [DatabaseResult(one.name, [], None) for one in dbs]


def test_no_databases() -> None:
    """Without databases there are no results."""
    assert ab().run_many_sync([], "app") == []


def test_order_of_results(dbs: list[Any], registry: MigrationRegistry) -> None:
    """The results are in the order given, also where the first ends last."""
    ended = Moment()

    def hook(event: Event) -> None:
        if isinstance(event, RunFinished) and event.database == dbs[-1].name:
            ended.has_come()

    @registry.register("a")
    def a(observed: Any) -> None:
        if observed.name == dbs[0].name:
            ended.wait()

    results = registry.run_many_sync(dbs, "app", on_event=hook, concurrency=2)
    assert [result.database for result in results] == [one.name for one in dbs]


@pytest.mark.parametrize("concurrency", [2, 3])
def test_at_most(registry: MigrationRegistry, several: Callable[[int], list[Any]], concurrency: int) -> None:
    """Up to `concurrency` databases are migrated at once; in each, one migration at a time."""
    meeting, at_once = Meeting(concurrency), Count()
    in_each: dict[str, Count] = {}

    def body(db: Any) -> None:
        with at_once.one_more(), in_each.setdefault(db.name, Count()).one_more():
            meeting.wait()

    for name in "ab":
        registry.register(name)(body)
    dbs = several(6)
    results = registry.run_many_sync(dbs, "app", concurrency=concurrency)

    assert [result.applied for result in results] == [["a", "b"]] * 6
    assert at_once.most == concurrency
    assert [in_each[one.name].most for one in dbs] == [1] * 6


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("kind", [Broken, SystemExit, KeyboardInterrupt, StopIteration])
def test_failure_in_one(
    dbs: list[Any], registry: MigrationRegistry, kind: type[BaseException], concurrency: int
) -> None:
    """An exception of a migration is the error of its database, with a note, even SystemExit; the result has what was
    applied before. The others are migrated, and the next call does the rest.
    """
    error = kind("own")
    fixed: list[bool] = []
    registry.register("a")(nothing)

    @registry.register("b")
    def fails(db: Any) -> None:
        if number_of(db) == "02" and not fixed:
            raise error

    registry.register("c")(nothing)

    results = registry.run_many_sync(dbs, "app", concurrency=concurrency)

    assert results[2].error is error
    assert error.__notes__ == ["quaestor: in migration 'b', 2 of 3"]
    assert [result.applied for result in results] == [["a"] if one == 2 else ["a", "b", "c"] for one in range(5)]
    assert [result.error for result in results if result.error is not error] == [None] * 4
    assert recorded_in(dbs) == [result.applied for result in results]
    assert are_free(dbs)
    fixed.append(True)
    assert registry.run_many_sync(dbs, "app")[2] == DatabaseResult(dbs[2].name, ["b", "c"], None)


@pytest.mark.parametrize("is_async", [False, True])
@both_kinds
def test_both_kinds(dbs: list[Any], registry: MigrationRegistry, async_dbs: Any, *, is_async: bool) -> None:
    """Functions of both kinds run in all databases; an exception is the error of its database."""
    error = SystemExit("own")

    @registry.register("a")
    def plain(db: Any) -> None:
        db.effects.insert_one({"name": db.name})
        if (number_of(db), is_async) == ("01", False):
            raise error

    @registry.register("b")
    async def awaited(db: Any) -> None:
        await db.effects.insert_one({"name": db.name})
        if (number_of(db), is_async) == ("01", True):
            raise error

    results = registry.run_many_sync(dbs, "app", async_db=async_dbs)

    assert [result.error for result in results] == [None, error, None, None, None]
    for one, result in zip(dbs, results, strict=True):
        expected = ["a", "b"] if one is not dbs[1] else ["a"] * is_async
        assert result.applied == recorded(one) == expected
        written = 1 if one is dbs[1] and not is_async else 2
        assert [effect["name"] for effect in one.effects.find()] == [one.name] * written
        assert is_free(one)


def test_refused_in_one(dbs: list[Any]) -> None:
    """What is refused in one database is its error: a lease timeout, unknown records, or a prefix that is too long with
    its name. The others are migrated.
    """
    prefix = "p" * (255 - len(f"{dbs[0].name}._migrations_progress"))
    long = dbs[0].client[f"{dbs[0].name}_with_more"]
    dbs[1][f"{prefix}_migrations_lock"].insert_one(HELD)
    dbs[3][f"{prefix}_migrations"].insert_one({"_id": "from tomorrow", "name": "from tomorrow"})

    events = Events()
    options: dict[str, Any] = {"strict": True, "lease_timeout": 0, "concurrency": 2, "on_event": events}
    results = ab().run_many_sync([*dbs, long], prefix, **options)

    failed = {event.database: event.error for event in events if isinstance(event, RunFailed)}
    assert failed == {result.database: result.error for result in results if result.error is not None}
    assert [result.database for result in results] == [one.name for one in [*dbs, long]]
    assert [type(result.error) for result in results if result.error is not None] == [
        LeaseTimeoutError,
        UnknownRecordsError,
        InvalidPrefixError,
    ]
    assert [result.applied for result in results] == [["a", "b"], [], ["a", "b"], [], ["a", "b"], []]
    assert dbs[1][f"{prefix}_migrations_lock"].find_one() == HELD


def test_targets(dbs: list[Any]) -> None:
    """Targets and their dependencies are applied in each database, also from a generator."""
    registry = ab()
    registry.register("c", depends_on=["a"])(nothing)

    results = registry.run_many_sync(dbs, "app", targets=(name for name in ["c"]))  # type: ignore[arg-type]

    assert [(result.applied, result.error) for result in results] == [(["a", "c"], None)] * 5
    assert recorded_in(dbs) == [["a", "c"]] * 5


def test_same_database_twice(db: Any, registry: MigrationRegistry) -> None:
    """A database that is passed twice is migrated once: one run waits for the other and finds nothing to do."""
    registry.register("a")(leaves_an_effect)

    results = registry.run_many_sync([db, db, db], "app")

    assert [(result.database, result.error) for result in results] == [(db.name, None)] * 3
    assert sorted(result.applied for result in results) == [[], [], ["a"]]
    assert db.effects.count_documents({}) == 1
    assert recorded(db) == ["a"]
    assert is_free(db)


def test_events(dbs: list[Any], registry: MigrationRegistry) -> None:
    """The hook gets the events of each database in order, one at a time. They all have the id of the one run."""
    meeting, events = Meeting(5), Events()

    def body(db: Any) -> None:
        meeting.wait()

    for name in "ab":
        registry.register(name)(body)

    registry.run_many_sync(dbs, "app", on_event=events)

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


def test_unsound_graph(dbs: list[Any], registry: MigrationRegistry, commands: Commands) -> None:
    """An unsound graph is an error before the first command."""
    registry.register("a", depends_on=["b"])(nothing)
    registry.register("b", depends_on=["a"])(nothing)

    with pytest.raises(CircularDependencyError):
        registry.run_many_sync(dbs, "app")
    assert commands.sent == []


async def hook(event: Event) -> None: ...


@real
@pytest.mark.parametrize("count", [0, 5])
def test_bad_options(dbs: list[Any], commands: Commands, count: int) -> None:
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
            ab().run_many_sync(dbs[:count], **{"prefix": "app"} | option)
        assert words in str(caught.value)
    assert commands.sent == []


@pytest.mark.parametrize("position", [0, 3])
def test_bad_databases(dbs: list[Any], commands: Commands, position: int) -> None:
    """Anything but a list of databases is refused before the first command; the error says which one is wrong."""
    db = dbs[position]
    for wrong in (db.name, None, db.client, db.things):
        with pytest.raises(InvalidDatabaseError) as not_a_database:
            ab().run_many_sync([*dbs[:position], wrong, *dbs[position:]], "app")
        assert not_a_database.value.__notes__ == [f"quaestor: it is databases[{position}]"]
    for name in ("admin", "config", "local"):
        with pytest.raises(InvalidDatabaseError) as of_mongodb:
            ab().run_many_sync([*dbs[:position], db.client[name], *dbs[position:]], "app")
        assert f"databases[{position}] is {name!r}, MongoDB's own" in str(of_mongodb.value)
    for wrong in (db, db.client, None, 7):
        with pytest.raises(InvalidOptionError) as not_a_list:
            ab().run_many_sync(wrong, "app")
        assert str(not_a_list.value) == f"databases must be a list of databases, not {type(wrong).__name__}."
    assert commands.sent == []


@real
def test_no_server(several: Callable[[int], list[Any]], driver: str) -> None:
    """After ten databases in a row that find no server no further one is started, and the result says which."""
    events = Events()
    with opened(driver, NOWHERE, "x", serverSelectionTimeoutMS=10) as nowhere:
        dbs = [*several(1), *(nowhere.client[f"n{number}"] for number in range(30))]

        results = ab().run_many_sync(dbs, "app", on_event=events, concurrency=2)

    errors = [result.error for result in results]
    assert errors[0] is None
    skipped = [error for error in errors if isinstance(error, DatabaseSkippedError)]
    assert 18 <= len(skipped) <= 20
    assert len(skipped[0].unreachable) == 10
    assert {type(error) for error in errors[1:11]} == {ServerSelectionTimeoutError}
    ended = [event for event in events if isinstance(event, DatabaseFinished)]
    assert [event.database for event in ended if event.error is skipped[-1]][-1] == "n29"
