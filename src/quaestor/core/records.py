"""What the database says has been applied, as a value."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one database and prefix.

    Attributes:
        applied: The names found, each once however many records carry it.
        unreadable: The `_id`s of records that carry no name (a str); nothing can be said of these.
        taken: The `_id`s (str) of records of something else: no migration of that name can be recorded.
    """

    applied: frozenset[str]
    unreadable: tuple[object, ...] = ()
    taken: frozenset[str] = frozenset()
