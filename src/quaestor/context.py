"""What a migration is given beside the database, if it takes a second argument."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Protocol, Self

from quaestor._core.checkpoint import DEFAULT_SIZE, Document, Pace, Reminder, Source
from quaestor._core.pass_effects import PassEffect, PassFlow
from quaestor._core.passes import Loop, Passes
from quaestor._hosts.drive import drive, drive_async
from quaestor.errors import InvalidOptionError, UnfinishedMigrationError
from quaestor.events import Event, MigrationProgressed, Place


class within:  # noqa: N801 - it is used as a function is
    """A batch that is worked on: the passes that are begun inside know where.

    Args:
        where: Where it is.

    Attributes:
        where: The same.
        is_open: Whether it is still worked on. A mark, for loops need not end in the order in which they began, nor in
            the context that they were left in.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self.is_open = True

    def __enter__(self) -> None:
        _around.set((*_around.get(), self))

    def __exit__(self, *_: object) -> None:
        self.is_open = False
        _around.set(tuple(one for one in _around.get() if one.is_open))


_around: ContextVar[tuple[within, ...]] = ContextVar("_around", default=())


def forget_around() -> None:
    """Begin in no batch: what holds the exception of an earlier run keeps its loop open."""
    _around.set(())


def _where() -> str:
    return next((one.where for one in reversed(_around.get()) if one.is_open), "")


class SyncCollection(Protocol):
    """A collection of PyMongo, or of mongomock."""

    @property
    def name(self) -> str:
        """Its name."""

    def count_documents(self, filter: Mapping[str, Any], /) -> int:  # noqa: A002 - PyMongo's word
        """How many documents match."""


class AsyncCollection(Protocol):
    """A collection of PyMongo's async client, of Motor, or of mongomock-motor."""

    @property
    def name(self) -> str:
        """Its name."""

    async def count_documents(self, filter: Mapping[str, Any], /) -> int:  # noqa: A002 - PyMongo's word
        """How many documents match."""


class Table(Protocol):
    """Performs the effects of one pass."""

    def source(self, collection: Any, filter: Any, projection: Any, *, transaction: bool) -> Source:  # noqa: A002
        """The checked arguments of a pass."""

    def close(self) -> None:
        """Give back what the pass had."""


class SyncTable(Table, Protocol):
    """For a `def` function."""

    def perform(self, effect: PassEffect) -> object:
        """Do what the effect asks for, and answer."""


class AsyncTable(Table, Protocol):
    """For an `async def` function."""

    async def perform(self, effect: PassEffect) -> object:
        """Do what the effect asks for, and answer."""


class _Context:
    """The migration as it runs.

    Attributes:
        name: The name of the migration (str).
        logger: A logger to write to (logging.Logger): `quaestor.migration`.
    """

    def __init__(self, place: Place, tell: Callable[[Event], None], now: Callable[[], float], *, undo: bool) -> None:
        self._place = place
        self._tell = tell
        self._now = now
        self._undo = undo
        self._reminder = Reminder(now())
        self._unbegun = 0  # passes that were asked for
        self.name = place.name
        self.logger = logging.getLogger("quaestor.migration")

    def progress(self, done: int, total: int | None = None) -> None:
        """Say how far the migration is: an event `MigrationProgressed`, which the command line shows as a bar.

        Passes over collections do that by themselves; this is for a loop of your own.

        Args:
            done: How much is done, in whatever it counts.
            total: How much there is to do in all; None if that is not known.

        Raises:
            InvalidOptionError: One of them is not a whole number.
        """
        for number in (done, total):
            if number is not None and not isinstance(number, int):
                raise InvalidOptionError(f"progress() takes whole numbers (int), not {number!r:.40}.")
        due = self._reminder.is_due(self._now())
        self._tell(MigrationProgressed(*self._place, done, total, due=due, undo=self._undo))

    def check_begun(self) -> None:
        """Check, when the function has returned, that it began all passes that it asked for.

        Raises:
            UnfinishedMigrationError: It did not.
        """
        if self._unbegun:
            raise UnfinishedMigrationError(
                self.name,
                "without going over batches that it asked for (its `context.batches` has no loop, or its "
                "`context.for_each_batch` no `await`)",
            )


class MigrationContext(_Context):
    """The migration as it runs, for a `def` function.

    Attributes:
        name: The name of the migration (str).
        logger: A logger to write to (logging.Logger): `quaestor.migration`.
    """

    def __init__(
        self,
        place: Place,
        tell: Callable[[Event], None],
        now: Callable[[], float],
        *,
        undo: bool,
        passes: Passes,
        table: Callable[[], SyncTable],
    ) -> None:
        super().__init__(place, tell, now, undo=undo)
        self._passes = passes
        self._table = table

    def batches(
        self,
        collection: SyncCollection,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - PyMongo's word
        *,
        size: int = DEFAULT_SIZE,
        projection: Mapping[str, Any] | Sequence[str] | None = None,
        pause: float = 0.0,
        max_lag: float | None = None,
    ) -> Iterator[list[Document]]:
        """Go over a collection in the order of `_id`, in batches; after a crash, from the batch that it met.

        When the loop asks for the next batch, the one before is done: that is kept in `{prefix}_migrations_progress`
        until the migration is recorded, and the lease is checked. So a migration that was killed, or failed, goes on
        there when it is run again, and sees at most one batch twice. The pass ends at the highest `_id` there was
        when it began; what is inserted later, or matches again, does not prolong it.

        Args:
            collection: A collection of the database's driver (of this database or another one of its client).
            filter: Which documents (dict, as for `find`); None: all of them.
            size: How many documents are in a batch, at most.
            projection: Which fields of them (dict or list, as for `find`; it keeps `_id`); None: all.
            pause: How long to wait between two batches (float, seconds).
            max_lag: Between two batches wait until no replica is more than this behind (float, seconds). It takes the
                right to `replSetGetStatus`, which the role clusterMonitor has.

        Returns:
            The batches (iterator of lists of documents), none of them empty.

        Raises:
            InvalidOptionError: An argument cannot be used; nothing was done.
            BatchesInTransactionError: The migration, or the body that this is called from, is one transaction.
            LeaseLostError: Another instance may hold the lease by now; the pass goes on where it runs next.
            CollectionChangedError: The collection was dropped or renamed meanwhile.
            Exception: What the driver raises.
        """
        pace = Pace(size, pause, max_lag)
        table = self._table()
        source = table.source(collection, filter, projection, transaction=False)
        self._unbegun += 1
        return self._looped(Loop(self._passes.over(source, pace, within=_where())), table)

    def for_each_batch(
        self,
        collection: SyncCollection,
        body: Callable[[list[Document]], object],
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - PyMongo's word
        *,
        size: int = DEFAULT_SIZE,
        projection: Mapping[str, Any] | Sequence[str] | None = None,
        pause: float = 0.0,
        max_lag: float | None = None,
        transaction: bool = True,
    ) -> None:
        """Go over a collection as `batches` does, giving each batch to a function; by default exactly once.

        With transaction=True what the body writes and the progress are committed together, so that after a crash
        nothing is done twice. The session is bound: the body passes none, uses the database of the migration, in its
        own thread or task, and does one operation after the other. The server may abort a transaction; then the body is
        called again, with documents that are read anew.

        Args:
            collection: As for `batches`.
            body: Called with each batch (a function of the migration's colour, taking a list of documents).
            filter: As for `batches`.
            size: As for `batches`. A transaction must end within `transactionLifetimeLimitSeconds` (60 s by default).
            projection: As for `batches`.
            pause: As for `batches`.
            max_lag: As for `batches`.
            transaction: Whether each batch is one transaction (bool).

        Raises:
            TransactionsUnsupportedError: `transaction`, and the server has none; nothing was done.
            TransactionFailedError: The server aborted the transaction of a batch again and again.
            UnfinishedMigrationError: The body returned a generator, or (in a `def` migration) an awaitable.
            Exception: What the body raised, as it is; its batch is handed over again in the next run. All else as of
                `batches`.
        """
        pace = Pace(size, pause, max_lag)
        _check_body(body, transaction)
        table = self._table()
        source = table.source(collection, filter, projection, transaction=transaction)
        try:
            drive(self._passes.over(source, pace, body, transaction=transaction, within=_where()), table.perform)
        finally:
            table.close()

    def _looped(self, loop: Loop, table: SyncTable) -> Iterator[list[Document]]:
        self._unbegun -= 1
        try:
            while (documents := drive(loop.next(), table.perform)) is not None:
                with within(loop.where):
                    yield documents
        finally:
            table.close()


class AsyncMigrationContext(_Context):
    """The migration as it runs, for an `async def` function.

    Attributes:
        name: The name of the migration (str).
        logger: A logger to write to (logging.Logger): `quaestor.migration`.
    """

    def __init__(
        self,
        place: Place,
        tell: Callable[[Event], None],
        now: Callable[[], float],
        *,
        undo: bool,
        passes: Passes,
        table: Callable[[], AsyncTable],
    ) -> None:
        super().__init__(place, tell, now, undo=undo)
        self._passes = passes
        self._table = table

    def batches(
        self,
        collection: AsyncCollection,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - PyMongo's word
        *,
        size: int = DEFAULT_SIZE,
        projection: Mapping[str, Any] | Sequence[str] | None = None,
        pause: float = 0.0,
        max_lag: float | None = None,
    ) -> AsyncIterator[list[Document]]:
        """The same as `MigrationContext.batches`, for `async for`."""
        pace = Pace(size, pause, max_lag)
        table = self._table()
        source = table.source(collection, filter, projection, transaction=False)
        self._unbegun += 1
        return _AsyncBatches(Loop(self._passes.over(source, pace, within=_where())), table, self._begin)

    def for_each_batch(
        self,
        collection: AsyncCollection,
        body: Callable[[list[Document]], Awaitable[object]],
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - PyMongo's word
        *,
        size: int = DEFAULT_SIZE,
        projection: Mapping[str, Any] | Sequence[str] | None = None,
        pause: float = 0.0,
        max_lag: float | None = None,
        transaction: bool = True,
    ) -> Coroutine[Any, Any, None]:
        """The same as `MigrationContext.for_each_batch`, with a body that is awaited."""
        pace = Pace(size, pause, max_lag)
        _check_body(body, transaction)
        table = self._table()
        source = table.source(collection, filter, projection, transaction=transaction)
        self._unbegun += 1
        flow = self._passes.over(source, pace, body, transaction=transaction, within=_where())
        return self._given(flow, table)

    async def _given(self, flow: PassFlow[None], table: AsyncTable) -> None:
        self._unbegun -= 1
        try:
            await drive_async(flow, table.perform)
        finally:
            table.close()

    def _begin(self) -> None:
        self._unbegun -= 1


class _AsyncBatches:
    """No asynchronous generator: that one was left the event loop would tell it later, when another pass has begun."""

    def __init__(self, loop: Loop, table: AsyncTable, begin: Callable[[], None]) -> None:
        self._loop = loop
        self._table = table
        self._begin: Callable[[], None] | None = begin
        self._batch: within | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Document]:
        if self._begin is not None:
            self._begin()
            self._begin = None
        self._leave()
        documents = await drive_async(self._loop.next(), self._table.perform)
        if documents is None:
            raise StopAsyncIteration
        self._batch = within(self._loop.where)
        self._batch.__enter__()
        return documents

    def __del__(self) -> None:
        self._leave()

    def _leave(self) -> None:
        if self._batch is not None:
            self._batch.__exit__()
            self._batch = None


def _check_body(body: object, transaction: object) -> None:
    if not callable(body):
        raise InvalidOptionError(f"The body must be a function that takes a list of documents, not {body!r:.80}.")
    if not isinstance(transaction, bool):
        raise InvalidOptionError(f"transaction must be True or False, not {transaction!r:.40}.")
