"""The flows of the lease: take it, keep it, check it; and the patience that all commands of ours share."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from quaestor._core import lease as rules
from quaestor._core.effects import (
    AcquireLease,
    Asking,
    CheckLease,
    Emit,
    EndSessions,
    Flow,
    FreeLease,
    KeepLease,
    Now,
    RenewLease,
    Sleep,
    Unknown,
)
from quaestor._core.lease import Terms, Turn, Whereabouts
from quaestor.errors import LeaseLostError, LeaseTimeoutError
from quaestor.events import LeaseAwaited, SessionsNotEnded
from quaestor.status import Lease, Work

E = TypeVar("E")
T = TypeVar("T")

PAUSE = (0.05, 0.2)
"""How long to wait before a command is sent again, in seconds: at least and at most."""


Checking: TypeAlias = Generator[CheckLease | Now | Sleep, object, None]
"""A flow that can be part of one in any vocabulary which holds these three."""


def settled(
    command: Asking[E, T | Unknown], patience: float, *, awaiting_server: bool = True
) -> Generator[E | Now | Sleep, object, T]:
    """Send a command until its outcome is known.

    Args:
        command: It can be sent again without harm.
        patience: For how long, in seconds. What the driver raised goes to the caller then.
        awaiting_server: Whether to go on when the driver finds no server at all.
    """
    began: float | None = None
    while isinstance(answer := (yield from command), Unknown):
        if answer.away and not awaiting_server:
            raise answer.error
        now = yield from Now()
        began = now if began is None else began
        if now - began >= patience:
            raise answer.error
        yield from Sleep(*PAUSE)
    return answer


def check(
    turn: Turn,
    whereabouts: Callable[[], Whereabouts] | None = None,
    *,
    sessions: tuple[bytes, ...] = (),
    ended: tuple[bytes, ...] = (),
) -> Checking:
    """Check on the server that the lease is held, and renew it.

    Args:
        turn: Keeps when that was, and what was said.
        whereabouts: Tells where the run is; None: the lock goes on saying what it says.
        sessions: The ids of sessions that the lock is to name as well.
        ended: Those that it need not name any more.

    Raises:
        LeaseLostError: It is not.
        Exception: What the driver raised, where no answer came for too long.
    """
    while True:
        asked_at = yield from Now()
        patience = rules.patience(turn.ttl)
        asking = _CheckLease(turn.lease, whereabouts, sessions, ended)
        is_held = yield from settled(asking, patience)
        if not is_held:
            raise LeaseLostError(None if asking.said is None else asking.said.recording)
        turn.checked_at = asked_at
        if asking.said is not None:
            turn.named = asking.said.migrations
        if not turn.is_old((yield from Now())):  # else the answer came so late that the process may have been frozen
            return


@dataclass
class _CheckLease:
    """`CheckLease`, made anew whenever it is sent: while one was lost, others may have gone on."""

    lease: Lease
    whereabouts: Callable[[], Whereabouts] | None
    sessions: tuple[bytes, ...]
    ended: tuple[bytes, ...]
    said: Whereabouts | None = None

    def __iter__(self) -> Generator[CheckLease, Any, bool | Unknown]:  # Any: as of an effect
        self.said = None if self.whereabouts is None else self.whereabouts()
        return (yield from CheckLease(self.lease, self.said, self.sessions, self.ended))


def check_if_old(turn: Turn) -> Checking:
    """Check if the last check is so old that the process may have been frozen since. In a run that was not, the check
    before a record serves for the start of the next migration as well.
    """
    if turn.is_old((yield from Now())):
        yield from check(turn)


def take(
    terms: Terms, database: str, prefix: str, *, work: Work, first: tuple[str, ...], sessions: tuple[bytes, ...]
) -> Flow[Turn]:
    """Take the lease, waiting for whoever holds it, and begin to keep it.

    Args:
        terms: For whom, for how long, and how long to wait.
        database: The name of the database, for the event.
        prefix: The prefix of the run, for the event.
        work: What for.
        first: The migrations that will be first.
        sessions: The ids of the sessions for this run's transactions.

    Raises:
        LeaseTimeoutError: It was held for as long as the terms allow to wait.
    """
    began = asked_at = yield from Now()
    announced_at: float | None = None
    seen: Lease | None = None
    looks, renewed_at = 0, began
    while True:
        lease = yield from settled(AcquireLease(work, first, sessions), rules.PATIENCE)
        if lease.owner == terms.owner:
            yield from KeepLease(lease)
            return Turn(lease, terms.ttl, asked_at, first)
        now = yield from Now()
        left = float("inf") if terms.timeout is None else began + terms.timeout - now
        if left <= 0:
            raise LeaseTimeoutError(now - began, lease)
        if announced_at is None or now - announced_at >= rules.ANNOUNCED_EVERY:
            announced_at = now
            yield from Emit(LeaseAwaited(database, prefix, lease, now - began))
        if seen is None or seen.owner != lease.owner:  # another one has its turn, and it may be a short one
            looks = 0
        if seen is None or seen.expires_at != lease.expires_at:
            renewed_at = now
        seen = lease
        longest = rules.looked_again_within(looks, now - renewed_at, terms.ttl)
        yield from Sleep(min(longest / 2, left), min(longest, left))
        looks += 1
        asked_at = yield from Now()


def end_sessions_of_others(turn: Turn, own: tuple[bytes, ...], database: str, prefix: str) -> Flow[None]:
    """End the transactions that a killed or frozen holder left open, for they block what they touched.

    Where the right to do that is missing the migrations wait for the server to end them.
    """
    named = turn.lease.sessions
    if others := tuple(session for session in named if session not in own):
        refusal = yield from settled(EndSessions(others), rules.patience(turn.ttl))
        if refusal is not None:
            yield from Emit(SessionsNotEnded(database, prefix, refusal))
    if set(own) != set(named):
        yield from check(turn, sessions=own, ended=others)


def give_back(own: tuple[bytes, ...], left_open: tuple[bytes, ...]) -> Flow[Exception | None]:
    """Free the lease; and before that end the transactions of this run that may still be open, for they block others.

    Args:
        own: The sessions of this run.
        left_open: Those of them whose transaction was interrupted.

    Returns:
        What made it fail, if anything did.
    """
    if left_open and (yield from EndSessions(left_open)) is not None:
        # The lock goes on naming those, for a successor to end.
        own = tuple(session for session in own if session not in left_open)
    freed = yield from FreeLease(own)
    return freed.error if isinstance(freed, Unknown) else None


def keep(lease: Lease, ttl: float) -> Flow[None]:
    """Renew the lease until it is lost. It is performed beside the run, which finds a loss by its own checks."""
    held: bool | Unknown = True
    while held:
        pause = rules.tried_again_after(ttl) if isinstance(held, Unknown) else rules.renewed_every(ttl)
        yield from Sleep(pause, pause)
        held = yield from RenewLease(lease)
