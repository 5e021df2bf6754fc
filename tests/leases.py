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
    "expiresAt": datetime(2126, 1, 1),  # noqa: DTZ001
    "work": "run",
    "migrations": ["x"],
    "recording": None,
    "upcoming": [],
    "sessions": [],
    "previous": None,
}
"""A lease that another instance holds for a hundred years."""


def lock_document(
    seen: Mapping[str, Any],
    *,
    migrations: list[str],
    renewed: datetime | None = None,
    sessions: object = ANY,
    recording: str | None = None,
    upcoming: list[str] | None = None,
) -> dict[str, Any]:
    """The document of a lease that this process holds, first seen as `seen`, in these migrations."""
    return {
        "_id": "lease",
        "owner": seen["owner"],
        "token": 1,
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": seen["since"],
        "expiresAt": seen["expiresAt"] if renewed is None else renewed,
        "work": "run",
        "migrations": migrations,
        "recording": recording,
        "upcoming": upcoming or [],
        "sessions": sessions,
        "previous": None,
    }
