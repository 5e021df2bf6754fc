"""The runner of asynchronous applications: PyMongo's async client and Motor."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Collection
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from time import perf_counter
from typing import Concatenate, ParamSpec, TypeVar, TypeVarTuple, assert_never

import pymongo
from pymongo.errors import PyMongoError

from quaestor._core import effects, flows, leasing
from quaestor._core.definition import Colour
from quaestor._core.effects import Command, Effect, Flow
from quaestor._core.flows import Scope
from quaestor._core.lease import DEFAULT_TTL, Terms
from quaestor._core.plan import PlannedMigration
from quaestor._hosts import bodies, passes
from quaestor._hosts.branches import Tasks
from quaestor._hosts.drive import drive_async
from quaestor._hosts.keeper import TaskKeeper
from quaestor._hosts.setup import Registry, Setup, check_concurrency, now
from quaestor._hosts.shield import insist_async
from quaestor._mongo import documents, progress, transactions
from quaestor._mongo import drivers as databases
from quaestor._mongo import outcomes as faults
from quaestor._mongo.drivers import AsyncDatabase, SyncDatabase
from quaestor._mongo.transactions import Session, awaited
from quaestor.events import Hook
from quaestor.status import Lease, Status

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class AsyncRunner:
    """Applies and undoes the migrations of a registry on one database, and tells what is applied, in an event loop.

    Args:
        registry: The migrations (a `MigrationRegistry`).
        db: The database (PyMongo's `AsyncDatabase`, Motor's `AsyncIOMotorDatabase`, or mongomock-motor's).
        prefix: Names the collections `{prefix}_migrations` (the records) and `{prefix}_migrations_lock` (str).
        sync_db: The same database for `def` migrations, or None. See `MigrationRegistry.run`.
        on_event: Called with every event, a frozen value (plain function); None logs them to the logger `quaestor`.
        lease_ttl, lease_timeout: How the lease is taken (float, seconds). See `MigrationRegistry.run`.

    Raises:
        InvalidDatabaseError: `db` or `sync_db` is not such a database.
        InvalidPrefixError: The prefix cannot name the collections.
        InvalidOptionError: `on_event` is not a plain function, or a number of seconds cannot be used.
    """

    def __init__(
        self,
        registry: Registry,
        db: AsyncDatabase,
        prefix: str,
        *,
        sync_db: SyncDatabase | None = None,
        on_event: Hook | None = None,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
    ) -> None:
        self._setup = Setup(
            registry,
            "async",
            db,
            sync_db,
            prefix,
            on_event=on_event,
            lease_ttl=lease_ttl,
            lease_timeout=lease_timeout,
        )

    async def run(
        self, targets: Collection[str] | None = None, *, strict: bool = False, concurrency: int = 1
    ) -> list[str]:
        """Apply what is pending. Takes, returns and raises what `MigrationRegistry.run` does."""
        check_concurrency(concurrency)
        return await self._performed(flows.run, targets, strict=strict, concurrency=concurrency)

    async def plan(self, targets: Collection[str] | None = None, *, strict: bool = False) -> list[PlannedMigration]:
        """What `run` would do, in order, and why. One read; nothing is written, and no lease is taken.

        Args:
            targets: As for `run`.
            strict: As for `run`.

        Returns:
            One value a migration, with its `reason` (list of PlannedMigration).

        Raises:
            Exception: What `run` would raise before the first function.
        """
        return await self._performed(flows.plan_run, targets, strict=strict)

    async def status(self) -> Status:
        """What is applied, what is not, and who is at work. Two reads; nothing is written, and no lease is taken.

        Raises:
            MissingDependencyError, CircularDependencyError: The graph is not sound; nothing was sent to the server.
        """
        return await self._performed(flows.status)

    async def rollback(self, targets: Collection[str]) -> list[str]:
        """Undo migrations, and before them every applied one that needs them.

        Each is undone by the function that was registered with `MigrationRegistry.register_rollback`, and its record
        goes when that is done; with transaction=True in the same transaction. One that is not applied is left out.

        Args:
            targets: The names (list of str); for all there are, `registry.migrations`.

        Returns:
            The names undone by this call, in order (list of str).

        Raises:
            UnknownMigrationError: A target is not registered; nothing was sent to the server.
            IrreversibleMigrationError: Some of these have no rollback; it names them all. Nothing has run.
            Exception: All else as `run`. Those undone before a failure are recorded no more, all others still are.
        """
        return await self._performed(flows.rollback, targets)

    async def plan_rollback(self, targets: Collection[str]) -> list[PlannedMigration]:
        """What `rollback` would do, in order, and why. One read; nothing is written, and no lease is taken.

        Returns:
            One value a migration, with its `reason` (list of PlannedMigration).

        Raises:
            Exception: What `rollback` would raise before the first function.
        """
        return await self._performed(flows.plan_rollback, targets)

    async def mark_applied(self, names: Collection[str]) -> list[str]:
        """Record migrations as applied, without running them: to adopt a database that is migrated already.

        Args:
            names: Registered names (list of str); for all there are, `registry.migrations`.

        Returns:
            The names recorded by this call, dependencies first (list of str).

        Raises:
            UnknownMigrationError: A name is not registered; nothing was sent to the server.
            DependencyConflictError: One of them depends on a migration that would not be recorded; nothing was marked.
            Exception: What the lease and the driver raise, as for `run`.
        """
        return await self._performed(flows.mark_applied, names)

    async def mark_pending(self, names: Collection[str]) -> list[str]:
        """Remove the records of migrations, without undoing anything: the next run applies those that are registered.

        Args:
            names: Names that are registered or recorded (list of str).

        Returns:
            The names whose record this call removed, dependents first (list of str).

        Raises:
            UnknownMigrationError: A name is neither registered nor recorded; nothing was marked.
            DependencyConflictError: A migration that depends on one of them would stay recorded; nothing was marked.
            Exception: What the lease and the driver raise, as for `run`.
        """
        return await self._performed(flows.mark_pending, names)

    async def unlock(self) -> Lease | None:
        """Free the lease of another instance, on whichever host, where a person knows that it is in the way.

        Whoever holds it stops at its next step: what its function in hand does meanwhile cannot be stopped.

        Returns:
            Who held it, or None if nobody did.
        """
        return await self._performed(flows.unlock)

    async def _performed(self, flow: Callable[Concatenate[Scope, P], Flow[R]], *args: P.args, **kwargs: P.kwargs) -> R:
        terms = self._setup.terms()
        with closing(_Table(self._setup, terms)) as table:
            return await drive_async(flow(self._setup.scope(terms), *args, **kwargs), table.perform)


class _Table:
    """Performs the effects of one flow, and holds what it has open: sessions, the keeper of the lease."""

    def __init__(self, setup: Setup, terms: Terms) -> None:
        self._setup = setup
        self._terms = terms
        self._sessions: list[Session] = []  # all: of migrations and of passes
        self._lanes: dict[tuple[Colour, int], Session] = {}
        self._is_side_by_side = False
        self._keeper: TaskKeeper | None = None

    def close(self) -> None:
        """End what runs beside the flow: the keeper, if the flow was thrown away and could not."""
        if self._keeper is not None:
            self._keeper.let_go()

    async def perform(self, effect: Effect) -> object:
        """Do what the effect asks for, and answer."""
        if not isinstance(effect, Command):
            return await self._perform(effect)
        try:
            with pymongo.timeout(self._setup.allowance(self._terms, effect)):
                return await self._perform(effect)
        except PyMongoError as error:
            return faults.answer(effect, error)

    async def _perform(self, effect: Effect) -> object:  # noqa: C901, PLR0911, PLR0912 - it is one table
        setup, terms = self._setup, self._terms
        match effect:
            case effects.ReadRecords():
                records = setup.records.find({}, **documents.READING)
                return documents.records([document async for document in records])
            case effects.FindRecord(name):
                return await setup.records.find_one({"name": name}, documents.PROJECTION) is not None
            case effects.Record(name):
                await setup.records.insert_one(documents.record(name, datetime.now(UTC)))
                return True
            case effects.Unrecord(name, recorded_at):
                removed = await setup.records.delete_many(documents.unrecording(name, recorded_at))
                return bool(removed.deleted_count)
            case effects.ReadProgress():
                kept = setup.progress.find({}, progress.STATUS)
                return progress.statuses([document async for document in kept])
            case effects.ForgetProgress(name, token, undo):
                await setup.progress.delete_many(progress.forgetting(name, token, undo))
                return None
            case effects.ReadLock():
                found = await awaited(setup.lock.aggregate(documents.looking(setup.clock)))
                return documents.lock([document async for document in found])
            case effects.AcquireLease():
                return documents.lease(await setup.lock.find_one_and_update(**setup.acquisition(terms, effect)))
            case effects.CheckLease():
                return bool((await setup.checks.update_one(**setup.check(terms, effect))).matched_count)
            case effects.RenewLease():
                return bool((await setup.lock.update_one(**setup.renewal(terms, effect))).matched_count)
            case effects.BreakLease():
                held = await setup.lock.find_one_and_update(**documents.breaking(setup.clock))
                return None if held is None else documents.lease(held)
            case effects.FreeLease(sessions):
                await setup.lock.update_one(**documents.release(terms.owner, sessions))
                return None
            case effects.KeepLease(lease):
                self._keeper = TaskKeeper(leasing.keep(lease, terms.ttl), self.perform)
                return None
            case effects.ReleaseLease():
                return await insist_async(self._release())
            case effects.AskForTransactions():
                return databases.has_transactions(setup.db)
            case effects.OpenSessions(colours, lanes):
                return await self._open_sessions(colours, lanes)
            case effects.EndSessions(sessions):
                await setup.db.client.admin.command("killSessions", documents.lsids(sessions))
                return None
            case effects.Execute(change):
                arguments = passes.arguments(setup, terms, self._sessions, effect)
                started = perf_counter()
                await self._call(change.colour, bodies.call, bodies.call_async, change, *arguments)
                return perf_counter() - started
            case effects.Transact(change, lane=lane):
                arguments = passes.arguments(setup, terms, self._sessions, effect)
                attempt = (change, arguments, setup.prefix, self._lanes[change.colour, lane])
                return await self._call(
                    change.colour, transactions.carried_out, transactions.carried_out_async, *attempt
                )
            case effects.CommitAgain(change, lane):
                session = self._lanes[change.colour, lane]
                return await self._call(
                    change.colour, transactions.commit_again, transactions.commit_again_async, session
                )
            case effects.SideBySide(flow):
                self._is_side_by_side = True
                await Tasks(self.perform).drive(flow)
                return None
            case effects.Now():
                return now()
            case effects.Sleep(shortest, longest):
                await asyncio.sleep(random.uniform(shortest, longest))  # noqa: S311 - to spread, not to hide
                return None
            case effects.Emit(event):
                return setup.tell(event)
            case _:
                assert_never(effect)

    async def _call(
        self, colour: Colour, plain: Callable[[*Ts], T], asynchronous: Callable[[*Ts], Awaitable[T]], *args: *Ts
    ) -> T:
        """Call the one of two functions that is of this colour."""
        match colour:
            case "sync":
                return await bodies.call_in_thread(partial(plain, *args), to_its_end=self._is_side_by_side)
            case "async":
                return await asynchronous(*args)
            case _:
                assert_never(colour)

    async def _open_sessions(self, colours: frozenset[Colour], lanes: int) -> tuple[bytes, ...]:
        for colour, lane in itertools.product(colours, range(lanes)):
            if (colour, lane) not in self._lanes:
                db = self._setup.databases[colour]
                session = await self._call(colour, transactions.open_session, transactions.open_session_async, db)
                session.in_use.acquire()
                self._lanes[colour, lane] = session
                self._sessions.append(session)
        return tuple(session.id for session in self._sessions)

    async def _release(self) -> Exception | None:
        if self._keeper is not None:
            await self._keeper.stop()
        own = tuple(session.id for session in self._sessions)
        left_open = tuple(session.id for session in self._sessions if session.is_open)
        try:
            failure = await drive_async(leasing.give_back(own, left_open), self.perform)
            if failure is None:
                # Only now may the sessions serve the application again: others can end those that the lock names.
                for session in self._sessions:
                    await self._call(session.colour, transactions.end_session, transactions.end_session_async, session)
        except Exception as error:  # noqa: BLE001 - what the run raised, or returns, goes first
            return error
        return failure
