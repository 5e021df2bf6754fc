"""Applying one change of a plan while the lease is held: its function, its record, and what goes with that."""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial

from quaestor._core.catalog import Definitions
from quaestor._core.guards import Guard
from quaestor._core.history import History, describe_error
from quaestor._core.lease import HeldLease, Location, Wait, check_lease, check_stale_lease, retry_until_known
from quaestor._core.plan import Acceptance, Adoption, Change, Import, RecordChange, Restart, make_entries
from quaestor._core.scheduler import Schedule, Start
from quaestor._core.store import Functions, HistoryFact, OutcomeUnknown, RecordEntry, Store
from quaestor._core.transaction import retry_transaction
from quaestor._text import add_note
from quaestor.errors import LeaseLostError
from quaestor.events import (
    MigrationApplied,
    MigrationFailed,
    MigrationRolledBack,
    MigrationStarted,
    Place,
    PrimaryChanged,
    ReplacementRecorded,
)
from quaestor.status import Happening, Source


@dataclass(slots=True)
class Applier:
    """Applies the changes of one plan while the lease is held. It finishes the items of the schedule."""

    store: Store
    functions: Functions
    held: HeldLease
    schedule: Schedule
    changes: Mapping[str, RecordChange]
    definitions: Definitions
    lock: AbstractAsyncContextManager[object]  # of a change that checks the lease, writes its record or the schedule
    history: History

    async def apply(self, start: Start) -> None:
        """Call the function of a change, if it has one, and write or remove its record."""
        change = self.changes[start.name]
        if isinstance(change, Adoption):
            async with self.lock:
                await self._adopt(change)
            return
        if not isinstance(change, Change):
            await self._mark(change)
            return
        store, held, undo = self.store, self.held, not change.applies
        place = Place(*store.where, change.name, start.position, self.schedule.count)
        locate = partial(self.schedule.locate, change.name)
        is_recorded, began = False, store.now()
        store.emit(MigrationStarted(*place, undo=undo))
        try:
            checksum = None if undo else self.functions.compute_checksum(change.function)
            async with self.lock:
                await self._prepare(change)
            await self._check(change.preconditions, place)
            primary: object = None
            if change.transaction:
                seconds = await self._transact(change, place, start.slot, checksum)
            else:
                await self._mark_start(change)
                primary = store.identify_primary()
                seconds = await self.functions.execute(change, place, held)
                await self._check(change.verifications, place)
            async with self.lock:
                if not change.transaction:
                    await check_lease(store, held, locate)
                    await self._write_record(change, RecordEntry("run", checksum, seconds), locate)
                is_recorded = True
                if undo:
                    self.history.note(HistoryFact("rolled_back", change.name, seconds, record=change.record))
                if not change.transaction and store.identify_primary() != primary:
                    store.emit(PrimaryChanged(*place, undo=undo))
                store.emit((MigrationRolledBack if undo else MigrationApplied)(*place, seconds, undo=undo))
                await self._finish(change)
        except BaseException as error:
            self.schedule.stop()  # now: the supervisor may hear of another worker's end first, and start the next
            if not is_recorded:
                doing = "while rolling back" if undo else "in"
                add_note(error, f"{doing} migration {change.name!r}, {place.position} of {place.count}")
                failed = describe_error(error)
                self.history.note(HistoryFact("failed", change.name, store.now() - began, error=failed, undo=undo))
                store.emit(MigrationFailed(*place, error, undo=undo))
            raise

    async def _prepare(self, change: Change) -> None:
        if change.name not in self.held.named:  # the lease document names another one as next
            await check_lease(self.store, self.held, self.schedule.locate)
        if self._has_checkpoints(change):  # once the record changes, those of the opposite direction are void
            await self._delete_checkpoints(change, undo=change.applies)
        if change.preconditions:
            await check_stale_lease(self.store, self.held)

    async def _check(self, guards: Iterable[Guard], place: Place) -> None:
        for guard in guards:
            await self.functions.check(guard, place)

    async def _mark_start(self, change: Change) -> None:
        """Check the lease before a function starts, and mark its start if it isn't to be repeated unasked.

        What it replaces is marked as well, because an older release would run that.
        """
        await check_stale_lease(self.store, self.held)
        if not (change.applies and change.stops):
            return
        what = f"to mark the start of {change.name!r}"
        async with self.lock:
            for name in change.names:
                write = partial(self.store.write_start_mark, name, change.marks.get(name))
                if not await retry_until_known(self.store, what, write, self.held.patience):
                    raise LeaseLostError(None)  # another run has started it since this one read the marks
        await check_stale_lease(self.store, self.held)

    async def _remove_marks(self, change: RecordChange) -> None:
        for name in reversed(change.marked):  # its own last: as long as that is there, the others belong to it
            remove = partial(self.store.remove_start_mark, name, change.marks.get(name))
            await retry_until_known(self.store, "to remove a start mark", remove, self.held.patience)

    async def _finish(self, change: Change) -> None:
        """Do what comes after the record."""
        if self._has_checkpoints(change):
            await self._delete_checkpoints(change, undo=not change.applies)
        if change.applies:
            await self._remove_marks(change)
        self.schedule.finish(change.name)
        if change.transaction and (location := self.schedule.locate()).migrations:
            # Otherwise the check before the record named it.
            await check_lease(self.store, self.held, lambda: location)
        if not change.applies:
            await self.history.write_now()

    async def _adopt(self, change: Adoption) -> None:
        """Record a replacement that counts as applied."""
        locate = partial(self.schedule.locate, change.name)
        await check_lease(self.store, self.held, locate)
        await self._write_record(change, self._make_entry(change), locate)
        self.store.emit(ReplacementRecorded(*self.store.where, change.name, change.replaced))
        await self._remove_marks(change)
        self.schedule.finish(change.name)

    async def _mark(self, change: RecordChange) -> None:
        def locate() -> Location:
            return Location((change.name,))

        if isinstance(change, Acceptance):
            await self._accept(change, locate)
            return
        backfill = change.backfill if isinstance(change, Restart) else None
        await self._delete_checkpoints(change, undo=change.applies, backfill=backfill)
        if backfill is None:
            await check_lease(self.store, self.held, locate)
            await self._write_record(change, self._make_entry(change), locate)
        what: Happening = "marked_applied" if change.applies else "marked_pending"
        if isinstance(change, Import | Restart):
            what = "imported" if isinstance(change, Import) else "restarted"
        self.history.note(HistoryFact(what, change.name, record=change.record, backfill=backfill))
        await self._delete_checkpoints(change, undo=not change.applies, backfill=backfill)
        if change.applies:
            await self._remove_marks(change)
        await self.history.write_now()
        self.schedule.finish(change.name)

    async def _accept(self, change: Acceptance, locate: Callable[[], Location]) -> None:
        await check_lease(self.store, self.held, locate)
        update = partial(self.store.update_checksum, change.name, change.recorded_at, change.checksum)
        if not await retry_until_known(self.store, f"to accept {change.name!r}", update, self.held.patience):
            raise LeaseLostError(None)  # another holder of the lease removed the record
        self.history.note(HistoryFact("accepted", change.name, record=change.record))
        await self.history.write_now()
        self.schedule.finish(change.name)

    def _make_entry(self, change: RecordChange) -> RecordEntry:
        """Make the entry of a record that is written without a call of its function."""
        definition = self.definitions.get(change.name) if change.applies else None  # a replaced one may be gone
        checksum = None if definition is None else self.functions.compute_checksum(definition.execute)
        if isinstance(change, Adoption | Import):
            source: Source = "replaces" if isinstance(change, Adoption) else "import"
            return RecordEntry(source, checksum, applied_at=change.applied_at)
        return RecordEntry("mark", checksum)

    def _has_checkpoints(self, change: Change) -> bool:
        """Say whether there may be checkpoints of it, or of a migration that it replaces."""
        return change.can_backfill or bool(change.replaces)

    async def _delete_checkpoints(self, change: RecordChange, *, undo: bool, backfill: str | None = None) -> None:
        delete = partial(
            self.store.delete_checkpoints, change.names, self.held.lease.token, undo=undo, backfill=backfill
        )
        await retry_until_known(self.store, "to remove checkpoints", delete, self.held.patience)

    async def _find_recorded(self, change: RecordChange) -> Collection[str]:
        read = partial(self.store.find_recorded, change.names)
        return await retry_until_known(self.store, f"to read the record of {change.name!r}", read, self.held.patience)

    async def _write_record(self, change: RecordChange, entry: RecordEntry, locate: Callable[[], Location]) -> None:
        """Write the entry as the record, or remove the record, once, whatever happens to the connection.

        With the records of those that it replaces: these are written after its own, and removed before.
        """
        if change.applies:
            await self._insert_records(change, make_entries(change, entry), locate)
            return
        await self._remove_marks(change)  # first, because without a record it would no longer be void
        for recorded in (change.replaces, {change.name: change.recorded_at}):
            if any(recorded.values()):
                await self._delete_records(change.name, recorded, locate)

    async def _insert_records(
        self, change: RecordChange, entries: Mapping[str, RecordEntry], locate: Callable[[], Location]
    ) -> None:
        wait = Wait(self.store, f"to record {change.name!r}", self.held.patience)
        is_first = True
        while True:
            try:
                # Never after the moment when another run can acquire the lease.
                with self.store.limit(min(wait.limit, self.held.time_left(self.store.now()))):
                    if await self.store.insert_records(entries):
                        return
                if is_first and self.held.lease.previous is None:  # another holder of the lease recorded it
                    raise LeaseLostError(change.name)
                lost = OutcomeUnknown(LeaseLostError(change.name), no_majority=True)
            except OutcomeUnknown as unknown:
                lost = unknown
            is_first = False
            # Read it back: the answer was lost, or a holder that was frozen just before its record has woken.
            recorded = await self._find_recorded(change)
            entries = {name: entry for name, entry in entries.items() if name not in recorded}
            if not entries:
                await check_lease(self.store, self.held, locate)  # another run's record, if this one was frozen
                return
            await wait.pause(lost)
            await check_lease(self.store, self.held, locate)

    async def _delete_records(
        self, name: str, recorded: Mapping[str, tuple[object, ...]], locate: Callable[[], Location]
    ) -> None:
        wait = Wait(self.store, f"to remove the record of {name!r}", self.held.patience)
        while True:
            try:
                with self.store.limit(min(wait.limit, self.held.time_left(self.store.now()))):
                    is_removed = await self.store.delete_records(recorded)
            except OutcomeUnknown as unknown:
                lost = unknown
            else:
                if not is_removed:  # by an earlier attempt of this run, because nobody else holds the lease
                    await check_lease(self.store, self.held, locate)
                return
            await wait.pause(lost)
            await check_lease(self.store, self.held, locate)

    async def _transact(self, change: Change, place: Place, slot: int, checksum: str | None) -> float:
        """Call the function and write the record in one transaction. Returns how long the last attempt took."""

        async def is_done() -> bool:
            found = await self._find_recorded(change)
            if change.applies and found and change.name not in found:  # a frozen holder, of an older release, has woken
                raise LeaseLostError(None)
            return bool(found) is change.applies

        attempt = await retry_transaction(
            self.store,
            self.held,
            place,
            attempt=lambda: self.functions.transact(change, place, self.held, slot, checksum),
            commit_again=partial(self.functions.commit_again, change, slot),
            is_done=is_done,
            undo=not change.applies,
        )
        return attempt.seconds
