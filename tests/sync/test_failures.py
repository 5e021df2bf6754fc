"""A migration that fails, is interrupted, or returns before its work is done."""

import gc
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError

from quaestor import MigrationRegistry, RecordConflictError, UnfinishedMigrationError
from tests.databases import drivers, opened
from tests.functions import nothing, nothing_async


class Broken(Exception):
    """A user's own exception."""


@dataclass(frozen=True)
class Frozen(Exception):
    """A user's own exception that takes no note."""

    code: int


def names(db: Any) -> list[str]:
    return sorted(record["name"] for record in db.app_migrations.find())


@pytest.mark.parametrize("make", [Broken, lambda: Frozen(7), KeyboardInterrupt, SystemExit])
def test_exception_as_it_is(db: Any, make: Callable[[], BaseException]) -> None:
    """The caller gets the very exception, with its traceback; nothing is recorded and what came before stays."""
    error = make()
    registry = MigrationRegistry()
    registry.register("a")(nothing)
    registry.register("c")(nothing)

    @registry.register("b")
    def raises_it(db: Any) -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        registry.run_sync(db, "app")

    assert caught.value is error
    assert traceback.extract_tb(error.__traceback__)[-1].name == "raises_it"
    assert names(db) == ["a"]


def test_note(db: Any) -> None:
    """The exception carries a note with the migration and its place."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)

    @registry.register("b")
    def fails(db: Any) -> None:
        raise Broken

    with pytest.raises(Broken) as caught:
        registry.run_sync(db, "app")
    assert caught.value.__notes__ == ["quaestor: in migration 'b', 2 of 2"]


def test_tried_again(db: Any) -> None:
    """What failed is tried again by the next run, and what was applied is not."""
    registry = MigrationRegistry()
    calls = []
    registry.register("a")(lambda db: calls.append("a"))

    @registry.register("b")
    def fails_once(db: Any) -> None:
        calls.append("b")
        if calls.count("b") == 1:
            raise Broken

    with pytest.raises(Broken):
        registry.run_sync(db, "app")
    assert registry.run_sync(db, "app") == ["b"]
    assert calls == ["a", "b", "b"]


def test_empty_iterator(db: Any) -> None:
    """`next()` of nothing in a migration is a failure like any other."""
    registry = MigrationRegistry()

    @registry.register("a")
    def looks_for_one(db: Any) -> None:
        next(db.users.find())

    with pytest.raises(StopIteration):
        registry.run_sync(db, "app")
    assert names(db) == []


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_generator_exit(db: Any, *, transaction: bool) -> None:
    """A function that raises GeneratorExit, as broken generators do, fails like any other: the lease is given back."""
    registry = MigrationRegistry()

    @registry.register("a", transaction=transaction)
    def leaves(db: Any) -> None:
        db.users.insert_one({})
        raise GeneratorExit

    with pytest.raises(RuntimeError, match="raised GeneratorExit"):
        registry.run_sync(db, "app")
    assert names(db) == []
    assert "owner" not in db.app_migrations_lock.find_one()


def test_generator_returned(db: Any) -> None:
    """A function that returns a generator has done nothing: an error, not a record."""
    registry = MigrationRegistry()
    registry.register("a")(lambda db: (user for user in ()))

    with pytest.raises(UnfinishedMigrationError, match="'a' returned a generator"):
        registry.run_sync(db, "app")
    assert names(db) == []


def test_awaitable_returned(db: Any) -> None:
    """A `def` that returns a coroutine has done nothing: an error, no record, and no warning of Python's."""
    registry = MigrationRegistry()
    registry.register("a")(lambda db: nothing_async(db))

    with pytest.raises(UnfinishedMigrationError, match=r"'a' returned an awaitable \(coroutine\)"):
        registry.run_sync(db, "app")
    gc.collect()
    assert names(db) == []


def test_record_that_cannot_be_written(db: Any) -> None:
    """A document that has the `_id` of a pending migration is found before the migration runs."""
    db.app_migrations.insert_one({"_id": "b", "name": "something else"})
    registry = MigrationRegistry()
    calls = []
    registry.register("a")(lambda db: calls.append("a"))
    registry.register("b")(nothing)

    with pytest.raises(RecordConflictError) as caught:
        registry.run_sync(db, "app")
    assert caught.value.migrations == ["b"]
    assert calls == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_error_of_the_driver(db: Any) -> None:
    """What the driver raises in a migration reaches the caller as it is."""
    registry = MigrationRegistry()

    @registry.register("a")
    def breaks(db: Any) -> None:
        db.command("no such command")

    with pytest.raises(OperationFailure) as caught:
        registry.run_sync(db, "app")
    assert caught.value.code == 59


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_server_away(driver: str) -> None:
    """Without a server the driver's own error comes, after the driver's own time-out."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)

    with (
        opened(driver, "mongodb://127.0.0.1:1", "shop", serverSelectionTimeoutMS=50) as db,
        pytest.raises(ServerSelectionTimeoutError) as caught,
    ):
        registry.run_sync(db, "app")
    assert caught.value.__notes__ == ["quaestor: while reading 'app' in the database 'shop'; nothing has run"]
