"""What both runners are made of: their checked arguments, and what the flows and the commands need of them."""

import os
import socket
import time
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

from quaestor._core.definition import Colour, MigrationDefinition
from quaestor._core.effects import (
    AcquireLease,
    BreakLease,
    CheckLease,
    Command,
    EndSessions,
    FindRecord,
    ForgetProgress,
    FreeLease,
    ReadLock,
    ReadProgress,
    ReadRecords,
    Record,
    RenewLease,
    Unrecord,
)
from quaestor._core.flows import Scope
from quaestor._core.lease import LONGEST_TTL, PATIENCE, SHORTEST_TTL, Terms, renewed_every
from quaestor._hosts import hooks
from quaestor._mongo import documents
from quaestor._mongo import drivers as databases
from quaestor.errors import InvalidOptionError
from quaestor.events import Hook

_AGES = 1e9  # seconds: thirty years
_MOST_AT_ONCE = 100  # each may be a thread, and a session of the server


class Registry(Protocol):
    """What a runner needs of a `MigrationRegistry`."""

    @property
    def migrations(self) -> Mapping[str, MigrationDefinition]:
        """All registered migrations by name."""


class Setup:
    """The checked arguments of a runner of one colour.

    Attributes:
        databases: The database of each colour that there is one for.
        db: The database of the runner's own colour.
        prefix: The prefix of its collections.
        records: The records collection, of the driver of `db`.
        lock: The collection of the lease, likewise.
        checks: The same, without waiting for a majority of the replica set.
        progress: The collection of the passes' checkpoints.
        clock: Whose time the lease goes by.
        tell: The event hook as a function that never fails.
    """

    def __init__(
        self,
        registry: Registry,
        colour: Colour,
        db: Any,
        other_db: Any,
        prefix: str,
        *,
        on_event: Hook | None,
        lease_ttl: float,
        lease_timeout: float | None,
    ) -> None:
        self.databases = databases.by_colour(colour, db, other_db)
        self.db = db
        self._database: str = db.name
        self.prefix = databases.checked_prefix(prefix, self._database)
        self.records = databases.records_collection(db, self.prefix)
        self.lock = databases.lock_collection(db, self.prefix)
        # A check asks whether the lease is held. That it lasts is the work of the keeper, who waits for a majority; so
        # does the record that follows the check.
        self.checks = databases.lock_collection(db, self.prefix, write_concern=1)
        self.progress = databases.progress_collection(db, self.prefix)
        self.clock = documents.own_clock if databases.is_mock(db) else documents.server_clock
        self.tell = hooks.guarded(on_event)
        check_terms(lease_ttl, lease_timeout)
        self._ttl = float(lease_ttl)
        self._timeout = None if lease_timeout is None else float(lease_timeout)
        self._registry = registry

    def terms(self) -> Terms:
        """The terms of a new run, with an owner of its own."""
        return Terms(uuid.uuid4().hex, self._ttl, self._timeout)

    def scope(self, terms: Terms) -> Scope:
        """What a flow is about."""
        migrations = dict(self._registry.migrations)  # what is registered while it runs is for the next run
        return Scope(migrations, self._database, self.prefix, self.databases.keys(), terms)

    def acquisition(self, terms: Terms, effect: AcquireLease) -> dict[str, Any]:
        """The arguments of the find_one_and_update that takes the lease."""
        holder = {
            "owner": terms.owner,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "work": effect.work,
            "migrations": list(effect.migrations),
            "recording": None,
            "upcoming": [],
        }
        return documents.acquisition(self.clock, terms.ttl, holder, effect.sessions)

    def renewal(self, terms: Terms, effect: RenewLease) -> dict[str, Any]:
        """The arguments of the update_one that renews the lease."""
        return documents.renewal(self.clock, terms.ttl, effect.lease)

    def check(self, terms: Terms, effect: CheckLease) -> dict[str, Any]:
        """The arguments of the update_one that renews it and says where the run is."""
        changes = documents.whereabouts(effect.whereabouts) | documents.sessions(effect.sessions, effect.ended)
        return documents.renewal(self.clock, terms.ttl, effect.lease, changes)

    def allowance(self, terms: Terms, command: Command[Any]) -> float | None:
        """How long a command may take, in seconds, with the driver's repetitions; None: as long as the driver takes."""
        match command:
            case ReadRecords() | ReadLock() | ReadProgress() | BreakLease():
                return None  # without a server these end as any other command of the application
            case RenewLease() | FreeLease():
                return renewed_every(terms.ttl)
            case CheckLease() | Record() | Unrecord() | FindRecord() | ForgetProgress() | EndSessions():
                return terms.ttl
            case _:
                return PATIENCE


def check_concurrency(value: object) -> None:
    """Check a number of things to do at once.

    Raises:
        InvalidOptionError: It is none.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_AT_ONCE:
        raise InvalidOptionError(f"concurrency must be a whole number, from 1 to {_MOST_AT_ONCE}, not {value!r:.40}.")


def now() -> float:
    """The time of a clock that never goes back and goes on while the process is frozen, in seconds."""
    if hasattr(time, "CLOCK_BOOTTIME"):  # on Linux: it goes on while the machine sleeps
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


def check_terms(lease_ttl: object, lease_timeout: object) -> None:
    """Check for how long a lease lasts, and how long to wait for one.

    Raises:
        InvalidOptionError: They cannot be used.
    """
    _check_seconds("lease_ttl", lease_ttl, SHORTEST_TTL, LONGEST_TTL)
    if lease_timeout is not None:
        _check_seconds("lease_timeout", lease_timeout, 0, _AGES)


def _check_seconds(option: str, value: object, least: float, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidOptionError(
            f"{option} must be a number of seconds, from {least:g} to {most:g}, not {value!r:.40}."
        )
