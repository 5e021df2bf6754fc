"""The rules of the lease: how long it lasts, when to renew it, when to poll, when a check no longer counts.

Whoever holds the lease of a database and prefix is the instance that migrates. The lease belongs to an `owner`, an id
made for one run, and expires by the server's clock unless it is renewed. Its `token` rises with every acquisition, so a
holder that was frozen can't be mistaken for its successor (fencing: Kleppmann, "How to do distributed locking", 2016).
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from quaestor._core.store import OutcomeUnknown, Store, Surroundings
from quaestor.errors import InvalidOptionError, LeaseLostError, LeaseTimeoutError
from quaestor.events import LeaseAwaited
from quaestor.status import DEFAULT_TTL, Lease

T = TypeVar("T")

SHORTEST_TTL = 1.0
"""In seconds. A slow network alone would lose a shorter lease."""

LONGEST_TTL = 86_400.0
"""In seconds: a day."""

REPORT_INTERVAL = 30.0
"""How often a run that waits, or a long backfill, reports, in seconds."""

PATIENCE = 30.0
"""How long a run that doesn't hold the lease waits for a server to answer, in seconds. A failover takes ten or more."""

PAUSE = (0.05, 0.2)
"""How long to wait before a retry, in seconds: at least and at most."""

_FIRST_POLL = 0.05
_LAST_POLL = 1.0
_CLOSE_POLL = 0.25


@dataclass(frozen=True, slots=True)
class Terms:
    """How a run acquires the lease.

    Attributes:
        owner: The id of the run.
        ttl: How long the lease lasts without being renewed, in seconds.
        timeout: How long to wait for another holder, in seconds; None: no limit.
    """

    owner: str
    ttl: float = DEFAULT_TTL
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Location:
    """Where a run is, for the lease document. The fields are those of `Lease`."""

    migrations: tuple[str, ...]
    recording: str | None = None
    upcoming: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseState:
    """The state of the lease.

    Attributes:
        holder: Who holds the lease; None: nobody.
        expired: The last holder, if it never released the lease and nobody has acquired it since; otherwise None.
    """

    holder: Lease | None = None
    expired: Lease | None = None


@dataclass(slots=True)
class HeldLease:
    """The lease while this run holds it.

    Attributes:
        lease: The lease as it was acquired.
        checked_at: When the server was last asked about it, in seconds of the run's clock.
        ttl: How long it lasts without being renewed, in seconds.
        named: The migrations that the lease document names as in progress or next.
    """

    lease: Lease
    checked_at: float
    ttl: float
    named: tuple[str, ...] = ()

    @property
    def patience(self) -> float:
        """How long a command with an unknown outcome is retried, in seconds.

        Only the server can say that the lease is lost; a missing answer doesn't.
        """
        return max(self.ttl, PATIENCE)

    def is_stale(self, now: float) -> bool:
        """Say whether the last check is so old that the process may have been frozen since."""
        return now - self.checked_at >= self.ttl * 2 / 3


def renew_interval(ttl: float) -> float:
    """Return how long to wait after a renewal, in seconds: if one fails, there is time for another."""
    return ttl / 3


def retry_interval(ttl: float) -> float:
    """Return how long to wait after a renewal that failed, in seconds."""
    return ttl / 10


def poll_interval(polls: int, unchanged: float, ttl: float) -> float:
    """Return the longest wait before the next poll of the lease, in seconds.

    Short at first, because most runs are short; about a second later, so many waiting instances don't load the server.
    Shorter again when the holder has missed a renewal and may be dead.

    Args:
        polls: How often this holder was seen.
        unchanged: How long ago its lease was last seen to change, in seconds.
        ttl: How long a lease lasts without being renewed, in seconds, as far as this run knows: its own.
    """
    longest = min(_FIRST_POLL * 1.5 ** min(polls, 10), _LAST_POLL, renew_interval(ttl))
    return min(longest, _CLOSE_POLL) if unchanged >= 2 * renew_interval(ttl) else float(longest)


def check_seconds(option: str, value: object, least: float, most: float) -> None:
    """Check an option that is a number of seconds.

    Raises:
        InvalidOptionError: It isn't one, or isn't between the limits.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidOptionError(
            f"{option} must be a number of seconds, from {least:,.12g} to {most:,.12g}, not {value!r:.40}."
        )


async def acquire(
    store: Store, terms: Terms, where: tuple[str, str], claim: Callable[[], Awaitable[Lease]]
) -> tuple[Lease, float]:
    """Acquire the lease, waiting for whoever holds it. Returns it, and when the server was asked for it.

    Args:
        store: The clock and the event hook.
        terms: How to acquire it.
        where: The database and the prefix, for the events.
        claim: Acquires the lease if it is free. Returns the lease and its holder.

    Raises:
        LeaseTimeoutError: Another instance held it for longer than the timeout of the terms.
    """
    began = asked_at = changed_at = store.now()
    reported_at: float | None = None
    seen: Lease | None = None
    polls = 0
    while True:
        lease = await retry_until_known(store, claim, PATIENCE)
        if lease.owner == terms.owner:
            return lease, asked_at
        now = store.now()
        left = float("inf") if terms.timeout is None else began + terms.timeout - now
        if left <= 0:
            raise LeaseTimeoutError(now - began, lease)
        if reported_at is None or now - reported_at >= REPORT_INTERVAL:
            reported_at = now
            store.emit(LeaseAwaited(*where, lease, now - began))
        if seen is None or seen.owner != lease.owner:  # another holder, whose run may be a short one
            polls = 0
        if seen is None or seen.expires_at != lease.expires_at:
            changed_at = now
        seen = lease
        longest = poll_interval(polls, now - changed_at, terms.ttl)
        await store.sleep(min(longest / 2, left), min(longest, left))
        polls += 1
        asked_at = store.now()


async def keep_alive(store: Store, held: HeldLease, sleep: Callable[[float], Awaitable[bool]]) -> None:
    """Renew the lease until it is lost or the run ends. The run's own checks find a loss."""
    pause = renew_interval(held.ttl)
    while not await sleep(pause):
        try:
            if not await store.renew_lease(held.lease):
                return
            pause = renew_interval(held.ttl)
        except Exception:  # noqa: BLE001 - whatever it is, another renewal may succeed
            pause = retry_interval(held.ttl)


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
