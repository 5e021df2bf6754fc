"""Retries of transactions that the server aborted, and of commits whose outcome is unknown.

A transaction writes, or removes, the migration's record (or saves the backfill's checkpoint) together with the work of
the function. Of two transactions of one migration only one can commit, because they write the same document, so it is
applied exactly once. A transaction never touches the lease document: every renewal would be a conflict.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TypeVar

from quaestor._core.lease import HeldLease, Wait, check_lease, check_stale_lease
from quaestor._core.store import Attempt, Ending, Surroundings
from quaestor.errors import TransactionFailedError
from quaestor.events import MigrationRetried, Place

R = TypeVar("R")

LONGEST_TRANSACTION = 120.0
"""The longest time that a transaction is retried, in seconds, without outages; as in drivers' with_transaction."""

MOST_ATTEMPTS = 200
"""The maximum number of attempts at a transaction."""

MOST_EXPIRED = 5
"""The number of attempts in a row that the server ended before the function did, after which no retry helps."""

SHORTEST_LIFETIME = 1.0
"""The lowest `transactionLifetimeLimitSeconds` of a server: before that, it ends only those with a failed operation."""


async def retry_transaction(
    surroundings: Surroundings,
    held: HeldLease,
    place: Place,
    *,
    attempt: Callable[[], Awaitable[Attempt[R]]],
    commit_again: Callable[[float], Awaitable[Attempt[R]]],
    is_done: Callable[[], Awaitable[bool]],
    undo: bool,
    in_batches: bool = False,
) -> Attempt[R]:
    """Attempt a transaction until it is committed. Returns the last attempt.

    `commit_again` repeats its commit within so many seconds; `is_done` reads whether it was committed after all.
    """
    began = surroundings.now()
    attempts = 0
    expired: list[float] = []  # how long the last attempts took, if they have all expired
    while True:
        attempts += 1
        await check_stale_lease(surroundings, held)
        result = await attempt()
        ended_at = surroundings.now()
        if result.unknown is not None:
            what = f"to commit the transaction of {place.name!r}"
            wait = Wait(surroundings, what, held.patience, result.unknown.seconds)
            result = await _commit_again(result, commit_again, wait)
        if result.ending is Ending.COMMITTED:
            return result
        await check_lease(surroundings, held)
        # It may be committed after all: the answer was lost, or a frozen holder has woken.
        if await is_done():
            return result
        spent = ended_at - began
        expired = [*expired, result.seconds] if result.ending is Ending.EXPIRED else []
        if attempts >= MOST_ATTEMPTS or spent >= LONGEST_TRANSACTION or len(expired) >= MOST_EXPIRED:
            went_on = len(expired) >= MOST_EXPIRED and max(expired) < SHORTEST_LIFETIME
            raise TransactionFailedError(
                place.name, attempts, spent, bool(expired), in_batches, went_on, result.error_name
            ) from result.error
        began += surroundings.now() - ended_at  # an outage has a limit of its own
        await surroundings.sleep(0, min(1.0, 0.01 * 1.5 ** min(attempts, 20)))
        surroundings.emit(MigrationRetried(*place, attempts + 1, result.error, undo=undo))


async def _commit_again(
    attempt: Attempt[R], commit_again: Callable[[float], Awaitable[Attempt[R]]], wait: Wait
) -> Attempt[R]:
    """Repeat a commit until its outcome is known."""
    last = attempt
    while last.unknown is not None:
        await wait.pause(last.unknown)
        last = replace(await commit_again(wait.limit), seconds=attempt.seconds, result=attempt.result)
    return last
