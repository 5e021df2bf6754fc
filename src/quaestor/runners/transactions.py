"""Performing an attempt at a migration in a transaction, in the colour of its function, with any driver."""

import contextlib
import inspect
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, assert_never

import anyio
from pymongo import ReadPreference, WriteConcern
from pymongo.errors import DuplicateKeyError, PyMongoError
from pymongo.read_concern import ReadConcern

from quaestor.core import transaction
from quaestor.core.migration import MigrationDefinition
from quaestor.core.transaction import Attempt, Ending, Step
from quaestor.runners import bodies, databases, documents, faults
from quaestor.runners.drive import drive, drive_async

# "local", for the server creates collections and indexes in a transaction with no other read concern.
_CONCERNS = (ReadConcern("local"), WriteConcern("majority"), ReadPreference.PRIMARY)


def open_session(db: Any) -> Any:
    """A session for transactions in this synchronous database. Sends nothing."""
    return db.client.start_session()


async def open_session_async(db: Any) -> Any:
    """The same for an asynchronous database."""
    return await _awaited(db.client.start_session())  # awaited with Motor only


def end_session(session: Any) -> None:
    """Give the session back to the driver, which keeps them for other uses."""
    session.end_session()


async def end_session_async(session: Any) -> None:
    """The same in an asynchronous database."""
    await session.end_session()


def session_id(session: Any) -> bytes:
    """The id by which the server knows the session."""
    return bytes(session.session_id["id"])


def attempt(migration: MigrationDefinition, db: Any, prefix: str, session: Any) -> Attempt:
    """Perform the function of a `def` migration and its record in one transaction."""
    records = databases.records_collection(db, prefix)

    def perform(step: Step) -> object:
        match step:
            case Step.BEGIN:
                session.start_transaction(*_CONCERNS)
            case Step.EXECUTE:
                with session.bind(end_session=False):
                    bodies.call(migration, db)
            case Step.RECORD:
                try:
                    records.insert_one(documents.record(migration.name, datetime.now(UTC)), session=session)
                except DuplicateKeyError:
                    return False
                return True
            case Step.COMMIT:
                session.commit_transaction()
            case Step.ABORT:
                session.abort_transaction()
            case _:
                assert_never(step)
        return None

    started = perf_counter()
    try:
        return Attempt(drive(transaction.attempt(), perform), perf_counter() - started)
    except PyMongoError as error:
        return faults.attempt(error, perf_counter() - started)


async def attempt_async(migration: MigrationDefinition, db: Any, prefix: str, session: Any) -> Attempt:
    """Perform the function of an `async def` migration and its record in one transaction."""
    records = databases.records_collection(db, prefix)

    async def perform(step: Step) -> object:
        match step:
            case Step.BEGIN:
                await _awaited(session.start_transaction(*_CONCERNS))
            case Step.EXECUTE:
                async with _bound(session):
                    await bodies.call_async(migration, db)
            case Step.RECORD:
                try:
                    await records.insert_one(documents.record(migration.name, datetime.now(UTC)), session=session)
                except DuplicateKeyError:
                    return False
                return True
            case Step.COMMIT:
                await session.commit_transaction()
            case Step.ABORT:
                with anyio.CancelScope(shield=True):  # an open transaction would block what it touched
                    await session.abort_transaction()
            case _:
                assert_never(step)
        return None

    started = perf_counter()
    try:
        return Attempt(await drive_async(transaction.attempt(), perform), perf_counter() - started)
    except PyMongoError as error:
        return faults.attempt(error, perf_counter() - started)


def commit_again(session: Any) -> Attempt:
    """Send the last commit once more, from synchronous code."""
    try:
        session.commit_transaction()
    except PyMongoError as error:
        return faults.attempt(error, 0)
    return Attempt(Ending.COMMITTED)


async def commit_again_async(session: Any) -> Attempt:
    """Send the last commit once more."""
    try:
        await session.commit_transaction()
    except PyMongoError as error:
        return faults.attempt(error, 0)
    return Attempt(Ending.COMMITTED)


@contextlib.asynccontextmanager
async def _bound(session: Any) -> AsyncIterator[None]:
    """Make the session that of all operations in this context."""
    if hasattr(session, "delegate"):  # Motor's, around one of PyMongo's synchronous ones
        with session.delegate.bind(end_session=False):
            yield
    else:
        async with session.bind(end_session=False):
            yield


async def _awaited(result: Any) -> Any:
    """The result of a call that is a coroutine in one of the asynchronous drivers and not in the other."""
    return await result if inspect.isawaitable(result) else result
