"""Performing an attempt at a change in a transaction, in the colour of its function, with any driver."""

import contextlib
import contextvars
import inspect
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Any, assert_never

import pymongo
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from quaestor.context import MigrationContext
from quaestor.core import transaction
from quaestor.core.plan import Change
from quaestor.core.transaction import Attempt, Ending, Step
from quaestor.runners import bodies, databases, documents, faults
from quaestor.runners.drive import drive, drive_async
from quaestor.runners.interrupts import insist, insist_async

# "local", for the server creates collections and indexes in a transaction with no other read concern.
_CONCERNS = (ReadConcern("local"), WriteConcern("majority"), ReadPreference.PRIMARY)
_ABORTING = 5.0  # seconds; where it fails, the session is ended before the lease is given back


@dataclass(slots=True)
class Session:
    """A session for transactions.

    Attributes:
        driver: The driver's own.
        id: By what the server knows it.
        is_open: Whether a transaction was begun in it that is not known to be committed. (Drivers do not say whether an
            abort has come to the server.)
    """

    driver: Any
    id: bytes
    is_open: bool = False


def open_session(db: Any) -> Session:
    """A session for transactions in this synchronous database."""
    try:
        status = db.client.admin.command("connectionStatus")
    except OperationFailure:  # a client that is held to the stable API, say
        status = documents.NOBODY
    session = db.client.start_session()
    return Session(session, documents.session_id(session.session_id, status))


async def open_session_async(db: Any) -> Session:
    """The same for an asynchronous database."""
    try:
        status = await db.client.admin.command("connectionStatus")
    except OperationFailure:  # as above
        status = documents.NOBODY
    session = await awaited(db.client.start_session())  # awaited with Motor only
    return Session(session, documents.session_id(session.session_id, status))


def end_session(session: Session) -> None:
    """Give the session back to the driver, which keeps them for other uses."""
    session.driver.end_session()


async def end_session_async(session: Session) -> None:
    """The same in an asynchronous database."""
    await session.driver.end_session()


def attempt(change: Change, arguments: tuple[Any, MigrationContext], prefix: str, session: Session) -> Attempt:
    """Do what a `def` function does, and what becomes of the record, in one transaction."""
    db, context = arguments
    records = databases.records_collection(db, prefix)
    inside = databases.without_concerns(db)

    def perform(step: Step) -> object:
        match step:
            case Step.BEGIN:
                session.is_open = True
                session.driver.start_transaction(*_CONCERNS)
            case Step.EXECUTE:
                with session.driver.bind(end_session=False):
                    bodies.call(change, inside, context)
            case Step.RECORD:
                if not change.applies:
                    going = documents.unrecording(change.name, change.recorded_at)
                    return bool(records.delete_many(going, session=session.driver).deleted_count)
                try:
                    records.insert_one(documents.record(change.name, datetime.now(UTC)), session=session.driver)
                except DuplicateKeyError:
                    return False
                return True
            case Step.COMMIT:
                _commit(session)
            case Step.ABORT:
                insist(partial(contextvars.Context().run, _abort, session))
            case _:
                assert_never(step)
        return None

    started = perf_counter()
    try:
        return Attempt(drive(transaction.attempt(), perform), perf_counter() - started)
    except PyMongoError as error:
        return faults.attempt(error, perf_counter() - started)


async def attempt_async(
    change: Change, arguments: tuple[Any, MigrationContext], prefix: str, session: Session
) -> Attempt:
    """The same with an `async def` function."""
    db, context = arguments
    records = databases.records_collection(db, prefix)
    inside = databases.without_concerns(db)

    async def perform(step: Step) -> object:
        match step:
            case Step.BEGIN:
                session.is_open = True
                await awaited(session.driver.start_transaction(*_CONCERNS))
            case Step.EXECUTE:
                async with _bound(session.driver):
                    await bodies.call_async(change, inside, context)
            case Step.RECORD:
                if not change.applies:
                    going = documents.unrecording(change.name, change.recorded_at)
                    return bool((await records.delete_many(going, session=session.driver)).deleted_count)
                try:
                    await records.insert_one(documents.record(change.name, datetime.now(UTC)), session=session.driver)
                except DuplicateKeyError:
                    return False
                return True
            case Step.COMMIT:
                await _commit_async(session)
            case Step.ABORT:
                await insist_async(_abort_async(session))
            case _:
                assert_never(step)
        return None

    started = perf_counter()
    try:
        return Attempt(await drive_async(transaction.attempt(), perform), perf_counter() - started)
    except PyMongoError as error:
        return faults.attempt(error, perf_counter() - started)


def commit_again(session: Session) -> Attempt:
    """Send the last commit once more, from synchronous code."""
    try:
        _commit(session)
    except PyMongoError as error:
        return faults.attempt(error, 0)
    return Attempt(Ending.COMMITTED)


async def commit_again_async(session: Session) -> Attempt:
    """Send the last commit once more."""
    try:
        await _commit_async(session)
    except PyMongoError as error:
        return faults.attempt(error, 0)
    return Attempt(Ending.COMMITTED)


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
