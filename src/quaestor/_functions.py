"""Calling the migrations' functions, each with its database and context, and in its transaction."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Any, Self

from pymongo.errors import DuplicateKeyError

from quaestor._core.backfill import Backfills
from quaestor._core.lease import PATIENCE, HeldLease, Terms
from quaestor._core.plan import Change
from quaestor._core.store import Attempt, Host
from quaestor._hosts.calls import call
from quaestor._hosts.loop import LoopHost
from quaestor._hosts.threads import ThreadHost
from quaestor._mongo import documents, transactions
from quaestor._mongo.backfill_store import MongoBackfillStore
from quaestor._mongo.drivers import Databases, drop_concerns, make_driver
from quaestor._mongo.mongo_store import MongoStore, get_records_collection, limit_command
from quaestor._mongo.transactions import Session
from quaestor.context import AsyncMigrationContext, MigrationContext
from quaestor.events import Event, Place


class MongoFunctions:
    """`quaestor._core.store.Functions` for one run: the protocol says what each method does.

    Args:
        databases: The databases, by kind of function (is_async).
        prefix: The prefix of the collections.
        terms: How the lease was acquired.
        host: Where the run runs.
        emit: The event hook. Never fails.
    """

    def __init__(
        self, databases: Databases, prefix: str, terms: Terms, host: Host, emit: Callable[[Event], None]
    ) -> None:
        self._databases = databases
        self._drivers = {is_async: make_driver(db) for is_async, db in databases.items()}
        self._prefix = prefix
        self._terms = terms
        self._host = host
        self._emit = emit
        self._sessions: list[Session] = []  # of migrations and of backfills
        self._slots: dict[tuple[bool, int], Session] = {}

    async def execute(self, change: Change, place: Place, held: HeldLease) -> float:
        with _Call(self, change, place, held) as prepared:
            started = perf_counter()
            await self._host.call(prepared.call(self._databases[change.is_async]), is_async=change.is_async)
            seconds = perf_counter() - started
            prepared.check_started()
            return seconds

    async def transact(self, change: Change, place: Place, held: HeldLease, slot: int) -> Attempt[None]:
        db, driver = self._databases[change.is_async], self._drivers[change.is_async]
        session = self._slots[change.is_async, slot]
        records = get_records_collection(db, self._prefix)
        with _Call(self, change, place, held) as prepared:

            async def write_record(_: None) -> bool:
                prepared.check_started()
                if not change.applies:
                    matching = documents.match_records(change.name, change.recorded_at)
                    return await driver.delete_many(records, matching, session=session.driver_session) > 0
                try:
                    record = documents.make_record(change.name, datetime.now(UTC))
                    await driver.insert_one(records, record, session=session.driver_session)
                except DuplicateKeyError:
                    return False
                return True

            execute = prepared.call(drop_concerns(db))
            step = partial(transactions.attempt, driver, prepared.host, session, execute, write_record)
            return await self._host.call(step, is_async=change.is_async)

    async def commit_again(self, change: Change, slot: int) -> Attempt[None]:
        driver, session = self._drivers[change.is_async], self._slots[change.is_async, slot]
        step = partial(transactions.commit_again, driver, session)
        return await self._host.call(step, is_async=change.is_async, interruptible=False)

    async def open_sessions(self, kinds: frozenset[bool], slots: int) -> tuple[bytes, ...]:
        for is_async in kinds:
            driver, client = self._drivers[is_async], self._databases[is_async].client
            for slot in range(slots):
                if (is_async, slot) not in self._slots:
                    step = partial(transactions.open_session, driver, client, is_async=is_async)
                    with limit_command(PATIENCE):
                        session = await self._host.call(step, is_async=is_async)
                    self._slots[is_async, slot] = session
                    self._sessions.append(session)
        return tuple(session.id for session in self._sessions)

    def list_sessions(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        is_open = [session.id for session in self._sessions if session.is_open]
        return tuple(session.id for session in self._sessions), tuple(is_open)

    async def end_sessions(self) -> None:
        for session in self._sessions:
            step = partial(self._drivers[session.is_async].end_session, session.driver_session)
            await self._host.call(step, is_async=session.is_async, interruptible=False)

    def make_context(
        self, change: Change, place: Place, held: HeldLease, host: Host
    ) -> MigrationContext | AsyncMigrationContext:
        """Make the context of a function. Its backfills run where the function runs."""
        undo = not change.applies
        store = MongoStore(self._databases[change.is_async], self._prefix, self._terms, host, self._emit)
        open_store = partial(
            MongoBackfillStore, store, self._sessions, change.name, undo=undo, is_async=change.is_async
        )
        backfills = Backfills(store, host, place, held, undo=undo)
        return (AsyncMigrationContext if change.is_async else MigrationContext)(backfills, open_store)


class _Call:
    """One call of a function: its context, if it takes one, and where it runs."""

    def __init__(self, functions: MongoFunctions, change: Change, place: Place, held: HeldLease) -> None:
        self.host = LoopHost() if change.is_async else ThreadHost()
        self._change = change
        self._context = functions.make_context(change, place, held, self.host) if change.wants_context else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.host.close()

    def call(self, db: Any) -> Callable[[], Any]:
        """Make the step that calls the function."""
        arguments = (db,) if self._context is None else (db, self._context)
        return partial(call, self._change.name, self._change.function, *arguments, is_async=self._change.is_async)

    def check_started(self) -> None:
        """Check that the function started all its backfills."""
        if self._context is not None:
            self._context.check_started()
