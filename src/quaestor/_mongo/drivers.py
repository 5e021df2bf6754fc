"""The drivers: which one a database belongs to, and one interface to all of them.

A database is known by the names of its class and its bases: `isinstance` would import drivers that the application
doesn't use, `hasattr(db, x)` is True for every x, and `bool(db)` raises.

Only this file knows whether a driver is sync or async. The methods of the sync one never suspend.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeAlias

import pymongo
from bson.codec_options import CodecOptions
from pymongo import ReadPreference, WriteConcern
from pymongo.read_concern import ReadConcern

from quaestor._core.checkpoint import Document
from quaestor._hosts.calls import wait_for_end
from quaestor.errors import InvalidDatabaseError, InvalidOptionError

_CLOSE_TIMEOUT = 1.0  # seconds to end a client's sessions on the server, which isn't needed

Arguments: TypeAlias = Mapping[str, Any]
"""The keyword arguments of a driver's method."""


class Driver(ABC):
    """The commands that quaestor sends, with any driver. Collections, databases and sessions are the driver's own."""

    @abstractmethod
    async def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method that sends a command."""

    async def _write(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method that writes. When the wait for it is cancelled, nothing is written later."""
        return await self._call(method, *arguments, **options)

    @abstractmethod
    async def _read_all(self, cursor: Any) -> list[Document]:
        """Read all documents of a cursor."""

    async def find(
        self, collection: Any, arguments: Arguments, *, sort: int | None = None, limit: int = 0
    ) -> list[Document]:
        """Read documents, in the order of `_id` if `sort` is 1 or -1."""
        cursor = collection.find(**arguments)
        if sort is not None:
            cursor = cursor.sort("_id", sort)
        return await self._read_all(cursor.limit(limit).batch_size(limit) if limit else cursor)

    async def find_one(self, collection: Any, filter: Arguments, projection: Any = None) -> Document | None:  # noqa: A002
        """Read a document."""
        document: Document | None = await self._call(collection.find_one, filter, projection)
        return document

    async def find_one_and_update(self, collection: Any, arguments: Arguments) -> Document | None:
        """Update a document and read it."""
        document: Document | None = await self._write(collection.find_one_and_update, **arguments)
        return document

    async def insert_one(self, collection: Any, document: Document, session: Any = None) -> None:
        """Insert a document."""
        await self._write(collection.insert_one, document, session=session)

    async def update_one(self, collection: Any, arguments: Arguments, session: Any = None) -> int:
        """Update a document. Returns how many matched."""
        return int((await self._write(collection.update_one, **arguments, session=session)).matched_count)

    async def delete_many(self, collection: Any, filter: Arguments, session: Any = None) -> int:  # noqa: A002
        """Remove documents. Returns how many."""
        return int((await self._write(collection.delete_many, filter, session=session)).deleted_count)

    @abstractmethod
    async def aggregate(self, collection: Any, pipeline: list[Document]) -> list[Document]:
        """Run a pipeline and read all that it returns."""

    async def count_documents(self, collection: Any, filter: Arguments) -> int:  # noqa: A002
        """Count documents."""
        return int(await self._call(collection.count_documents, filter))

    async def estimate_count(self, collection: Any) -> int:
        """Read the collection's size from its metadata."""
        return int(await self._call(collection.estimated_document_count))

    async def command(self, database: Any, *command: Any, **options: Any) -> Document:
        """Send a command."""
        return dict(await self._call(database.command, *command, **options))

    @abstractmethod
    async def start_session(self, client: Any) -> Any:
        """Start a session."""

    async def end_session(self, session: Any) -> None:
        """End a session."""
        await self._call(session.end_session)

    @abstractmethod
    async def start_transaction(self, session: Any, *concerns: Any) -> None:
        """Start a transaction. Sends nothing."""

    async def commit_transaction(self, session: Any) -> None:
        """Commit a transaction."""
        await self._write(session.commit_transaction)

    async def abort_transaction(self, session: Any) -> None:
        """Abort a transaction."""
        await self._write(session.abort_transaction)

    @abstractmethod
    def bind(self, session: Any) -> AbstractAsyncContextManager[object]:
        """Make a session implicit for every operation in this context."""


class _SyncDriver(Driver):
    """PyMongo and mongomock."""

    async def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return method(*arguments, **options)

    async def _read_all(self, cursor: Any) -> list[Document]:
        return cursor.to_list() if hasattr(type(cursor), "to_list") else list(cursor)  # quicker; the mock has none

    async def aggregate(self, collection: Any, pipeline: list[Document]) -> list[Document]:
        return list(collection.aggregate(pipeline))

    async def start_session(self, client: Any) -> Any:
        return client.start_session()

    async def start_transaction(self, session: Any, *concerns: Any) -> None:
        session.start_transaction(*concerns)

    def bind(self, session: Any) -> AbstractAsyncContextManager[object]:
        return _Binding(session.bind(end_session=False))


class _PyMongoAsyncDriver(Driver):
    """PyMongo's async client."""

    async def _call(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        return await method(*arguments, **options)

    async def _read_all(self, cursor: Any) -> list[Document]:
        documents: list[Document] = await cursor.to_list(None)
        return documents

    async def aggregate(self, collection: Any, pipeline: list[Document]) -> list[Document]:
        return await self._read_all(await collection.aggregate(pipeline))

    async def start_session(self, client: Any) -> Any:
        return client.start_session()

    async def start_transaction(self, session: Any, *concerns: Any) -> None:
        await session.start_transaction(*concerns)

    def bind(self, session: Any) -> AbstractAsyncContextManager[object]:
        binding: AbstractAsyncContextManager[object] = session.bind(end_session=False)
        return binding


class _MotorDriver(_PyMongoAsyncDriver):
    """Motor and mongomock-motor: with a plain method where PyMongo's is a coroutine, and the other way round."""

    async def _write(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        # Motor sends commands from threads, which go on when the wait for them is cancelled. Wait for the end all the
        # same: otherwise the lease would be acquired, or a record written, after the run has released the lease.
        future = asyncio.ensure_future(method(*arguments, **options))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await wait_for_end(future)
            raise

    async def aggregate(self, collection: Any, pipeline: list[Document]) -> list[Document]:
        return await self._read_all(collection.aggregate(pipeline))

    async def start_session(self, client: Any) -> Any:
        return await client.start_session()

    async def start_transaction(self, session: Any, *concerns: Any) -> None:
        session.start_transaction(*concerns)

    def bind(self, session: Any) -> AbstractAsyncContextManager[object]:
        return _Binding(session.delegate.bind(end_session=False))  # Motor's is around a synchronous one of PyMongo


class _Binding:
    """The binding of a synchronous session. A class: contextlib's would write to the exceptions that go through it."""

    def __init__(self, binding: Any) -> None:
        self._binding = binding

    async def __aenter__(self) -> None:
        self._binding.__enter__()

    async def __aexit__(self, *error: object) -> None:
        self._binding.__exit__(*error)


def make_driver(db: Any) -> Driver:
    """Make the driver of a database."""
    family = _find_family(db, "db")
    if not _IS_ASYNC[family]:
        return _SyncDriver()
    return _PyMongoAsyncDriver() if family[0] == "pymongo" else _MotorDriver()


Databases: TypeAlias = dict[bool, Any]  # Any: whichever driver's database it is
"""The databases of a run, by whether they are async."""

_IS_ASYNC: dict[tuple[str, str], bool] = {
    ("pymongo", "Database"): False,
    ("pymongo", "AsyncDatabase"): True,
    ("motor", "AgnosticDatabase"): True,  # the base of AsyncIOMotorDatabase
    ("mongomock", "Database"): False,
    ("mongomock_motor", "AsyncMongoMockDatabase"): True,
}
"""The supported databases, by package and class."""

_IS_ASYNC_COLLECTION: dict[tuple[str, str], bool] = {
    ("pymongo", "Collection"): False,
    ("pymongo", "AsyncCollection"): True,
    ("motor", "AgnosticCollection"): True,
    ("mongomock", "Collection"): False,
    ("mongomock_motor", "AsyncMongoMockCollection"): True,
}
"""Their collections, likewise."""

_WITH_DELEGATE = {("motor", "AgnosticDatabase"), ("mongomock_motor", "AsyncMongoMockDatabase")}
"""The databases that wrap a sync database."""

_CALLS = {
    False: "`registry.run_sync(db, prefix)` or SyncRunner",
    True: "`await registry.run(db, prefix)` or AsyncRunner",
}
_KINDS = {False: "a synchronous database", True: "an asynchronous database"}


def check_databases(db: Any, other_db: Any, *, is_async: bool) -> Databases:
    """Check the databases of a sync or async runner. `other_db` is of the other kind, or None.

    Raises:
        InvalidDatabaseError: One isn't a database or isn't of its kind, or the two differ in name.
    """
    family = _find_family(db, "db")
    if _IS_ASYNC[family] != is_async:
        raise InvalidDatabaseError(f"db is {_KINDS[not is_async]} ({_type(db)}): call {_CALLS[not is_async]} with it.")
    if other_db is None:
        return {True: db, False: db.delegate} if family in _WITH_DELEGATE else {is_async: db}
    argument = "sync_db" if is_async else "async_db"
    if _IS_ASYNC[_find_family(other_db, argument)] == is_async:
        raise InvalidDatabaseError(f"{argument} must be {_KINDS[not is_async]}, not {_type(other_db)}.")
    if other_db.name != db.name:
        raise InvalidDatabaseError(
            f"db and {argument} must be the same database, but they are {db.name!r} and {other_db.name!r}."
        )
    return {is_async: db, not is_async: other_db}


async def close_client(db: Any) -> None:
    """Close the client of an asynchronous database if it is PyMongo's and belongs to the running loop.

    Nobody can close it once the loop has ended.
    """
    if _find_family(db, "db")[0] == "pymongo":
        with contextlib.suppress(Exception), pymongo.timeout(_CLOSE_TIMEOUT):
            # The one public call that asks whether the client belongs to this loop; close() doesn't ask.
            await db.client.aconnect()
            await db.client.close()


def is_mock(db: Any) -> bool:
    """Say whether it is a mock in this process: without a server's clock, and without transactions."""
    return _find_family(db, "db")[0] in {"mongomock", "mongomock_motor"}


def has_transactions(db: Any) -> bool:
    """Say whether it is on a replica set or a sharded cluster, as far as the driver knows by now."""
    if is_mock(db):
        return False
    servers = db.client.topology_description.server_descriptions().values()
    return all(server.server_type_name != "Standalone" for server in servers)


def drop_concerns(db: Any) -> Any:
    """Make the database for a function in a transaction, where the server refuses the client's concerns."""
    plain = (WriteConcern(), ReadConcern(), ReadPreference.PRIMARY)
    if (db.write_concern, db.read_concern, db.read_preference) == plain:
        return db  # unchanged, because with_options of a subclass makes a plain database
    return db.with_options(write_concern=plain[0], read_concern=plain[1], read_preference=plain[2])


def check_collection(collection: object, *, is_async: bool) -> None:
    """Check that it is a collection of a sync or async driver.

    Raises:
        InvalidOptionError: It isn't.
    """
    bases = type(collection).__mro__
    known = {_IS_ASYNC_COLLECTION.get((cls.__module__.partition(".")[0], cls.__name__)) for cls in bases} - {None}
    if is_async not in known:
        wanted = "an asynchronous" if is_async else "a synchronous"
        raise InvalidOptionError(f"collection must be {wanted} driver's, such as db.users, not {_type(collection)}.")


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


def _find_family(db: object, argument: str) -> tuple[str, str]:
    # type() first, because Motor's mock claims to be Motor; then __class__, which sees through werkzeug's LocalProxy
    bases = [(cls.__module__.partition(".")[0], cls.__name__) for cls in (*type(db).__mro__, *db.__class__.__mro__)]
    for base in bases:
        if base in _IS_ASYNC:
            return base
    if any(name.endswith("Client") for _, name in bases):
        raise InvalidDatabaseError(f"{argument} is a client ({_type(db)}), not a database: pass client['name'].")
    raise InvalidDatabaseError(f"{argument} must be a database, not {_type(db)}: pass client['name'].")


def _type(value: object) -> str:
    return "None" if value is None else type(value).__name__
