"""The records of applied migrations, as a value."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one database and prefix.

    Attributes:
        applied: The applied migrations, each with the dates in its records: aware datetimes (UTC), or whatever is
            stored there. A migration may have several records of mongo-quaestor 0.1.0.
        unreadable: The `_id`s of records whose name is missing or not a str.
        taken: The `_id`s that differ from the name in their record: no migration of that name can be recorded.
    """

    applied: Mapping[str, tuple[object, ...]]
    unreadable: tuple[object, ...] = ()
    taken: frozenset[str] = frozenset()

    def applied_at(self, name: str) -> datetime | None:
        """Find when the migration was last applied; None if it isn't, or its records have no date."""
        return max((date for date in self.applied.get(name, ()) if isinstance(date, datetime)), default=None)
