"""Functions that can be migrations: checked by mypy and basedpyright, never executed."""

from collections.abc import Awaitable, Callable
from functools import partial, wraps
from typing import Any, assert_type

from mongomock import Database as MockDatabase
from mongomock_motor import AsyncMongoMockDatabase
from motor.motor_asyncio import AsyncIOMotorDatabase
from pymongo.asynchronous.database import AsyncDatabase as PyMongoAsyncDatabase
from pymongo.database import Database
from pymongo.results import UpdateResult

from quaestor import AsyncDatabase, AsyncMigrationContext, MigrationContext, MigrationRegistry, SyncDatabase

Document = dict[str, Any]
registry = MigrationRegistry()


@registry.register("a")
async def a(db: PyMongoAsyncDatabase[Document]) -> None:
    await db.users.create_index("email")


@registry.register("b", depends_on=["a"])
def b(db: Database[Document]) -> int:
    return db.users.update_many({}, {"$set": {"status": "new"}}).modified_count


@registry.register("stopping", after_crash="stop")
def stopping(db: Database[Document]) -> None:
    print(db)


@registry.register("c", ("a", "b"), transaction=True, description="Says what it does.")
async def c(db: AsyncIOMotorDatabase[Document]) -> None:
    await db.users.create_index("email")


@registry.register("d")
def d(db: Database[Document], context: MigrationContext) -> None:
    context.progress(db.users.estimated_document_count())


@registry.register("e")
async def e(db: PyMongoAsyncDatabase[Document], context: AsyncMigrationContext) -> int:
    context.progress(await db.users.estimated_document_count())
    return 1


@registry.register("f")
def f(db: Any, context: MigrationContext) -> UpdateResult:
    context.logger.info("now")
    result: UpdateResult = db.users.update_many({}, {"$set": {"status": "new"}})
    return result


@registry.register("g")
async def g(db: Any) -> object:
    return await db.users.find_one()


@registry.register("h")
def h(db: SyncDatabase, *, verbose: bool = False) -> list[str]:
    return db.list_collection_names() if verbose else []


@registry.register("i")
async def i(db: AsyncDatabase, context: AsyncMigrationContext, verbose: bool = False) -> list[str]:
    context.logger.info("%s", verbose)
    return await db.list_collection_names()


@registry.register("j")
def j(db: Any, context: Any) -> Any:
    return context.batches(db.users)


@registry.register("k")
async def k(db: MockDatabase[Document] | AsyncMongoMockDatabase[Document], verbose: bool = False) -> None:
    print(db.name, verbose)


@registry.register_rollback("a")
async def undo_a(db: PyMongoAsyncDatabase[Document]) -> None:
    await db.users.drop_index("email_1")


@registry.register_rollback("b")
def undo_b(db: Database[Document]) -> int:
    return db.users.update_many({}, {"$unset": {"status": ""}}).modified_count


@registry.register_rollback("d")
def undo_d(db: Database[Document], context: MigrationContext) -> None:
    for batch in context.batches(db.users):
        print(len(batch))


@registry.register_rollback("e")
async def undo_e(db: AsyncIOMotorDatabase[Document], context: AsyncMigrationContext) -> None:
    async for batch in context.batches(db.users):
        print(len(batch))


@registry.register_precondition("a")
async def check_a(db: PyMongoAsyncDatabase[Document]) -> bool:
    return await db.users.count_documents({"email": None}) == 0


@registry.register_precondition("a", replace=True)
def check_a_too(db: Database[Document]) -> None:
    assert db.users.find_one({"email": None}) is None


@registry.register_verification("d")
def verify_d(db: Database[Document], context: MigrationContext) -> bool | None:
    context.progress(1)
    return db.users.find_one({"status": None}) is None


@registry.register_verification("e")
async def verify_e(db: AsyncIOMotorDatabase[Document], context: AsyncMigrationContext) -> bool:
    context.logger.info("now")
    return await db.users.find_one({}) is not None


@registry.register_verification("f")
async def verify_f(db: Any, context: AsyncMigrationContext) -> None:
    assert await db.users.find_one({}), context.name


@registry.register_verification("j")
def verify_j(db: Any, context: Any) -> Any:
    return context.name in db.list_collection_names()


class Works:
    """Migrations that are methods, or an object that can be called."""

    def method(self, db: Database[Document]) -> None:
        print(self, db.name)

    async def method_with_context(self, db: PyMongoAsyncDatabase[Document], context: AsyncMigrationContext) -> None:
        print(self, db.name, context.name)

    @classmethod
    def class_method(cls, db: Database[Document], context: MigrationContext) -> str:
        return f"{cls} {db.name} {context.name}"

    @staticmethod
    def static_method(db: Database[Document]) -> bool:
        return bool(db.name)

    def __call__(self, db: Database[Document], context: MigrationContext) -> tuple[int, int]:
        return len(db.name), len(context.name)


works = Works()
registry.register("method")(works.method)
registry.register("method_with_context")(works.method_with_context)
registry.register("class_method")(Works.class_method)
registry.register("static_method")(Works.static_method)
registry.register("object")(works)


def add_field(db: Database[Document], context: MigrationContext, name: str, value: object = None) -> None:
    context.for_each_batch(db.users, lambda batch: print(batch, name, value))


async def create_index(name: str, db: PyMongoAsyncDatabase[Document]) -> None:
    await db.users.create_index(name)


registry.register("partial")(partial(add_field, name="status", value="new"))
registry.register("partial_async")(partial(create_index, "email"))


def has_no(name: str, db: Database[Document]) -> bool:
    return db.users.find_one({name: None}) is None


registry.register_precondition("partial")(partial(has_no, "email"))
registry.register_verification("partial")(lambda db: db.users.find_one({"status": None}) is None)


def timed(function: Callable[[Database[Document]], None]) -> Callable[[Database[Document]], None]:
    @wraps(function)
    def inner(db: Database[Document]) -> None:
        function(db)

    return inner


@registry.register("decorated")
@timed
def decorated(db: Database[Document]) -> None:
    print(db.name)


async def returned_unchanged(db: Database[Document], new: PyMongoAsyncDatabase[Document]) -> None:
    assert_type(b(db), int)
    assert_type(undo_b(db), int)
    assert_type(check_a_too(db), None)
    assert_type(await check_a(new), bool)
    assert_type(registry.register_verification("b")(check_a_too)(db=db), None)
    assert_type(await a(new), None)
    assert_type(h(db, verbose=True), list[str])
    assert_type(registry.register("l")(b)(db=db), int)
    assert_type(registry.register("m")(works), Works)
    with_callback: Callable[[Database[Document]], None] = decorated
    awaited: Callable[[PyMongoAsyncDatabase[Document]], Awaitable[None]] = a
    print(with_callback, awaited)
