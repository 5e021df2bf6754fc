"""Retries: of commands whose answer was lost, of transactions that the server aborted, and of lease checks.

A transaction writes, or removes, the migration's record (or saves the backfill's checkpoint) together with the work of
the function. Of two transactions of one migration only one can commit, because they write the same document, so it is
applied exactly once. A transaction never touches the lease document: every renewal would be a conflict.
"""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

from quaestor._core.lease import HeldLease, Location
from quaestor._core.store import Attempt, Ending, OutcomeUnknown, Surroundings
from quaestor.errors import LeaseLostError, TransactionFailedError
from quaestor.events import MigrationRetried, Place

R = TypeVar("R")
T = TypeVar("T")

PAUSE = (0.05, 0.2)
"""How long to wait before a retry, in seconds: at least and at most."""

LONGEST_TRANSACTION = 120.0
"""How long a transaction, or its commit, is retried, in seconds; as in the drivers' with_transaction."""

MOST_ATTEMPTS = 200
"""How often a transaction is attempted, at most."""


async def retry_until_known(
    surroundings: Surroundings, command: Callable[[], Awaitable[T]], patience: float, *, wait_for_server: bool = True
) -> T:
    """Send a command until its outcome is known.

    Args:
        surroundings: The clock.
        command: The command, which is idempotent.
        patience: How long to retry, in seconds. Then the driver's error is raised.
        wait_for_server: Whether to retry when the driver finds no server at all.
    """
    began: float | None = None
    while True:
        try:
            return await command()
        except OutcomeUnknown as unknown:
            now = surroundings.now()
            began = now if began is None else began
            if now - began >= patience or (unknown.no_server and not wait_for_server):
                raise unknown.error from unknown.error.__cause__
        await surroundings.sleep(*PAUSE)


async def check_lease(
    surroundings: Surroundings,
    held: HeldLease,
    locate: Callable[[], Location] | None = None,
    *,
    sessions: tuple[bytes, ...] = (),
    ended: tuple[bytes, ...] = (),
) -> None:
    """Check on the server that the lease is held, and renew it.

    Args:
        surroundings: The lease and the clock.
        held: The lease, which keeps the time of the check and the migrations it named.
        locate: Says where the run is; None: unchanged.
        sessions: The ids of sessions to add to the lease document.
        ended: The ids of sessions to remove from it.

    Raises:
        LeaseLostError: It is lost.
        Exception: What the driver raised, if no answer came for too long.
    """
    while True:
        asked_at = surroundings.now()
        location = None if locate is None else locate()
        check = partial(surroundings.check_lease, held.lease, location, sessions, ended)
        if not await retry_until_known(surroundings, check, held.patience):
            raise LeaseLostError(None if location is None else location.recording)
        held.checked_at = asked_at
        if location is not None:
            held.named = location.migrations
        if not held.is_stale(surroundings.now()):  # otherwise the process may have been frozen meanwhile
            return


async def check_stale_lease(surroundings: Surroundings, held: HeldLease) -> None:
    """Check the lease if the last check is so old that the process may have been frozen since.

    Otherwise the check before a record also counts for the start of the next migration.
    """
    if held.is_stale(surroundings.now()):
        await check_lease(surroundings, held)


async def retry_transaction(
    surroundings: Surroundings,
    held: HeldLease,
    place: Place,
    *,
    attempt: Callable[[], Awaitable[Attempt[R]]],
    commit_again: Callable[[], Awaitable[Attempt[R]]],
    is_done: Callable[[], Awaitable[bool]],
    undo: bool,
    in_batches: bool = False,
) -> Attempt[R]:
    """Attempt a transaction until it is committed. Returns the last attempt.

    Args:
        surroundings: The lease, the clock and the event hook.
        held: The lease, checked between attempts.
        place: The migration, for events and errors.
        attempt: Makes one attempt.
        commit_again: Repeats the commit of the last attempt.
        is_done: Reads whether an attempt was committed after all.
        undo: Whether it rolls back.
        in_batches: Whether it is a batch of a backfill.

    Raises:
        LeaseLostError: Another instance may hold the lease by now.
        TransactionFailedError: The server aborted it again and again.
    """
    began = surroundings.now()
    attempts = 0
    while True:
        attempts += 1
        await check_stale_lease(surroundings, held)
        result = await attempt()
        if result.ending is Ending.UNKNOWN:
            result = await _commit_again(surroundings, result, commit_again)
        if result.ending is Ending.COMMITTED:
            return result
        await check_lease(surroundings, held)
        # It may be committed after all: the answer was lost, or a frozen holder has woken.
        if await is_done():
            return result
        if result.ending is Ending.UNKNOWN and result.error is not None:
            raise result.error
        spent = surroundings.now() - began
        if attempts >= MOST_ATTEMPTS or spent >= LONGEST_TRANSACTION:
            expired = result.ending is Ending.EXPIRED
            raise TransactionFailedError(place.name, attempts, spent, expired, in_batches) from result.error
        await surroundings.sleep(0, min(1.0, 0.01 * 1.5 ** min(attempts, 20)))
        surroundings.emit(MigrationRetried(*place, attempts + 1, result.error, undo=undo))


async def _commit_again(
    surroundings: Surroundings, attempt: Attempt[R], commit_again: Callable[[], Awaitable[Attempt[R]]]
) -> Attempt[R]:
    """Repeat a commit until its outcome is known."""
    began = surroundings.now()
    last = attempt
    while last.ending is Ending.UNKNOWN and surroundings.now() - began < LONGEST_TRANSACTION:
        await surroundings.sleep(*PAUSE)
        last = replace(await commit_again(), seconds=attempt.seconds, result=attempt.result)
    return last
