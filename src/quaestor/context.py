"""The contexts: the second argument of a migration's function, for backfills, progress and log lines."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, MutableMapping, Sequence
from functools import partial
from threading import get_ident
from typing import TYPE_CHECKING, Any, TypeVar

from quaestor._core.backfill import Backfill
from quaestor._core.checkpoint import DEFAULT_BYTES, DEFAULT_SIZE, Throttle
from quaestor._core.definition import check_concurrency
from quaestor._core.lease import Reminder
from quaestor._core.store import Surroundings
from quaestor._hosts.calls import call, make_log_attributes
from quaestor._hosts.threads import run_to_completion
from quaestor.databases import AsyncCollection, SyncCollection
from quaestor.errors import InvalidOptionError, UnfinishedMigrationError
from quaestor.events import MigrationProgressed, Place

if TYPE_CHECKING:  # importing a context loads no driver
    from quaestor._mongo.backfill_store import MongoBackfillStore

D = TypeVar("D", bound=Mapping[str, Any])
"""A document."""


class _MigrationLogger(logging.LoggerAdapter[logging.Logger]):
    """Names the place of a migration in each line, and in the record's attributes."""

    def __init__(self, place: Place) -> None:
        # Not made when this module is imported: a later dictConfig disables the loggers that exist, by default.
        super().__init__(logging.getLogger("quaestor.migration"), make_log_attributes(place))
        start = f"[{place.database}/{place.prefix}] In {place.name!r}: "
        self._start = start.replace("%", "%%")  # the line's own values are filled in later

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[str, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return f"{self._start}{msg}", kwargs


class _Context:
    """The part that both contexts share. `open_backfill` checks the arguments of a backfill, and makes it."""

    def __init__(
        self,
        surroundings: Surroundings,
        place: Place,
        open_backfill: "Callable[..., tuple[Backfill, MongoBackfillStore]]",
        *,
        undo: bool = False,
    ) -> None:
        self._surroundings = surroundings
        self._place = place
        self._undo = undo
        self._open_backfill = open_backfill
        self._reminder = Reminder(surroundings.now())
        self._unstarted = 0  # backfills that the function has asked for
        self.name: str = place.name
        self.logger: logging.LoggerAdapter[logging.Logger] = _MigrationLogger(place)

    def progress(self, done: int, total: int | None = None) -> None:
        """Report progress: emits a `MigrationProgressed`, which the command line shows as a bar.

        Backfills report by themselves; this is for a loop of your own.

        Args:
            done: How much is done, in any unit.
            total: How much there is in all; None if unknown.

        Raises:
            InvalidOptionError: One of them isn't a whole number.
        """
        for number in (done, total):
            if number is not None and not isinstance(number, int):
                raise InvalidOptionError(f"progress() takes whole numbers (int), not {number!r:.40}.")
        due = self._reminder.is_due(self._surroundings.now())
        self._surroundings.emit(MigrationProgressed(*self._place, done, total, due=due, undo=self._undo))

    def check_started(self) -> None:
        """Check, after the function has returned, that it started all its backfills."""
        if self._unstarted:
            raise UnfinishedMigrationError(
                self.name,
                "without starting a backfill (there is a `context.batches` without a loop, or a "
                "`context.for_each_batch` without an `await`)",
            )

    def _open(
        self,
        collection: Any,
        filter: Any,  # noqa: A002 - PyMongo's word
        projection: Any,
        name: str | None,
        throttle: Throttle,
    ) -> "tuple[Backfill, MongoBackfillStore]":
        opened = self._open_backfill(throttle, collection=collection, filter=filter, projection=projection, name=name)
        self._unstarted += 1
        return opened


class MigrationContext(_Context):
    """The second argument of a `def` function: runs backfills and reports progress.

    That of a precondition or a verification runs no backfills.

    Attributes:
        name: The name of the migration.
        logger: Logs to `quaestor.migration`. Each line begins with the database, the prefix and the migration, which
            the log record has as attributes too, as `log_event`'s do.
    """

    def batches(
        self,
        collection: SyncCollection[D],
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - PyMongo's word
        *,
        name: str | None = None,
        size: int = DEFAULT_SIZE,
        max_bytes: int = DEFAULT_BYTES,
        projection: Mapping[str, Any] | Sequence[str] | None = None,
        pause: float = 0.0,
        max_lag: float | None = None,
    ) -> Iterator[list[D]]:
        """Go through a collection in batches, in the order of `_id`; after a crash, resume at the batch in progress.

        A batch is done when the loop asks for the next one. Its checkpoint is then saved in
        `{prefix}_migrations_progress`, until the migration is recorded, and the lease is checked. An interrupted or
        failed migration resumes there when it runs again, and sees at most one batch twice. The backfill ends at the
        highest `_id` at its start: documents that are inserted later, or match again, don't prolong it.

        So finish each batch before you ask for the next one. `list(context.batches(...))`, `create_task` for each batch
        and `pool.map(work, context.batches(...))` don't, so documents are lost after a failure. To work in parallel,
        use `context.for_each_batch(collection, work, transaction=False, workers=8)`.

        Args:
            collection: A collection of the function's driver, in this database or another one of its client.
            filter: Which documents to read, as for `find`. Defaults to all.
            name: The backfill's name, under which its checkpoint is stored. Defaults to the collection's name, as
                `database.collection` in another database. Two backfills of one migration need different names. If the
                collection or the filter has changed since the last attempt, the backfill restarts; in
                `for_each_batch` with transaction=True, it is refused.
            size: The maximum number of documents in a batch.
            max_bytes: The maximum size of a batch, in bytes of BSON. A batch has at least one document.
            projection: Which fields to read, as for `find`, including `_id`. Defaults to all.
            pause: How long to wait between two batches, in seconds.
            max_lag: The maximum replication lag, in seconds: between two batches, wait until all replicas are within
                it. This needs the right to `replSetGetStatus`, which the role clusterMonitor has.

        Returns:
            The batches, none of them empty.

        Raises:
            InvalidOptionError: An argument isn't valid; nothing was done.
            DuplicateBackfillError: The migration has a backfill of this name already; nothing was done.
            BatchesInTransactionError: This was called inside a transaction.
            LeaseLostError: Another instance may hold the lease by now; the backfill resumes in the next run.
            CollectionChangedError: The collection was dropped or renamed during the backfill.
            Exception: Whatever the driver raises.
        """
        backfill, _ = self._open(collection, filter, projection, name, Throttle(size, pause, max_lag, max_bytes))
        return self._iterate(backfill)

    def for_each_batch(
        self,
        collection: SyncCollection[D],
        body: Callable[[list[D]], object],
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - PyMongo's word
        *,
        name: str | None = None,
        size: int = DEFAULT_SIZE,
        max_bytes: int = DEFAULT_BYTES,
        projection: Mapping[str, Any] | Sequence[str] | None = None,
        pause: float = 0.0,
        max_lag: float | None = None,
        transaction: bool = True,
        workers: int = 1,
    ) -> None:
        """Go through a collection as `batches` does, and pass each batch to a function; by default exactly once.

        With transaction=True (the default), the body's writes and the checkpoint are committed together, so a crash
        repeats nothing. The body passes no session: it uses the migration's database, in its own thread or task, one
        operation at a time. Operations of other threads are outside the transaction. If the server aborts a
        transaction, the documents are read again and the body is called again. A transaction must end within
        `transactionLifetimeLimitSeconds` (60 s by default), so choose a small `size`.

        With transaction=False, `workers` calls of the body run at the same time, each in a thread (in an `async def`
        migration: in a task). A checkpoint has no gaps, so after a crash or failure at most 2 * `workers`
        batches are repeated. If a body fails, the others in progress finish, and the first error is raised.

        The body is a `def` function in a `def` migration, and an `async def` function in an `async def` migration. The
        other arguments are those of `batches`.

        Raises:
            BackfillChangedError: transaction=True, and the filter or the collection has changed; nothing was done.
            TransactionsUnsupportedError: transaction=True, but the server has no transactions; nothing was done.
            TransactionFailedError: The server aborted the transaction of a batch again and again.
            UnfinishedMigrationError: The body returned before its work was done.
            Exception: Whatever the body raised, unchanged; the next run repeats its batch. Or what `batches` raises.
        """
        _check_body(body, transaction, workers)
        throttle = Throttle(size, pause, max_lag, max_bytes)
        backfill, store = self._open(collection, filter, projection, name, throttle)
        self._unstarted -= 1
        give = partial(call, self.name, body, is_async=False, source=_FROM_BODY)
        try:
            run_to_completion(_choose(backfill, workers, transaction=transaction)(give))
        finally:
            store.close()

    def _iterate(self, backfill: Backfill) -> Iterator[list[Any]]:
        self._unstarted -= 1
        began_in = get_ident()
        while (batch := run_to_completion(backfill.next())) is not None:
            yield batch
            _check_place(is_same=get_ident() == began_in)


class AsyncMigrationContext(_Context):
    """The second argument of an `async def` function: runs backfills and reports progress.

    That of a precondition or a verification runs no backfills.

    Attributes:
        name: The name of the migration.
        logger: Logs to `quaestor.migration`. Each line begins with the database, the prefix and the migration, which
            the log record has as attributes too, as `log_event`'s do.
    """

    def batches(
        self,
        collection: AsyncCollection[D],
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - PyMongo's word
        *,
        name: str | None = None,
        size: int = DEFAULT_SIZE,
        max_bytes: int = DEFAULT_BYTES,
        projection: Mapping[str, Any] | Sequence[str] | None = None,
        pause: float = 0.0,
        max_lag: float | None = None,
    ) -> AsyncIterator[list[D]]:
        """Do what `MigrationContext.batches` does, for an `async for` loop."""
        backfill, _ = self._open(collection, filter, projection, name, Throttle(size, pause, max_lag, max_bytes))
        return self._iterate(backfill)

    def for_each_batch(
        self,
        collection: AsyncCollection[D],
        body: Callable[[list[D]], Awaitable[object]],
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - PyMongo's word
        *,
        name: str | None = None,
        size: int = DEFAULT_SIZE,
        max_bytes: int = DEFAULT_BYTES,
        projection: Mapping[str, Any] | Sequence[str] | None = None,
        pause: float = 0.0,
        max_lag: float | None = None,
        transaction: bool = True,
        workers: int = 1,
    ) -> Coroutine[Any, Any, None]:
        """Do what `MigrationContext.for_each_batch` does, with an `async def` body."""
        _check_body(body, transaction, workers)
        throttle = Throttle(size, pause, max_lag, max_bytes)
        backfill, store = self._open(collection, filter, projection, name, throttle)
        give = partial(call, self.name, body, is_async=True, source=_FROM_BODY)
        return self._give(_choose(backfill, workers, transaction=transaction), give, store)

    async def _give(
        self, run: Callable[[Any], Awaitable[None]], give: Callable[..., Any], store: "MongoBackfillStore"
    ) -> None:
        self._unstarted -= 1
        try:
            await run(give)
        finally:
            store.close()

    async def _iterate(self, backfill: Backfill) -> AsyncIterator[list[Any]]:
        self._unstarted -= 1
        began_in = asyncio.current_task()
        while (batch := await backfill.next()) is not None:
            yield batch
            _check_place(is_same=asyncio.current_task() is began_in)


_FROM_BODY = " in the body of for_each_batch"


def _choose(backfill: Backfill, workers: int, *, transaction: bool) -> Callable[[Any], Coroutine[Any, Any, None]]:
    if transaction:
        return backfill.transact_all
    return partial(backfill.share_all, workers=workers) if workers > 1 else backfill.give_all


def _check_body(body: object, transaction: object, workers: object) -> None:
    if not callable(body):
        raise InvalidOptionError(f"The body must be a function that takes a list of documents, not {body!r:.80}.")
    if not isinstance(transaction, bool):
        raise InvalidOptionError(f"transaction must be True or False, not {transaction!r:.40}.")
    check_concurrency(workers, "workers")
    if transaction and workers != 1:
        raise InvalidOptionError(
            "workers can't share a transaction: also pass transaction=False, with an idempotent body."
        )


def _check_place(*, is_same: bool) -> None:
    """Check that batches are advanced in the thread or task they started in."""
    if not is_same:
        raise InvalidOptionError(
            "context.batches() was advanced from another thread or task than it started in. Asking for the next batch "
            "marks the last one as done, so a failure would skip documents. Use "
            "context.for_each_batch(collection, body, transaction=False, workers=8)."
        )
