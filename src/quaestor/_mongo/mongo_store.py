"""The store on MongoDB, written once over a `Driver`."""

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import pymongo
from bson.codec_options import CodecOptions, DatetimeConversion
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from quaestor._core.lease import PATIENCE, LeaseState, Location, Terms, renew_interval
from quaestor._core.plan import Records
from quaestor._core.store import Host, OutcomeUnknown
from quaestor._mongo import backfill_documents, documents
from quaestor._mongo.drivers import has_transactions, is_mock, make_driver
from quaestor._mongo.outcomes import find_unknown_outcome, is_deadline_over
from quaestor.errors import InvalidPrefixError
from quaestor.events import Event
from quaestor.status import BackfillStatus, Lease, Work

_LONGEST_SUFFIX = "_migrations_progress"
_NAMESPACE_LIMIT = 255  # bytes of "database.collection", since MongoDB 4.4


class MongoStore:
    """`quaestor._core.store.Store` on one database: the protocol says what each method does.

    Args:
        db: The database.
        prefix: The prefix of the collections.
        terms: How the lease is acquired.
        host: Where the run, or a function of it, runs.
        emit: The event hook. Never fails.
    """

    def __init__(self, db: Any, prefix: str, terms: Terms, host: Host, emit: Callable[[Event], None]) -> None:
        self.db = db
        self.prefix = prefix
        self.driver = make_driver(db)
        self.host = host
        self.emit = emit
        self.ttl = terms.ttl
        self._owner = terms.owner
        self._clock = documents.read_own_clock if is_mock(db) else documents.read_server_clock
        self._records = get_records_collection(db, prefix)
        self._lease = get_lease_collection(db, prefix)
        # A check only asks whether the lease is held. The heartbeat, which waits for a majority, makes it last; the
        # record after a check waits for a majority too.
        self._lease_check = get_lease_collection(db, prefix, write_concern=1)
        self._checkpoints = get_checkpoint_collection(db, prefix)

    def now(self) -> float:
        if hasattr(time, "CLOCK_BOOTTIME"):  # on Linux: it also runs while the machine sleeps
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()

    async def sleep(self, shortest: float, longest: float) -> None:
        await self.host.sleep(random.uniform(shortest, longest))  # noqa: S311 - to spread, not to hide

    def has_transactions(self) -> bool:
        return has_transactions(self.db)

    async def read_records(self) -> Records:
        with limit_command(None):
            return documents.read_records(await self.driver.read_all(self._records.find(**documents.READING)))

    async def has_record(self, name: str) -> bool:
        with limit_command(self.ttl):
            return await self.driver.call(self._records.find_one, {"name": name}, documents.PROJECTION) is not None

    async def insert_record(self, name: str) -> bool:
        with limit_command(self.ttl):
            try:
                await self.driver.write(self._records.insert_one, documents.make_record(name, datetime.now(UTC)))
            except DuplicateKeyError:
                return False
            return True

    async def delete_records(self, name: str, recorded_at: tuple[object, ...]) -> bool:
        with limit_command(self.ttl):
            removed = await self.driver.write(self._records.delete_many, documents.match_records(name, recorded_at))
            return bool(removed.deleted_count)

    async def read_checkpoints(self) -> Mapping[str, tuple[BackfillStatus, ...]]:
        with limit_command(None):
            stored = await self.driver.read_all(self._checkpoints.find(projection=backfill_documents.STATUS))
            return backfill_documents.read_statuses(stored)

    async def delete_checkpoints(self, name: str, token: int, *, undo: bool) -> None:
        with limit_command(self.ttl):
            matching = backfill_documents.match_checkpoints(name, token, undo=undo)
            await self.driver.write(self._checkpoints.delete_many, matching)

    async def read_lease(self) -> LeaseState:
        with limit_command(None):
            pipeline = documents.make_lease_pipeline(self._clock)
            return documents.read_lease_state(await self.driver.aggregate(self._lease, pipeline))

    async def acquire_lease(self, work: Work, migrations: tuple[str, ...], sessions: tuple[bytes, ...]) -> Lease:
        holder = {
            "owner": self._owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "work": work,
            "migrations": list(migrations),
            "recording": None,
            "upcoming": [],
        }
        acquisition = documents.make_acquisition(self._clock, self.ttl, holder, sessions)
        with limit_command(PATIENCE):
            try:
                document = await self.driver.write(self._lease.find_one_and_update, **acquisition)
            except DuplicateKeyError as error:  # two runs inserted the document at once
                raise OutcomeUnknown(error) from error
            if document is None:
                raise RuntimeError("The server answered an upsert without a document.")
            return documents.read_lease(document)

    async def renew_lease(self, lease: Lease) -> bool:
        with limit_command(renew_interval(self.ttl)):
            renewal = documents.make_renewal(self._clock, self.ttl, lease)
            return bool((await self.driver.write(self._lease.update_one, **renewal)).matched_count)

    async def check_lease(
        self,
        lease: Lease,
        location: Location | None = None,
        sessions: tuple[bytes, ...] = (),
        ended: tuple[bytes, ...] = (),
    ) -> bool:
        changes = documents.set_location(location) | documents.set_sessions(sessions, ended)
        renewal = documents.make_renewal(self._clock, self.ttl, lease, changes)
        with limit_command(self.ttl):
            return bool((await self.driver.write(self._lease_check.update_one, **renewal)).matched_count)

    async def expire_lease(self) -> Lease | None:
        with limit_command(None):
            held = await self.driver.write(self._lease.find_one_and_update, **documents.make_expiry(self._clock))
            return None if held is None else documents.read_lease(held)

    async def release_lease(self, sessions: tuple[bytes, ...]) -> None:
        with limit_command(renew_interval(self.ttl)):
            await self.driver.write(self._lease.update_one, **documents.make_release(self._owner, sessions))

    async def kill_sessions(self, sessions: tuple[bytes, ...]) -> Exception | None:
        with limit_command(self.ttl):
            try:
                await self.driver.call(self.db.client.admin.command, "killSessions", documents.make_lsids(sessions))
            except OperationFailure as error:
                if find_unknown_outcome(error) is not None:
                    raise
                return error
            return None


@contextlib.contextmanager
def limit_command(seconds: float | None) -> Iterator[None]:
    """Limit the time of a command and the driver's retries, and make an unknown outcome an `OutcomeUnknown`.

    Args:
        seconds: The limit; None: the driver's own.
    """
    try:
        with pymongo.timeout(seconds):
            yield
    except PyMongoError as error:
        if is_deadline_over() or (unknown := find_unknown_outcome(error)) is None:
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
    """Check that a prefix can name the collections of a run in this database. Returns a plain `str`.

    Raises:
        InvalidPrefixError: It can't.
    """
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
    if prefix != prefix.strip():
        yield "must not start or end with white space"
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
