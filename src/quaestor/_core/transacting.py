"""The loop of all transactions: attempts and commits, repeated for as long as that can help."""

from collections.abc import Callable, Generator
from dataclasses import replace
from typing import TypeVar

from quaestor._core import leasing, transaction
from quaestor._core.effects import Asking, CheckLease, Emit, Now, Sleep
from quaestor._core.lease import Turn
from quaestor._core.transaction import Attempt, Ending
from quaestor.errors import TransactionFailedError
from quaestor.events import MigrationRetried, Place

A = TypeVar("A")
C = TypeVar("C")
F = TypeVar("F")
R = TypeVar("R")


def transacted(
    attempting: Asking[A, Attempt[R]],
    committing_again: Asking[C, Attempt[R]],
    is_there: Callable[[], Generator[F, object, bool]],
    place: Place,
    turn: Turn,
    *,
    undo: bool,
    in_batches: bool = False,
) -> Generator[A | C | F | CheckLease | Emit | Now | Sleep, object, Attempt[R]]:
    """Attempt it as often as it takes. Returns the last attempt, whose work is there.

    Args:
        attempting: One attempt.
        committing_again: The commit of the last attempt once more, for its outcome is unknown.
        is_there: A flow that tells whether the work of an attempt is there all the same.
        place: Where that is, for the events.
        turn: Checked between attempts.
        undo: Whether a rollback is at work, for the events.
        in_batches: Whether it is a batch of a pass, for the error.

    Raises:
        LeaseLostError: Another instance may hold the lease by now.
        TransactionFailedError: It was aborted again and again.
    """
    began = yield from Now()
    attempts = 0
    while True:
        attempts += 1
        yield from leasing.check_if_old(turn)
        attempt = yield from _committed(attempting, committing_again)
        if attempt.ending is Ending.COMMITTED:
            return attempt
        yield from leasing.check(turn)
        # It may be there all the same: the answer was lost, or a frozen holder has woken.
        if (yield from is_there()):
            return attempt
        if attempt.ending is Ending.UNKNOWN and attempt.error is not None:
            raise attempt.error
        spent = (yield from Now()) - began
        if attempts >= transaction.MOST_ATTEMPTS or spent >= transaction.LONGEST:
            expired = attempt.ending is Ending.EXPIRED
            raise TransactionFailedError(place.name, attempts, spent, expired, in_batches) from attempt.error
        yield from Sleep(0, transaction.begun_again_within(attempts))
        yield from Emit(MigrationRetried(*place, attempts + 1, attempt.error, undo=undo))


def _committed(
    attempting: Asking[A, Attempt[R]], committing_again: Asking[C, Attempt[R]]
) -> Generator[A | C | Now | Sleep, object, Attempt[R]]:
    """One attempt, its commit repeated until its outcome is known."""
    attempt = yield from attempting
    began: float | None = None
    while attempt.ending is Ending.UNKNOWN:
        now = yield from Now()
        began = now if began is None else began
        if now - began >= transaction.LONGEST:
            break
        yield from Sleep(*leasing.PAUSE)
        again = yield from committing_again
        attempt = replace(again, seconds=attempt.seconds, result=attempt.result)
    return attempt
