"""Applying the changes of a plan while the lease is held: call the function, check the lease, write the record."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

from quaestor._core.lease import HeldLease, Location
from quaestor._core.notes import add_note
from quaestor._core.plan import Change, RecordChange
from quaestor._core.retry import PAUSE, check_lease, check_stale_lease, retry_transaction, retry_until_known
from quaestor._core.scheduler import Schedule, Start
from quaestor._core.store import Functions, OutcomeUnknown, Store
from quaestor.errors import LeaseLostError
from quaestor.events import MigrationApplied, MigrationFailed, MigrationRolledBack, MigrationStarted, Place


class Applier:
    """Applies the changes of one plan, one after the other or several at once.

    Args:
        where: The database and the prefix, for the events.
        store: The records and the lease.
        functions: Calls the migrations.
        held: The lease.
        schedule: Says what is in progress; the applier finishes its items.
        count: How many changes the plan has.
        lock: Held by a change while it checks the lease, writes its record and updates the schedule.
    """

    def __init__(
        self,
        *,
        where: tuple[str, str],
        store: Store,
        functions: Functions,
        held: HeldLease,
        schedule: Schedule,
        count: int,
        lock: AbstractAsyncContextManager[object],
    ) -> None:
        self._where = where
        self._store = store
        self._functions = functions
        self._held = held
        self._schedule = schedule
        self._count = count
        self._lock = lock

    async def apply(self, change: RecordChange, start: Start) -> None:
        """Call the function of a change, if it has one, and write or remove its record."""
        if not isinstance(change, Change):
            await self._mark(change)
            return
        store, held, undo = self._store, self._held, not change.applies
        place = Place(*self._where, change.name, start.position, self._count)
        locate = partial(self._schedule.locate, change.name)
        is_recorded = False
        store.emit(MigrationStarted(*place, undo=undo))
        try:
            async with self._lock:
                if change.name not in held.named:  # the lease document names another one as next
                    await check_lease(store, held, self._schedule.locate)
                if change.can_backfill:  # once the record changes, checkpoints of the opposite direction are void
                    await self._delete_checkpoints(change.name, undo=not undo)
            if change.transaction:
                seconds = await self._transact(change, place, start.slot)
            else:
                await check_stale_lease(store, held)
                seconds = await self._functions.execute(change, place, held)
            async with self._lock:
                if not change.transaction:
                    await check_lease(store, held, locate)
                    await self._write_record(change, locate)
                is_recorded = True
                store.emit((MigrationRolledBack if undo else MigrationApplied)(*place, seconds, undo=undo))
                if change.can_backfill:
                    await self._delete_checkpoints(change.name, undo=undo)
                self._schedule.finish(change.name)
                if change.transaction and (location := self._schedule.locate()).migrations:
                    await check_lease(store, held, lambda: location)  # otherwise the check before the record named it
        except BaseException as error:
            self._schedule.stop()  # now, because the supervisor may first learn of another's end, and start the next
            if not is_recorded:
                doing = "while rolling back" if undo else "in"
                add_note(error, f"{doing} migration {change.name!r}, {place.position} of {place.count}")
                store.emit(MigrationFailed(*place, error, undo=undo))
            raise

    async def _mark(self, change: RecordChange) -> None:
        def locate() -> Location:
            return Location((change.name,))

        await self._delete_checkpoints(change.name, undo=change.applies)
        await check_lease(self._store, self._held, locate)
        await self._write_record(change, locate)
        await self._delete_checkpoints(change.name, undo=not change.applies)
        self._schedule.finish(change.name)

    async def _delete_checkpoints(self, name: str, *, undo: bool) -> None:
        token = self._held.lease.token
        await retry_until_known(
            self._store, lambda: self._store.delete_checkpoints(name, token, undo=undo), self._held.patience
        )

    async def _has_record(self, name: str) -> bool:
        return await retry_until_known(self._store, lambda: self._store.has_record(name), self._held.patience)

    async def _write_record(self, change: RecordChange, locate: Callable[[], Location]) -> None:
        """Write or remove the record, once, whatever happens to the connection."""
        if change.applies:
            await self._insert_record(change.name, locate)
        else:
            await self._delete_records(change, locate)

    async def _insert_record(self, name: str, locate: Callable[[], Location]) -> None:
        lost: OutcomeUnknown | None = None
        began: float | None = None
        while True:
            try:
                if await self._store.insert_record(name):
                    return
                lost = None
                if began is None and self._held.lease.previous is None:  # another holder of the lease recorded it
                    raise LeaseLostError(name)
            except OutcomeUnknown as unknown:
                lost = unknown
            # Read it back: the answer was lost, or a holder that was frozen just before its record has woken.
            began = self._store.now() if began is None else began
            if await self._has_record(name):
                await check_lease(self._store, self._held, locate)  # another run's record, if this one was frozen
                return
            if lost is not None and self._store.now() - began >= self._held.patience:
                raise lost.error from lost.error.__cause__
            await self._store.sleep(*PAUSE)
            await check_lease(self._store, self._held, locate)

    async def _delete_records(self, change: RecordChange, locate: Callable[[], Location]) -> None:
        began: float | None = None
        while True:
            try:
                is_removed = await self._store.delete_records(change.name, change.recorded_at)
            except OutcomeUnknown as unknown:
                now = self._store.now()
                began = now if began is None else began
                if now - began >= self._held.patience:
                    raise unknown.error from unknown.error.__cause__
                await self._store.sleep(*PAUSE)
                await check_lease(self._store, self._held, locate)
            else:
                if not is_removed:  # by an earlier attempt of this run, because nobody else holds the lease
                    await check_lease(self._store, self._held, locate)
                return

    async def _transact(self, change: Change, place: Place, slot: int) -> float:
        """Call the function and write the record in one transaction. Returns how long the last attempt took."""

        async def is_done() -> bool:
            return await self._has_record(change.name) is change.applies

        attempt = await retry_transaction(
            self._store,
            self._held,
            place,
            attempt=lambda: self._functions.transact(change, place, self._held, slot),
            commit_again=lambda: self._functions.commit_again(change, slot),
            is_done=is_done,
            undo=not change.applies,
        )
        return attempt.seconds
