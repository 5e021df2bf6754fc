"""Going over a collection in batches: the order of steps, the same for loops and functions, sync and async.

After a batch, whatever happens, either its checkpoint is saved, or the checkpoint before it is left and the batch is
repeated. With a transaction, its work and its checkpoint are committed together or not at all.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import TypeVar

from quaestor._core.checkpoint import Checkpoint, Document, Throttle
from quaestor._core.lease import HeldLease, Reminder, check_lease, check_stale_lease, retry_until_known
from quaestor._core.store import BackfillStore, Ending, Host, Surroundings
from quaestor._core.transaction import retry_transaction
from quaestor.errors import (
    CollectionChangedError,
    DuplicateBackfillError,
    InvalidOptionError,
    LeaseLostError,
    TransactionsUnsupportedError,
)
from quaestor.events import BackfillRestarted, BackfillStarted, MigrationProgressed, Place, ReplicasAwaited

T = TypeVar("T")

MOST_TYPES = 40
"""More types than `_id`s can have."""

LAG_POLL = (0.5, 1.0)
"""The poll interval while waiting for replicas, in seconds: at least and at most."""


@dataclass
class Backfills:
    """The backfills of one attempt at a migration or its rollback."""

    surroundings: Surroundings  # with the function's driver
    host: Host  # where the function runs
    place: Place
    held: HeldLease
    undo: bool
    names: set[str] = field(default_factory=set)  # in use; a failed backfill's isn't, so it can be started again

    def start(self, store: BackfillStore, throttle: Throttle) -> "Backfill":
        """Make a backfill, whose name must not be in use."""
        if store.name in self.names:
            raise DuplicateBackfillError(self.place.name, store.name)
        self.names.add(store.name)
        return Backfill(self, store, throttle)


class Backfill:
    """One backfill. Call `next` until it returns None, or `give_all`, or `transact_all`."""

    def __init__(self, backfills: Backfills, store: BackfillStore, throttle: Throttle) -> None:
        self._backfills = backfills
        self._surroundings = backfills.surroundings
        self._held = backfills.held
        self._token = backfills.held.lease.token
        self._place = backfills.place
        self._undo = backfills.undo
        self._store = store
        self._throttle = throttle
        self._checkpoint: Checkpoint | None = None  # after the last batch
        self._is_saved = True
        self._began = 0.0
        self._first = 0
        self._reminder = Reminder(0.0)

    async def next(self) -> list[Document] | None:
        """Save that the last batch is done, and read the next one. None: there is none."""
        self._store.check_not_in_transaction()
        try:
            if self._checkpoint is None:
                checkpoint = await self._start()
            elif (checkpoint := self._checkpoint).finished:
                return None
            else:
                await self._report_and_rest(checkpoint)
            while checkpoint.bounds:
                documents = await self._read_and_save(checkpoint)
                await self._check()
                batch, checkpoint = checkpoint.advance(documents, self._throttle.size)
                self._checkpoint, self._is_saved = checkpoint, False
                if batch:
                    return batch
                await self._report_and_rest(checkpoint)
            await self._finish(checkpoint)
        except BaseException as error:
            self._fail(error)
            raise
        return None

    async def give_all(self, body: Callable[[list[Document]], Awaitable[object]]) -> None:
        """Give each batch to a function."""
        while (batch := await self.next()) is not None:
            try:
                await body(batch)
            except BaseException:
                self._backfills.names.discard(self._store.name)
                raise

    async def transact_all(self, body: Callable[[list[Document]], Awaitable[object]]) -> None:
        """Give each batch to a function, in a transaction that also saves the checkpoint."""
        try:
            await self._open_session()
            checkpoint = await self._start()
            while checkpoint.bounds:
                await self._check()
                self._checkpoint = checkpoint = await self._transact(checkpoint, body)
                await self._report_and_rest(checkpoint)
            await self._finish(checkpoint)
        except BaseException as error:
            self._fail(error)
            raise

    def _fail(self, error: BaseException) -> None:
        """Allow another start of the backfill, and name the migration in an error of the lease."""
        self._backfills.names.discard(self._store.name)
        if isinstance(error, LeaseLostError):
            raise LeaseLostError(self._place.name, in_batches=True) from None

    async def _check(self) -> None:
        """Check the lease and interruptions before a batch."""
        self._backfills.host.check_interruption()
        await check_lease(self._surroundings, self._held)

    async def _retry(self, command: Callable[[], Awaitable[T]], *, is_slow: bool = False) -> T:
        what = f"to go on with the backfill {self._store.name!r}"
        return await retry_until_known(self._surroundings, what, command, self._held.patience, is_slow=is_slow)

    async def _open_session(self) -> None:
        if not self._surroundings.has_transactions():
            raise TransactionsUnsupportedError([self._place.name], in_batches=True)
        # In the lease document before its first transaction, so that the next holder can kill it.
        sessions = await self._retry(self._store.open_session)
        await check_lease(self._surroundings, self._held, sessions=sessions)

    async def _start(self) -> Checkpoint:
        """Resume from the checkpoint of an earlier attempt, or begin."""
        store = self._store
        if self._throttle.max_lag is not None:  # a missing right raises before the first batch
            await self._retry(store.read_lag)
        collection_id = await self._retry(store.identify_collection)
        fingerprint = await self._retry(store.read_fingerprint)
        is_same = fingerprint == store.fingerprint
        checkpoint = await self._claim(None if is_same else await self._begin(collection_id))
        if not checkpoint.finished and not checkpoint.is_of(collection_id):
            is_same = False
            checkpoint = await self._begin(collection_id)
            await self._save(checkpoint)
        if fingerprint is not None and not is_same:
            restarted = BackfillRestarted(*self._place, store.name, store.collection, undo=self._undo)
            self._surroundings.emit(restarted)
        self._checkpoint = checkpoint
        if not checkpoint.finished:
            self._began = self._surroundings.now()
            self._first, self._reminder = checkpoint.done, Reminder(self._began)
            counts = (checkpoint.done, checkpoint.estimate)
            self._surroundings.emit(
                BackfillStarted(*self._place, store.name, store.collection, *counts, undo=self._undo)
            )
        return checkpoint

    async def _claim(self, fresh: Checkpoint | None) -> Checkpoint:
        for force in (False, True):
            # By force if a later run seems to have claimed it: the lease document was dropped, with its token.
            await check_lease(self._surroundings, self._held)
            claim = partial(self._store.claim_checkpoint, fresh, self._token, force=force)
            if (checkpoint := await self._retry(claim)) is not None:
                return checkpoint
        raise LeaseLostError(self._place.name)  # it was removed just now

    async def _begin(self, collection_id: bytes | None) -> Checkpoint:
        """Make the first checkpoint of a backfill, from the highest `_id` of each type."""
        bounds: tuple[object, ...] = ()
        while highest := await self._retry(partial(self._store.find_highest, bounds), is_slow=True):
            bounds = (*highest, *bounds)
            if len(bounds) > MOST_TYPES:  # the query finds the same `_id` again and again
                raise InvalidOptionError(
                    f"The `_id`s of {self._store.collection!r} don't survive the codec options of this collection: "
                    f"{highest[0]!r:.80} as it was read isn't what is stored. Use a collection with other options."
                )
        total = await self._retry(self._store.estimate_count, is_slow=True)
        return Checkpoint(bounds, total=total, collection_id=collection_id)

    async def _read_and_save(self, checkpoint: Checkpoint) -> list[Document]:
        """Read the next batch; at the same time save the checkpoint, because a majority takes about as long."""
        if self._is_saved:
            return await self._read(checkpoint)

        def stop() -> None:  # the save must not wait long for a server now
            self._held.patience.cut(self._surroundings.now())

        documents, _ = await self._backfills.host.both(
            lambda: self._read(checkpoint), lambda: self._save(checkpoint), stop
        )
        return documents

    async def _read(self, checkpoint: Checkpoint) -> list[Document]:
        read = partial(self._store.read_batch, checkpoint, self._throttle.size + 1)
        return await self._retry(read, is_slow=True)

    async def _save(self, checkpoint: Checkpoint) -> None:
        if not await self._retry(lambda: self._store.save_checkpoint(checkpoint, self._token)):
            raise LeaseLostError(self._place.name)
        self._is_saved = True

    async def _finish(self, checkpoint: Checkpoint) -> None:
        if checkpoint.finished:
            return
        if not checkpoint.is_of(await self._retry(self._store.identify_collection)):
            raise CollectionChangedError(self._place.name, self._store.collection)
        self._checkpoint = replace(checkpoint, finished=True)
        await self._save(self._checkpoint)

    async def _transact(
        self, checkpoint: Checkpoint, body: Callable[[list[Document]], Awaitable[object]]
    ) -> Checkpoint:
        """Do a batch and its checkpoint in one transaction, with retries."""
        saved = checkpoint

        async def work() -> Checkpoint:
            # The documents are read in the transaction, so a change by somebody else is a conflict, and isn't
            # overwritten. Any error aborts it, so this never retries.
            documents = await self._store.read_batch(checkpoint, self._throttle.size + 1)
            batch, after = checkpoint.advance(documents, self._throttle.size)
            if batch:
                await body(batch)
            return after

        async def is_done() -> bool:
            nonlocal saved
            found = await self._retry(lambda: self._store.read_checkpoint(self._token))
            if found is None:
                raise LeaseLostError(self._place.name)
            saved = found
            return found.batches > checkpoint.batches

        attempt = await retry_transaction(
            self._surroundings,
            self._held,
            self._place,
            attempt=lambda: self._store.transact(work, self._token),
            commit_again=self._store.commit_again,
            is_done=is_done,
            undo=self._undo,
            in_batches=True,
        )
        return attempt.result if attempt.ending is Ending.COMMITTED and attempt.result is not None else saved

    async def _report_and_rest(self, checkpoint: Checkpoint) -> None:
        """Report the last batch, and throttle."""
        surroundings, throttle = self._surroundings, self._throttle
        now = surroundings.now()
        seconds = now - self._began + throttle.pause  # as if it had paused after this batch as well
        rate = (checkpoint.done - self._first) / seconds if seconds > 0 else None
        progress = (checkpoint.done, checkpoint.estimate, rate)
        due = self._reminder.is_due(now)
        surroundings.emit(MigrationProgressed(*self._place, *progress, due=due, undo=self._undo))
        if not (throttle.rests and checkpoint.bounds):
            return
        if not self._is_saved:
            await self._save(checkpoint)
        if throttle.pause:
            await surroundings.sleep(throttle.pause, throttle.pause)
        if throttle.max_lag is not None:
            await self._await_replicas(throttle.max_lag)

    async def _await_replicas(self, max_lag: float) -> None:
        surroundings = self._surroundings
        began = surroundings.now()
        reminder = Reminder(-inf)
        while (lag := await self._retry(self._store.read_lag)) > max_lag:
            now = surroundings.now()
            if reminder.is_due(now):
                surroundings.emit(ReplicasAwaited(*self._place, lag, now - began, undo=self._undo))
            await surroundings.sleep(*LAG_POLL)
            await check_stale_lease(surroundings, self._held)
