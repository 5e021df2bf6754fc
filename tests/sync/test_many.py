# Generated from tests/async/test_many.py by tools/sync_tests.py
"""Runs over many databases: what is applied in each, which events there are, and that a failure in one stays in it."""

from collections.abc import Callable
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from quaestor import (
    CircularDependencyError,
    DatabaseFinished,
    DatabaseResult,
    Event,
    InvalidDatabaseError,
    InvalidOptionError,
    InvalidPrefixError,
    LeaseTimeoutError,
    MigrationApplied,
    MigrationRegistry,
    MigrationStarted,
    QuaestorError,
    RunFinished,
    RunStarted,
    UnknownMigrationError,
    UnknownRecordsError,
)
from tests.databases import both_kinds, drivers
from tests.functions import (
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
from tests.meeting import Count, Meeting, Moment, Told
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


@real
def test_nothing_to_do_is_one_command(dbs: list[Any], commands: Commands) -> None:
    """With nothing to do a run is one find in each database."""
    ab().run_many_sync(dbs, "app")
    commands.sent.clear()

    ab().run_many_sync(dbs, "app")

    assert sorted((next(iter(command)), command["$db"]) for command in commands.sent) == [
        ("find", one.name) for one in dbs
    ]


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


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_held_by_another(dbs: list[Any], seconds: float) -> None:
    """A lease timeout in one database is its error; the others are migrated."""
    dbs[1].app_migrations_lock.insert_one(HELD)

    results = ab().run_many_sync(dbs, "app", lease_timeout=seconds, concurrency=2)

    assert isinstance(results[1].error, LeaseTimeoutError)
    assert results[1].error.holder.owner == "another"
    assert [result.applied for result in results] == [[] if one == 1 else ["a", "b"] for one in range(5)]
    assert recorded_in(dbs) == [result.applied for result in results]
    assert dbs[1].app_migrations_lock.find_one() == HELD


@real
@pytest.mark.parametrize("position", [0, 2, 5])
def test_name_refused_by_the_server(dbs: list[Any], position: int) -> None:
    """When the server refuses a database's name, that is its error; the others are migrated."""
    long = dbs[0].client["x" * 70]
    given = [*dbs[:position], long, *dbs[position:]]

    results = ab().run_many_sync(given, "app", concurrency=2)

    refused = results.pop(position)
    assert (refused.database, refused.applied) == (long.name, [])
    assert isinstance(refused.error, OperationFailure)
    assert refused.error.__notes__ == [
        f"quaestor: while reading the records of 'app' in the database {long.name!r}; nothing has run"
    ]
    assert results == [DatabaseResult(one.name, ["a", "b"], None) for one in dbs]


@pytest.mark.parametrize("position", [0, 2, 5])
def test_prefix_too_long_for_one(driver: str, dbs: list[Any], position: int) -> None:
    """A prefix that is too long for one database's name is its error; the others are migrated."""
    long = dbs[0].client[f"{dbs[0].name}_with_more"]
    prefix = "p" * (255 - len(f"{dbs[0].name}._migrations_progress"))
    given = [*dbs[:position], long, *dbs[position:]]

    results = ab().run_many_sync(given, prefix)

    refused = results.pop(position)
    assert (refused.database, refused.applied) == (long.name, [])
    assert isinstance(refused.error, InvalidPrefixError)
    assert results == [DatabaseResult(one.name, ["a", "b"], None) for one in dbs]


def test_strict(dbs: list[Any]) -> None:
    """With `strict` a database of a newer release is refused; the others are migrated."""
    dbs[3].app_migrations.insert_one({"_id": "from tomorrow", "name": "from tomorrow"})

    results = ab().run_many_sync(dbs, "app", strict=True)

    assert isinstance(results[3].error, UnknownRecordsError)
    assert [result.applied for result in results] == [[] if one == 3 else ["a", "b"] for one in range(5)]


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
    """The hook gets the events of each database in order, one at a time."""
    meeting, told = Meeting(5), Told()

    def body(db: Any) -> None:
        meeting.wait()

    for name in "ab":
        registry.register(name)(body)

    registry.run_many_sync(dbs, "app", on_event=told)

    assert told.calls.most == 1
    for one in dbs:
        of_one = [event for event in told if event.database == one.name]
        assert [type(event) for event in of_one] == [
            RunStarted, *[MigrationStarted, MigrationApplied] * 2, RunFinished, DatabaseFinished
        ]  # fmt: skip
        assert of_one[0] == RunStarted(one.name, "app", ("a", "b"))
        assert of_one[1] == MigrationStarted(one.name, "app", "a", 1, 2)
        assert of_one[-2:] == [
            RunFinished(one.name, "app", ("a", "b")),
            DatabaseFinished(one.name, "app", ("a", "b")),
        ]
    assert len(told) == 5 * 7


def test_failing_hook(dbs: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """An exception of a hook is logged, and the runs go on."""

    def hook(event: Event) -> None:
        raise Broken

    results = ab().run_many_sync(dbs, "app", on_event=hook)

    assert [(result.applied, result.error) for result in results] == [(["a", "b"], None)] * 5
    assert len([record for record in caplog.records if "hook" in record.message]) == 5 * 7


def test_unsound_graph(dbs: list[Any], registry: MigrationRegistry, commands: Commands) -> None:
    """An unsound graph is an error before the first command."""
    registry.register("a", depends_on=["b"])(nothing)
    registry.register("b", depends_on=["a"])(nothing)

    with pytest.raises(CircularDependencyError):
        registry.run_many_sync(dbs, "app")
    assert commands.sent == []


async def hook(event: Event) -> None: ...


@pytest.mark.parametrize("driver", drivers("mongomock"))
@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"prefix": ""}, InvalidPrefixError, "must not be empty"),
        ({"prefix": None}, InvalidPrefixError, "must be a str, not None"),
        ({"prefix": "p" * 250}, InvalidPrefixError, "bytes too long"),
        ({"concurrency": 0}, InvalidOptionError, "concurrency must be a whole number, from 1 to 100, not 0"),
        ({"concurrency": 101}, InvalidOptionError, "not 101"),
        ({"concurrency": True}, InvalidOptionError, "not True"),
        ({"concurrency": 1.5}, InvalidOptionError, "not 1.5"),
        ({"lease_ttl": 0}, InvalidOptionError, "lease_ttl must be a number of seconds"),
        ({"lease_timeout": -1}, InvalidOptionError, "lease_timeout must be a number of seconds"),
        ({"on_event": 7}, InvalidOptionError, "on_event must be a `def` function"),
        ({"on_event": hook}, InvalidOptionError, "on_event must be a `def` function"),
        ({"targets": ["z"]}, UnknownMigrationError, "z"),
        ({"targets": "a"}, InvalidOptionError, "targets must be a list of names, not a str"),
    ],
)
@pytest.mark.parametrize("count", [0, 5])
def test_bad_options(
    dbs: list[Any], changes: dict[str, Any], error: type[QuaestorError], words: str, count: int
) -> None:
    """An argument that is wrong for any database is refused, be there databases or none."""
    arguments: dict[str, Any] = {"prefix": "app"} | changes

    with pytest.raises(error) as caught:
        ab().run_many_sync(dbs[:count], **arguments)

    assert words in str(caught.value)


@real
def test_bad_arguments_send_nothing(dbs: list[Any], commands: Commands) -> None:
    """A wrong argument is refused before the first command, in whatever place it is."""
    for prefix, options in (
        ("", {}),
        ("app", {"concurrency": 0}),
        ("app", {"lease_ttl": 0}),
        ("app", {"targets": "a"}),
    ):
        with pytest.raises(QuaestorError):
            ab().run_many_sync(dbs, prefix, **options)
    for position in (0, 3):
        for wrong in (dbs[0].name, None, dbs[0].client, dbs[0].things):
            with pytest.raises(InvalidDatabaseError):
                ab().run_many_sync([*dbs[:position], wrong, *dbs[position:]], "app")
    assert commands.sent == []


@pytest.mark.parametrize("driver", drivers("mongomock"))
@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda db: db.name, "db must be a database, not str"),
        (lambda db: None, "db must be a database, not None"),
        (lambda db: db.client, "not a database: pass client['name']"),
        (lambda db: db.things, "db must be a database, not "),
    ],
)
@pytest.mark.parametrize("position", [0, 3])
def test_not_a_database(dbs: list[Any], wrong: Callable[[Any], Any], words: str, position: int) -> None:
    """Anything in the list but a database is refused, and it is said which."""
    given = [*dbs[:position], wrong(dbs[position]), *dbs[position:]]

    with pytest.raises(InvalidDatabaseError) as caught:
        ab().run_many_sync(given, "app")

    assert words in str(caught.value)
    assert caught.value.__notes__ == [f"quaestor: it is databases[{position}]"]


@real
@pytest.mark.parametrize(
    "wrong",
    [lambda db: db, lambda db: db.client, lambda db: None, lambda db: 7],
    ids=["database", "client", "None", "7"],
)
def test_not_a_list(db: Any, commands: Commands, wrong: Callable[[Any], Any]) -> None:
    """One database, or a client, in place of a list is refused before anything is sent."""
    given = wrong(db)

    with pytest.raises(InvalidOptionError) as caught:
        ab().run_many_sync(given, "app")

    assert str(caught.value) == f"databases must be a list of them, not {type(given).__name__}."
    assert commands.sent == []
