"""The drivers: which one a database belongs to, and one way to call the methods of all of them.

A database is known by the names of its class and its bases: `isinstance` would import drivers that the application
doesn't use, `hasattr(db, x)` is True for every x, and `bool(db)` raises.

Only this file knows whether a driver is sync or async. With a sync one, nothing here suspends.
"""

import asyncio
import contextlib
import contextvars
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, ClassVar, TypeAlias

from bson.codec_options import CodecOptions
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import NetworkTimeout, NotPrimaryError, PyMongoError

from quaestor._core.checkpoint import Document
from quaestor._core.definition import find_look_alike
from quaestor._hosts.calls import BlockingContext, start_thread
from quaestor._mongo.outcomes import time_left
from quaestor.errors import InvalidDatabaseError, InvalidOptionError, PrimaryRequiredError

is_in_transaction = contextvars.ContextVar("is_in_transaction", default=False)
"""True in a function that runs in a transaction of quaestor's."""

_CLOSE_TIMEOUT = 1.0  # seconds to end a client's sessions on the server, which isn't needed

_NOT_READY = "a member that is starting or recovering"


class Driver(ABC):
    """A way to call the methods of a driver's collections, databases, clients and sessions."""

    _next: Callable[..., Any] = anext

    @abstractmethod
    async def call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method that sends a command."""

    async def write(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method that writes. When the wait for it is cancelled, nothing is written later."""
        return await self.call(method, *arguments, **options)

    @abstractmethod
    async def read_all(self, cursor: Any) -> list[Document]:
        """Read all documents of a cursor."""

    async def read_raw(self, cursor: Any, most: int) -> list[bytes]:
        """Read the server's replies to a cursor of raw batches, until they have more than so many bytes."""
        replies: list[bytes] = []
        size = 0
        while size <= most and (reply := await self.call(self._next, cursor, None)) is not None:
            replies.append(reply)
            size += len(reply)
        await self.call(cursor.close)
        return replies

    async def aggregate(self, collection: Any, pipeline: list[Document]) -> list[Document]:
        """Run a pipeline and read all that it returns."""
        return await self.read_all(await self.call(collection.aggregate, pipeline))

    async def start_session(self, client: Any) -> Any:
        """Start a session, without causal consistency, which not every server has and no transaction needs."""
        return client.start_session(causal_consistency=False)

    async def start_transaction(self, session: Any, *concerns: Any) -> None:
        """Start a transaction. Sends nothing."""
        await self.call(session.start_transaction, *concerns)

    @abstractmethod
    def bind(self, session: Any) -> AbstractAsyncContextManager[object]:
        """Make a session implicit for every operation in this context."""


class _SyncDriver(Driver):
    """PyMongo and mongomock."""

    _next = next

    async def call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return method(*arguments, **options)

    async def read_all(self, cursor: Any) -> list[Document]:
        return cursor.to_list() if hasattr(type(cursor), "to_list") else list(cursor)  # quicker; the mock has none

    def bind(self, session: Any) -> AbstractAsyncContextManager[object]:
        return BlockingContext(session.bind(end_session=False))


class _PyMongoAsyncDriver(Driver):
    """PyMongo's async client."""

    _unfinished: ClassVar[set[asyncio.Future[Any]]] = set()  # whose wait was cancelled; of any database

    async def call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return await method(*arguments, **options)

    async def write(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        # The server may execute a command whose wait is cancelled, and later than the command after it, which takes
        # another connection. So the next write waits for its end: otherwise the lease would be acquired, or a record
        # written, after the run has released the lease.
        loop = asyncio.get_running_loop()
        if unfinished := [future for future in self._unfinished if future.get_loop() is loop]:
            await asyncio.wait(unfinished, timeout=time_left())
            if not all(future.done() for future in unfinished):
                raise NetworkTimeout("An earlier write has not ended.")
        future = self._start(method, *arguments, **options)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            self._unfinished.add(future)
            future.add_done_callback(self._forget)
            raise

    def _start(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = asyncio.ensure_future(method(*arguments, **options))
        return future

    @classmethod
    def _forget(cls, future: asyncio.Future[Any]) -> None:
        cls._unfinished.discard(future)
        if not future.cancelled():
            future.exception()  # so Python doesn't warn that nobody has seen it

    async def read_all(self, cursor: Any) -> list[Document]:
        documents: list[Document] = await cursor.to_list(None)
        return documents

    def bind(self, session: Any) -> AbstractAsyncContextManager[object]:
        binding: AbstractAsyncContextManager[object] = session.bind(end_session=False)
        return binding


class _MotorDriver(_PyMongoAsyncDriver):
    """Motor and mongomock-motor: with a plain method where PyMongo's is a coroutine, and the other way round."""

    def _start(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> asyncio.Future[Any]:
        try:
            return super()._start(method, *arguments, **options)
        except RuntimeError:  # Motor's executor starts no thread: the main thread has ended, or there is no memory
            bound: Any = method
            plain, in_thread = getattr(bound.__self__.delegate, bound.__name__), Future[Any]()
            work = partial(contextvars.copy_context().run, partial(plain, *arguments, **options))
            try:
                start_thread(in_thread, work)
            except RuntimeError:  # there is none for us either, and the release of the lease needs none
                in_thread.set_result(work())
            return asyncio.wrap_future(in_thread)

    async def aggregate(self, collection: Any, pipeline: list[Document]) -> list[Document]:
        return await self.read_all(collection.aggregate(pipeline))

    async def start_session(self, client: Any) -> Any:
        return await client.start_session(causal_consistency=False)

    async def start_transaction(self, session: Any, *concerns: Any) -> None:
        session.start_transaction(*concerns)

    def bind(self, session: Any) -> AbstractAsyncContextManager[object]:
        # Motor's session is around a sync one of PyMongo.
        return BlockingContext(session.delegate.bind(end_session=False))


def make_driver(db: Any) -> Driver:
    """Make the driver of a database."""
    driver = _find_driver(db, "db")
    if not _IS_ASYNC[driver]:
        return _SyncDriver()
    return _PyMongoAsyncDriver() if driver[0] == "pymongo" else _MotorDriver()


Databases: TypeAlias = dict[bool, Any]  # Any: whichever driver's database it is
"""The databases of a run, by whether they are async."""

_IS_ASYNC = {
    ("pymongo", ""): False,
    ("pymongo", "Async"): True,
    ("motor", "Agnostic"): True,  # the base of AsyncIOMotorDatabase
    ("mongomock", ""): False,
    ("mongomock_motor", "AsyncMongoMock"): True,
}
"""By package and prefix in the names of the classes `Database` and `Collection`: is the driver async?"""

_KINDS = {False: "a sync", True: "an async"}
_CALLS = {
    False: "`registry.run_sync(db, prefix)` or SyncRunner",
    True: "`await registry.run(db, prefix)` or AsyncRunner",
}


def check_databases(db: Any, other_db: Any, *, is_async: bool) -> Databases:
    """Check the databases of a sync or async runner. `other_db` is the same database of the other kind, or None."""
    driver = _find_driver(db, "db")
    other = f"{_KINDS[not is_async]} database"
    if _IS_ASYNC[driver] != is_async:
        raise InvalidDatabaseError(f"db is {other} ({_type(db)}): call {_CALLS[not is_async]} with it.")
    if fault := find_look_alike(db.name):
        raise InvalidDatabaseError(f"The name of the database {fault}: {db.name!r}.")
    if other_db is None:  # Motor and its mock wrap a sync database
        return {True: db, False: db.delegate} if driver[0] in {"motor", "mongomock_motor"} else {is_async: db}
    argument = "sync_db" if is_async else "async_db"
    if _IS_ASYNC[_find_driver(other_db, argument)] == is_async:
        raise InvalidDatabaseError(f"{argument} must be {other}, not {_type(other_db)}.")
    if other_db.name != db.name:
        raise InvalidDatabaseError(
            f"db and {argument} must be the same database, but they are {db.name!r} and {other_db.name!r}."
        )
    return {is_async: db, not is_async: other_db}


async def close_client(db: Any) -> None:
    """Close an async database's client if it is PyMongo's and belongs to the running loop, which is about to end."""
    if _find_driver(db, "db")[0] == "pymongo":
        # pymongo.timeout wouldn't limit how long a connection takes to open.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                # The one public call that asks whether the client belongs to this loop; close() doesn't ask.
                await db.client.aconnect()
                await db.client.close()


def is_mock(db: Any) -> bool:
    """Say whether it is a mock in this process: without a server's clock, and without transactions."""
    return _find_driver(db, "db")[0] in {"mongomock", "mongomock_motor"}


def is_mongodb(db: Any) -> bool:
    """Say whether the server is MongoDB, or a mock of it, as far as the driver knows by now.

    MongoDB has a `topologyVersion` in its handshake since 4.4, which Amazon DocumentDB and most other look-alikes lack.
    """
    if is_mock(db):
        return True
    servers = db.client.topology_description.server_descriptions().values()
    return any(server.topology_version is not None for server in servers)


def identify_primary(db: Any) -> object:
    """Return a value that changes with a failover, as far as the driver has noticed by now."""
    if is_mock(db):
        return None
    servers = db.client.topology_description.server_descriptions().values()
    primaries = (server for server in servers if server.server_type_name == "RSPrimary")
    return [(server.address, server.election_id) for server in primaries]


async def check_primary(driver: Driver, db: Any) -> None:
    """Check that the client isn't connected directly to a member of a replica set that can't take writes.

    A member that is alone in its set, or not yet in one, may soon be the primary. Sends `hello` in a case of doubt.
    """
    if is_mock(db) or (topology := db.client.topology_description).topology_type_name != "Single":
        return
    [server] = topology.server_descriptions().values()
    # An arbiter, or a member that recovers, has refused the first read, and the driver has forgotten what it is.
    if server.server_type_name not in {"RSSecondary", "RSArbiter", "RSOther"} and not isinstance(
        server.error, NotPrimaryError
    ):
        return
    with contextlib.suppress(PyMongoError):
        hello = await driver.call(db.command, "hello")
        others = {*hello.get("hosts", ()), *hello.get("passives", ())} - {hello.get("me")}
        if others and not hello["isWritablePrimary"]:
            kinds = {"arbiterOnly": "an arbiter", "secondary": "a secondary"}
            state = next((name for field, name in kinds.items() if hello.get(field)), _NOT_READY)
            raise PrimaryRequiredError(f"{server.address[0]}:{server.address[1]}", state, hello.get("primary"))


def has_transactions(db: Any) -> bool:
    """Say whether it is on a replica set or a sharded cluster, as far as the driver knows by now."""
    if is_mock(db):
        return False
    servers = db.client.topology_description.server_descriptions().values()
    return all(server.server_type_name != "Standalone" for server in servers)


class FunctionWriteConcern(WriteConcern):
    """The write concern of the database that a function gets: in a transaction, where the server refuses any, none.

    A function with `for_each_batch` uses one database inside of transactions and outside. The driver asks for the
    concern when it sends a command, in the context of the caller (Motor's threads have a copy).
    """

    __slots__ = ()

    @property
    def document(self) -> dict[str, Any]:
        return {} if is_in_transaction.get() else super().document

    @property
    def is_server_default(self) -> bool:
        return not self.document

    @property
    def acknowledged(self) -> bool:
        return is_in_transaction.get() or super().acknowledged


def make_database_for_function(db: Any, *, transaction: bool) -> Any:
    """Make the database that a function gets: it writes with majority concern, unless it says how many members have to
    acknowledge a write (`w`), and reads from the primary. Read concerns stay: drivers send none in a transaction.

    A mock stays as it is. So does a subclass, because `with_options` makes a plain database of it, unless its options
    would be refused in the function's transaction.
    """
    if is_mock(db):
        return db
    own = db.write_concern.document
    is_plain = not own and db.read_preference == ReadPreference.PRIMARY
    is_subclass = db.__class__.__module__.partition(".")[0] != _find_driver(db, "db")[0]
    if is_subclass and (is_plain or not transaction):
        return db
    concern: dict[str, Any] = {"w": "majority", **own}
    return db.with_options(write_concern=FunctionWriteConcern(**concern), read_preference=ReadPreference.PRIMARY)


def check_collection(collection: object, *, is_async: bool) -> None:
    """Check that it is a collection of a sync or async driver."""
    driver = _match_class(collection, "Collection")
    if driver is None or _IS_ASYNC[driver] != is_async:
        raise InvalidOptionError(
            f"collection must belong to {_KINDS[is_async]} driver (db.users, say), not {_type(collection)}."
        )


def read_from_primary(collection: Any) -> Any:
    """Make the same collection read from the primary: a backfill would skip documents that a secondary doesn't have."""
    if collection.read_preference == ReadPreference.PRIMARY or is_mock(collection.database):
        return collection
    return collection.with_options(read_preference=ReadPreference.PRIMARY)


def get_codec_options(collection: Any) -> CodecOptions[Any]:
    """Return the codec options of a collection."""
    if is_mock(collection.database):
        return CodecOptions()  # the mocks have a class of their own
    options: CodecOptions[Any] = collection.codec_options
    return options


def _find_driver(db: object, argument: str) -> tuple[str, str]:
    if driver := _match_class(db, "Database"):
        return driver
    if any(cls.__name__.endswith("Client") for cls in _list_classes(db)):
        raise InvalidDatabaseError(f"{argument} is a client ({_type(db)}), not a database: pass client['name'].")
    if any(cls.__name__.endswith("Database") for cls in _list_classes(db)):
        raise InvalidDatabaseError(
            f"{argument} is a database of {type(db).__module__.partition('.')[0]}, which isn't supported. Use pymongo, "
            "motor, mongomock or mongomock_motor."
        )
    raise InvalidDatabaseError(f"{argument} must be a database, not {_type(db)}: pass client['name'].")


def _match_class(value: object, name: str) -> tuple[str, str] | None:
    """Find the driver, as a key of `_IS_ASYNC`, whose class of this name the value is an instance of."""
    for cls in _list_classes(value):
        driver = (cls.__module__.partition(".")[0], cls.__name__.removesuffix(name))
        if cls.__name__.endswith(name) and driver in _IS_ASYNC:
            return driver
    return None


def _list_classes(value: object) -> tuple[type, ...]:
    # type() first, because Motor's mock claims to be Motor; then __class__, which sees through werkzeug's LocalProxy
    return (*type(value).__mro__, *value.__class__.__mro__)


def _type(value: object) -> str:
    return "None" if value is None else type(value).__name__
