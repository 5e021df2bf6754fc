"""Performing an attempt in a transaction, in the colour of its function, with any driver."""

import contextlib
import contextvars
import inspect
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Any, TypeVar, assert_never

import pymongo
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from quaestor._core import transaction
from quaestor._core.definition import Colour
from quaestor._core.plan import Change
from quaestor._core.transaction import Attempt, Ending, Step
from quaestor._hosts import bodies
from quaestor._hosts.drive import drive, drive_async
from quaestor._hosts.shield import insist, insist_async
from quaestor._mongo import documents
from quaestor._mongo import drivers as databases
from quaestor._mongo import outcomes as faults

R = TypeVar("R")

# "local", for the server creates collections and indexes in a transaction with no other read concern.
_CONCERNS = (ReadConcern("local"), WriteConcern("majority"), ReadPreference.PRIMARY)
_transacting = contextvars.ContextVar("_transacting", default=False)
_ABORTING = 5.0  # seconds; where it fails, the session is ended before the lease is given back


@dataclass(slots=True)
class Session:
    """A session for transactions.

    Attributes:
        driver: The driver's own.
        id: By what the server knows it.
        colour: That of the functions it is for.
        is_open: Whether a transaction was begun in it that is not known to be committed. (Drivers do not say whether an
            abort has come to the server.)
        in_use: Held by the pass that has it: a migration may have several under way.
    """

    driver: Any
    id: bytes
    colour: Colour
    is_open: bool = False
    in_use: threading.Lock = field(default_factory=threading.Lock)


def open_session(db: Any) -> Session:
    """A session for transactions in this synchronous database."""
    try:
        status = db.client.admin.command("connectionStatus")
    except OperationFailure:  # a client that is held to the stable API, say
        status = documents.NOBODY
    session = db.client.start_session()
    return Session(session, documents.session_id(session.session_id, status), "sync")


async def open_session_async(db: Any) -> Session:
    """The same for an asynchronous database."""
    try:
        status = await db.client.admin.command("connectionStatus")
    except OperationFailure:  # as above
        status = documents.NOBODY
    session = await awaited(db.client.start_session())  # awaited with Motor only
    return Session(session, documents.session_id(session.session_id, status), "async")


def end_session(session: Session) -> None:
    """Give the session back to the driver, which keeps them for other uses."""
    session.driver.end_session()


async def end_session_async(session: Session) -> None:
    """The same in an asynchronous database."""
    await session.driver.end_session()


def attempt(session: Session, execute: Callable[[], R], record: Callable[[R], bool]) -> Attempt[R]:
    """Do something, and what becomes of its record, in one transaction.

    Args:
        session: Where.
        execute: What is done; the session is that of all its operations.
        record: Writes or removes the record, given what that returned; False: there was none to write or remove.
    """
    done: list[R] = []

    def perform(step: Step) -> object:
        match step:
            case Step.BEGIN:
                session.is_open = True
                session.driver.start_transaction(*_CONCERNS)
            case Step.EXECUTE:
                outside = _transacting.set(True)
                try:
                    with session.driver.bind(end_session=False):
                        done.append(execute())
                finally:
                    _transacting.reset(outside)
            case Step.RECORD:
                return record(done[0])
            case Step.COMMIT:
                _commit(session)
            case Step.ABORT:
                insist(partial(contextvars.Context().run, _abort, session))
            case _:
                assert_never(step)
        return None

    started = perf_counter()
    try:
        ending, error = drive(transaction.attempt(), perform), None
    except PyMongoError as raised:
        ending, error = faults.ending(raised), raised
    return Attempt(ending, perf_counter() - started, error, *done)


async def attempt_async(
    session: Session, execute: Callable[[], Awaitable[R]], record: Callable[[R], Awaitable[bool]]
) -> Attempt[R]:
    """The same for asynchronous functions."""
    done: list[R] = []

    async def perform(step: Step) -> object:
        match step:
            case Step.BEGIN:
                session.is_open = True
                await awaited(session.driver.start_transaction(*_CONCERNS))
            case Step.EXECUTE:
                outside = _transacting.set(True)
                try:
                    async with _bound(session.driver):
                        done.append(await execute())
                finally:
                    _transacting.reset(outside)
            case Step.RECORD:
                return await record(done[0])
            case Step.COMMIT:
                await _commit_async(session)
            case Step.ABORT:
                await insist_async(_abort_async(session))
            case _:
                assert_never(step)
        return None

    started = perf_counter()
    try:
        ending, error = await drive_async(transaction.attempt(), perform), None
    except PyMongoError as raised:
        ending, error = faults.ending(raised), raised
    return Attempt(ending, perf_counter() - started, error, *done)


def carried_out(change: Change, arguments: tuple[Any, bodies.Context], prefix: str, session: Session) -> Attempt[None]:
    """Call the `def` function of a change, and do what becomes of the record, in one transaction."""
    db, context = arguments
    records = databases.records_collection(db, prefix)
    execute = partial(bodies.call, change, databases.without_concerns(db), context)

    def record(_: None) -> bool:
        if not change.applies:
            going = documents.unrecording(change.name, change.recorded_at)
            return bool(records.delete_many(going, session=session.driver).deleted_count)
        try:
            records.insert_one(documents.record(change.name, datetime.now(UTC)), session=session.driver)
        except DuplicateKeyError:
            return False
        return True

    return attempt(session, execute, record)


async def carried_out_async(
    change: Change, arguments: tuple[Any, bodies.Context], prefix: str, session: Session
) -> Attempt[None]:
    """The same with an `async def` function."""
    db, context = arguments
    records = databases.records_collection(db, prefix)
    execute = partial(bodies.call_async, change, databases.without_concerns(db), context)

    async def record(_: None) -> bool:
        if not change.applies:
            going = documents.unrecording(change.name, change.recorded_at)
            return bool((await records.delete_many(going, session=session.driver)).deleted_count)
        try:
            await records.insert_one(documents.record(change.name, datetime.now(UTC)), session=session.driver)
        except DuplicateKeyError:
            return False
        return True

    return await attempt_async(session, execute, record)


def commit_again(session: Session) -> Attempt[Any]:
    """Send the last commit once more, from synchronous code."""
    try:
        _commit(session)
    except PyMongoError as error:
        return Attempt(faults.ending(error), error=error)
    return Attempt(Ending.COMMITTED)


async def commit_again_async(session: Session) -> Attempt[Any]:
    """Send the last commit once more."""
    try:
        await _commit_async(session)
    except PyMongoError as error:
        return Attempt(faults.ending(error), error=error)
    return Attempt(Ending.COMMITTED)


def is_within() -> bool:
    """Whether this is called from a function that is done in a transaction of ours."""
    return _transacting.get()


def _commit(session: Session) -> None:
    session.driver.commit_transaction()
    session.is_open = False


async def _commit_async(session: Session) -> None:
    await session.driver.commit_transaction()
    session.is_open = False


def _abort(session: Session) -> None:
    with contextlib.suppress(PyMongoError), pymongo.timeout(_ABORTING):  # what the function raised goes first
        session.driver.abort_transaction()


async def _abort_async(session: Session) -> None:
    with contextlib.suppress(PyMongoError), pymongo.timeout(_ABORTING):
        await session.driver.abort_transaction()


@contextlib.asynccontextmanager
async def _bound(session: Any) -> AsyncIterator[None]:
    """Make the session that of all operations in this context."""
    if hasattr(session, "delegate"):  # Motor's, around one of PyMongo's synchronous ones
        with session.delegate.bind(end_session=False):
            yield
    else:
        async with session.bind(end_session=False):
            yield


async def awaited(result: Any) -> Any:
    """The result of a call that is a coroutine in one of the asynchronous drivers and not in the other."""
    return await result if inspect.isawaitable(result) else result
