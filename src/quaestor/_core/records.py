"""What the database says has been applied, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one database and prefix.

    Attributes:
        applied: The names found, each with what its records say of when it was applied: an aware datetime (UTC), or
            whatever else stands there. One by the old tool may have several.
        unreadable: The `_id`s of records whose name is missing or not a str.
        taken: The `_id`s (str) that differ from their record's name: a migration called so could not be recorded.
    """

    applied: Mapping[str, tuple[object, ...]]
    unreadable: tuple[object, ...] = ()
    taken: frozenset[str] = frozenset()

    def applied_at(self, name: str) -> datetime | None:
        """When it was applied last; None if it is not, or no record says."""
        return max((date for date in self.applied.get(name, ()) if isinstance(date, datetime)), default=None)
