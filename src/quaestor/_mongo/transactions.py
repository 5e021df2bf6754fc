"""Sessions, and attempts at a transaction in them, with any driver."""

import contextlib
import threading
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any, TypeVar

import pymongo
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import EncryptionError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from quaestor._core.store import Attempt, Ending, Host, OutcomeUnknown
from quaestor._mongo import documents
from quaestor._mongo.drivers import Driver, is_in_transaction
from quaestor._mongo.outcomes import find_ending, find_unknown_outcome, name_error

R = TypeVar("R")

# "local", because the server creates collections and indexes in a transaction with no other read concern.
_CONCERNS = (ReadConcern("local"), WriteConcern("majority"), ReadPreference.PRIMARY)
_COMMIT_TIMEOUT = 5.0  # seconds; then it is repeated, and the run says that it waits
_ABORT_TIMEOUT = 1.5  # seconds; if it fails, the session is killed before the lease is released
_ABORT_LIMIT = 2.0  # seconds, if the driver takes longer


@dataclass(slots=True)
class Session:
    """A session for transactions.

    It is open while a transaction was started in it that isn't known to be committed. (Drivers don't say whether an
    abort has reached the server.)
    """

    driver: Driver
    driver_session: Any
    id: bytes  # the server's: the lsid, and the SHA-256 of its user
    is_async: bool  # for `async def` functions
    is_open: bool = False
    in_use: threading.Lock = field(default_factory=threading.Lock)  # held by a slot or a backfill


async def open_session(driver: Driver, client: Any, *, is_async: bool) -> Session:
    """Open a session, in use."""
    try:
        status: Mapping[str, Any] = await driver.call(client.admin.command, "connectionStatus")
    except (OperationFailure, EncryptionError):
        # The client uses the stable API, say, or automatic encryption, which refuses the command. The cost: if this
        # process is killed in a transaction, a successor without killAnySession waits for the server's limit.
        status = documents.NOBODY
    session = await driver.start_session(client)
    opened = Session(driver, session, documents.make_session_id(session.session_id, status), is_async)
    opened.in_use.acquire()
    return opened


async def attempt(
    host: Host,
    session: Session,
    execute: Callable[[], Awaitable[R]],
    write_record: Callable[[R], Awaitable[bool]],
) -> Attempt[R]:
    """Do something, whose operations use the session implicitly, and write or remove its record, in one transaction.

    `write_record` gets what `execute` returned. False: somebody else has written or removed the record.
    """
    result: R | None = None
    started = perf_counter()
    try:
        session.is_open = True
        await session.driver.start_transaction(session.driver_session, *_CONCERNS)
        is_written = False
        try:
            token = is_in_transaction.set(True)
            try:
                async with session.driver.bind(session.driver_session):
                    result = await execute()
            finally:
                is_in_transaction.reset(token)
            is_written = await write_record(result)
        finally:
            if not is_written:
                await host.shield(lambda: _abort(session), _ABORT_LIMIT)
        if not is_written:
            return Attempt(Ending.RECORDED, perf_counter() - started, result=result)
        committed = await commit(session, _COMMIT_TIMEOUT)
    except PyMongoError as error:
        return Attempt(find_ending(error), perf_counter() - started, error, error_name=name_error(error))
    return replace(committed, seconds=perf_counter() - started, result=result)


async def commit(session: Session, seconds: float) -> Attempt[Any]:
    """Commit the transaction, or repeat the commit, within a time limit."""
    started = perf_counter()
    try:
        with pymongo.timeout(seconds):
            await session.driver.write(session.driver_session.commit_transaction)
        session.is_open = False
    except PyMongoError as error:
        ending = find_ending(error)
        unknown = find_unknown_outcome(error) or OutcomeUnknown(error) if ending is Ending.UNKNOWN else None
        if unknown is not None:
            unknown.seconds = perf_counter() - started
        return Attempt(ending, error=error, error_name=name_error(error), unknown=unknown)
    return Attempt(Ending.COMMITTED)


async def _abort(session: Session) -> None:
    with contextlib.suppress(PyMongoError), pymongo.timeout(_ABORT_TIMEOUT):  # what the function raised matters more
        await session.driver.write(session.driver_session.abort_transaction)
