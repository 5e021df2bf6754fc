"""Runs over many databases: what is applied in each, what is told of each, and how far one troubles the others."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo import AsyncMongoClient
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
    MigrationContext,
    MigrationRegistry,
    MigrationStarted,
    MissingDatabaseError,
    QuaestorError,
    RunFinished,
    RunStarted,
    UnknownMigrationError,
    UnknownRecordsError,
)
from tests.databases import drivers, opened
from tests.functions import nothing, nothing_async
from tests.leases import HELD
from tests.meeting import Count, Meeting, Moment, Told
from tools.commands import Commands

real = pytest.mark.parametrize("driver", drivers("pymongo"), indirect=True)
"""For what the mocks do not have."""

both_colours = pytest.mark.parametrize(
    ("driver", "other"),
    [
        pytest.param("pymongo", "pymongo", marks=pytest.mark.driver("pymongo")),
        pytest.param("pymongo", "motor", marks=[pytest.mark.driver("pymongo"), pytest.mark.driver("motor")]),
        pytest.param("mongomock", "mongomock", marks=pytest.mark.driver("mongomock")),
    ],
    indirect=["driver"],
)
"""For what takes functions of both colours: the driver, and that of the other colour."""


class Broken(Exception):
    """A user's own exception."""


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
def db(driver: str, place: tuple[str, str], commands: Commands) -> Iterator[Any]:
    """A new database whose client is watched."""
    with opened(driver, *place, event_listeners=[commands]) as database:
        yield database


def several(db: Any, count: int) -> list[Any]:
    """So many databases of the same client."""
    return [db.client[f"{db.name}_{number:02}"] for number in range(count)]


@pytest.fixture
def dbs(driver: str, db: Any) -> Iterator[list[Any]]:
    """Five new databases of one client."""
    five = several(db, 5)
    yield five
    dropped(driver, five)


def dropped(driver: str, dbs: list[Any]) -> None:
    """Drop databases; those of a mock go with it."""
    if driver != "mongomock":
        for one in dbs:
            one.client.drop_database(one.name)


@contextlib.contextmanager
def other_colour(other: str, db: Any, uri: str) -> Iterator[Callable[[str], Any]]:
    """What gives the database for `async def` functions by its name, with a client of its own for each."""
    opened: list[Any] = []

    def give(name: str) -> Any:
        if other == "mongomock":
            import mongomock_motor

            return mongomock_motor.AsyncMongoMockClient(mock_mongo_client=db.client)[name]
        if other == "motor":
            from motor.motor_asyncio import AsyncIOMotorClient

            opened.append(AsyncIOMotorClient(uri))
            return opened[-1][name]
        return AsyncMongoClient(uri)[name]

    yield give
    for client in opened:
        client.close()


def names(db: Any) -> list[str]:
    """What is recorded."""
    return sorted(record["name"] for record in db.app_migrations.find())


def is_free(db: Any) -> bool:
    """Whether nobody holds the lease."""
    return "owner" not in (db.app_migrations_lock.find_one() or {})


def of(db: Any) -> str:
    """The number of one of several databases."""
    return str(db.name.rpartition("_")[2])


def ab() -> MigrationRegistry:
    """Two migrations that do nothing."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)
    registry.register("b")(nothing)
    return registry


@pytest.mark.parametrize("concurrency", [1, 8, 100])
def test_migrated(driver: str, db: Any, concurrency: int) -> None:
    """All of 20 are migrated, and the results are in the order given; again there is nothing to do."""
    registry = ab()
    registry.register("c", depends_on=["a"])(lambda db: db.effects.insert_one({}))
    dbs = several(db, 20)[::-1]
    try:
        results = registry.run_many_sync(iter(dbs), "app", concurrency=concurrency)

        assert results == [DatabaseResult(one.name, ["a", "b", "c"], None) for one in dbs]
        for one in dbs:
            assert names(one) == ["a", "b", "c"]
            assert one.effects.count_documents({}) == 1
            assert is_free(one)
        again = registry.run_many_sync(dbs, "app", concurrency=concurrency)
        assert again == [DatabaseResult(one.name, [], None) for one in dbs]
    finally:
        dropped(driver, dbs)


@real
def test_nothing_to_do_is_one_command(dbs: list[Any], commands: Commands) -> None:
    """Where all is applied a run is one find in each database."""
    ab().run_many_sync(dbs, "app")
    commands.sent.clear()

    ab().run_many_sync(dbs, "app")

    assert sorted((next(iter(command)), command["$db"]) for command in commands.sent) == [
        ("find", one.name) for one in dbs
    ]


def test_no_databases() -> None:
    """Where there are none, there are no results."""
    assert ab().run_many_sync([], "app") == []


def test_order_of_the_results(dbs: list[Any]) -> None:
    """The results are in the order given, also where the first ends last."""
    registry = MigrationRegistry()
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
def test_at_most(driver: str, db: Any, concurrency: int) -> None:
    """As many databases as may are under way, and never more; in each one migration after the other."""
    registry = MigrationRegistry()
    meeting, at_once = Meeting(concurrency), Count()
    in_each: dict[str, Count] = {}

    def body(db: Any) -> None:
        with at_once.one_more(), in_each.setdefault(db.name, Count()).one_more():
            meeting.wait()

    for name in "ab":
        registry.register(name)(body)
    dbs = several(db, 6)
    try:
        results = registry.run_many_sync(dbs, "app", concurrency=concurrency)
    finally:
        dropped(driver, dbs)

    assert [result.applied for result in results] == [["a", "b"]] * 6
    assert at_once.most == concurrency
    assert [in_each[one.name].most for one in dbs] == [1] * 6


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("kind", [Broken, SystemExit, KeyboardInterrupt])
def test_failure_in_one(dbs: list[Any], kind: type[BaseException], concurrency: int) -> None:
    """What a migration raises is the error of its database, with its note, be it what ends a program; what was recorded
    before is said; the others are done. The next call does the rest.
    """
    registry = MigrationRegistry()
    error = kind("own")
    mended: list[bool] = []
    registry.register("a")(nothing)

    @registry.register("b")
    def fails(db: Any) -> None:
        if of(db) == "02" and not mended:
            raise error

    registry.register("c")(nothing)

    results = registry.run_many_sync(dbs, "app", concurrency=concurrency)

    assert results[2].error is error
    assert error.__notes__ == ["quaestor: in migration 'b', 2 of 3"]
    assert [result.applied for result in results] == [["a"] if one == 2 else ["a", "b", "c"] for one in range(5)]
    assert [result.error for result in results if result.error is not error] == [None] * 4
    assert [names(one) for one in dbs] == [result.applied for result in results]
    assert all(map(is_free, dbs))
    mended.append(True)
    assert registry.run_many_sync(dbs, "app")[2] == DatabaseResult(dbs[2].name, ["b", "c"], None)


@pytest.mark.parametrize("colour", ["sync", "async"])
@both_colours
def test_other_colour(dbs: list[Any], place: tuple[str, str], other: str, colour: str) -> None:
    """Functions of both colours run in all databases, each in its own; what they raise is the error of theirs."""
    registry = MigrationRegistry()
    error = SystemExit("own")

    @registry.register("a")
    def plain(db: Any) -> None:
        db.effects.insert_one({"name": db.name})
        if (of(db), colour) == ("01", "sync"):
            raise error

    @registry.register("b")
    async def awaited(db: Any) -> None:
        await db.effects.insert_one({"name": db.name})
        if (of(db), colour) == ("01", "async"):
            raise error

    with other_colour(other, dbs[0], place[0]) as async_db:
        results = registry.run_many_sync(dbs, "app", async_db=async_db)

    assert [result.error for result in results] == [None, error, None, None, None]
    for one, result in zip(dbs, results, strict=True):
        expected = ["a", "b"] if one is not dbs[1] else {"sync": [], "async": ["a"]}[colour]
        assert result.applied == names(one) == expected
        written = 2 if one is not dbs[1] else {"sync": 1, "async": 2}[colour]
        assert [effect["name"] for effect in one.effects.find()] == [one.name] * written
        assert is_free(one)


@real
def test_other_colour_is_missing(dbs: list[Any], place: tuple[str, str]) -> None:
    """Where there is no database for the other colour, or a wrong one, or to get it fails, that is the error of each
    database that needs it, and nothing has run there.
    """
    registry = MigrationRegistry()
    registry.register("a")(nothing)
    registry.register("b")(nothing_async)
    assert registry.run_many_sync(dbs[:1], "app", targets=["a"])[0].error is None

    missing = registry.run_many_sync(dbs, "app")
    wrong = registry.run_many_sync(dbs, "app", async_db=lambda name: AsyncMongoClient(place[0])["another"])
    error = Broken()

    def fails(name: str) -> Any:
        raise error

    failed = registry.run_many_sync(dbs, "app", async_db=fails)

    assert [type(result.error) for result in missing] == [MissingDatabaseError] * 5
    assert [type(result.error) for result in wrong] == [InvalidDatabaseError] * 5
    assert [result.error for result in failed] == [error] * 5
    assert [names(one) for one in dbs] == [["a"], [], [], [], []]


@pytest.mark.parametrize("seconds", [0, 0.2])
def test_held_by_another(dbs: list[Any], seconds: float) -> None:
    """A database that another instance holds for longer than it is waited for is told of; the others are done."""
    dbs[1].app_migrations_lock.insert_one(HELD)

    results = ab().run_many_sync(dbs, "app", lease_timeout=seconds, concurrency=2)

    assert isinstance(results[1].error, LeaseTimeoutError)
    assert results[1].error.holder.owner == "another"
    assert [result.applied for result in results] == [[] if one == 1 else ["a", "b"] for one in range(5)]
    assert [names(one) for one in dbs] == [result.applied for result in results]
    assert dbs[1].app_migrations_lock.find_one() == HELD


@real
@pytest.mark.parametrize("position", [0, 2, 5])
def test_name_refused_by_the_server(dbs: list[Any], position: int) -> None:
    """A database whose name the server refuses has its word for an error; the others are done."""
    long = dbs[0].client["x" * 70]
    given = [*dbs[:position], long, *dbs[position:]]

    results = ab().run_many_sync(given, "app", concurrency=2)

    refused = results.pop(position)
    assert (refused.database, refused.applied) == (long.name, [])
    assert isinstance(refused.error, OperationFailure)
    assert refused.error.__notes__ == [f"quaestor: while reading 'app' in the database {long.name!r}; nothing has run"]
    assert results == [DatabaseResult(one.name, ["a", "b"], None) for one in dbs]


@pytest.mark.parametrize("position", [0, 2, 5])
def test_prefix_too_long_for_one(driver: str, dbs: list[Any], position: int) -> None:
    """A prefix that is too long beside the name of one database is the error of that one; the others are done."""
    long = dbs[0].client[f"{dbs[0].name}_with_more"]
    prefix = "p" * (255 - len(f"{dbs[0].name}._migrations_progress"))
    given = [*dbs[:position], long, *dbs[position:]]

    results = ab().run_many_sync(given, prefix)

    refused = results.pop(position)
    assert (refused.database, refused.applied) == (long.name, [])
    assert isinstance(refused.error, InvalidPrefixError)
    assert results == [DatabaseResult(one.name, ["a", "b"], None) for one in dbs]


def test_strict(dbs: list[Any]) -> None:
    """With `strict` a database of a newer release is refused, and the others are done."""
    dbs[3].app_migrations.insert_one({"_id": "from tomorrow", "name": "from tomorrow"})

    results = ab().run_many_sync(dbs, "app", strict=True)

    assert isinstance(results[3].error, UnknownRecordsError)
    assert [result.applied for result in results] == [[] if one == 3 else ["a", "b"] for one in range(5)]


def test_targets(dbs: list[Any]) -> None:
    """With targets these and what they need are applied in each database, also where a generator gives them."""
    registry = ab()
    registry.register("c", depends_on=["a"])(nothing)

    results = registry.run_many_sync(dbs, "app", targets=(name for name in ["c"]))  # type: ignore[arg-type]

    assert [(result.applied, result.error) for result in results] == [(["a", "c"], None)] * 5
    assert [names(one) for one in dbs] == [["a", "c"]] * 5


def test_same_database_twice(db: Any) -> None:
    """A database that is given twice is migrated once: one run waits for the other and finds nothing to do."""
    registry = MigrationRegistry()
    registry.register("a")(lambda db: db.effects.insert_one({}))

    results = registry.run_many_sync([db, db, db], "app")

    assert [(result.database, result.error) for result in results] == [(db.name, None)] * 3
    assert sorted(result.applied for result in results) == [[], [], ["a"]]
    assert db.effects.count_documents({}) == 1
    assert names(db) == ["a"]
    assert is_free(db)


def test_events(dbs: list[Any]) -> None:
    """The hook is told what happens in each database, in order, and called by one at a time."""
    registry = MigrationRegistry()
    meeting, told = Meeting(5), Told()
    for name in "ab":
        registry.register(name)(lambda db: meeting.wait())

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
    """A hook that raises is logged, and disturbs no run."""

    def hook(event: Event) -> None:
        raise Broken

    results = ab().run_many_sync(dbs, "app", on_event=hook)

    assert [(result.applied, result.error) for result in results] == [(["a", "b"], None)] * 5
    assert len([record for record in caplog.records if "hook" in record.message]) == 5 * 7


def test_unsound_graph(dbs: list[Any], commands: Commands) -> None:
    """What is wrong with the migrations is raised at once, and nothing is sent."""
    registry = MigrationRegistry()
    registry.register("a", depends_on=["b"])(nothing)
    registry.register("b", depends_on=["a"])(nothing)

    with pytest.raises(CircularDependencyError):
        registry.run_many_sync(dbs, "app")
    assert commands.sent == []


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
        ({"async_db": 7}, InvalidOptionError, "async_db must be a function that gives the database of a name"),
        ({"on_event": nothing_async}, InvalidOptionError, "on_event must be a `def` function"),
        ({"targets": ["z"]}, UnknownMigrationError, "z"),
        ({"targets": "a"}, InvalidOptionError, "targets must be a list of names, not a str"),
    ],
)
@pytest.mark.parametrize("count", [0, 5])
def test_bad_options(
    dbs: list[Any], commands: Commands, changes: dict[str, Any], error: type[QuaestorError], words: str, count: int
) -> None:
    """What cannot be right in any database is refused before anything is sent, be there databases or none."""
    arguments: dict[str, Any] = {"prefix": "app"} | changes

    with pytest.raises(error) as caught:
        ab().run_many_sync(dbs[:count], **arguments)

    assert words in str(caught.value)
    assert commands.sent == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda db: db.name, "db must be a database, not str"),
        (lambda db: None, "db must be a database, not None"),
        (lambda db: db.client, "not a database: pass client['name']"),
        (lambda db: db.things, "db must be a database, not Collection"),
        (lambda db: AsyncMongoClient("mongodb://127.0.0.1:1")["app"], "db is an asynchronous database"),
    ],
)
@pytest.mark.parametrize("position", [0, 3])
def test_not_a_database(
    dbs: list[Any], commands: Commands, wrong: Callable[[Any], Any], words: str, position: int
) -> None:
    """Anything in the list but a database of this colour is refused before anything is sent, and it is said which."""
    given = [*dbs[:position], wrong(dbs[position]), *dbs[position:]]

    with pytest.raises(InvalidDatabaseError) as caught:
        ab().run_many_sync(given, "app")

    assert words in str(caught.value)
    assert caught.value.__notes__ == [f"quaestor: it is databases[{position}]"]
    assert commands.sent == []


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


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Gives what sends Ctrl-C to this thread. Who runs the tests may ignore that signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.get_ident()
    try:
        yield lambda: signal.pthread_kill(thread, signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@both_colours
def test_interrupted(dbs: list[Any], place: tuple[str, str], other: str) -> None:
    """An interruption lets a `def` function come to its end, a pass to that of its batch, and cancels an `async def`
    one; no other migration and no other database begins; the leases are free when it is raised, and the next call does
    the rest.
    """
    registry = MigrationRegistry()
    meeting, cancelled = Meeting(3), Moment()
    told = Told()
    undisturbed: list[bool] = []
    seen: list[int] = []
    dbs[1].things.insert_many([{"_id": number} for number in range(4)])

    @registry.register("a")
    def goes_on(db: Any, context: MigrationContext) -> None:
        if of(db) == "00" and not undisturbed:
            meeting.wait()
            interrupt()
            cancelled.wait()
            return
        for batch in context.batches(db.things, size=2):
            seen.extend(document["_id"] for document in batch)
            if not undisturbed:
                meeting.wait()
                cancelled.wait()

    @registry.register("b", depends_on=["c"])
    def is_next(db: Any) -> None:
        """Nothing."""

    @registry.register("c")
    async def is_cancelled(db: Any) -> None:
        if of(db) == "02" and not undisturbed:
            try:  # the cancellation may come while it still waits for the others
                await meeting.wait_async()
                await asyncio.Event().wait()
            finally:
                cancelled.has_come()

    with other_colour(other, dbs[0], place[0]) as async_db:
        with interruptible() as interrupt, pytest.raises(KeyboardInterrupt):
            registry.run_many_sync(dbs, "app", async_db=async_db, on_event=told, concurrency=3)

        assert [names(one) for one in dbs] == [["a"], [], ["a"], [], []]
        assert seen == [0, 1]
        assert {event.database for event in told} == {one.name for one in dbs[:3]}
        assert all(map(is_free, dbs))
        undisturbed.append(True)
        results = registry.run_many_sync(dbs, "app", async_db=async_db, lease_timeout=0)
    assert [result.error for result in results] == [None] * 5
    assert [names(one) for one in dbs] == [["a", "b", "c"]] * 5
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", [RunStarted, MigrationStarted, MigrationApplied, RunFinished])
def test_interrupted_at_an_event(dbs: list[Any], kind: type[Event], *, again: bool) -> None:
    """Whenever it is interrupted, and however often, the call ends when all that it began has: every lease is free, and
    what is told as applied is recorded. The next call does the rest.
    """
    with interruptible() as interrupt:
        interruptions = [interrupt] * (2 if again else 1)
        told = Told({kind: lambda: interruptions and interruptions.pop()()})
        with pytest.raises(KeyboardInterrupt):
            ab().run_many_sync(dbs, "app", on_event=told, concurrency=2)

    assert all(map(is_free, dbs))
    for one in dbs:
        applied = [event for event in told if isinstance(event, MigrationApplied) and event.database == one.name]
        assert [event.name for event in applied] == names(one)
    assert [result.error for result in ab().run_many_sync(dbs, "app", lease_timeout=0)] == [None] * 5
    assert [names(one) for one in dbs] == [["a", "b"]] * 5


def test_interrupted_as_one_ends(dbs: list[Any]) -> None:
    """Interrupted just when one database is done, where the next would begin: the other one under way is waited for."""
    registry = MigrationRegistry()
    begun, interrupted, ended = Moment(), Moment(), []

    @registry.register("a")
    def takes_its_time(db: Any) -> None:
        if of(db) == "01":
            begun.has_come()
            interrupted.wait()
            db.effects.insert_one({})
            ended.append(of(db))
        begun.wait()

    def hook() -> None:
        interrupt()
        interrupted.has_come()

    with interruptible() as interrupt:
        told = Told({RunFinished: lambda: interrupted.has_come() if ended else hook()})
        with pytest.raises(KeyboardInterrupt):
            registry.run_many_sync(dbs, "app", on_event=told, concurrency=2)

    assert ended == ["01"]
    assert names(dbs[0]) == names(dbs[1]) == ["a"]
    assert all(map(is_free, dbs))
