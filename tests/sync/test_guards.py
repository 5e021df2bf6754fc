# Generated from tests/async/test_guards.py by tools/sync_tests.py
"""Preconditions and verifications: what they see, of which kind they are, and what is left if they fail.

When they are called, and crashes: tests/test_guards.py.
"""

import gc
from typing import Any

import pytest
from pymongo.errors import OperationFailure

from quaestor import (
    AsyncMigrationContext,
    Event,
    InvalidGuardError,
    MigrationContext,
    MigrationFailed,
    MigrationProgressed,
    MigrationRegistry,
    MigrationRetried,
    MissingDatabaseError,
    PreconditionFailedError,
    SyncRunner,
    UnfinishedMigrationError,
    VerificationFailedError,
    log_event,
)
from tests.databases import both_kinds, drivers, in_transactions
from tests.functions import (
    Broken,
    ab,
    effects,
    is_free,
    nothing,
    nothing_async,
    other_kind,
    other_nothing,
    outside,
    recorded,
)
from tests.leases import HELD
from tools.commands import Commands


def insert(db: Any) -> None:
    """A migration that leaves a document."""
    db.effects.insert_one({"_id": "done"})


def is_done(db: Any) -> bool:
    """A guard: whether the migration has left its document."""
    return db.effects.find_one({"_id": "done"}) is not None


def is_not_done(db: Any) -> bool:
    """A guard: whether it hasn't."""
    return not is_done(db)


@in_transactions("pymongo")
def test_they_hold(db: Any, registry: MigrationRegistry, other: Any, *, transaction: bool) -> None:
    """A precondition sees what was there before, a verification what the function did; in a transaction before others
    do.
    """
    seen: list[object] = []
    registry.register("a", transaction=transaction)(insert)
    registry.register_precondition("a")(is_not_done)

    @registry.register_verification("a")
    def verify(db: Any) -> None:
        seen.append((is_done(db), outside(lambda: other.effects.find_one()) is None))
        assert outside(lambda: other.app_migrations.find_one()) is None

    assert registry.run_sync(db, "app") == ["a"]
    assert seen == [(True, transaction)]
    assert recorded(db) == ["a"]


@in_transactions("pymongo")
@pytest.mark.parametrize("failure", [None, Broken("3 orders")])
def test_failed_verification(
    db: Any, registry: MigrationRegistry, failure: Broken | None, *, transaction: bool
) -> None:
    """The migration isn't recorded. Its transaction is aborted, what it did without one stays."""
    events: list[Event] = []
    registry.register("a", transaction=transaction)(insert)
    registry.register("b", ["a"])(nothing)

    @registry.register_verification("a")
    def verify(db: Any) -> bool:
        if failure is not None:
            raise failure
        return False

    with pytest.raises(VerificationFailedError, match=r"'a' isn't recorded.*\.verify re?") as caught:
        registry.run_sync(db, "app", on_event=events.append)

    assert caught.value.__cause__ is failure
    assert ("raised Broken: 3 orders." in str(caught.value)) is (failure is not None)
    assert caught.value.__notes__ == ["quaestor: in migration 'a', 1 of 2"]
    assert [event.error for event in events if isinstance(event, MigrationFailed)] == [caught.value]
    assert effects(db) == ([] if transaction else ["done"])
    assert recorded(db) == []
    assert is_free(db)


@in_transactions("pymongo")
def test_failed_precondition(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """The migration doesn't begin; what was applied before it stays. What the precondition wrote isn't undone,
    because it runs before the transaction.
    """
    registry.register("a")(nothing)
    registry.register("b", ["a"], transaction=transaction)(insert)

    @registry.register_precondition("b")
    def check(db: Any) -> bool:
        db.effects.insert_one({"_id": "checked"})
        return False

    with pytest.raises(PreconditionFailedError, match=r"'b' didn't begin.*\.check returned False\. Correct"):
        registry.run_sync(db, "app")
    assert recorded(db) == ["a"]
    assert effects(db) == ["checked"]
    assert is_free(db)


@both_kinds
def test_kinds(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """Guards may be of the other kind than the migration, each with the database of its kind, and with a context."""
    calls: list[str] = []
    registry.register("a")(insert)
    registry.register("b", ["a"])(other_nothing)

    def check(db: Any, context: MigrationContext) -> bool:
        calls.append(context.name)
        return db.effects.find_one({"_id": "done"}) is None

    async def check_too(db: Any, context: AsyncMigrationContext) -> bool:
        calls.append(context.name)
        return await db.effects.find_one({"_id": "done"}) is None

    def verify(db: Any) -> bool:
        return db.effects.find_one({"_id": "done"}) is not None

    async def verify_too(db: Any) -> bool:
        return await db.effects.find_one({"_id": "done"}) is not None

    registry.register_precondition("a")(other_kind(check, check_too))
    registry.register_precondition("a")(is_not_done)
    for name in "ab":
        registry.register_verification(name)(other_kind(verify, verify_too))
        registry.register_verification(name)(is_done)

    assert registry.run_sync(db, "app", async_db=async_db) == ["a", "b"]
    assert calls == ["a"]


@both_kinds
def test_verify_kinds(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """Verifications of both kinds are called with the database of their kind, whatever the migration's kind."""
    insert(db)

    def verify(db: Any, context: MigrationContext) -> bool:
        context.progress(1)
        return db.effects.find_one({"_id": "done"}) is None

    async def verify_too(db: Any, context: AsyncMigrationContext) -> bool:
        context.progress(1)
        return await db.effects.find_one({"_id": "done"}) is None

    registry.register("a")(nothing)
    registry.register_verification("a")(other_kind(verify, verify_too))
    registry.register("b")(other_nothing)
    registry.register_verification("b")(is_done)
    events: list[Event] = []
    runner = SyncRunner(registry, db, "app", async_db=async_db, on_event=events.append)
    runner.mark_applied(["a", "b"])
    events.clear()

    found = runner.verify()

    assert list(found) == ["a"]
    assert found["a"].endswith(" returned False")
    assert [
        (event.name, event.position, event.count) for event in events if isinstance(event, MigrationProgressed)
    ] == [("a", 1, 2)]


@pytest.mark.parametrize("driver", drivers("pymongo"))  # Motor brings its own
@pytest.mark.parametrize("after", [False, True])
def test_refused_without_the_database(db: Any, registry: MigrationRegistry, *, after: bool) -> None:
    """A guard of the other kind needs a database for it, before anything is run."""
    registry.register("a")(insert)
    registry.register("b", ["a"])(nothing)
    (registry.register_verification if after else registry.register_precondition)("b")(other_nothing)
    runner = SyncRunner(registry, db, "app")

    for method in (runner.run, runner.plan):
        with pytest.raises(MissingDatabaseError) as caught:
            method()
        assert (caught.value.migrations, caught.value.argument) == (["b"], "async_db")
    assert effects(db) == []
    runner.mark_applied(["a", "b"])
    if after:
        with pytest.raises(MissingDatabaseError):
            runner.verify()
    assert runner.verify(["a"]) == {}


@in_transactions("pymongo")
def test_error_of_the_driver(
    db: Any, registry: MigrationRegistry, caplog: pytest.LogCaptureFixture, *, transaction: bool
) -> None:
    """It is the cause, and no value of a document is in a message."""
    registry.register("a", transaction=transaction)(insert)

    @registry.register_verification("a")
    def verify(db: Any) -> None:
        db.effects.insert_one({"_id": "secret", "again": True})
        raise OperationFailure("Unknown value: {name: 'secret'}", 2)

    with pytest.raises(VerificationFailedError, match="raised OperationFailure 2") as caught:
        registry.run_sync(db, "app", on_event=log_event)
    assert isinstance(caught.value.__cause__, OperationFailure)
    assert "secret" not in caplog.text + str(caught.value)
    assert recorded(db) == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_refused_in_a_transaction(db: Any, registry: MigrationRegistry) -> None:
    """The note on what a transaction refuses is shown with the failure, too."""
    registry.register("a", transaction=True)(insert)

    @registry.register_verification("a")
    def verify(db: Any) -> bool:
        return "effects" in db.list_collection_names()

    with pytest.raises(VerificationFailedError) as caught:
        registry.run_sync(db, "app")
    assert "MongoDB does not allow this in a transaction" in caught.value.__notes__[0]
    assert effects(db) == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_retried_in_a_transaction(db: Any, registry: MigrationRegistry) -> None:
    """An error after which the server wants the transaction retried is no failure; function and verification are
    called again.
    """
    events: list[Event] = []
    conflict = OperationFailure("conflict", 112, {"errorLabels": ["TransientTransactionError"]})
    registry.register("a", transaction=True)(insert)

    @registry.register_verification("a")
    def verify(db: Any) -> bool:
        if not any(isinstance(event, MigrationRetried) for event in events):
            raise conflict
        return is_done(db)

    assert registry.run_sync(db, "app", on_event=events.append) == ["a"]
    assert [event.error for event in events if isinstance(event, MigrationRetried)] == [conflict]
    assert effects(db) == ["done"]


@in_transactions("pymongo")
@pytest.mark.parametrize("after", [False, True])
def test_backfill(db: Any, registry: MigrationRegistry, *, transaction: bool, after: bool) -> None:
    """A guard has no backfills, and may not start one."""
    registry.register("a", transaction=transaction)(insert)

    def guard(db: Any, context: MigrationContext) -> None:
        for _ in context.batches(db.effects):
            pytest.fail("This is a batch.")

    def guard_with_body(db: Any, context: MigrationContext) -> None:
        context.for_each_batch(db.effects, nothing, transaction=False)

    register = registry.register_verification if after else registry.register_precondition
    for function in (guard, guard_with_body):
        register("a")(function)
        with pytest.raises(InvalidGuardError, match=r"guard\w* of migration 'a' starts a backfill"):
            registry.run_sync(db, "app")
        assert recorded(db) == []
        registry = MigrationRegistry()
        registry.register("a", transaction=transaction)(nothing)
        register = registry.register_verification if after else registry.register_precondition


@in_transactions("pymongo")
def test_context(db: Any, registry: MigrationRegistry, caplog: pytest.LogCaptureFixture, *, transaction: bool) -> None:
    """A guard's context reports progress and logs as a migration's does."""
    events: list[Event] = []
    registry.register("a", transaction=transaction)(nothing)

    def guard(db: Any, context: MigrationContext) -> bool:
        context.progress(1, 2)
        context.logger.warning("looking")
        return True

    registry.register_precondition("a")(guard)
    registry.register_verification("a")(guard)
    assert registry.run_sync(db, "app", on_event=events.append) == ["a"]
    progressed = MigrationProgressed(db.name, "app", events[0].run, "a", 1, 1, 1, 2)
    assert [event for event in events if isinstance(event, MigrationProgressed)] == [progressed] * 2
    assert [one.args for one in caplog.records if one.name == "quaestor.migration"] == [()] * 2
    assert caplog.text.count(f"[{db.name}/app] In 'a': looking") == 2


@pytest.mark.parametrize("after", [False, True])
def test_coroutine_returned(db: Any, registry: MigrationRegistry, async_db: Any, *, after: bool) -> None:
    """A `def` guard that returns a coroutine hasn't looked: an error, and no warning of Python's."""
    registry.register("a")(nothing)
    register: Any = registry.register_verification if after else registry.register_precondition
    register("a")(lambda db: nothing_async(db))

    with pytest.raises(UnfinishedMigrationError, match=r"'a' returned an awaitable \(coroutine\) in the \w+ion "):
        registry.run_sync(db, "app", async_db=async_db)
    gc.collect()
    assert recorded(db) == []


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize("after", [False, True])
def test_forgotten_await(db: Any, registry: MigrationRegistry, async_db: Any, *, after: bool) -> None:
    """A `def` guard that calls an `async def` function of the user's hasn't looked either, whatever it returns."""
    registry.register("a")(nothing)
    register = registry.register_verification if after else registry.register_precondition

    @register("a")
    def guard(db: Any) -> bool:
        nothing_async(db)
        return True

    with pytest.raises(UnfinishedMigrationError, match="'a' returned without awaiting 'nothing"):
        registry.run_sync(db, "app", async_db=async_db)
    assert recorded(db) == []


def test_lazy_result(db: Any, registry: MigrationRegistry) -> None:
    """A cursor that nothing has read, or a number of documents, is no answer."""
    registry.register("a")(nothing)
    results: list[Any] = [3, (one for one in "a")]

    def guard(db: Any) -> Any:
        return results.pop()

    registry.register_verification("a")(guard)
    with pytest.raises(UnfinishedMigrationError, match="'a' returned a generator in the verification"):
        registry.run_sync(db, "app")
    with pytest.raises(InvalidGuardError, match="returned a value of type int"):
        registry.run_sync(db, "app")
    assert recorded(db) == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
@pytest.mark.parametrize("transaction", [False, True])
def test_commands(db: Any, commands: Commands, *, transaction: bool) -> None:
    """Guards cost nothing but the commands that they send themselves."""
    sent: list[list[str]] = []
    ab().run_sync(db, "app")
    commands.sent.clear()
    for has_guards in (False, True):
        migrations = MigrationRegistry()
        for number in range(3):
            name = f"{has_guards} {number}"
            migrations.register(name, transaction=transaction)(nothing)
            if has_guards:
                migrations.register_precondition(name)(nothing)
                migrations.register_verification(name)(nothing)
        migrations.run_sync(db, "app")
        sent.append(list(commands.names))
        commands.sent.clear()
    assert sent[0] == sent[1]


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_verify(db: Any, registry: MigrationRegistry, commands: Commands) -> None:
    """While another instance holds the lease, the verifications of applied migrations are called, outside of any
    transaction, and those that fail are returned with the reason. Nothing but reads is sent.
    """
    for name in ("a", "b", "c", "pending"):
        registry.register(name, transaction=name == "b")(nothing)
        registry.register_verification(name)(is_done)

    @registry.register_verification("b")
    def raises(db: Any) -> None:
        raise Broken("3 orders")

    runner = SyncRunner(registry, db, "app")
    runner.mark_applied(["a", "b"])
    db.app_migrations_lock.replace_one({"_id": "lease"}, HELD)
    commands.sent.clear()

    found = runner.verify()

    assert list(found) == ["a", "b"]
    assert found["a"].endswith(".is_done returned False")
    assert found["b"].endswith(".raises raised Broken: 3 orders")
    assert set(commands.names) == {"find"}
    insert(db)
    assert list(runner.verify()) == ["b"]
    assert runner.verify(["c", "a", "pending"]) == {}


def test_neither_rollback_nor_mark(db: Any, registry: MigrationRegistry) -> None:
    """A rollback and a mark call no guards."""

    def fail(db: Any) -> bool:
        pytest.fail("It was called.")

    registry.register("a")(nothing)
    registry.register_rollback("a")(nothing)
    registry.register_precondition("a")(fail)
    registry.register_verification("a")(fail)
    runner = SyncRunner(registry, db, "app")
    assert runner.mark_applied(["a"]) == ["a"]
    assert runner.rollback(["a"]) == ["a"]
    assert runner.mark_applied(["a"]) == ["a"]
    assert runner.mark_pending(["a"]) == ["a"]


@both_kinds
def test_concurrency(db: Any, registry: MigrationRegistry, async_db: Any) -> None:
    """The guards of migrations that run at the same time are called where each of their functions would be."""
    for number in range(6):
        register = registry.register(str(number))
        register(nothing if number % 2 else other_nothing)
        registry.register_precondition(str(number))(other_nothing if number % 2 else nothing)
        registry.register_verification(str(number))(is_not_done)
    registry.register("late", [str(number) for number in range(6)])(insert)
    registry.register_verification("late")(is_not_done)

    with pytest.raises(VerificationFailedError) as caught:
        registry.run_sync(db, "app", async_db=async_db, concurrency=3)
    assert caught.value.name == "late"
    assert recorded(db) == [str(number) for number in range(6)]


def test_many(dbs: list[Any], registry: MigrationRegistry) -> None:
    """A guard that fails is the error of its database; the others are migrated."""
    registry.register("a")(nothing)
    registry.register_precondition("a")(is_not_done)
    insert(dbs[1])

    results = registry.run_many_sync(dbs, "app")

    assert [result.applied for result in results] == [["a"], [], ["a"], ["a"], ["a"]]
    assert isinstance(results[1].error, PreconditionFailedError)


def test_registered_meanwhile(db: Any) -> None:
    """A guard that is registered while a run is in progress belongs to the next one."""
    registry = ab()

    @registry.register("c")
    def c(db: Any) -> None:
        registry.register_verification("c")(is_done)

    assert registry.run_sync(db, "app") == ["a", "b", "c"]
    assert list(SyncRunner(registry, db, "app").verify()) == ["c"]
