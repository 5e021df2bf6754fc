"""The progress of a run, rollback or mark, from its events: of a migration, and over many databases."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final, NamedTuple

from quaestor._text import format_amount, format_count, format_duration, format_list, format_rate, is_interruption
from quaestor.cli.redaction import Clean, escape
from quaestor.events import (
    BackfillStarted,
    ChangesAccepted,
    DatabaseFinished,
    Event,
    LeaseAwaited,
    MigrationApplied,
    MigrationFailed,
    MigrationProgressed,
    MigrationRolledBack,
    MigrationStarted,
    RecordsMarked,
    RegistryEmpty,
    RollbackStarted,
    RunStarted,
    current_migration,
)
from quaestor.status import Work


class Words(NamedTuple):
    """The words for an operation over many databases."""

    field: str  # of a result and of `DatabaseFinished`: what was done in the database
    verb: str
    done: str  # of migrations
    changed: str  # of databases in which something was done
    idle: str  # of databases in which nothing was to do


WORDS: Final[Mapping[Work, Words]] = {
    "run": Words("applied", "apply", "applied", "migrated", "up to date"),
    "rollback": Words("rolled_back", "roll back", "rolled back", "rolled back", "nothing to roll back"),
    "mark": Words("marked", "mark", "marked", "marked", "nothing to mark"),
}


@dataclass(frozen=True, slots=True)
class Progress:
    """The last progress report of a migration, and the first to measure its rate by."""

    done: int
    total: int | None
    time: float
    first: "Progress | None" = None  # since the last report that went back

    def update(self, done: int, total: int | None, time: float) -> "Progress":
        """Return the progress after one more report."""
        return Progress(done, total, time, None if done < self.done else self.first or self)

    def __str__(self) -> str:
        words = [format_amount(self.done, self.total)]
        if self.total and self.done <= self.total:
            words.insert(0, f"{max(0, 100 * self.done // self.total)}%")
        if self.first is not None and self.done > self.first.done and self.time > self.first.time:
            rate = (self.done - self.first.done) / (self.time - self.first.time)
            words.append(format_rate(self.done, self.total, rate))
        return ", ".join(words)


@dataclass(slots=True)
class RunningMigration:
    """A migration in progress. Every change is one assignment, so another thread may draw it meanwhile."""

    name: str
    since: float
    progress: Progress | None = None
    has_checkpoint: bool = False  # of a backfill


@dataclass(slots=True)
class DatabaseProgress:
    """A database in progress. Every change is one assignment, so another thread may draw it meanwhile."""

    name: str
    since: float  # of its stage: it reads what is applied, waits for the lease, or works
    holder: str = ""  # of the lease that it waits for
    count: int | None = None  # of the migrations in its plan, once there is one
    done: int = 0
    pending: dict[str, str] = field(default_factory=dict)  # names, safe to print
    running: dict[str, RunningMigration] = field(default_factory=dict)

    def update(self, event: Event, now: float, clean: Clean) -> None:
        """Take up an event of this database."""
        match event:
            case LeaseAwaited(holder=holder, seconds=seconds):
                self.holder, self.since = escape(clean(str(holder))), now - seconds
            case RunStarted(plan=plan) | RollbackStarted(plan=plan):
                self.holder, self.since, self.count = "", now, len(plan)
                self.pending = {name: escape(clean(name)) for name in plan}
            case MigrationStarted(name=name):
                self.running[name] = RunningMigration(escape(clean(name)), now)
                self.pending.pop(name, None)
            case MigrationApplied(name=name) | MigrationRolledBack(name=name) | MigrationFailed(name=name):
                self.running.pop(name, None)
                self.done += not isinstance(event, MigrationFailed)
            case (
                MigrationProgressed(name=name, done=done, total=total)
                | BackfillStarted(name=name, done=done, total=total)
            ) if name in self.running:  # otherwise late, from a thread left behind
                last = None if isinstance(event, BackfillStarted) else self.running[name].progress
                progress = Progress(done, total, now) if last is None else last.update(done, total, now)
                self.running[name].progress = progress
                self.running[name].has_checkpoint |= isinstance(event, BackfillStarted)


class RunProgress:
    """The progress of a run, on one database or on many (then `names` has their names)."""

    def __init__(
        self, clean: Clean, names: Sequence[str] = (), clock: Callable[[], float] = monotonic, *, work: Work = "run"
    ) -> None:
        self.names = names
        self.words: Words = WORDS[work]
        self.clean = clean
        self.started: float = clock()
        self.in_progress: dict[str, DatabaseProgress] = {}
        self.ended: Counter[str] = Counter()  # databases, by their end: migrated, up to date, failed
        self.done: int = 0  # migrations that were applied, rolled back or marked
        self.kept: list[str] = []  # the checkpoints of interrupted backfills
        self.is_empty: bool = False  # no migration is registered
        self._started: dict[tuple[str, str], MigrationStarted] = {}  # by database and migration: those in progress
        self._clock = clock

    def format_time_since(self, time: float) -> str:
        """Return the time since then, in words."""
        return format_duration(self._clock() - time)

    def find_place(self) -> dict[str, str]:
        """Find the migration that the calling function belongs to: its database, prefix, run and name."""
        started = list(self._started.values())
        found = current_migration.get() or (started[0] if len(started) == 1 else None)  # in a thread of its own
        if found is None:
            return {}
        return {"database": found.database, "prefix": found.prefix, "run": found.run, "migration": found.name}

    def list_running(self) -> list[str]:
        """Return the migrations in progress, with their databases if there are many."""
        return [
            f"{migration.name} in {database.name}" if self.names else migration.name
            for database in list(self.in_progress.values())
            for migration in list(database.running.values())
        ]

    def summarize_interruption(self) -> str:
        """Return how far the run had come when it was interrupted, what is kept, and how to resume; or nothing."""
        sentences = []
        if self.names:
            ended = f"{self.ended.total():,} of {format_count(len(self.names), 'database')}"
            failed = f", {self.ended['failed']:,} failed" if self.ended["failed"] else ""
            sentences.append(f"Stopped after {ended}: {format_count(self.done)} {self.words.done}{failed}.")
        if self.kept:
            sentences.append(
                f"The checkpoint is kept{format_list(self.kept)}. Run the same command again to resume there."
            )
        return " ".join(sentences)

    def update(self, event: Event) -> None:
        """Take up an event."""
        if isinstance(event, DatabaseFinished):
            self.in_progress.pop(event.database, None)
            if event.error is None:
                self.ended[self.words.changed if getattr(event, self.words.field) else self.words.idle] += 1
            elif not is_interruption(event.error):
                self.ended["failed"] += 1
            return
        self.done += isinstance(event, MigrationApplied | MigrationRolledBack)
        self.done += len(event.names) if isinstance(event, RecordsMarked | ChangesAccepted) else 0
        self.is_empty |= isinstance(event, RegistryEmpty)
        if isinstance(event, MigrationStarted):
            self._started[event.database, event.name] = event
        elif isinstance(event, MigrationApplied | MigrationRolledBack | MigrationFailed):
            self._started.pop((event.database, event.name), None)
        now = self._clock()
        if (database := self.in_progress.get(event.database)) is None:
            database = self.in_progress[event.database] = DatabaseProgress(escape(event.database), now)
        if isinstance(event, MigrationFailed) and is_interruption(event.error):
            stopped = database.running.get(event.name)
            if stopped is not None and stopped.has_checkpoint and stopped.progress is not None:
                where = f" in {database.name}" if self.names else ""
                amount = format_amount(stopped.progress.done, stopped.progress.total)
                self.kept.append(f"{stopped.name}{where}, {amount} documents")
        database.update(event, now, self.clean)
