"""What the database says has been applied, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one database and prefix.

    Attributes:
        applied: The names found, each once however many records carry it, and when (aware, UTC): the latest, where
            there are several; None where no record says.
        unreadable: The `_id`s of records whose name is missing or not a str.
        taken: The `_id`s (str) that differ from their record's name: a migration called so could not be recorded.
    """

    applied: Mapping[str, datetime | None]
    unreadable: tuple[object, ...] = ()
    taken: frozenset[str] = frozenset()
