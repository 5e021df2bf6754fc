"""Runs over many databases: what is applied in each, what is told of each, and how far one troubles the others."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pymongo import MongoClient
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
from tests.databases import drivers, opened_async
from tests.functions import nothing, nothing_async
from tests.leases import HELD
from tests.meeting import Count, Meeting, Moment, Told
from tools.commands import Commands

pytestmark = pytest.mark.anyio

real = pytest.mark.parametrize("driver", drivers("pymongo", "motor"), indirect=True)
"""For what the mocks do not have."""

both_colours = pytest.mark.parametrize(
    ("driver", "other"),
    [
        pytest.param("pymongo", "pymongo", marks=pytest.mark.driver("pymongo")),
        pytest.param("motor", "pymongo", marks=pytest.mark.driver("motor")),
        pytest.param("motor", None, marks=pytest.mark.driver("motor")),
        pytest.param("mongomock", None, marks=pytest.mark.driver("mongomock")),
    ],
    indirect=["driver"],
)
"""For what takes functions of both colours: the driver, and that of the other colour, if it is needed."""


class Broken(Exception):
    """A user's own exception."""


@pytest.fixture
def commands() -> Commands:
    return Commands()


@pytest.fixture
async def db(driver: str, place: tuple[str, str], commands: Commands) -> AsyncIterator[Any]:
    """A new database whose client is watched."""
    async with opened_async(driver, *place, event_listeners=[commands]) as database:
        if driver == "pymongo":  # it leaves a socket unclosed if it is closed while its monitor connects
            await database.client.admin.command("ping")
        yield database


def several(db: Any, count: int) -> list[Any]:
    """So many databases of the same client."""
    return [db.client[f"{db.name}_{number:02}"] for number in range(count)]


@pytest.fixture
async def dbs(driver: str, db: Any) -> AsyncIterator[list[Any]]:
    """Five new databases of one client."""
    five = several(db, 5)
    yield five
    await dropped(driver, five)


async def dropped(driver: str, dbs: list[Any]) -> None:
    """Drop databases; those of a mock go with it."""
    if driver != "mongomock":
        for one in dbs:
            await one.client.drop_database(one.name)


@contextlib.contextmanager
def other_colour(other: str | None, uri: str) -> Iterator[Callable[[str], Any] | None]:
    """What gives the database for `def` migrations by its name; None where the driver has one of its own."""
    if other is None:
        yield None
    else:
        with MongoClient[dict[str, Any]](uri) as client:
            yield client.get_database


async def names(db: Any) -> list[str]:
    """What is recorded."""
    return sorted([record["name"] async for record in db.app_migrations.find()])


async def names_in(dbs: list[Any]) -> list[list[str]]:
    """What is recorded in each."""
    return [await names(one) for one in dbs]


async def is_free(db: Any) -> bool:
    """Whether nobody holds the lease."""
    return "owner" not in (await db.app_migrations_lock.find_one() or {})


async def are_free(dbs: list[Any]) -> bool:
    """Whether nobody holds the lease of any."""
    return all([await is_free(one) for one in dbs])


def of(db: Any) -> str:
    """The number of one of several databases."""
    return str(db.name.rpartition("_")[2])


async def leaves_an_effect(db: Any) -> None:
    """A migration that inserts a document."""
    await db.effects.insert_one({})


def ab() -> MigrationRegistry:
    """Two migrations that do nothing."""
    registry = MigrationRegistry()
    registry.register("a")(nothing_async)
    registry.register("b")(nothing_async)
    return registry


@pytest.mark.parametrize("concurrency", [1, 8, 100])
async def test_migrated(driver: str, db: Any, concurrency: int) -> None:
    """All of 20 are migrated, and the results are in the order given; again there is nothing to do."""
    registry = ab()
    registry.register("c", depends_on=["a"])(leaves_an_effect)
    dbs = several(db, 20)[::-1]
    try:
        results = await registry.run_many(iter(dbs), "app", concurrency=concurrency)

        assert results == [DatabaseResult(one.name, ["a", "b", "c"], None) for one in dbs]
        for one in dbs:
            assert await names(one) == ["a", "b", "c"]
            assert await one.effects.count_documents({}) == 1
            assert await is_free(one)
        again = await registry.run_many(dbs, "app", concurrency=concurrency)
        assert again == [DatabaseResult(one.name, [], None) for one in dbs]
    finally:
        await dropped(driver, dbs)


@real
async def test_nothing_to_do_is_one_command(dbs: list[Any], commands: Commands) -> None:
    """Where all is applied a run is one find in each database."""
    await ab().run_many(dbs, "app")
    commands.sent.clear()

    await ab().run_many(dbs, "app")

    assert sorted((next(iter(command)), command["$db"]) for command in commands.sent) == [
        ("find", one.name) for one in dbs
    ]


async def test_no_databases() -> None:
    """Where there are none, there are no results."""
    assert await ab().run_many([], "app") == []


async def test_order_of_the_results(dbs: list[Any]) -> None:
    """The results are in the order given, also where the first ends last."""
    registry = MigrationRegistry()
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
async def test_at_most(driver: str, db: Any, concurrency: int) -> None:
    """As many databases as may are under way, and never more; in each one migration after the other."""
    registry = MigrationRegistry()
    meeting, at_once = Meeting(concurrency), Count()
    in_each: dict[str, Count] = {}

    async def body(db: Any) -> None:
        with at_once.one_more(), in_each.setdefault(db.name, Count()).one_more():
            await meeting.wait_async()

    for name in "ab":
        registry.register(name)(body)
    dbs = several(db, 6)
    try:
        results = await registry.run_many(dbs, "app", concurrency=concurrency)
    finally:
        await dropped(driver, dbs)

    assert [result.applied for result in results] == [["a", "b"]] * 6
    assert at_once.most == concurrency
    assert [in_each[one.name].most for one in dbs] == [1] * 6


@pytest.mark.parametrize("concurrency", [1, 8])
@pytest.mark.parametrize("kind", [Broken, SystemExit, KeyboardInterrupt])
async def test_failure_in_one(dbs: list[Any], kind: type[BaseException], concurrency: int) -> None:
    """What a migration raises is the error of its database, with its note, be it what ends a program; what was recorded
    before is said; the others are done. The next call does the rest.
    """
    registry = MigrationRegistry()
    error = kind("own")
    mended: list[bool] = []
    registry.register("a")(nothing_async)

    @registry.register("b")
    async def fails(db: Any) -> None:
        if of(db) == "02" and not mended:
            raise error

    registry.register("c")(nothing_async)

    results = await registry.run_many(dbs, "app", concurrency=concurrency)

    assert results[2].error is error
    assert error.__notes__ == ["quaestor: in migration 'b', 2 of 3"]
    assert [result.applied for result in results] == [["a"] if one == 2 else ["a", "b", "c"] for one in range(5)]
    assert [result.error for result in results if result.error is not error] == [None] * 4
    assert await names_in(dbs) == [result.applied for result in results]
    assert await are_free(dbs)
    mended.append(True)
    assert (await registry.run_many(dbs, "app"))[2] == DatabaseResult(dbs[2].name, ["b", "c"], None)


@pytest.mark.parametrize("colour", ["sync", "async"])
@both_colours
async def test_other_colour(dbs: list[Any], place: tuple[str, str], other: str | None, colour: str) -> None:
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

    with other_colour(other, place[0]) as sync_db:
        results = await registry.run_many(dbs, "app", sync_db=sync_db)

    assert [result.error for result in results] == [None, error, None, None, None]
    for one, result in zip(dbs, results, strict=True):
        expected = ["a", "b"] if one is not dbs[1] else {"sync": [], "async": ["a"]}[colour]
        assert result.applied == await names(one) == expected
        written = 2 if one is not dbs[1] else {"sync": 1, "async": 2}[colour]
        assert [effect["name"] async for effect in one.effects.find()] == [one.name] * written
        assert await is_free(one)


@pytest.mark.parametrize("driver", drivers("pymongo"))
async def test_other_colour_is_missing(dbs: list[Any], place: tuple[str, str]) -> None:
    """Where there is no database for the other colour, or a wrong one, or to get it fails, that is the error of each
    database that needs it, and nothing has run there.
    """
    registry = MigrationRegistry()
    registry.register("a")(nothing_async)
    registry.register("b")(nothing)
    assert (await registry.run_many(dbs[:1], "app", targets=["a"]))[0].error is None
    error = Broken()

    def fails(name: str) -> Any:
        raise error

    missing = await registry.run_many(dbs, "app")
    failed = await registry.run_many(dbs, "app", sync_db=fails)
    with MongoClient[dict[str, Any]](place[0]) as client:
        wrong = await registry.run_many(dbs, "app", sync_db=lambda name: client["another"])

    assert [type(result.error) for result in missing] == [MissingDatabaseError] * 5
    assert [type(result.error) for result in wrong] == [InvalidDatabaseError] * 5
    assert [result.error for result in failed] == [error] * 5
    assert await names_in(dbs) == [["a"], [], [], [], []]


@pytest.mark.parametrize("seconds", [0, 0.2])
async def test_held_by_another(dbs: list[Any], seconds: float) -> None:
    """A database that another instance holds for longer than it is waited for is told of; the others are done."""
    await dbs[1].app_migrations_lock.insert_one(HELD)

    results = await ab().run_many(dbs, "app", lease_timeout=seconds, concurrency=2)

    assert isinstance(results[1].error, LeaseTimeoutError)
    assert results[1].error.holder.owner == "another"
    assert [result.applied for result in results] == [[] if one == 1 else ["a", "b"] for one in range(5)]
    assert await names_in(dbs) == [result.applied for result in results]
    assert await dbs[1].app_migrations_lock.find_one() == HELD


@real
@pytest.mark.parametrize("position", [0, 2, 5])
async def test_name_refused_by_the_server(dbs: list[Any], position: int) -> None:
    """A database whose name the server refuses has its word for an error; the others are done."""
    long = dbs[0].client["x" * 70]
    given = [*dbs[:position], long, *dbs[position:]]

    results = await ab().run_many(given, "app", concurrency=2)

    refused = results.pop(position)
    assert (refused.database, refused.applied) == (long.name, [])
    assert isinstance(refused.error, OperationFailure)
    assert refused.error.__notes__ == [f"quaestor: while reading 'app' in the database {long.name!r}; nothing has run"]
    assert results == [DatabaseResult(one.name, ["a", "b"], None) for one in dbs]


@pytest.mark.parametrize("position", [0, 2, 5])
async def test_prefix_too_long_for_one(driver: str, dbs: list[Any], position: int) -> None:
    """A prefix that is too long beside the name of one database is the error of that one; the others are done."""
    long = dbs[0].client[f"{dbs[0].name}_with_more"]
    prefix = "p" * (255 - len(f"{dbs[0].name}._migrations_progress"))
    given = [*dbs[:position], long, *dbs[position:]]

    results = await ab().run_many(given, prefix)

    refused = results.pop(position)
    assert (refused.database, refused.applied) == (long.name, [])
    assert isinstance(refused.error, InvalidPrefixError)
    assert results == [DatabaseResult(one.name, ["a", "b"], None) for one in dbs]


async def test_strict(dbs: list[Any]) -> None:
    """With `strict` a database of a newer release is refused, and the others are done."""
    await dbs[3].app_migrations.insert_one({"_id": "from tomorrow", "name": "from tomorrow"})

    results = await ab().run_many(dbs, "app", strict=True)

    assert isinstance(results[3].error, UnknownRecordsError)
    assert [result.applied for result in results] == [[] if one == 3 else ["a", "b"] for one in range(5)]


async def test_targets(dbs: list[Any]) -> None:
    """With targets these and what they need are applied in each database, also where a generator gives them."""
    registry = ab()
    registry.register("c", depends_on=["a"])(nothing_async)

    results = await registry.run_many(dbs, "app", targets=(name for name in ["c"]))  # type: ignore[arg-type]

    assert [(result.applied, result.error) for result in results] == [(["a", "c"], None)] * 5
    assert await names_in(dbs) == [["a", "c"]] * 5


async def test_same_database_twice(db: Any) -> None:
    """A database that is given twice is migrated once: one run waits for the other and finds nothing to do."""
    registry = MigrationRegistry()
    registry.register("a")(leaves_an_effect)

    results = await registry.run_many([db, db, db], "app")

    assert [(result.database, result.error) for result in results] == [(db.name, None)] * 3
    assert sorted(result.applied for result in results) == [[], [], ["a"]]
    assert await db.effects.count_documents({}) == 1
    assert await names(db) == ["a"]
    assert await is_free(db)


async def test_events(dbs: list[Any]) -> None:
    """The hook is told what happens in each database, in order, and called by one at a time."""
    registry = MigrationRegistry()
    meeting, told = Meeting(5), Told()

    async def body(db: Any) -> None:
        await meeting.wait_async()

    for name in "ab":
        registry.register(name)(body)

    await registry.run_many(dbs, "app", on_event=told)

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


async def test_failing_hook(dbs: list[Any], caplog: pytest.LogCaptureFixture) -> None:
    """A hook that raises is logged, and disturbs no run."""

    def hook(event: Event) -> None:
        raise Broken

    results = await ab().run_many(dbs, "app", on_event=hook)

    assert [(result.applied, result.error) for result in results] == [(["a", "b"], None)] * 5
    assert len([record for record in caplog.records if "hook" in record.message]) == 5 * 7


async def test_unsound_graph(dbs: list[Any], commands: Commands) -> None:
    """What is wrong with the migrations is raised at once, and nothing is sent."""
    registry = MigrationRegistry()
    registry.register("a", depends_on=["b"])(nothing_async)
    registry.register("b", depends_on=["a"])(nothing_async)

    with pytest.raises(CircularDependencyError):
        await registry.run_many(dbs, "app")
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
        ({"sync_db": 7}, InvalidOptionError, "sync_db must be a function that gives the database of a name"),
        ({"on_event": nothing_async}, InvalidOptionError, "on_event must be a `def` function"),
        ({"targets": ["z"]}, UnknownMigrationError, "z"),
        ({"targets": "a"}, InvalidOptionError, "targets must be a list of names, not a str"),
    ],
)
@pytest.mark.parametrize("count", [0, 5])
async def test_bad_options(
    dbs: list[Any], commands: Commands, changes: dict[str, Any], error: type[QuaestorError], words: str, count: int
) -> None:
    """What cannot be right in any database is refused before anything is sent, be there databases or none."""
    arguments: dict[str, Any] = {"prefix": "app"} | changes

    with pytest.raises(error) as caught:
        await ab().run_many(dbs[:count], **arguments)

    assert words in str(caught.value)
    assert commands.sent == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda db: db.name, "db must be a database, not str"),
        (lambda db: None, "db must be a database, not None"),
        (lambda db: db.client, "not a database: pass client['name']"),
        (lambda db: db.things, "db must be a database, not "),
        (lambda db: MongoClient("mongodb://127.0.0.1:1", connect=False)["app"], "db is a synchronous database"),
    ],
)
@pytest.mark.parametrize("position", [0, 3])
async def test_not_a_database(
    dbs: list[Any], commands: Commands, wrong: Callable[[Any], Any], words: str, position: int
) -> None:
    """Anything in the list but a database of this colour is refused before anything is sent, and it is said which."""
    given = [*dbs[:position], wrong(dbs[position]), *dbs[position:]]

    with pytest.raises(InvalidDatabaseError) as caught:
        await ab().run_many(given, "app")

    assert words in str(caught.value)
    assert caught.value.__notes__ == [f"quaestor: it is databases[{position}]"]
    assert commands.sent == []


@real
@pytest.mark.parametrize(
    "wrong",
    [lambda db: db, lambda db: db.client, lambda db: None, lambda db: 7],
    ids=["database", "client", "None", "7"],
)
async def test_not_a_list(db: Any, commands: Commands, wrong: Callable[[Any], Any]) -> None:
    """One database, or a client, in place of a list is refused before anything is sent."""
    given = wrong(db)

    with pytest.raises(InvalidOptionError) as caught:
        await ab().run_many(given, "app")

    assert str(caught.value) == f"databases must be a list of them, not {type(given).__name__}."
    assert commands.sent == []


@both_colours
async def test_interrupted(dbs: list[Any], place: tuple[str, str], other: str | None) -> None:
    """A cancellation lets a `def` function come to its end, a pass to that of its batch, and cancels an `async def`
    one; no other migration and no other database begins; the leases are free when it is raised, and the next call does
    the rest.
    """
    registry = MigrationRegistry()
    meeting, cancelled = Meeting(3), Moment()
    loop, told = asyncio.get_running_loop(), Told()
    undisturbed: list[bool] = []
    seen: list[int] = []
    await dbs[1].things.insert_many([{"_id": number} for number in range(4)])

    @registry.register("a")
    def goes_on(db: Any, context: MigrationContext) -> None:
        if of(db) == "00" and not undisturbed:
            meeting.wait()
            loop.call_soon_threadsafe(running.cancel)
            cancelled.wait()
            db.effects.insert_one({})
            return
        for batch in context.batches(db.things, size=2):
            seen.extend(document["_id"] for document in batch)
            if not undisturbed:
                meeting.wait()
                cancelled.wait()

    @registry.register("b", depends_on=["c"])
    async def is_next(db: Any) -> None:
        """Nothing."""

    @registry.register("c")
    async def is_cancelled(db: Any) -> None:
        if of(db) == "02" and not undisturbed:
            try:  # the cancellation may come while it still waits for the others
                await meeting.wait_async()
                await asyncio.Event().wait()
            finally:
                for _ in range(5):  # the loop tells the others meanwhile
                    await asyncio.sleep(0)
                cancelled.has_come()

    with other_colour(other, place[0]) as sync_db:
        running = asyncio.ensure_future(registry.run_many(dbs, "app", sync_db=sync_db, on_event=told, concurrency=3))
        with pytest.raises(asyncio.CancelledError):
            await running

        assert await names_in(dbs) == [[], [], ["a"], [], []]
        assert await dbs[0].effects.count_documents({}) == 1
        assert seen == [0, 1]
        assert {event.database for event in told} == {one.name for one in dbs[:3]}
        assert await are_free(dbs)
        undisturbed.append(True)
        results = await registry.run_many(dbs, "app", sync_db=sync_db, lease_timeout=0)
    assert [result.error for result in results] == [None] * 5
    assert await names_in(dbs) == [["a", "b", "c"]] * 5
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", [None, RunStarted, MigrationStarted, MigrationApplied, RunFinished])
async def test_interrupted_at_an_event(dbs: list[Any], kind: type[Event] | None, *, again: bool) -> None:
    """Whenever it is cancelled (None: before anything is sent), and however often, the call ends when all that it began
    has, and no other database is begun: every lease is free, and what is told as applied is recorded. The next call
    does the rest.
    """
    interruptions = [lambda: running.cancel()] * (2 if again else 1)
    told = Told({} if kind is None else {kind: lambda: interruptions and interruptions.pop()()})
    running = asyncio.ensure_future(ab().run_many(dbs, "app", on_event=told, concurrency=2))
    if kind is None:
        for interrupt in interruptions:
            await asyncio.sleep(0)
            interrupt()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert await are_free(dbs)
    assert {event.database for event in told} <= {one.name for one in dbs[:2]}
    for one in dbs:
        applied = [event for event in told if isinstance(event, MigrationApplied) and event.database == one.name]
        # What was being recorded when it was cancelled may be recorded.
        assert [event.name for event in applied] == (await names(one))[: len(applied)]
    assert [result.error for result in await ab().run_many(dbs, "app", lease_timeout=0)] == [None] * 5
    assert await names_in(dbs) == [["a", "b"]] * 5


@pytest.mark.parametrize("steps", range(5))
async def test_interrupted_as_one_ends(dbs: list[Any], steps: int) -> None:
    """Cancelled just when one database is done, where the next would begin: the other one under way is waited for."""
    registry = MigrationRegistry()
    begun, ended = Moment(), []

    @registry.register("a")
    async def cleans_up(db: Any) -> None:
        if of(db) != "01":
            await begun.wait_async()
            return
        try:
            begun.has_come()
            await asyncio.Event().wait()
        finally:
            for _ in range(50):  # cleaning up needs the loop for some time
                await asyncio.sleep(0)
            ended.append(of(db))

    def cancel(steps: int) -> None:
        if steps == 0:
            running.cancel()
        else:  # so many steps of the loop later
            asyncio.get_running_loop().call_soon(cancel, steps - 1)

    told = Told({RunFinished: lambda: cancel(steps)})
    running = asyncio.ensure_future(registry.run_many(dbs, "app", on_event=told, concurrency=2))
    with pytest.raises(asyncio.CancelledError):
        await running

    assert ended == ["01"]
    assert await names_in(dbs) == [["a"], [], [], [], []]
    assert await are_free(dbs)
