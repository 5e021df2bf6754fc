"""The rules of the lease: how long it lasts, when to renew it, when to poll, when a check no longer counts.

Whoever holds the lease of a database and prefix is the instance that migrates. The lease belongs to an `owner`, an id
made for one run, and expires by the server's clock unless it is renewed. Its `token` rises with every acquisition, so a
holder that was frozen can't be mistaken for its successor (fencing: Kleppmann, "How to do distributed locking", 2016).
"""

from dataclasses import dataclass

from quaestor.errors import InvalidOptionError
from quaestor.status import Lease

DEFAULT_TTL = 30.0
"""How long a lease lasts without being renewed, in seconds."""

SHORTEST_TTL = 1.0
"""In seconds. A slow network alone would lose a shorter lease."""

LONGEST_TTL = 86_400.0
"""In seconds: a day."""

REPORT_INTERVAL = 30.0
"""How often a run that waits, or a long backfill, reports, in seconds."""

PATIENCE = 30.0
"""How long a run that doesn't hold the lease waits for a server to answer, in seconds. A failover takes ten or more."""

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
        ttl: How long it lasts without being renewed, in seconds.
        checked_at: When the server was last asked about it, in seconds of the run's clock.
        named: The migrations that the lease document names as in progress or next.
    """

    lease: Lease
    ttl: float
    checked_at: float
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
