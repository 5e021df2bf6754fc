"""How the state of a migration looks, in every picture: a sign, a word and a colour; and how its name is written."""

from collections import Counter
from dataclasses import dataclass

from quaestor.status import MigrationStatus, Status


@dataclass(frozen=True, slots=True)
class Mark:
    """The look of a state.

    Attributes:
        word: Its name (str), which is also its class in CSS.
        sign: One character, one cell wide, that tells it without colour (str).
        style: Its colour in a terminal (str), as Rich names it.
        fill: Of its box, on white paper (str, as CSS writes it).
        line: The border of its box, and its sign (str, likewise).
        dark_fill: The fill on dark paper (str, likewise).
        dark_line: The border on dark paper (str, likewise).
    """

    word: str
    sign: str
    style: str
    fill: str
    line: str
    dark_fill: str
    dark_line: str


MARKS = {
    mark.word: mark
    for mark in (
        Mark("applied", "✓", "green", "#eaf7ee", "#1f8a4c", "#12301f", "#4cc57f"),
        Mark("pending", "○", "cyan", "#ffffff", "#64748b", "#1b2230", "#94a3b8"),
        Mark("running", "▸", "bold blue", "#e4efff", "#1d62d8", "#12284d", "#6ea8ff"),
        Mark("interrupted", "!", "bold red", "#fdebea", "#c8322b", "#3b1715", "#ff7b72"),
        Mark("unknown", "?", "magenta", "#f5edfd", "#8440c4", "#2b1a3d", "#c594f7"),
    )
}
"""Each word with its mark, in the order of a legend."""


def mark(migration: MigrationStatus, status: Status) -> Mark:
    """The mark of a migration; that it runs counts for more than that it was interrupted, and that for more than its
    state.
    """
    if status.lease is not None and migration.name in status.lease.migrations:
        return MARKS["running"]
    return MARKS["interrupted" if migration.interrupted else migration.state]


def counts(status: Status) -> list[tuple[Mark, int]]:
    """The marks that occur, in the order of a legend, and how often (list of Mark and int)."""
    found = Counter(mark(migration, status).word for migration in status.migrations)
    return [(mark, found[word]) for word, mark in MARKS.items() if word in found]


def shown(text: str) -> str:
    r"""The text in one line: what cannot be printed, or steers a terminal, is written as in Python (a newline: \n)."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def place(status: Status) -> str:
    """The database and the prefix in one line; without a database just what it is."""
    return shown(f"{status.database}/{status.prefix}") if status.database else "Migrations"
