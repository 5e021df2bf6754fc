"""The order of steps, each written once for both colours.

Rule 1: a flow only decides. It asks for effects (`core/effects.py`) and never performs one.
Rule 2: bad input raises before the first effect.
Rule 3: whatever interrupts an effect, Ctrl-C and cancellation included, is thrown into the flow at that place, and
        leaves it as it came.
Rule 4: what runs is planned from records that were read under the lease, and the lease is released on every way out.
"""

import contextlib
from collections.abc import Collection
from dataclasses import replace
from typing import TypeAlias

from quaestor.core import lease as rules
from quaestor.core import leasing, plan, transaction
from quaestor.core.effects import (
    BreakLease,
    CommitAgain,
    Emit,
    Execute,
    FindRecord,
    Flow,
    Now,
    OpenSessions,
    ReadRecords,
    Record,
    ReleaseLease,
    Sleep,
    Transact,
    Unknown,
)
from quaestor.core.events import (
    LeaseNotReleased,
    MigrationApplied,
    MigrationFailed,
    MigrationRetried,
    MigrationStarted,
    RecordsIgnored,
    RunFinished,
    RunStarted,
)
from quaestor.core.lease import Lease, Terms
from quaestor.core.leasing import Turn, settled
from quaestor.core.migration import Colour, MigrationDefinition
from quaestor.core.records import Records
from quaestor.core.transaction import Attempt, Ending
from quaestor.errors import LeaseLostError, TransactionFailedError, TransactionsUnsupportedError

_Place: TypeAlias = tuple[str, str, str, int, int]
"""What all events of a migration begin with: database, prefix, name, position, total."""


def run(
    definitions: plan.Definitions, database: str, prefix: str, colours: Collection[Colour], terms: Terms
) -> Flow[list[str]]:
    """Apply all that is pending, as the only instance that does.

    Args:
        definitions: All registered migrations.
        database: The name of the database, for the events.
        prefix: The prefix of the run, for the events.
        colours: The colours of function for which the runner has a database.
        terms: How the lease is taken.

    Returns:
        The names applied, in order.
    """
    sorter = plan.validated(definitions)
    try:
        records = yield from settled(ReadRecords(), rules.PATIENCE, awaiting_server=False)
    except Exception as error:
        _note(error, f"quaestor: while reading the records of {prefix!r} in the database {database!r}; nothing has run")
        raise
    if records.unreadable:
        yield from Emit(RecordsIgnored(database, prefix, records.unreadable))
    todo = plan.pending(definitions, sorter, records)
    if not todo:
        yield from Emit(RunStarted(database, prefix, ()))
        yield from Emit(RunFinished(database, prefix, ()))
        return []
    sessions = yield from _prepared(todo, records, colours)
    try:
        turn = yield from leasing.take(terms, database, prefix, todo[0].name, sessions)
        again = yield from settled(ReadRecords(), rules.patience(terms.ttl))
        if again != records:  # another instance has been at work
            todo = plan.pending(definitions, plan.validated(definitions), again)
            sessions = (yield from _prepared(todo, again, colours)) or sessions  # none needed now: some may be open
        names = tuple(migration.name for migration in todo)
        yield from leasing.end_sessions_of_others(turn, sessions, database, prefix, next(iter(names), None))
        yield from Emit(RunStarted(database, prefix, names))
        for position, migration in enumerate(todo, start=1):
            upcoming = names[position] if position < len(names) else None
            yield from _apply(migration, (database, prefix, migration.name, position, len(todo)), turn, upcoming)
    except GeneratorExit:  # the flow itself is thrown away: there is nobody left to ask
        raise
    except BaseException:
        yield from _release(database, prefix, terms)
        raise
    yield from _release(database, prefix, terms)
    yield from Emit(RunFinished(database, prefix, names))
    return list(names)


def _release(database: str, prefix: str, terms: Terms) -> Flow[None]:
    failure = yield from ReleaseLease()
    if failure is not None:
        yield from Emit(LeaseNotReleased(database, prefix, terms.ttl, failure))


def unlock() -> Flow[Lease | None]:
    """Free the lease, whoever holds it; whoever does stops at its next step. Returns who did, or None."""
    return (yield from settled(BreakLease(), rules.PATIENCE, awaiting_server=False))


def _prepared(todo: plan.Plan, records: Records, colours: Collection[Colour]) -> Flow[tuple[bytes, ...]]:
    """Check that all of the plan can be carried out, and open the sessions for its transactions. Returns their ids."""
    plan.check_databases(todo, colours)
    plan.check_records(todo, records)
    transactional = [migration for migration in todo if migration.transaction]
    if not transactional:
        return ()
    colours_needed = frozenset(migration.colour for migration in transactional)
    sessions = yield from settled(OpenSessions(colours_needed), rules.PATIENCE)
    if sessions is None:
        raise TransactionsUnsupportedError([migration.name for migration in transactional])
    return sessions


def _apply(migration: MigrationDefinition, place: _Place, turn: Turn, upcoming: str | None) -> Flow[None]:
    yield from Emit(MigrationStarted(*place))
    try:
        if migration.transaction:
            seconds = yield from _transact(migration, place, turn)
        else:
            yield from turn.check_if_old(migration.name)
            seconds = yield from Execute(migration)
            yield from turn.check(upcoming, ended=migration.name)
            yield from _record(migration.name, turn)
    except GeneratorExit:  # the flow itself is thrown away: there is nobody left to ask
        raise
    except BaseException as error:
        _note(error, f"quaestor: in migration {migration.name!r}, {place[-2]} of {place[-1]}")
        yield from Emit(MigrationFailed(*place, error))
        raise
    yield from Emit(MigrationApplied(*place, seconds))
    if migration.transaction and upcoming is not None:  # else the check before the record was the last
        yield from turn.check(upcoming)


def _record(name: str, turn: Turn) -> Flow[None]:
    """Record a migration whose function has ended, once, whatever happens to the connection."""
    written = yield from Record(name)
    if written is True:
        return
    if written is False and turn.lease.previous is None:  # somebody else did it, who must hold the lease then
        raise LeaseLostError(name)
    # Else the outcome is unknown; or a holder that was frozen just before its record has woken.
    began = yield from Now()
    while not (yield from settled(FindRecord(name), rules.patience(turn.ttl))):
        if isinstance(written, Unknown) and (yield from Now()) - began >= rules.patience(turn.ttl):
            raise written.error
        yield from Sleep(*leasing.PAUSE)
        yield from turn.check(name, ended=name)
        written = yield from Record(name)
        if written is True:
            return
    yield from turn.check(name, ended=name)  # what was found may be that of another, if this one was frozen


def _transact(migration: MigrationDefinition, place: _Place, turn: Turn) -> Flow[float]:
    """Run a migration and its record in one transaction, as often as it takes. Returns how long the last one took."""
    began = yield from Now()
    attempts = 0
    while True:
        attempts += 1
        yield from turn.check_if_old(migration.name)
        attempt = yield from _committed(migration)
        if attempt.ending is Ending.COMMITTED:
            return attempt.seconds
        yield from turn.check(migration.name)
        # It may be recorded all the same: the answer was lost, or a frozen holder has woken.
        if (yield from settled(FindRecord(migration.name), rules.patience(turn.ttl))):
            return attempt.seconds
        if attempt.ending is Ending.UNKNOWN and attempt.error is not None:
            raise attempt.error
        spent = (yield from Now()) - began
        if attempts >= transaction.MOST_ATTEMPTS or spent >= transaction.LONGEST:
            expired = attempt.ending is Ending.EXPIRED
            raise TransactionFailedError(migration.name, attempts, spent, expired) from attempt.error
        yield from Sleep(0, transaction.begun_again_within(attempts))
        yield from Emit(MigrationRetried(*place, attempts + 1, attempt.error))


def _committed(migration: MigrationDefinition) -> Flow[Attempt]:
    """One attempt, its commit repeated until its outcome is known."""
    attempt = yield from Transact(migration)
    began: float | None = None
    while attempt.ending is Ending.UNKNOWN:
        now = yield from Now()
        began = now if began is None else began
        if now - began >= transaction.LONGEST:
            break
        yield from Sleep(*leasing.PAUSE)
        again = yield from CommitAgain(migration)
        attempt = replace(again, seconds=attempt.seconds)
    return attempt


def _note(error: BaseException, note: str) -> None:
    with contextlib.suppress(Exception):  # an exception may refuse notes, as a frozen dataclass does: it goes first
        error.add_note(note)
