"""The look of each state of a migration in every picture: a sign, a word and a colour."""

from collections import Counter
from dataclasses import dataclass

from rich.text import Text

from quaestor.cli.redaction import escape
from quaestor.status import MigrationStatus, Status


@dataclass(frozen=True, slots=True)
class Mark:
    """The look of a state."""

    word: str  # also its class in CSS
    sign: str  # one cell wide, tells the state without colour
    style: str  # for Rich
    fill: str = ""  # of its box on white paper, in CSS; none if pictures leave it out
    line: str = ""
    dark_fill: str = ""
    dark_line: str = ""

    @property
    def text(self) -> Text:
        """The sign in its style, for Rich."""
        return Text(self.sign, self.style)


MARKS = {
    mark.word: mark
    for mark in (
        Mark("applied", "✓", "green", "#eaf7ee", "#1f8a4c", "#12301f", "#4cc57f"),
        Mark("pending", "○", "cyan", "#ffffff", "#64748b", "#1b2230", "#94a3b8"),
        Mark("running", "▸", "bold blue", "#e4efff", "#1d62d8", "#12284d", "#6ea8ff"),
        Mark("interrupted", "!", "bold red", "#fdebea", "#c8322b", "#3b1715", "#ff7b72"),
        Mark("failed", "✗", "bold red", "#fbd9d7", "#9f1d17", "#4a1512", "#ff9a92"),
        Mark("waiting", "…", "cyan", "#ffffff", "#64748b", "#1b2230", "#94a3b8"),
        Mark("unknown", "?", "magenta", "#f5edfd", "#8440c4", "#2b1a3d", "#c594f7"),
        Mark("replaced", "→", "dim"),
        Mark("retired", "-", "dim"),
    )
}
"""The marks by their words, in the order of a legend."""

FAILED = MARKS["failed"]  # of a run, too


def choose_mark(migration: MigrationStatus, status: Status) -> Mark:
    """Return the mark of a migration: running, otherwise the one of its state."""
    if status.lease is not None and migration.name in status.lease.migrations:
        return MARKS["running"]
    return MARKS[find_state(migration)]


def find_state(migration: MigrationStatus) -> str:
    """Return the word of a migration's state: interrupted, failed, or its `state`."""
    if migration.interrupted:
        return "interrupted"
    has_failed = migration.state in {"pending", "waiting"} and migration.last_failure is not None
    return "failed" if has_failed else migration.state


def list_current(status: Status) -> list[MigrationStatus]:
    """List the migrations without those that are replaced or retired: they are only counted."""
    return [migration for migration in status.migrations if migration.state not in {"replaced", "retired"}]


def count_marks(status: Status) -> list[tuple[Mark, int]]:
    """Count each mark that occurs, in the order of a legend."""
    found = Counter(choose_mark(migration, status).word for migration in status.migrations)
    return [(mark, found[word]) for word, mark in MARKS.items() if word in found]


def format_place(status: Status) -> str:
    """Write the database and the prefix in one line; without a database, a heading."""
    return escape(f"{status.database}/{status.prefix}") if status.database else "Migrations"
