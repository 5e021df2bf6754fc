"""Leases of imagined processes, as values."""

from datetime import UTC, datetime

from quaestor.status import Lease

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
TTL = 30.0


def lease(
    owner: str = "me",
    token: int = 1,
    migrations: tuple[str, ...] = ("a",),
    sessions: tuple[bytes, ...] = (),
    previous: str | None = None,
) -> Lease:
    """A lease of an imagined process."""
    return Lease(owner, token, "host", 7, LONG_AGO, 0, TTL, LONG_AGO, migrations, sessions, previous)
