"""The store on MongoDB, written once over a `Driver`."""

import contextlib
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.objectid import ObjectId
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import BulkWriteError, DuplicateKeyError, EncryptionError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from quaestor._core.definition import find_look_alike
from quaestor._core.lease import Author, LeaseState, Location, Terms
from quaestor._core.plan import Records, StartMark
from quaestor._core.store import HistoryFact, Host, RecordEntry
from quaestor._mongo import backfill_documents, documents, history_documents
from quaestor._mongo.drivers import (
    Driver,
    check_primary,
    has_transactions,
    identify_primary,
    is_mock,
    is_mongodb,
    make_driver,
)
from quaestor._mongo.outcomes import (
    check_id_is_taken,
    explain_refusal,
    find_cause,
    find_unknown_outcome,
    is_deadline_over,
)
from quaestor._text import find_misspelled
from quaestor.errors import InvalidPrefixError, ServerUnsupportedError
from quaestor.events import Event, OtherPrefixesFound, SimilarDatabaseFound
from quaestor.status import BackfillStatus, HistoryEntry, Lease, Work

T = TypeVar("T")

_LONGEST_SUFFIX = "_migrations_progress"
_AUTHENTICATION_FAILED = 18
_NAMESPACE_EXISTS = 48
_NAMESPACE_LIMIT = 255  # bytes of "database.collection", since MongoDB 4.4


class MongoStore:
    """`quaestor._core.store.Store` on one database: the protocol says what each method does."""

    def __init__(
        self, db: Any, prefix: str, terms: Terms, author: Author, *, host: Host, emit: Callable[[Event], None]
    ) -> None:
        self.db = db
        self.prefix = prefix
        self.driver = make_driver(db)
        self.host = host
        self.emit = emit
        self.where = (db.name, prefix, author.run)
        self._terms = terms
        self._author = author
        self._records = get_records_collection(db, prefix)
        self._lease = get_lease_collection(db, prefix)
        # For a check that doesn't wait for a majority.
        self._lease_check = get_lease_collection(db, prefix, write_concern=1)
        self._checkpoints = get_checkpoint_collection(db, prefix)
        self._history = _get_collection(db, f"{prefix}_migrations_history")

    def now(self) -> float:
        if hasattr(time, "CLOCK_BOOTTIME"):  # on Linux: it also runs while the machine sleeps
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()

    async def sleep(self, shortest: float, longest: float) -> None:
        await self.host.sleep(random.uniform(shortest, longest))  # noqa: S311 - to spread, not to hide

    def limit(self, seconds: float | None) -> contextlib.AbstractContextManager[None]:
        return limit_command(seconds)

    def identify_primary(self) -> object:
        return identify_primary(self.db)

    def has_transactions(self) -> bool:
        return has_transactions(self.db)

    async def read_records(self, *, details: bool = False) -> Records:
        projection = documents.DETAILS if details else documents.PROJECTION
        found = await self.driver.read_all(self._records.find(projection=projection, **documents.READING))
        return documents.read_records(found, details=details)

    async def find_records_elsewhere(self) -> Event | None:
        call, client = self.driver.call, self.db.client
        names = await allow_refusal(call(client.list_database_names))
        if names is not None and self.db.name not in names:
            if (similar := find_misspelled(self.db.name, names)) is None:
                return None
            records = get_records_collection(client[similar], self.prefix)
            has_records = await allow_refusal(call(records.find_one, {}, {"_id": 1})) is not None
            return SimilarDatabaseFound(*self.where, similar) if has_records else None
        matching = {"name": {"$regex": "_migrations(_lock)?$"}}
        found = await allow_refusal(call(self.db.list_collection_names, filter=matching)) or []
        # Other libraries have collections of such names too, but none with a lock of this name.
        prefixes = {name.removesuffix("_migrations") for name in found if f"{name}_lock" in found} - {self.prefix}
        return OtherPrefixesFound(*self.where, tuple(sorted(prefixes))) if prefixes else None

    async def find_recorded(self, names: Collection[str]) -> Collection[str]:
        matching = documents.match_names(names)
        found = await self.driver.read_all(self._records.find(matching, documents.PROJECTION, **documents.READING))
        return {document["name"] for document in found}

    async def insert_records(self, entries: Mapping[str, RecordEntry]) -> bool:
        records = make_records(entries, self._author, self._terms)
        return await insert_records(self.driver, self._records, records)

    async def delete_records(self, recorded: Mapping[str, tuple[object, ...]]) -> bool:
        matching = documents.match_records(recorded)
        return bool((await self.driver.write(self._records.delete_many, matching)).deleted_count)

    async def update_checksum(self, name: str, recorded_at: tuple[object, ...], checksum: str) -> bool:
        matching, update = documents.match_records({name: recorded_at}), {"$set": {"checksum": checksum}}
        return bool((await self.driver.write(self._records.update_many, matching, update)).matched_count)

    async def create_records(self) -> None:
        try:
            await self.driver.call(self.db.command, "create", self._records.name)
        except OperationFailure as error:
            if error.code != _NAMESPACE_EXISTS:
                raise

    async def read_foreign(self, collection: str) -> Sequence[Mapping[str, Any]] | None:
        found = await self.driver.read_all(_get_collection(self.db, collection).find(sort=[("_id", 1)]))
        if not found and collection not in await self.driver.call(self.db.list_collection_names):
            return None
        return found

    async def read_checkpoints(self) -> Mapping[str, tuple[BackfillStatus, ...]]:
        found = await self.driver.read_all(self._checkpoints.find(projection=backfill_documents.STATUS))
        return backfill_documents.read_statuses(found)

    async def delete_checkpoints(
        self, names: Collection[str], token: int, *, undo: bool, backfill: str | None = None
    ) -> None:
        matching = backfill_documents.match_checkpoints(names, token, undo=undo, backfill=backfill)
        await self.driver.write(self._checkpoints.delete_many, matching)

    async def add_history(self, fact: HistoryFact) -> None:
        await self.driver.write(
            self._history.update_one, **history_documents.make_entry(ObjectId(), fact, self._author)
        )
        if fact.what == "failed" and fact.name is not None:
            with contextlib.suppress(PyMongoError):  # the entry is written, and another failure will remove the surplus
                surplus = await self.driver.call(self._history.find_one, **history_documents.find_surplus(fact.name))
                if surplus is not None:
                    matching = history_documents.match_surplus(fact.name, surplus["_id"])
                    await self.driver.write(self._history.delete_many, matching)

    async def read_history(self, names: Collection[str] | None, limit: int | None) -> list[HistoryEntry]:
        found = await self.driver.read_all(self._history.find(**history_documents.find_entries(names, limit)))
        return history_documents.read_entries(found)

    async def read_last_failures(self) -> Mapping[str, HistoryEntry]:
        found = await allow_refusal(self.driver.aggregate(self._history, history_documents.LAST_FAILURES)) or []
        entries = history_documents.read_entries(one["last"] for one in found)
        return {entry.name: entry for entry in entries if entry.name is not None}

    async def check_primary(self) -> None:
        await check_primary(self.driver, self.db)

    def is_mongodb(self) -> bool:
        return is_mongodb(self.db)

    async def read_lease(self) -> LeaseState:
        return documents.read_lock(await self.driver.read_all(self._lease.find()))

    async def write_start_mark(self, name: str, known: StartMark | None) -> bool:
        mark = documents.make_start_mark(name, self._terms.owner, known)
        try:
            await self.driver.write(self._lease.update_one, **mark)
        except DuplicateKeyError as error:
            check_id_is_taken(error, self._lease)
            return False
        return True

    async def remove_start_mark(self, name: str, known: StartMark | None) -> None:
        matching = documents.match_start_mark(name, self._terms.owner, known)
        await self.driver.write(self._lease.delete_one, matching)

    async def write_protection(self, label: str | None) -> None:
        await self.driver.write(self._lease.update_one, **documents.make_protection(label))

    async def read_lease_and_clock(self) -> tuple[LeaseState, datetime | None]:
        if not is_mock(self.db):
            found = await allow_refusal(self.driver.aggregate(self._lease, documents.LOCK_AND_CLOCK))
            if found == []:
                return LeaseState(), None
            if found is not None and isinstance(now := found[0].get("now"), datetime):
                return documents.read_lock(found), documents.make_aware(now)
        lease = await self.read_lease()
        return lease, None if lease.holder is None else await self.read_clock()

    async def read_clock(self) -> datetime:
        if is_mock(self.db):
            return datetime.now(UTC)
        reply = await self.driver.call(self.db.command, "hello")
        return documents.make_aware(reply["localTime"])

    async def acquire_lease(
        self, work: Work, migrations: tuple[str, ...], sessions: tuple[bytes, ...], dead: Lease | None
    ) -> Lease | None:
        holder = {
            "owner": self._terms.owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "work": work,
            "migrations": list(migrations),
            "recording": None,
            "upcoming": [],
        }
        acquisition = documents.make_acquisition(holder, self._terms.ttl, sessions, dead)
        try:
            document = await self.driver.write(self._lease.find_one_and_update, **acquisition)
        except DuplicateKeyError as error:  # somebody holds it
            check_id_is_taken(error, self._lease)
            return None
        if document is not None and "sessions" not in document:
            raise ServerUnsupportedError(["$addToSet"])
        return None if document is None else documents.read_lease(document)

    async def renew_lease(
        self,
        lease: Lease,
        location: Location | None = None,
        sessions: tuple[bytes, ...] = (),
        *,
        majority: bool = True,
    ) -> bool:
        collection = self._lease if majority else self._lease_check
        renewal = documents.make_renewal(lease, location, sessions)
        return bool((await self.driver.write(collection.update_one, **renewal)).matched_count)

    async def expire_lease(self) -> Lease | None:
        held = await self.driver.write(self._lease.find_one_and_update, **documents.make_expiry())
        return None if held is None else documents.read_lease(held)

    async def release_lease(self, sessions: tuple[bytes, ...]) -> None:
        await self.driver.write(self._lease.update_one, **documents.make_release(self._terms.owner, sessions))

    async def kill_sessions(self, sessions: tuple[bytes, ...]) -> Exception | None:
        try:
            await self.driver.call(self.db.client.admin.command, "killSessions", documents.make_lsids(sessions))
        except OperationFailure as error:
            if find_unknown_outcome(error) is not None:
                raise
            return error
        return None


def make_records(entries: Mapping[str, RecordEntry], author: Author, terms: Terms) -> list[dict[str, object]]:
    """Make the records of migrations; one without a date was applied now."""
    now, is_concurrent = datetime.now(UTC), terms.is_concurrent
    return [
        documents.make_record(name, entry.applied_at or now, author, entry, is_concurrent=is_concurrent)
        for name, entry in entries.items()
    ]


async def insert_records(
    driver: Driver, collection: Any, records: Sequence[Mapping[str, object]], session: Any = None
) -> bool:
    """Insert records, in order. False: the `_id` of one is taken."""
    try:
        if len(records) == 1:
            await driver.write(collection.insert_one, records[0], session=session)
        else:
            await driver.write(collection.insert_many, records, session=session)
    except (BulkWriteError, DuplicateKeyError) as error:
        cause = find_cause(error) if isinstance(error, BulkWriteError) else error
        if not isinstance(cause, DuplicateKeyError):
            raise cause from error
        check_id_is_taken(cause, collection)
        return False
    return True


async def allow_refusal(command: Awaitable[T]) -> T | None:
    """Await a command for something that isn't indispensable. None: the server, or automatic encryption, refuses it."""
    try:
        return await command
    except (OperationFailure, EncryptionError) as error:
        is_stranger = isinstance(error, OperationFailure) and error.code == _AUTHENTICATION_FAILED
        if is_stranger or find_unknown_outcome(error) is not None:
            raise
        return None


@contextlib.contextmanager
def limit_command(seconds: float | None) -> Iterator[None]:
    """Limit the time of a command and the driver's retries, and make an unknown outcome an `OutcomeUnknown`.

    Without a limit, the caller's deadline counts, or the driver's own.
    """
    try:
        with contextlib.nullcontext() if seconds is None else pymongo.timeout(seconds):
            yield
    except PyMongoError as error:
        if is_deadline_over() or (unknown := find_unknown_outcome(error)) is None:
            explain_refusal(error)
            raise
        raise unknown from error


def get_records_collection(db: Any, prefix: str) -> Any:
    """Return the collection of the records."""
    return _get_collection(db, f"{prefix}_migrations")


def get_lease_collection(db: Any, prefix: str, write_concern: str | int = "majority") -> Any:
    """Return the collection of the lease."""
    return _get_collection(db, f"{prefix}_migrations_lock", write_concern)


def get_checkpoint_collection(db: Any, prefix: str, codec_options: CodecOptions[Any] | None = None) -> Any:
    """Return the collection of the checkpoints, which hold `_id`s of a collection with these codec options."""
    return _get_collection(db, f"{prefix}{_LONGEST_SUFFIX}", codec_options=codec_options)


def _get_collection(
    db: Any, name: str, write_concern: str | int = "majority", codec_options: CodecOptions[Any] | None = None
) -> Any:
    # Majority concern and the primary, whatever the client's defaults are: a failover must neither lose nor hide what
    # is written here.
    return db.get_collection(
        name,
        # Dates outside Python's range are read as another type, where an error would end the run. The mocks have none.
        codec_options=codec_options
        or (CodecOptions() if is_mock(db) else CodecOptions(datetime_conversion=DatetimeConversion.DATETIME_AUTO)),
        read_preference=ReadPreference.PRIMARY,
        read_concern=ReadConcern("majority"),
        write_concern=WriteConcern(write_concern),
    )


def check_prefix(prefix: object, database: str) -> str:
    """Check that a prefix can name the collections of a run in this database. Returns a plain `str`."""
    if not isinstance(prefix, str):
        raise InvalidPrefixError(f"The prefix must be a str, not {type(prefix).__name__}.")
    if "://" in prefix:  # not shown, because a URI may hold a password
        raise InvalidPrefixError("The prefix looks like a URI: pass a short name, such as that of your application.")
    if fault := next(_find_faults(prefix, database), None):
        raise InvalidPrefixError(f"The prefix {fault}: {prefix!r}.")
    return str.__str__(prefix)


def _find_faults(prefix: str, database: str) -> Iterator[str]:
    if not prefix:
        yield "must not be empty, because it names the collection {prefix}_migrations"
    if fault := find_look_alike(prefix):
        yield fault
    for forbidden in ("$", "\0", ".."):
        if forbidden in prefix:
            yield f"can't contain {forbidden!r}"
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
