"""Functions that tests share. Sync and async ones have the same name, with `_async` at the end."""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any

from pymongo import AsyncMongoClient, MongoClient

from quaestor import MigrationDefinition, MigrationRegistry

NOWHERE = "mongodb://user:secret@127.0.0.1:1"
"""Nothing listens there, and nothing may be sent."""


class Broken(Exception):
    """A user's own exception."""


def nothing(db: object) -> None:
    """A `def` migration."""


async def nothing_async(db: object) -> None:
    """An `async def` migration."""


async def take_context(db: object, context: object) -> None:
    """An `async def` migration that could go over a collection."""


def other_kind(sync: Any, asynchronous: Any) -> Any:
    """The one of two functions that a sync test calls the other kind."""
    return asynchronous


def other_kind_async(sync: Any, asynchronous: Any) -> Any:
    """The one of two functions that an async test calls the other kind."""
    return sync


other_nothing, other_nothing_async = nothing_async, nothing
"""The same for functions that do nothing."""


def definitions(needs: Mapping[str, Sequence[str]], *, transactional: bool = False) -> dict[str, MigrationDefinition]:
    """Migrations that do nothing, with these dependencies; nor do their rollbacks."""
    return {
        name: MigrationDefinition(name, nothing, needed, transactional, rollback=nothing)
        for name, needed in needs.items()
    }


def ab() -> MigrationRegistry:
    """Two `def` migrations that do nothing."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)
    registry.register("b")(nothing)
    return registry


def ab_async() -> MigrationRegistry:
    """Two `async def` migrations that do nothing."""
    registry = MigrationRegistry()
    registry.register("a")(nothing_async)
    registry.register("b")(nothing_async)
    return registry


def each(
    registry: MigrationRegistry, needs: Mapping[str, Sequence[str]], **options: Any
) -> Callable[[Callable[[str, Any], Any]], None]:
    """Register a migration for each name, which calls the decorated function with the name and the database."""

    def decorator(function: Callable[[str, Any], Any]) -> None:
        for name, depends_on in needs.items():
            registry.register(name, depends_on, **options)(partial(function, name))

    return decorator


def notes(calls: list[str], name: str) -> Callable[[object], None]:
    """A `def` migration that appends its name."""
    return lambda db: calls.append(name)


def notes_async(calls: list[str], name: str) -> Callable[[object], Awaitable[None]]:
    """An `async def` migration that appends its name."""

    async def function(db: object) -> None:
        calls.append(name)

    return function


def numbers(documents: Iterable[Mapping[str, Any]]) -> list[Any]:
    """The `_id`s of documents."""
    return [document["_id"] for document in documents]


def recorded(db: Any) -> list[str]:
    """The names that are recorded, sorted."""
    return sorted(record["name"] for record in db.app_migrations.find())


async def recorded_async(db: Any) -> list[str]:
    """The names that are recorded, sorted."""
    return sorted([record["name"] async for record in db.app_migrations.find()])


async def recorded_in_async(dbs: list[Any]) -> list[list[str]]:
    """The names that are recorded in each."""
    return [await recorded_async(one) for one in dbs]


def recorded_in(dbs: list[Any]) -> list[list[str]]:
    """The names that are recorded in each."""
    return [recorded(one) for one in dbs]


def effects(db: Any) -> list[str]:
    """The ids of the documents in `effects`, sorted."""
    return sorted(document["_id"] for document in db.effects.find())


async def effects_async(db: Any) -> list[str]:
    """The ids of the documents in `effects`, sorted."""
    return sorted([document["_id"] async for document in db.effects.find()])


def _names_nobody(lock: dict[str, Any] | None) -> bool:
    return not lock or ("owner" not in lock and not lock.get("sessions"))


def is_free(db: Any) -> bool:
    """Return whether nobody holds the lease, and the lock names no session."""
    return _names_nobody(db.app_migrations_lock.find_one())


async def is_free_async(db: Any) -> bool:
    """Return whether nobody holds the lease, and the lock names no session."""
    return _names_nobody(await db.app_migrations_lock.find_one())


def are_free(dbs: list[Any]) -> bool:
    """Return whether nobody holds the lease of any."""
    return all(is_free(one) for one in dbs)


async def are_free_async(dbs: list[Any]) -> bool:
    """Return whether nobody holds the lease of any."""
    return all([await is_free_async(one) for one in dbs])


def number_of(db: Any) -> str:
    """The number of one of several databases."""
    return str(db.name.rpartition("_")[2])


def fill(collection: Any, count: int) -> None:
    """Insert documents with the numbers from 0 on."""
    collection.insert_many([{"_id": number} for number in range(count)])


async def fill_async(collection: Any, count: int) -> None:
    """Insert documents with the numbers from 0 on."""
    await collection.insert_many([{"_id": number} for number in range(count)])


def outside(call: Callable[[], Any]) -> Any:
    """Call something outside of the transaction of the migration that asks for it."""
    return contextvars.Context().run(call)


async def outside_async(call: Callable[[], Any]) -> Any:
    """Await something outside of the transaction of the migration that asks for it."""

    async def called() -> Any:
        return await call()

    return await asyncio.create_task(called(), context=contextvars.Context())


@contextmanager
def nowhere() -> Iterator[Any]:
    """A database whose server can't be reached; a command to it would fail after 30 seconds."""
    with MongoClient[Any](NOWHERE, connect=False) as client:
        yield client["app"]


@asynccontextmanager
async def nowhere_async() -> AsyncIterator[Any]:
    """The same. The client isn't entered, because that would connect."""
    yield AsyncMongoClient[Any](NOWHERE)["app"]
