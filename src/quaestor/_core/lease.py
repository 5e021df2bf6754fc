"""The lease as a value, and its rules.

Whoever holds the lease of a database and prefix is the one that migrates. It belongs to an `owner`, an id made for one
run, and ends by itself at a time of the server's clock unless it is renewed. Its `token` rises with every take-over, so
that two times of holding it are never mistaken for each other (Kleppmann, "How to do distributed locking", 2016).
"""

from dataclasses import dataclass

from quaestor.status import Lease

DEFAULT_TTL = 30.0
"""How long a lease lasts without being renewed, in seconds."""

SHORTEST_TTL = 1.0
"""Below this, in seconds, a slow network alone would lose it."""

LONGEST_TTL = 86_400.0
"""A day: longer than this, in seconds, nobody wants to wait for a process that is dead."""

ANNOUNCED_EVERY = 30.0
"""How often a run that waits says so, in seconds."""

PATIENCE = 30.0
"""For how long, in seconds, a run that does not hold the lease waits for a server to answer: a fail-over takes ten and
more."""

_FIRST_LOOK = 0.05
_LAST_LOOK = 1.0
_CLOSE_LOOK = 0.25


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a run is, for the lock document to say. The fields are those of `Lease`."""

    migrations: tuple[str, ...]
    recording: str | None = None
    upcoming: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lock:
    """What the lock document says.

    Attributes:
        holder: Who holds the lease now; None if nobody does.
        ended: The last holder, if it never released the lease and nobody has taken it since; else None.
    """

    holder: Lease | None = None
    ended: Lease | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """On which terms a run takes the lease.

    Attributes:
        owner: The id of the run, new for each (str).
        ttl: How long the lease lasts without being renewed (float, seconds).
        timeout: How long to wait for another holder (float, seconds); None: for as long as it takes.
    """

    owner: str
    ttl: float = DEFAULT_TTL
    timeout: float | None = None


@dataclass(slots=True)
class Turn:
    """The time for which a run holds the lease.

    Attributes:
        lease: The lease as it was taken.
        ttl: How long it lasts without being renewed (float, seconds).
        checked_at: When the server was last asked whether it is held (float, seconds of the run's clock).
        named: The migrations that the lock says the run is in, or comes to next (tuple of str).
    """

    lease: Lease
    ttl: float
    checked_at: float
    named: tuple[str, ...] = ()

    def is_old(self, now: float) -> bool:
        """Whether the last check is so old that the process may have been frozen since."""
        return now - self.checked_at >= stale_after(self.ttl)


def patience(ttl: float) -> float:
    """For how long a run that holds the lease sends a command again whose outcome is unknown, in seconds.

    Whether it still holds the lease is for the server to say, and not for an answer that does not come.
    """
    return max(ttl, PATIENCE)


def renewed_every(ttl: float) -> float:
    """When to renew after a renewal, in seconds: one may fail, and there is time for another."""
    return ttl / 3


def stale_after(ttl: float) -> float:
    """When what a check was told counts no more, in seconds since it was asked for."""
    return ttl * 2 / 3


def tried_again_after(ttl: float) -> float:
    """When to renew after a renewal that failed, in seconds."""
    return ttl / 10


def looked_again_within(looks: int, unchanged: float, ttl: float) -> float:
    """The longest pause before another look at a lease that is held, in seconds.

    Short at first, for most runs are short; about a second later, so that many who wait do not load the server. Shorter
    again when the holder has missed a renewal and may be dead: its lease is taken soon after it has ended.

    Args:
        looks: How often this holder was seen.
        unchanged: For how long its lease was not seen to be renewed, in seconds.
        ttl: How long it lasts without, in seconds, as far as this run knows: its own.
    """
    longest = min(_FIRST_LOOK * 1.5 ** min(looks, 10), _LAST_LOOK, renewed_every(ttl))
    return min(longest, _CLOSE_LOOK) if unchanged >= 2 * renewed_every(ttl) else float(longest)
