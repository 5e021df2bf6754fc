"""Mistakes, each of which is an error for mypy and for basedpyright: a checker that misses one reports its comment.

Never executed.
"""
# pyright: basic
# pyright: reportUnnecessaryTypeIgnoreComment=error
# ruff: noqa: F401 - one mistake is in an import

from functools import partial
from typing import Any, TypedDict

from mongomock_motor import AsyncMongoMockDatabase
from motor.motor_asyncio import AsyncIOMotorDatabase
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.collection import Collection
from pymongo.database import Database

from quaestor import (
    AsyncMigrationContext,
    DatabaseResult,
    Event,
    MigrationContext,
    MigrationRegistry,
    SyncRunner,
)
from quaestor import MigratonRegistry as Misspelled  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # a name that doesn't exist

Document = dict[str, Any]
registry = MigrationRegistry()


class Order(TypedDict):
    """A document."""

    status: str


@registry.register("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # `async def`, with the context of a `def` function
async def sync_context(db: AsyncDatabase[Document], context: MigrationContext) -> None:
    print(db, context)


@registry.register("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # likewise
async def sync_context_any_database(db: Any, context: MigrationContext) -> int:
    print(db, context)
    return 1


@registry.register("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # `def`, with the context of an `async def` function
def async_context(db: Database[Document], context: AsyncMigrationContext) -> None:
    print(db, context)


@registry.register("a", transaction=True)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # likewise
def async_context_any_database(db: Any, context: AsyncMigrationContext) -> int:
    return len(str((db, context)))


@registry.register("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # one argument too many
def three_arguments(db: Any, context: MigrationContext, other: int) -> None:
    print(db, context, other)


@registry.register("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # likewise
async def three_arguments_async(db: Any, context: AsyncMigrationContext, other: int) -> None:
    print(db, context, other)


@registry.register("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # likewise
def three_untyped_arguments(db: Any, context: Any, other: Any) -> Any:
    print(db, context, other)


@registry.register("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # no database
def no_argument() -> None: ...


@registry.register("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # an argument that only a keyword can give
def keyword_argument(db: Any, *, other: int) -> None:
    print(db, other)


@registry.register("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # not the context
def no_context(db: Any, context: int) -> None:
    print(db, context)


@registry.register_rollback("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # `async def`, with the context of a `def` function
async def undo_sync_context(db: AsyncDatabase[Document], context: MigrationContext) -> None:
    print(db, context)


@registry.register_rollback("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # the reverse
def undo_async_context(db: Database[Document], context: AsyncMigrationContext) -> None:
    print(db, context)


@registry.register_rollback("a")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # one argument too many
def undo_three_arguments(db: Any, context: MigrationContext, other: int) -> None:
    print(db, context, other)


@registry.register_rollback  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no name
def undo_without_name(db: Any) -> None:
    print(db)


@registry.register  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no name
def without_name(db: Any) -> None:
    print(db)


class Works:
    """Methods."""

    def no_database(self) -> None:
        """Take nothing."""

    async def sync_context(self, db: Any, context: MigrationContext) -> None:
        """Take the wrong context."""


def register(works: Works) -> None:
    registry.register("a")(5)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # not a function
    registry.register("a")("b")  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # likewise
    registry.register("a")(None)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # likewise
    registry.register("a")(works)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # likewise
    registry.register("a")(works.no_database)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # no database
    registry.register("a")(works.sync_context)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # `async def`, with the context of a `def` function
    registry.register("a")(lambda: None)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # no database
    registry.register_rollback("a")(5)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # not a function
    registry.register_rollback("a")(lambda: None)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # no database
    registry.register_rollback("a")(works.sync_context)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # `async def`, with the context of a `def` function
    registry.register_precondition("a")(works.sync_context)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # likewise
    registry.register_verification("a")(count_users)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # a number isn't an answer
    registry.register_verification("a")(list_users)  # type: ignore[type-var]  # pyright: ignore[reportArgumentType]  # likewise, when it is awaited
    registry.register_precondition("a", True)(has_users)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # a flag without its name
    registry.register_verification(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a name that isn't a str
    registry.register("a", depends_on=[1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # a name that isn't a str
    registry.register("a", [], True)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # a flag without its name
    registry.register("a", after_crash="halt")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # neither "rerun" nor "stop"
    registry.register("a", description=7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a str
    registry.register(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a name that isn't a str
    registry.register_rollback(7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # likewise
    registry.migrations["a"].depends_on.append("b")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # read-only
    registry.migrations.clear()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # likewise
    registry.misspelled("a")  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]  # a method that doesn't exist
    partial(registry.register, 7)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a name that isn't a str


def count_users(db: Database[Document]) -> int:
    return db.users.count_documents({})


async def list_users(db: AsyncDatabase[Document]) -> list[Document]:
    return await db.users.find().to_list()


def has_users(db: Database[Document]) -> bool:
    return count_users(db) > 0


async def awaited(event: Event) -> None: ...


async def run(
    db: Database[Document],
    new: AsyncDatabase[Document],
    motor: AsyncIOMotorDatabase[Document],
    mock: AsyncMongoMockDatabase[Document],
) -> None:
    await registry.run(db, "app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a sync database in the async call
    registry.run_sync(new, "app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an async database in the sync call
    registry.run_sync(motor, "app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # likewise
    registry.run_sync(mock, "app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # likewise
    registry.run_sync("mongodb://localhost", "app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a database
    registry.run_sync(db.client, "app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a client
    registry.run_sync(db, "app", on_event=awaited)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a hook isn't awaited
    registry.run_sync(prefix="app")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no database
    await registry.run(new, "app", concurrency="4")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a number
    await registry.run(new, "app", sync_db=new)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a sync database
    registry.run_sync(db, "app", async_db=db)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not an async database
    applied: list[str] = registry.run(new, "app")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]  # `await` is missing
    print(applied)
    registry.run(new, "app")  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]  # likewise
    SyncRunner(registry, new, "app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an async database
    SyncRunner({}, db, "app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a registry
    SyncRunner(registry, db, "app").rollback(last="2")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a number
    SyncRunner(registry, db, "app").run(phase="predeploy")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no such phase
    SyncRunner(registry, db, "app").verify([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # a name that isn't a str
    SyncRunner(registry, db, "app").rollback([1])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # a name that isn't a str
    SyncRunner(registry, db, "app").status().names("done")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no state has this name


async def run_many(db: Database[Document], new: AsyncDatabase[Document], result: DatabaseResult) -> None:
    await registry.run_many([db], "app")  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # sync databases in the async call
    registry.run_many_sync([new], "app")  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # the reverse
    registry.run_many_sync(db, "app")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # one database, not a list
    registry.run_many_sync([db], "app", async_db=new)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a database, not a function that returns one
    await registry.run_many([new], "app", sync_db=lambda name: new)  # type: ignore[arg-type, return-value]  # pyright: ignore[reportArgumentType]  # an async database
    await registry.run_many([new], "app", on_event=awaited)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a hook isn't awaited
    await registry.rollback_many([db], "app", ["a"])  # type: ignore[list-item]  # pyright: ignore[reportArgumentType]  # sync databases in the async call
    registry.mark_many_sync([db], "app", ["a"], "done")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # no state has this name
    result.error = None  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]  # read-only


def list_body(documents: list[Document]) -> int:
    return len(documents)


async def backfill(
    orders: Collection[Order],
    new_orders: AsyncCollection[Order],
    db: Database[Document],
    context: MigrationContext,
    async_context: AsyncMigrationContext,
) -> None:
    context.batches(new_orders)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # an async collection in a sync function
    async_context.batches(orders)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the reverse
    context.batches("orders")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # not a collection
    context.batches(orders, {}, 10)  # type: ignore[arg-type, call-arg]  # pyright: ignore[reportCallIssue]  # an option without its name
    for _ in async_context.batches(new_orders):  # type: ignore[attr-defined]  # pyright: ignore[reportGeneralTypeIssues]  # an async iterator
        pass
    for batch in context.batches(orders):
        print(batch[0]["state"])  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues]  # no such field
    async for new_batch in async_context.batches(new_orders):
        print(new_batch[0]["state"])  # type: ignore[typeddict-item]  # pyright: ignore[reportGeneralTypeIssues]  # likewise
    context.for_each_batch(orders, list_body)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # a body for other documents
    await async_context.for_each_batch(new_orders, list_body)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # likewise, and it isn't awaited
    context.for_each_batch(orders)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]  # no body
    async_context.for_each_batch(new_orders, awaited_body)  # type: ignore[unused-coroutine]  # pyright: ignore[reportUnusedCoroutine]  # `await` is missing


async def awaited_body(orders: list[Order]) -> int:
    return len(orders)
