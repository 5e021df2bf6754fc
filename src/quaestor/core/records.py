"""What the database says has been applied, as a value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one database and prefix.

    Attributes:
        applied: The names found, each once however many records carry it.
        unreadable: The `_id`s of records whose name is missing or not a str.
        taken: The `_id`s (str) that differ from their record's name: a migration called so could not be recorded.
    """

    applied: frozenset[str]
    unreadable: tuple[object, ...] = ()
    taken: frozenset[str] = frozenset()
