# Generated from tests/async/test_concurrency.py by tools/sync_tests.py
"""Migrations that run at the same time: what begins when, what is recorded, and how a run ends that fails."""

import contextvars
from collections.abc import Callable
from typing import Any

import pytest

from quaestor import (
    AsyncMigrationContext,
    BackfillStarted,
    InvalidOptionError,
    Lease,
    MigrationApplied,
    MigrationContext,
    MigrationFailed,
    MigrationProgressed,
    MigrationRegistry,
    MigrationRetried,
    MigrationStarted,
    RunFinished,
    RunStarted,
    SyncRunner,
)
from tests.databases import both_kinds, drivers, in_transactions
from tests.functions import Broken, each, fill, is_free, nothing, outside, recorded
from tests.meeting import Count, Meeting, Moment, Told, worker
from tools.commands import Commands

real = pytest.mark.parametrize("driver", drivers("pymongo"), indirect=True)
"""For what the mocks do not have."""


@pytest.mark.parametrize(("count", "concurrency"), [(2, 2), (4, 4), (2, 100)])
def test_concurrent(db: Any, registry: MigrationRegistry, count: int, concurrency: int) -> None:
    """Migrations run at the same time, up to the concurrency; a concurrency above the number of migrations is fine."""
    meeting = Meeting(count)
    plan = list("abcd"[:count])
    for name in plan:

        @registry.register(name)
        def meets(db: Any) -> None:
            meeting.wait()

    assert registry.run_sync(db, "app", concurrency=concurrency) == plan
    assert recorded(db) == plan
    assert is_free(db)
    assert registry.run_sync(db, "app", concurrency=concurrency) == []


@both_kinds
def test_both_kinds(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """`def` and `async def` functions run concurrently, two of each, and those that need them after them."""
    meeting, later = Meeting(4), Meeting(2)

    def plain(db: Any) -> None:
        meeting.wait()

    async def awaited(db: Any) -> None:
        await meeting.wait_async()

    for name, function in {"a": plain, "b": awaited, "c": plain, "d": awaited}.items():
        registry.register(name)(function)

    @registry.register("e", depends_on=["a", "b"])
    def needs_both(db: Any) -> None:
        assert db.app_migrations.count_documents({"_id": {"$in": ["a", "b"]}}) == 2
        later.wait()

    @registry.register("f", depends_on=["c", "d"])
    async def needs_both_too(db: Any) -> None:
        assert await db.app_migrations.count_documents({"_id": {"$in": ["c", "d"]}}) == 2
        await later.wait_async()

    assert registry.run_sync(db, "app", async_db=async_db, concurrency=4) == list("abcdef")
    assert recorded(db) == list("abcdef")


def test_dependents_after_the_record(db: Any, registry: MigrationRegistry) -> None:
    """A function starts once all its dependencies are recorded, and waits for nothing else."""
    needs = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"], "x": [], "y": ["d", "x"]}
    missing: list[tuple[str, str]] = []
    last = Moment()

    @each(registry, needs)
    def body(name: str, db: Any) -> None:
        missing.extend([(name, one) for one in needs[name] if db.app_migrations.find_one({"_id": one}) is None])
        if name == "d":
            last.has_come()
        if name == "x":  # all of the others go by
            last.wait()

    assert registry.run_sync(db, "app", concurrency=3) == ["a", "b", "c", "d", "x", "y"]
    assert missing == []


@pytest.mark.parametrize("concurrency", [2, 3])
def test_at_most(db: Any, registry: MigrationRegistry, concurrency: int) -> None:
    """Never more than `concurrency` run at once."""
    meeting, count = Meeting(concurrency), Count()

    def body(db: Any) -> None:
        with count.one_more():
            meeting.wait()

    for name in "abcdef":
        registry.register(name)(body)

    assert registry.run_sync(db, "app", concurrency=concurrency) == list("abcdef")
    assert count.most == concurrency


@pytest.mark.parametrize("options", [{}, {"concurrency": 1}], ids=str)
def test_one_at_a_time(db: Any, registry: MigrationRegistry, options: Any) -> None:
    """By default they run one at a time, in alphabetical order, in the task or thread of the caller."""
    calls = []

    @each(registry, {"d": [], "c": ["d"], "a": ["c"], "b": []})
    def body(name: str, db: Any) -> None:
        calls.append((name, worker()))

    assert registry.run_sync(db, "app", **options) == ["b", "d", "c", "a"]
    assert calls == [(name, worker()) for name in ["b", "d", "c", "a"]]


def test_order_of_the_list(db: Any, registry: MigrationRegistry) -> None:
    """The result is in the order of the plan, the events are in the order of what happened."""
    applied = Moment()
    told = Told({MigrationApplied: applied.has_come})

    @registry.register("a")
    def waits(db: Any) -> None:
        applied.wait()

    registry.register("b")(nothing)

    assert registry.run_sync(db, "app", on_event=told, concurrency=2) == ["a", "b"]
    assert told.names(MigrationApplied) == ["b", "a"]
    assert isinstance(told[-1], RunFinished)
    assert told[-1].applied == ("a", "b")


def test_failure_while_others_run(db: Any, registry: MigrationRegistry) -> None:
    """After a failure no migration starts; running ones end and are recorded; the caller gets the very exception."""
    error, meeting, failed = Broken("own"), Meeting(3), Moment()
    fixed: list[bool] = []

    @registry.register("a")
    def fails(db: Any) -> None:
        if not fixed:
            meeting.wait()
            raise error

    def goes_on(db: Any) -> None:
        meeting.wait()
        failed.wait()
        db.effects.insert_one({})

    for name in "bc":
        registry.register(name)(goes_on)
    for name, depends_on in {"d": ["a"], "e": [], "f": ["b"]}.items():
        registry.register(name, depends_on)(nothing)
    told = Told({MigrationFailed: failed.has_come})

    with pytest.raises(Broken) as caught:
        registry.run_sync(db, "app", on_event=told, concurrency=3)

    assert caught.value is error
    assert error.__notes__ == ["quaestor: in migration 'a', 1 of 6"]
    assert told.names(MigrationStarted) == ["a", "b", "c"]
    assert told.names(MigrationFailed) == ["a"]
    assert sorted(told.names(MigrationApplied)) == recorded(db) == ["b", "c"]
    assert db.effects.count_documents({}) == 2
    assert is_free(db)
    fixed.append(True)
    assert registry.run_sync(db, "app", concurrency=3) == ["a", "d", "e", "f"]


@pytest.mark.parametrize(("second", "group"), [(LookupError, ExceptionGroup), (SystemExit, BaseExceptionGroup)])
def test_two_failures(
    db: Any, registry: MigrationRegistry, second: type[BaseException], group: type[BaseExceptionGroup[Any]]
) -> None:
    """Several failures are raised as a group, each with its note; the others are recorded."""
    errors, meeting, failed = {"a": Broken("own"), "b": second("own")}, Meeting(3), Moment()

    @each(registry, dict.fromkeys("abc", ()))
    def body(name: str, db: Any) -> None:
        meeting.wait()
        if name in errors:
            raise errors[name]
        failed.wait()

    registry.register("d", depends_on=["c"])(nothing)
    told = Told({MigrationFailed: failed.has_come})

    with pytest.raises(group, match="2 migrations failed") as caught:
        registry.run_sync(db, "app", on_event=told, concurrency=3)

    assert type(caught.value) is group
    assert sorted(map(id, caught.value.exceptions)) == sorted(map(id, errors.values()))
    assert [error.__notes__ for error in errors.values()] == [
        ["quaestor: in migration 'a', 1 of 4"],
        ["quaestor: in migration 'b', 2 of 4"],
    ]
    failures = {event.name: event.error for event in told if isinstance(event, MigrationFailed)}
    assert failures == errors
    assert recorded(db) == ["c"]
    assert is_free(db)


@both_kinds
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("is_async", [False, True])
def test_exit(db: Any, registry: MigrationRegistry, async_db: Any, is_async: bool, kind: type[BaseException]) -> None:
    """SystemExit and KeyboardInterrupt of a function wait for the others, and are raised unchanged."""
    error, meeting, failed = kind("own"), Meeting(3), Moment()

    def plain(db: Any) -> None:
        meeting.wait()
        raise error

    async def awaited(db: Any) -> None:
        await meeting.wait_async()
        raise error

    def goes_on(db: Any) -> None:
        meeting.wait()
        failed.wait()

    async def awaits_the_others(db: Any) -> None:
        await meeting.wait_async()
        await failed.wait_async()

    for name, function in {
        "a": awaited if is_async else plain,
        "b": goes_on,
        "c": awaits_the_others,
        "d": nothing,
    }.items():
        registry.register(name)(function)
    told = Told({MigrationFailed: failed.has_come})

    with pytest.raises(kind) as caught:
        registry.run_sync(db, "app", async_db=async_db, on_event=told, concurrency=3)

    assert caught.value is error
    assert recorded(db) == ["b", "c"]
    assert told.names(MigrationFailed) == ["a"]
    assert is_free(db)


def test_events(db: Any, registry: MigrationRegistry) -> None:
    """Each migration starts before it ends, with its number in the plan, between start and end of the run."""
    meeting, told = Meeting(3), Told()

    def meets(db: Any) -> None:
        meeting.wait()

    for name in "abc":
        registry.register(name)(meets)
    registry.register("d", depends_on=["a", "c"])(nothing)

    registry.run_sync(db, "app", on_event=told, concurrency=3)

    where = (db.name, "app")
    assert told[0] == RunStarted(*where, ("a", "b", "c", "d"))
    assert told[1:4] == [MigrationStarted(*where, name, number, 4) for number, name in enumerate("abc", start=1)]
    assert told[-1] == RunFinished(*where, ("a", "b", "c", "d"))
    for number, name in enumerate("abcd", start=1):
        started, applied = (event for event in told if getattr(event, "name", None) == name)
        assert started == MigrationStarted(*where, name, number, 4)
        assert isinstance(applied, MigrationApplied)
        assert applied == MigrationApplied(*where, name, number, 4, applied.seconds)
    assert told.names(MigrationStarted)[3] == "d"


@both_kinds
def test_one_event_at_a_time(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """The hook is called by one function at a time."""
    meeting = Meeting(2)
    told = Told()

    @registry.register("a")
    def goes_over(db: Any, context: MigrationContext) -> None:
        meeting.wait()
        for _ in context.batches(db.a, size=1):
            meeting.wait()

    @registry.register("b")
    async def goes_over_too(db: Any, context: AsyncMigrationContext) -> None:
        await meeting.wait_async()
        async for _ in context.batches(db.b, size=1):
            await meeting.wait_async()

    for name in "ab":
        fill(db[name], 5)

    registry.run_sync(db, "app", async_db=async_db, on_event=told, concurrency=2)

    assert sorted(told.names(BackfillStarted)) == ["a", "b"]
    assert len(told.names(MigrationProgressed)) > 2
    assert told.calls.most == 1


@real
def test_transactions(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """Transactions run concurrently, each in a session of its own that the lock names, and each counts once."""
    meeting, told = Meeting(3), Told()
    calls: dict[str, int] = {}
    sessions = []
    db.create_collection("effects")

    @each(registry, {"a": [], "b": [], "c": [], "d": ["a"], "e": ["b"]}, transaction=True)
    def body(name: str, db: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        db.effects.insert_one({"migration": name})
        if calls[name] == 1 and name in "abc":
            meeting.wait()
            sessions.append(outside(other.app_migrations_lock.find_one)["sessions"])

    assert registry.run_sync(db, "app", on_event=told, concurrency=3) == list("abcde")

    effects = sorted([document["migration"] for document in db.effects.find()])
    assert effects == recorded(db) == list("abcde")
    assert [len(named) for named in sessions] == [3, 3, 3]
    assert sum(calls.values()) == 5 + len(told.names(MigrationRetried))
    assert sorted(told.names(MigrationApplied)) == list("abcde")
    assert is_free(db)


@real
def test_conflicting_transactions(db: Any, registry: MigrationRegistry) -> None:
    """Transactions that write the same document are retried until each is there once."""
    meeting, told = Meeting(3), Told()
    calls: dict[str, int] = {}
    db.counts.insert_one({"_id": 1, "count": 0})

    @each(registry, dict.fromkeys("abc", ()), transaction=True)
    def body(name: str, db: Any) -> None:
        calls[name] = calls.get(name, 0) + 1
        count = db.counts.find_one()["count"]
        if calls[name] == 1:
            meeting.wait()  # all have read it, and so only one of them can commit
        db.counts.update_one({"_id": 1}, {"$set": {"count": count + 1}})

    assert registry.run_sync(db, "app", on_event=told, concurrency=3) == ["a", "b", "c"]
    assert db.counts.find_one() == {"_id": 1, "count": 3}
    assert recorded(db) == ["a", "b", "c"]
    assert len(told.names(MigrationRetried)) >= 2
    assert sum(calls.values()) == 3 + len(told.names(MigrationRetried))


@in_transactions("pymongo")
def test_backfills(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """Concurrent backfills over one collection have checkpoints of their own: the one that fails resumes after its last
    batch, and the other is done.
    """
    fill(db.things, 6)
    db.create_collection("log")
    meeting = Meeting(2)
    failing = [True]

    def function(name: str) -> Callable[[Any, MigrationContext], None]:
        def body(db: Any, context: MigrationContext) -> None:
            seen = []

            def change(batch: list[dict[str, Any]]) -> None:
                number = batch[0]["_id"]
                if failing and number not in seen:  # a batch in a transaction may be tried again
                    seen.append(number)
                    meeting.wait()
                    if name == "a" and number == 4:
                        raise Broken
                db.log.insert_many([{"name": name, "number": document["_id"]} for document in batch])

            context.for_each_batch(db.things, change, size=2, transaction=transaction)

        return body

    for name in "ab":
        registry.register(name)(function(name))

    with pytest.raises(Broken):
        registry.run_sync(db, "app", concurrency=2)
    assert recorded(db) == ["b"]
    (kept,) = SyncRunner(registry, db, "app").status().migrations[0].backfills
    assert (kept.collection, kept.done) == ("things", 4)
    assert db.app_migrations_progress.count_documents({}) == 1
    failing.clear()

    assert registry.run_sync(db, "app", concurrency=2) == ["a"]
    for name in "ab":
        numbers = [entry["number"] for entry in db.log.find({"name": name})]
        assert sorted(numbers) == list(range(6))
    assert db.app_migrations_progress.count_documents({}) == 0
    assert is_free(db)


def test_status(db: Any, registry: MigrationRegistry, other: Any) -> None:
    """A status names all running migrations, also those that started later, and none that has ended."""
    first, later = Meeting(3), Meeting(2)
    seen: dict[str, Lease | None] = {}

    def look(name: str) -> None:
        seen[name] = SyncRunner(registry, other, "app").status().lease

    @registry.register("a")
    def a(db: Any) -> None:
        first.wait()
        look("a")
        first.wait()

    @registry.register("b")
    def b(db: Any) -> None:
        first.wait()
        first.wait()
        later.wait()
        later.wait()

    @registry.register("c")
    def c(db: Any) -> None:
        first.wait()
        first.wait()

    @registry.register("d", depends_on=["a", "c"])
    def d(db: Any) -> None:
        later.wait()
        look("d")
        later.wait()

    assert registry.run_sync(db, "app", concurrency=3) == ["a", "b", "c", "d"]
    assert SyncRunner(registry, other, "app").status().lease is None

    under_way = {name: sorted(lease.migrations) for name, lease in seen.items() if lease is not None}
    assert under_way == {"a": ["a", "b", "c"], "d": ["b", "d"]}


def test_targets(db: Any, registry: MigrationRegistry) -> None:
    """Only the targets and their dependencies run, concurrently."""
    meeting = Meeting(2)

    def meets(db: Any) -> None:
        meeting.wait()

    for name, depends_on in {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}.items():
        registry.register(name, depends_on)(meets if name in "bc" else nothing)

    assert registry.run_sync(db, "app", targets=["b", "c"], concurrency=4) == ["a", "b", "c"]
    assert recorded(db) == ["a", "b", "c"]


def test_generator_exit(db: Any) -> None:
    """A GeneratorExit of a function becomes a RuntimeError."""
    registry, told = MigrationRegistry(), Told()

    @registry.register("a")
    def ends(db: Any) -> None:
        raise GeneratorExit

    registry.register("b")(nothing)

    with pytest.raises(RuntimeError, match="GeneratorExit") as caught:
        registry.run_sync(db, "app", on_event=told, concurrency=2)

    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 2"]
    assert told.names(MigrationFailed) == ["a"]
    assert recorded(db) == ["b"]
    assert is_free(db)


@pytest.mark.parametrize("concurrency", [0, -1, 101, True, False, 2.0, "2", None, [2]], ids=repr)
@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_bad_concurrency(db: Any, registry: MigrationRegistry, commands: Commands, concurrency: Any) -> None:
    """Anything but a number from 1 to 100 is refused before any command."""
    registry.register("a")(nothing)

    with pytest.raises(InvalidOptionError, match="concurrency must be a whole number, from 1 to 100"):
        registry.run_sync(db, "app", concurrency=concurrency)
    with pytest.raises(InvalidOptionError, match="concurrency must be a whole number, from 1 to 100"):
        SyncRunner(registry, db, "app").run(concurrency=concurrency)
    assert commands.sent == []


@both_kinds
def test_context_variables(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """Functions see the context variables of the caller, and not what another function sets."""
    variable = contextvars.ContextVar("variable", default="nobody's")
    meeting = Meeting(2)
    seen = []

    def plain(db: Any) -> None:
        seen.append(variable.get())
        variable.set("of another")
        meeting.wait()

    async def awaited(db: Any) -> None:
        seen.append(variable.get())
        variable.set("of another")
        await meeting.wait_async()

    for name, function in {"a": plain, "b": awaited}.items():
        registry.register(name)(function)
        registry.register(f"after {name}", depends_on=["a", "b"])(function)

    variable.set("the caller's")
    assert len(registry.run_sync(db, "app", async_db=async_db, concurrency=2)) == 4
    assert seen == ["the caller's"] * 4
