"""Calling the migrations' functions, with their database, context and transaction."""

from collections.abc import Callable
from contextlib import closing
from functools import partial
from time import perf_counter
from typing import Any, NoReturn

from quaestor._core.backfill import Backfill, Backfills
from quaestor._core.checkpoint import Throttle
from quaestor._core.guards import Guard, check_guard
from quaestor._core.lease import Author, HeldLease, Terms
from quaestor._core.plan import Change, make_entries
from quaestor._core.store import Attempt, Host, RecordEntry, Step
from quaestor._hosts.calls import call
from quaestor._hosts.loop import LoopHost
from quaestor._hosts.threads import ThreadHost
from quaestor._mongo import documents, transactions
from quaestor._mongo.backfill_store import MongoBackfillStore
from quaestor._mongo.drivers import Databases, make_database_for_function, make_driver
from quaestor._mongo.mongo_store import MongoStore, get_records_collection, insert_records, make_records
from quaestor._mongo.odms import add_advice
from quaestor._mongo.outcomes import can_retry
from quaestor._mongo.transactions import Session
from quaestor._source import compute_checksum
from quaestor.context import AsyncMigrationContext, MigrationContext
from quaestor.events import Event, Place


class MongoFunctions:
    """`quaestor._core.store.Functions` for one run: the protocol says what each method does."""

    def __init__(
        self,
        databases: Databases,
        prefix: str,
        terms: Terms,
        author: Author,
        *,
        host: Host,
        emit: Callable[[Event], None],
    ) -> None:
        self._databases = databases
        self._prefix = prefix
        self._terms = terms
        self._author = author
        self._host = host
        self._emit = emit
        self._sessions: list[Session] = []  # of migrations and of backfills
        self._slots: dict[tuple[bool, int], Session] = {}

    async def check(self, guard: Guard, place: Place) -> None:
        call = partial(self._host.call, self._prepare_guard(guard, place), is_async=guard.is_async)
        try:
            await check_guard(guard, call, self._host.is_from_outside)
        except Exception as error:
            add_advice(error)
            raise

    async def execute(self, change: Change, place: Place, held: HeldLease) -> float:
        with closing(LoopHost() if change.is_async else ThreadHost()) as host:
            step, backfills = self._prepare(change, place, held, host)
            started = perf_counter()
            try:
                await self._host.call(step, is_async=change.is_async)
            except BaseException as error:
                if backfills is not None:
                    backfills.explain(error)
                add_advice(error)
                raise
            return perf_counter() - started

    async def transact(
        self, change: Change, place: Place, held: HeldLease, slot: int, checksum: str | None
    ) -> Attempt[None]:
        db, session = self._databases[change.is_async], self._slots[change.is_async, slot]
        records = get_records_collection(db, self._prefix)
        with closing(LoopHost() if change.is_async else ThreadHost()) as host:
            started = perf_counter()

            async def write_record(_: None) -> bool:
                if not change.applies:
                    recorded = {change.name: change.recorded_at, **change.replaces}
                    matching = documents.match_records(recorded)
                    removed = await session.driver.write(records.delete_many, matching, session=session.driver_session)
                    return bool(removed.deleted_count)
                entry = RecordEntry("run", checksum, perf_counter() - started)
                written = make_records(make_entries(change, entry), self._author, self._terms)
                return await insert_records(session.driver, records, written, session.driver_session)

            execute, _ = self._prepare(change, place, held, host)

            async def execute_and_verify() -> None:
                await execute()
                for guard in change.verifications:
                    await check_guard(guard, self._prepare_guard(guard, place), self._is_raised_in_transaction)

            step = partial(transactions.attempt, host, session, execute_and_verify, write_record)
            try:
                return await self._host.call(step, is_async=change.is_async)
            except Exception as error:
                add_advice(error)
                raise

    async def commit_again(self, change: Change, slot: int, seconds: float) -> Attempt[None]:
        step = partial(transactions.commit, self._slots[change.is_async, slot], seconds)
        return await self._host.call(step, is_async=change.is_async, interruptible=False)

    def compute_checksum(self, function: Callable[..., object]) -> str | None:
        return compute_checksum(function)

    async def open_sessions(self, kinds: frozenset[bool], slots: int) -> tuple[bytes, ...]:
        for is_async in kinds:
            db = self._databases[is_async]
            for slot in range(slots):
                if (is_async, slot) not in self._slots:
                    step = partial(transactions.open_session, make_driver(db), db.client, is_async=is_async)
                    session = await self._host.call(step, is_async=is_async)
                    self._slots[is_async, slot] = session
                    self._sessions.append(session)
        return tuple(session.id for session in self._sessions)

    def list_sessions(self) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
        is_open = [session.id for session in self._sessions if session.is_open]
        return tuple(session.id for session in self._sessions), tuple(is_open)

    async def end_sessions(self) -> None:
        for session in self._sessions:
            step = partial(session.driver.call, session.driver_session.end_session)
            await self._host.call(step, is_async=session.is_async, interruptible=False)

    def _prepare(
        self, change: Change, place: Place, held: HeldLease, host: Host
    ) -> tuple[Step[None], Backfills | None]:
        """Make the step that calls the function, with a context if it takes one. Its backfills run on the host."""
        is_async, undo = change.is_async, not change.applies
        db = make_database_for_function(self._databases[is_async], transaction=change.transaction)
        step = partial(call, change.name, change.function, db, is_async=is_async, place=place)
        if not change.wants_context:
            return step, None
        store = self._make_store(host, is_async=is_async)
        backfills = Backfills(store, host, place, held, undo=undo)

        def open_backfill(throttle: Throttle, **arguments: Any) -> tuple[Backfill, MongoBackfillStore]:
            opened = MongoBackfillStore(store, self._sessions, change.name, undo=undo, is_async=is_async, **arguments)
            return backfills.start(opened, throttle), opened

        make_context = AsyncMigrationContext if is_async else MigrationContext
        context = make_context(store, place, open_backfill, undo=undo)
        return partial(step, context, check=context.check_started), backfills

    def _prepare_guard(self, guard: Guard, place: Place) -> Step[bool]:
        """Make the step that calls a guard, with a context if it takes one, and returns whether it holds."""
        db = self._databases[guard.is_async]
        step = partial(
            call,
            guard.migration,
            guard.function,
            make_database_for_function(db, transaction=guard.transaction),
            is_async=guard.is_async,
            source=f" in the {guard.kind} {guard.label}",
            place=place,
            read=guard.read_result,
        )
        if not guard.wants_context:
            return step

        def refuse(_: Throttle, **_arguments: Any) -> NoReturn:
            raise guard.make_refusal("starts a backfill, which only the migration itself can have. Query the database")

        make_context = AsyncMigrationContext if guard.is_async else MigrationContext
        surroundings = self._make_store(self._host, is_async=guard.is_async)
        return partial(step, make_context(surroundings, place, refuse))

    def _make_store(self, host: Host, *, is_async: bool) -> MongoStore:
        db = self._databases[is_async]
        return MongoStore(db, self._prefix, self._terms, self._author, host=host, emit=self._emit)

    def _is_raised_in_transaction(self, error: Exception) -> bool:
        """Say whether an error of a verification is raised unchanged: after some, the transaction is retried."""
        return can_retry(error) or self._host.is_from_outside(error)
