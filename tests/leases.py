"""Documents of leases, as they stand in a database."""

import os
import socket
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from unittest.mock import ANY

HELD: dict[str, Any] = {
    "_id": "lease",
    "owner": "another",
    "token": 41,
    "host": "elsewhere",
    "pid": 4711,
    "since": datetime(2026, 1, 1),  # noqa: DTZ001 - as the driver gives it back
    "beat": 3,
    "ttl": 86_400.0,
    "renewedAt": datetime(2126, 1, 1),  # noqa: DTZ001 - so that it hasn't expired by any server's clock
    "work": "run",
    "migrations": ["x"],
    "recording": None,
    "upcoming": [],
    "sessions": [],
}
"""A lease that another instance holds. Whoever waits would have to watch it for a day."""

DEAD: dict[str, Any] = HELD | {"ttl": 0.05, "renewedAt": datetime(2026, 1, 1)}  # noqa: DTZ001
"""A lease whose holder died long ago. Whoever waits replaces it at once."""


def lock_document(
    seen: Mapping[str, Any],
    *,
    migrations: list[str],
    renewed: Mapping[str, Any] | None = None,
    sessions: object = ANY,
    recording: str | None = None,
    upcoming: list[str] | None = None,
) -> dict[str, Any]:
    """The document of a lease that this process holds, first seen as `seen`, and later as `renewed`."""
    latest = seen if renewed is None else renewed
    return {
        "_id": "lease",
        "owner": seen["owner"],
        "token": 1,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": seen["since"],
        "beat": latest["beat"],
        "ttl": seen["ttl"],
        "renewedAt": latest["renewedAt"],
        "work": "run",
        "migrations": migrations,
        "recording": recording,
        "upcoming": upcoming or [],
        "sessions": sessions,
    }
