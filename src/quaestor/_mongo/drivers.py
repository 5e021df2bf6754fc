"""Which driver a database object belongs to, and the collections of a run in it.

`isinstance` would import drivers that the application does not use, `hasattr(db, x)` is True for every x, and
`bool(db)` raises. So a database is known by the names of its class and its bases.
"""

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import ReadPreference, WriteConcern
from pymongo.read_concern import ReadConcern

from quaestor._core.definition import Colour
from quaestor.errors import InvalidDatabaseError, InvalidOptionError, InvalidPrefixError


class SyncDatabase(Protocol):
    """PyMongo's `Database`, or mongomock's."""

    @property
    def name(self) -> str:
        """Its name."""

    def list_collection_names(self) -> list[str]:
        """The names of its collections."""


class AsyncDatabase(Protocol):
    """PyMongo's `AsyncDatabase`, Motor's `AsyncIOMotorDatabase`, or mongomock-motor's."""

    @property
    def name(self) -> str:
        """Its name."""

    async def list_collection_names(self) -> list[str]:
        """The names of its collections."""


Databases: TypeAlias = dict[Colour, Any]  # Any: whichever driver's database it is
"""The database of each colour that a run has: one or both."""

_FAMILIES: dict[tuple[str, str], Colour] = {
    ("pymongo", "Database"): "sync",
    ("pymongo", "AsyncDatabase"): "async",
    ("motor", "AgnosticDatabase"): "async",  # the base of AsyncIOMotorDatabase
    ("mongomock", "Database"): "sync",
    ("mongomock_motor", "AsyncMongoMockDatabase"): "async",
}
"""(package, class) of the databases that can be migrated."""

_COLLECTIONS: dict[tuple[str, str], Colour] = {
    ("pymongo", "Collection"): "sync",
    ("pymongo", "AsyncCollection"): "async",
    ("motor", "AgnosticCollection"): "async",
    ("mongomock", "Collection"): "sync",
    ("mongomock_motor", "AsyncMongoMockCollection"): "async",
}
"""Likewise of their collections."""

_WITH_DELEGATE = {("motor", "AgnosticDatabase"), ("mongomock_motor", "AsyncMongoMockDatabase")}
"""Those that wrap a synchronous database."""

_CALLS: dict[Colour, str] = {
    "sync": "`registry.run_sync(db, prefix)` or SyncRunner",
    "async": "`await registry.run(db, prefix)` or AsyncRunner",
}
_A_DATABASE: dict[Colour, str] = {"sync": "a synchronous database", "async": "an asynchronous database"}

_LONGEST_SUFFIX = "_migrations_progress"
_NAMESPACE_LIMIT = 255  # bytes of "database.collection", since MongoDB 4.4


def by_colour(colour: Colour, db: Any, other_db: Any) -> Databases:
    """Check the databases given to a runner of this colour. `other_db` is the one of the other colour, or None.

    Raises:
        InvalidDatabaseError: One is not a database or is not of its colour, or the two differ in name.
    """
    family = _family(db, "db")
    if _FAMILIES[family] != colour:
        raise InvalidDatabaseError(
            f"db is {_A_DATABASE[_FAMILIES[family]]} ({_type(db)}): call {_CALLS[_FAMILIES[family]]} with it."
        )
    if other_db is None:
        return {"async": db, "sync": db.delegate} if family in _WITH_DELEGATE else {colour: db}
    other: Colour = "sync" if colour == "async" else "async"
    if _FAMILIES[_family(other_db, f"{other}_db")] != other:
        raise InvalidDatabaseError(f"{other}_db must be {_A_DATABASE[other]}, not {_type(other_db)}.")
    if other_db.name != db.name:
        raise InvalidDatabaseError(
            f"db and {other}_db must be the same database, but they are {db.name!r} and {other_db.name!r}."
        )
    return {colour: db, other: other_db}


def is_pymongo(db: Any) -> bool:
    """Whether it is a database of PyMongo itself."""
    return _family(db, "db")[0] == "pymongo"


def is_mock(db: Any) -> bool:
    """Whether it lives in this process, without a server: no clock but ours, and no transactions."""
    return _family(db, "db")[0] in {"mongomock", "mongomock_motor"}


def has_transactions(db: Any) -> bool:
    """Whether its server has transactions: a replica set or a sharded cluster, as far as the driver knows by now."""
    if is_mock(db):
        return False
    servers = db.client.topology_description.server_descriptions().values()
    return all(server.server_type_name != "Standalone" for server in servers)


def without_concerns(db: Any) -> Any:
    """The database for a function in a transaction: concerns of the client's would be refused there by the server."""
    plain = (WriteConcern(), ReadConcern(), ReadPreference.PRIMARY)
    if (db.write_concern, db.read_concern, db.read_preference) == plain:
        return db  # as it is, for with_options makes a plain one of a subclass
    return db.with_options(write_concern=plain[0], read_concern=plain[1], read_preference=plain[2])


def records_collection(db: Any, prefix: str) -> Any:
    """The collection of the records."""
    return _collection(db, f"{prefix}_migrations")


def lock_collection(db: Any, prefix: str, write_concern: str | int = "majority") -> Any:
    """The collection of the lease."""
    return _collection(db, f"{prefix}_migrations_lock", write_concern)


def progress_collection(db: Any, prefix: str, codec_options: CodecOptions[Any] | None = None) -> Any:
    """The collection of the checkpoints. They hold `_id`s of a collection with these options."""
    return _collection(db, f"{prefix}{_LONGEST_SUFFIX}", codec_options=codec_options)


def check_collection(collection: object, colour: Colour) -> None:
    """Check that it is a collection of a driver of this colour.

    Raises:
        InvalidOptionError: It is not.
    """
    bases = type(collection).__mro__
    known = {_COLLECTIONS.get((cls.__module__.partition(".")[0], cls.__name__)) for cls in bases} - {None}
    if colour not in known:
        wanted = {"sync": "a synchronous", "async": "an asynchronous"}[colour]
        raise InvalidOptionError(f"collection must be {wanted} driver's, as db.users, not {_type(collection)}.")


def on_primary(collection: Any) -> Any:
    """The same collection, read from the primary: what a secondary does not have yet would be passed over."""
    if collection.read_preference == ReadPreference.PRIMARY or is_mock(collection.database):
        return collection
    return collection.with_options(read_preference=ReadPreference.PRIMARY)


def codec_options(collection: Any) -> CodecOptions[Any]:
    """How its documents are encoded and decoded."""
    if is_mock(collection.database):
        return CodecOptions()  # theirs is another class
    options: CodecOptions[Any] = collection.codec_options
    return options


def _collection(
    db: Any, name: str, write_concern: str | int = "majority", codec_options: CodecOptions[Any] | None = None
) -> Any:
    # Majority concern and the primary, whatever the client's defaults are: what we write must be neither lost nor
    # overlooked in a fail-over.
    return db.get_collection(
        name,
        # Dates that Python does not have come as something else, where an error would stop all; the mocks know no such.
        codec_options=codec_options
        or (CodecOptions() if is_mock(db) else CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)),
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("majority"),
        write_concern=WriteConcern(write_concern),
    )


def checked_prefix(prefix: object, database: str) -> str:
    """The prefix as a plain `str`.

    Raises:
        InvalidPrefixError: It cannot name the collections of this database that belong to a run.
    """
    if not isinstance(prefix, str):
        raise InvalidPrefixError(f"The prefix must be a str, not {_type(prefix)}.")
    if "://" in prefix:  # not shown, for a URI may hold a password
        raise InvalidPrefixError("The prefix looks like a URI: pass a short name, such as that of your application.")
    if fault := next(_faults(prefix, database), None):
        raise InvalidPrefixError(f"The prefix {fault}: {prefix!r}.")
    return str.__str__(prefix)


def _faults(prefix: str, database: str) -> Iterator[str]:
    if not prefix:
        yield "must not be empty, for it names the collection {prefix}_migrations"
    if prefix != prefix.strip():
        yield "must not start or end with white space"
    for forbidden in ("$", "\0", ".."):
        if forbidden in prefix:
            yield f"must not hold {forbidden!r}"
    for forbidden in ("system.", "."):
        if prefix.startswith(forbidden):
            yield f"must not start with {forbidden!r}"
    try:
        excess = len(f"{database}.{prefix}{_LONGEST_SUFFIX}".encode()) - _NAMESPACE_LIMIT
    except UnicodeEncodeError:
        yield "must be valid Unicode, without lone surrogates"
    else:
        if excess > 0:
            yield (
                f"is {excess} bytes too long (with the database's name and the longest suffix, {_LONGEST_SUFFIX}, "
                f"it must fit in the {_NAMESPACE_LIMIT} bytes of a namespace)"
            )


def _family(db: object, argument: str) -> tuple[str, str]:
    # type() comes first, for the mocks of Motor pose as Motor; then __class__, which sees through werkzeug's LocalProxy
    bases = [(cls.__module__.partition(".")[0], cls.__name__) for cls in (*type(db).__mro__, *db.__class__.__mro__)]
    for base in bases:
        if base in _FAMILIES:
            return base
    if any(name.endswith("Client") for _, name in bases):
        raise InvalidDatabaseError(f"{argument} is a client ({_type(db)}), not a database: pass client['name'].")
    raise InvalidDatabaseError(f"{argument} must be a database, not {_type(db)}: pass client['name'].")


def _type(value: object) -> str:
    return "None" if value is None else type(value).__name__
