"""Backfills: going through a collection in batches. The steps are the same for loops and functions, sync and async.

After a batch, whatever happens, either its checkpoint is saved, or the checkpoint before it is left and the batch is
repeated. With a transaction, its work and its checkpoint are committed together or not at all.
"""

import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from math import inf
from typing import TypeAlias, TypeVar

from quaestor._core.checkpoint import Batch, Checkpoint, Document, Origin, Throttle, is_same_collection
from quaestor._core.lease import HeldLease, Reminder, check_lease, check_stale_lease, retry_until_known
from quaestor._core.scheduler import supervise
from quaestor._core.store import BackfillStore, Ending, Host, Step, Surroundings, Workers
from quaestor._core.transaction import retry_transaction
from quaestor._text import add_note
from quaestor.errors import (
    BackfillChangedError,
    CollectionChangedError,
    DuplicateBackfillError,
    InvalidOptionError,
    LeaseLostError,
    OutageError,
    TransactionsUnsupportedError,
)
from quaestor.events import (
    BackfillRestarted,
    BackfillStarted,
    CollectionMissing,
    MigrationProgressed,
    Place,
    ReplicasAwaited,
)

T = TypeVar("T")
Body: TypeAlias = Callable[[list[Document]], Awaitable[object]]

MOST_TYPES = 40
"""More types than `_id`s can have."""

LAST_SAVE_LIMIT = 5.0
"""The longest wait of a failed or interrupted backfill for its last checkpoint, in seconds."""

LAG_POLL = (0.5, 1.0)
"""The poll interval while waiting for replicas, in seconds: at least and at most."""

AHEAD = 2
"""The number of batches per worker that may lack a checkpoint, so a slow one doesn't hold up the others."""


@dataclass
class Backfills:
    """The backfills of one attempt at a migration or its rollback."""

    surroundings: Surroundings  # with the function's driver
    host: Host  # where the function runs
    place: Place
    held: HeldLease
    undo: bool
    started: dict[str, "Backfill"] = field(default_factory=dict)  # by name; not failed ones, which can start again

    def start(self, store: BackfillStore, throttle: Throttle) -> "Backfill":
        """Make a backfill, whose name must not be in use."""
        if store.name in self.started:
            raise DuplicateBackfillError(self.place.name, store.name)
        backfill = self.started[store.name] = Backfill(self, store, throttle)
        return backfill

    def explain(self, error: BaseException) -> None:
        """Note in an error of the function which batches were in progress."""
        for backfill in self.started.values():
            backfill.explain(error)


@dataclass
class _Handed:
    """A batch that a worker has; its documents are dropped when it is done."""

    batch: Batch | None
    after: Checkpoint


@dataclass
class _Sharing:
    """The state of workers that share batches."""

    body: Body
    workers: int
    front: Checkpoint  # the next batch is read from here
    ahead: deque[_Handed] = field(default_factory=deque)  # after the checkpoint, in order
    unstarted: deque[tuple[_Handed, Batch]] = field(default_factory=deque)
    failures: list[BaseException] = field(default_factory=list)
    is_reading: bool = False
    is_stopped: bool = False

    def stop(self) -> None:
        """Start no more workers."""
        self.is_stopped = True

    def can_read(self) -> bool:
        """Say whether to read another batch."""
        in_progress = sum(handed.batch is not None for handed in self.ahead)
        has_room = in_progress < self.workers and len(self.ahead) < AHEAD * self.workers
        return has_room and bool(self.front.bounds) and not self.is_reading and not self.is_stopped

    def check(self) -> None:
        """Raise the first failure."""
        if self.failures:
            error, *others = self.failures
            if others:
                kinds = ", ".join(type(other).__name__ for other in others)
                add_note(error, f"other batches that were in progress failed as well: {kinds}")
            raise error


class Backfill:
    """One backfill. Call `next` until it returns None, or `give_all`, `share_all` or `transact_all`."""

    def __init__(self, backfills: Backfills, store: BackfillStore, throttle: Throttle) -> None:
        self._backfills = backfills
        self._surroundings = backfills.surroundings
        self._held = backfills.held
        self._token = backfills.held.lease.token
        self._place = backfills.place
        self._undo = backfills.undo
        self._host = backfills.host
        self._store = store
        self._throttle = throttle
        self._checkpoint: Checkpoint | None = None  # after the last batch
        self._saved: Checkpoint | None = None
        self._batch: Batch | None = None  # handed out by `next`
        self._began = 0.0
        self._first = 0
        self._reminder = Reminder(0.0)

    async def next(self) -> list[Document] | None:
        """Save the checkpoint of the last batch, and read the next one. None: there is none."""
        self._store.check_not_in_transaction()
        self._batch = None
        try:
            if self._checkpoint is None:
                checkpoint = await self._start()
            elif (checkpoint := self._checkpoint).finished:
                return None
            else:
                await self._report_and_wait(checkpoint)
            while checkpoint.bounds:
                batch = await self._read_and_save(checkpoint)
                await self._check()
                self._checkpoint = checkpoint = checkpoint.advance(batch)
                if batch.documents:
                    self._batch = batch
                    return batch.documents
                await self._report_and_wait(checkpoint)
            await self._finish(checkpoint)
        except BaseException as error:
            self._fail(error)
            raise
        return None

    async def give_all(self, body: Body) -> None:
        """Pass each batch to a function."""
        while (batch := await self.next()) is not None:
            try:
                await body(batch)
            except BaseException as error:
                self.explain(error)
                self._backfills.started.pop(self._store.name, None)
                raise

    async def share_all(self, body: Body, workers: int) -> None:
        """Pass each batch to one of several workers, in threads or tasks. The checkpoint has no gaps.

        Raises what the first body raised, or what interrupted them, when all in progress have ended.
        """
        try:
            sharing = _Sharing(body, workers, await self._start())

            def stop() -> None:
                sharing.stop()
                self._held.patience.cut(self._surroundings.now())

            try:
                await self._host.supervise(partial(self._supervise, sharing), stop, reaches_all=True)
                sharing.check()
                self._host.check_interruption()
            except BaseException as error:
                done = self._checkpoint
                if done is not None and done is not self._saved and not isinstance(error, LeaseLostError | OutageError):
                    with contextlib.suppress(Exception):  # the error matters more
                        await self._host.shield(partial(self._save, done), LAST_SAVE_LIMIT)
                raise
            await self._finish(sharing.front)
        except BaseException as error:
            self._fail(error)
            raise

    async def transact_all(self, body: Body) -> None:
        """Pass each batch to a function, in a transaction that also saves the checkpoint."""
        try:
            await self._open_session()
            checkpoint = await self._start(is_exact=True)
            while checkpoint.bounds:
                # The `_id`s, outside the transaction: where few documents match, that may take longer than it may.
                found = await self._retry(partial(self._store.find_ids, checkpoint, self._throttle), is_slow=True)
                await self._check()
                if found.documents:
                    checkpoint = await self._transact(checkpoint, found, body)
                else:
                    checkpoint = checkpoint.advance(found)
                self._checkpoint = checkpoint
                await self._report_and_wait(checkpoint)
            await self._finish(checkpoint)
        except BaseException as error:
            self._fail(error)
            raise

    def explain(self, error: BaseException, batch: Batch | None = None) -> None:
        """Note in an error which documents it is about, if a batch is in progress."""
        if (batch := batch or self._batch) is not None:
            with contextlib.suppress(Exception):  # the error matters more
                add_note(error, f"at the {self._store.describe(batch, error)} of the backfill {self._store.name!r}")

    def _fail(self, error: BaseException) -> None:
        """Allow another start of the backfill, and name the migration in an error of the lease."""
        self._backfills.started.pop(self._store.name, None)
        if isinstance(error, LeaseLostError):
            raise LeaseLostError(self._place.name, in_batches=True) from None

    async def _supervise(self, sharing: _Sharing, workers: Workers) -> None:
        """Start workers for the batches, and for reading the next one, until all have ended; none after a failure."""

        async def find_starts() -> list[Step[None]]:
            while sharing.ahead and sharing.ahead[0].batch is None:
                self._checkpoint = sharing.ahead.popleft().after
                self._report(self._checkpoint)
            starts: list[Step[None]] = [partial(self._work, sharing, *work) for work in sharing.unstarted]
            starts = [] if sharing.is_stopped else starts
            sharing.unstarted.clear()
            if sharing.can_read():
                sharing.is_reading = True
                starts.append(partial(self._read_ahead, sharing))
            return starts

        await supervise(find_starts, sharing.stop, sharing.failures, workers)

    async def _read_ahead(self, sharing: _Sharing) -> None:
        """Read the next batch. At the same time save what is done."""
        try:
            if sharing.ahead or self._checkpoint is not self._saved:
                await self._wait()
            batch = await self._read_and_save(sharing.front)
            await self._check()
            sharing.front = sharing.front.advance(batch)
            handed = _Handed(batch if batch.documents else None, sharing.front)
            sharing.ahead.append(handed)
            if batch.documents:
                sharing.unstarted.append((handed, batch))
        finally:
            sharing.is_reading = False

    async def _work(self, sharing: _Sharing, handed: _Handed, batch: Batch) -> None:
        try:
            await sharing.body(batch.documents)
        except BaseException as error:
            self.explain(error, batch)
            raise
        handed.batch = None

    async def _check(self) -> None:
        """Check the lease and interruptions before a batch."""
        self._host.check_interruption()
        await check_lease(self._surroundings, self._held)

    async def _retry(self, command: Callable[[], Awaitable[T]], *, is_slow: bool = False) -> T:
        what = f"to continue the backfill {self._store.name!r}"
        return await retry_until_known(self._surroundings, what, command, self._held.patience, is_slow=is_slow)

    async def _open_session(self) -> None:
        if not self._surroundings.has_transactions():
            raise TransactionsUnsupportedError([self._place.name], in_batches=True)
        # In the lease document before its first transaction, so that the next holder can kill it.
        sessions = await self._retry(self._store.open_session)
        await check_lease(self._surroundings, self._held, sessions=sessions)

    async def _start(self, *, is_exact: bool = False) -> Checkpoint:
        """Resume from the checkpoint of an earlier attempt, or start. A changed backfill restarts, or is refused."""
        store = self._store
        if self._throttle.max_lag is not None:  # a missing privilege raises before the first batch
            await self._retry(store.read_lag)
        collection_id = await self._retry(store.identify_collection)
        origin = await self._retry(store.read_origin)
        changed = None if origin is None else self._find_change(origin, collection_id)
        if changed is not None and is_exact:
            raise BackfillChangedError(self._place.name, store.name, changed)
        begins = origin is None or changed is not None
        checkpoint = await self._claim(await self._begin(collection_id) if begins else None)
        emit, names = self._surroundings.emit, (store.name, store.collection)
        if changed is not None:
            emit(BackfillRestarted(*self._place, *names, undo=self._undo))
        if begins and collection_id == b"":
            emit(CollectionMissing(*self._place, *names, undo=self._undo))
        self._checkpoint = self._saved = checkpoint
        if not checkpoint.finished:
            self._began = self._surroundings.now()
            self._first, self._reminder = checkpoint.done, Reminder(self._began)
            counts = (checkpoint.done, checkpoint.estimate)
            emit(BackfillStarted(*self._place, *names, *counts, undo=self._undo))
        return checkpoint

    def _find_change(self, origin: Origin, collection_id: bytes | None) -> str | None:
        """Find the change since the checkpoint was made: "collection", "filter" or None."""
        is_same = origin.finished or is_same_collection(origin.collection_id, collection_id)
        if origin.collection != self._store.collection or not is_same:
            return "collection"
        return None if origin.fingerprint in self._store.fingerprints else "filter"

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

    async def _read_and_save(self, front: Checkpoint) -> Batch:
        """Read the next batch; at the same time save the checkpoint, because a majority takes about as long."""
        done = self._checkpoint
        if done is None or done is self._saved:
            return await self._read(front)

        def stop() -> None:  # the save must not wait long for a server now
            self._held.patience.cut(self._surroundings.now())

        batch, _ = await self._host.both(lambda: self._read(front), lambda: self._save(done), stop)
        return batch

    async def _read(self, front: Checkpoint) -> Batch:
        return await self._retry(partial(self._store.read_batch, front, self._throttle), is_slow=True)

    async def _save(self, checkpoint: Checkpoint) -> None:
        if not await self._retry(lambda: self._store.save_checkpoint(checkpoint, self._token)):
            raise LeaseLostError(self._place.name)
        self._saved = checkpoint

    async def _finish(self, checkpoint: Checkpoint) -> None:
        if checkpoint.finished:
            return
        collection_id = await self._retry(self._store.identify_collection)
        if not is_same_collection(checkpoint.collection_id, collection_id):
            raise CollectionChangedError(self._place.name, self._store.collection)
        self._checkpoint = replace(checkpoint, finished=True)
        await self._save(self._checkpoint)

    async def _transact(self, checkpoint: Checkpoint, found: Batch, body: Body) -> Checkpoint:
        """Process the documents found and save the checkpoint in one transaction, with retries."""
        saved = checkpoint

        async def work() -> Checkpoint:
            # The documents are read in the transaction, so a change by somebody else is a conflict, and isn't
            # overwritten. Any error aborts it, so this never retries.
            batch = await self._store.read_found(found, self._throttle)
            if batch.documents:
                try:
                    await body(batch.documents)
                except BaseException as error:
                    self.explain(error, batch)
                    raise
            return checkpoint.advance(batch)

        async def is_done() -> bool:
            nonlocal saved
            stored = await self._retry(lambda: self._store.read_checkpoint(self._token))
            if stored is None:
                raise LeaseLostError(self._place.name)
            saved = stored
            return stored.batches > checkpoint.batches

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
        if attempt.ending is Ending.COMMITTED and attempt.result is not None:
            saved = attempt.result
        self._saved = saved
        return saved

    async def _report_and_wait(self, checkpoint: Checkpoint) -> None:
        self._report(checkpoint)
        if checkpoint.bounds:
            await self._wait()

    def _report(self, checkpoint: Checkpoint) -> None:
        """Report the last batch."""
        surroundings, throttle = self._surroundings, self._throttle
        now = surroundings.now()
        seconds = now - self._began + throttle.pause  # as if it had paused after this batch as well
        rate = (checkpoint.done - self._first) / seconds if seconds > 0 else None
        progress = (checkpoint.done, checkpoint.estimate, rate)
        due, name, undo = self._reminder.is_due(now), self._store.name, self._undo
        surroundings.emit(MigrationProgressed(*self._place, *progress, due=due, backfill=name, undo=undo))

    async def _wait(self) -> None:
        """Throttle, when the checkpoint is saved."""
        surroundings, throttle = self._surroundings, self._throttle
        if not throttle.waits:
            return
        if self._checkpoint is not None and self._checkpoint is not self._saved:
            await self._save(self._checkpoint)
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
