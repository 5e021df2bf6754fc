"""The order of steps of a pass over a collection, written once for loops and functions, for both colours.

What is there when a batch has been handed over, whatever happens then: its work, and a checkpoint that says so; or its
work and the checkpoint before it, so that the batch is seen once more; with a transaction, both or neither.
"""

from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

from quaestor._core import lease as rules
from quaestor._core import leasing
from quaestor._core.checkpoint import (
    COUNTED,
    LOOKED_EVERY,
    MOST_TYPES,
    SAMPLE,
    Body,
    Checkpoint,
    Document,
    Pace,
    PassKey,
    Reminder,
    Source,
)
from quaestor._core.effects import AskForTransactions, Asking, Emit, Now, Sleep, Unknown
from quaestor._core.lease import Turn
from quaestor._core.leasing import Checking, settled
from quaestor._core.pass_effects import (
    ClaimCheckpoint,
    CommitBatchAgain,
    CountAll,
    CountMatching,
    CountSampled,
    FindCheckpoint,
    FindHighest,
    FindPasses,
    HandOver,
    IdentifyCollection,
    PassEffect,
    PassFlow,
    ReadBatch,
    ReadBeside,
    ReadLag,
    SaveCheckpoint,
    TakeSession,
    TransactBatch,
)
from quaestor._core.transacting import transacted
from quaestor._core.transaction import Ending
from quaestor.errors import CollectionChangedError, InvalidOptionError, LeaseLostError, TransactionsUnsupportedError
from quaestor.events import MigrationProgressed, PassChanged, PassStarted, Place, ReplicasAwaited

E = TypeVar("E")
T = TypeVar("T")


class Passes:
    """The passes of one attempt at a migration.

    Args:
        place: Where it is, for the events.
        turn: The lease that it runs under.
        undo: Whether it is a rollback.
    """

    def __init__(self, place: Place, turn: Turn, *, undo: bool) -> None:
        self._place = place
        self._turn = turn
        self._undo = undo
        self._left: dict[PassKey, bool] | None = None  # passes with checkpoints: finished, or come again?
        self._numbers: Counter[str] = Counter()  # of passes begun, by their fingerprints
        self._has_said = False

    def over(
        self, source: Source, pace: Pace, body: Body | None = None, *, transaction: bool = False, within: str = ""
    ) -> PassFlow[None]:
        """Go over a collection, from where an earlier attempt has left it.

        Args:
            source: The collection, and which of its documents.
            pace: How.
            body: What each batch is given to; None: the migration's own loop.
            transaction: Whether that and the checkpoint are one transaction.
            within: Where another pass is (`HandOver.where`) inside whose batch this one is begun; else empty.

        Raises:
            TransactionsUnsupportedError: `transaction`, and the server has none.
            LeaseLostError: Another instance may hold the lease by now.
            CollectionChangedError: The collection has been dropped or renamed under the pass.
            TransactionFailedError: The server aborted the transaction of a batch again and again.
        """
        left = yield from self._found()
        fingerprint = f"{source.fingerprint} in {within}" if within else source.fingerprint
        key = PassKey(self._place.name, self._undo, fingerprint, self._numbers[fingerprint])
        self._numbers[fingerprint] += 1
        try:
            yield from self._over(key, left, source, pace, body, transaction=transaction)
        except GeneratorExit:  # the loop was left
            raise
        except BaseException as error:
            self._numbers[fingerprint] = key.number  # a migration that takes it, and goes over it again, goes on there
            if isinstance(error, LeaseLostError):
                raise LeaseLostError(self._place.name, in_batches=True) from None
            raise

    def _over(
        self,
        key: PassKey,
        left: dict[PassKey, bool],
        source: Source,
        pace: Pace,
        body: Body | None,
        *,
        transaction: bool,
    ) -> PassFlow[None]:
        if transaction:
            yield from self._take_session()
        if pace.max_lag is not None:  # one who may not ask is told so before anything is done
            yield from self._settled(ReadLag())
        checkpoint = yield from self._start(key, source, left)
        if checkpoint.finished:
            return
        began = yield from Now()
        first, reminder = checkpoint.done, Reminder(began)
        yield from Emit(PassStarted(*self._place, source.name, first, checkpoint.whole, undo=self._undo))
        kept = checkpoint
        while checkpoint.bounds:
            if body is not None and transaction:
                yield from self._check()
                kept = checkpoint = yield from self._transacted(key, source, checkpoint, pace.size, body)
            else:
                documents = yield from self._read(key, source, checkpoint, pace.size, is_kept=kept is checkpoint)
                yield from self._check()
                kept, checkpoint = checkpoint, (yield from _handed_over(documents, key, checkpoint, pace.size, body))
            now = yield from Now()
            seconds = now - began + pace.pause  # as if it had paused after this batch as well
            rate = (checkpoint.done - first) / seconds if seconds > 0 else None
            due = reminder.is_due(now)
            progress = (checkpoint.done, checkpoint.whole, rate)
            yield from Emit(MigrationProgressed(*self._place, *progress, due=due, undo=self._undo))
            if pace.rests and checkpoint.bounds:
                if kept is not checkpoint:
                    yield from self._save(key, checkpoint)
                    kept = checkpoint
                yield from self._rest(pace)
        if not checkpoint.is_of((yield from self._settled(IdentifyCollection(source)))):
            raise CollectionChangedError(self._place.name, source.name)
        yield from self._save(key, replace(checkpoint, finished=True))

    def _settled(self, command: Asking[E, T | Unknown]) -> Generator[E | Now | Sleep, object, T]:
        return settled(command, rules.patience(self._turn.ttl))

    def _take_session(self) -> PassFlow[None]:
        if not (yield from AskForTransactions()):
            raise TransactionsUnsupportedError([self._place.name], in_batches=True)
        # Named in the lock before anything is done in it: a successor can end what it leaves open.
        sessions = yield from self._settled(TakeSession())
        yield from leasing.check(self._turn, sessions=sessions)

    def _found(self) -> PassFlow[dict[PassKey, bool]]:
        """The passes that have checkpoints, and whether they are finished, or have come again."""
        if self._left is None:
            found = yield from self._settled(FindPasses(self._place.name, self._undo))
            self._left = dict(found) if self._left is None else self._left  # another pass may have come meanwhile
        return self._left

    def _start(self, key: PassKey, source: Source, left: dict[PassKey, bool]) -> PassFlow[Checkpoint]:
        """Take up what an earlier attempt has left of this pass, or begin it."""
        is_new = key not in left
        # An attempt that stopped in another pass did not have this one, as far as can be told. (If that other one still
        # comes, it goes on all the same.)
        changed = is_new and not all(left.values()) and not self._has_said
        collection_id = yield from self._settled(IdentifyCollection(source))
        fresh = (yield from self._fresh(source, collection_id)) if is_new else None
        checkpoint = yield from self._claimed(key, source, fresh)
        left[key] = True
        if not checkpoint.finished and not checkpoint.is_of(collection_id):
            changed = True
            checkpoint = yield from self._fresh(source, collection_id)
            yield from self._save(key, checkpoint)
        if changed:
            self._has_said = True
            yield from Emit(PassChanged(*self._place, source.name, undo=self._undo))
        return checkpoint

    def _claimed(self, key: PassKey, source: Source, fresh: Checkpoint | None) -> PassFlow[Checkpoint]:
        token = self._turn.lease.token
        yield from self._check()
        checkpoint = yield from self._settled(ClaimCheckpoint(key, source.name, fresh, token))
        if checkpoint is None:
            # A later run has it, which must hold the lease then; else the lock was dropped, and its tokens with it.
            yield from self._check()
            checkpoint = yield from self._settled(ClaimCheckpoint(key, source.name, fresh, token, by_force=True))
        if checkpoint is None:  # somebody has removed it just now
            raise LeaseLostError(self._place.name)
        return checkpoint

    def _fresh(self, source: Source, collection_id: bytes | None) -> PassFlow[Checkpoint]:
        bounds: tuple[object, ...] = ()
        while highest := (yield from self._settled(FindHighest(source, bounds))):
            bounds = (*highest, *bounds)
            if len(bounds) > MOST_TYPES:  # the same one again and again
                raise InvalidOptionError(
                    f"The `_id`s of {source.name!r} do not survive the codec options of this collection: "
                    f"{highest[0]!r:.80} as it was read is not what is stored. Use a collection with other ones."
                )
        total = yield from self._total(source)
        return Checkpoint(bounds, total=total, collection_id=collection_id)

    def _total(self, source: Source) -> PassFlow[int | None]:
        """About how many documents there are: never by going over all of a large collection."""
        there = yield from self._settled(CountAll(source))
        if there is None or not source.filter:
            return there
        if there <= COUNTED:
            return (yield from self._settled(CountMatching(source)))
        matching = yield from self._settled(CountSampled(source, SAMPLE))
        return None if matching is None else there * matching // SAMPLE

    def _transacted(
        self, key: PassKey, source: Source, checkpoint: Checkpoint, size: int, body: Body
    ) -> PassFlow[Checkpoint]:
        """Do a batch and its checkpoint in one transaction, as often as it takes."""
        token = self._turn.lease.token
        found = checkpoint

        def is_found() -> PassFlow[bool]:
            nonlocal found
            kept = yield from self._settled(FindCheckpoint(key, token))
            if kept is None:
                raise LeaseLostError(self._place.name)
            found = kept
            return kept.batches > checkpoint.batches

        attempt = yield from transacted(
            TransactBatch(key, token, source, checkpoint, size, body),
            CommitBatchAgain(),
            is_found,
            self._place,
            self._turn,
            undo=self._undo,
            in_batches=True,
        )
        return attempt.result if attempt.ending is Ending.COMMITTED and attempt.result is not None else found

    def _save(self, key: PassKey, checkpoint: Checkpoint) -> PassFlow[None]:
        if not (yield from self._settled(SaveCheckpoint(key, checkpoint, self._turn.lease.token))):
            raise LeaseLostError(self._place.name)

    def _check(self) -> Checking:
        return leasing.check(self._turn)

    def _read(
        self, key: PassKey, source: Source, checkpoint: Checkpoint, size: int, *, is_kept: bool
    ) -> PassFlow[list[Document]]:
        """Read what the next batch is made of; beside that, keep the checkpoint if it is not kept yet."""
        documents: list[Document] | Unknown | None = None
        if not is_kept:
            token = self._turn.lease.token
            documents, saved = yield from ReadBeside(
                ReadBatch(source, checkpoint, size + 1), SaveCheckpoint(key, checkpoint, token)
            )
            if saved is not True:
                yield from self._save(key, checkpoint)
        if documents is None or isinstance(documents, Unknown):
            documents = yield from self._settled(ReadBatch(source, checkpoint, size + 1))
        return documents

    def _rest(self, pace: Pace) -> PassFlow[None]:
        """Leave the server alone for a while, and go on when its replicas are well."""
        if pace.pause:
            yield from Sleep(pace.pause, pace.pause)
        if pace.max_lag is None:
            return
        began = yield from Now()
        reminder: Reminder | None = None
        while (lag := (yield from self._settled(ReadLag()))) > pace.max_lag:
            now = yield from Now()
            if reminder is None or reminder.is_due(now):
                reminder = reminder or Reminder(now)
                yield from Emit(ReplicasAwaited(*self._place, lag, now - began, undo=self._undo))
            yield from Sleep(*LOOKED_EVERY)
            yield from leasing.check_if_old(self._turn)


def batch(key: PassKey, source: Source, checkpoint: Checkpoint, size: int, body: Body) -> PassFlow[Checkpoint]:
    """What is done in the transaction of a batch. Returns the checkpoint after it.

    The documents are read in it, so that what somebody else has changed since is a conflict, and not overwritten.
    (Errors end the transaction, and are never an answer here.)
    """
    documents = yield from settled(ReadBatch(source, checkpoint, size + 1), 0)
    return (yield from _handed_over(documents, key, checkpoint, size, body))


def _handed_over(
    documents: Sequence[Document], key: PassKey, checkpoint: Checkpoint, size: int, body: Body | None
) -> PassFlow[Checkpoint]:
    handed, after = checkpoint.advanced(documents, size)
    if handed:
        yield from HandOver(handed, body, f"{key.fingerprint} {key.number} {checkpoint.batches}")
    return after


class Loop:
    """A pass whose batches are given to a loop: its flow, stopped where one is handed over.

    Args:
        flow: `Passes.over`, without a body.

    Attributes:
        where: That of the last batch.
    """

    def __init__(self, flow: PassFlow[None]) -> None:
        self._flow = flow
        self.where = ""

    def next(self) -> PassFlow[list[Document] | None]:
        """Go on until there is another batch, for the loop has done with the last one. None: that was all."""
        go_on: Callable[[], PassEffect] = partial(next, self._flow)
        while True:
            try:
                effect = go_on()
            except StopIteration:
                return None
            if isinstance(effect, HandOver):
                self.where = effect.where
                return effect.documents
            try:
                answer = yield effect
            except BaseException as error:  # noqa: BLE001 - it is the flow's
                go_on = partial(self._flow.throw, error)
            else:
                go_on = partial(self._flow.send, answer)
