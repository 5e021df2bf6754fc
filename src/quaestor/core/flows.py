"""The order of steps, each written once for both colours.

Rule 1: a flow only decides. It asks for effects (`core/effects.py`) and never performs one.
Rule 2: bad input raises before the first effect.
Rule 3: whatever interrupts an effect, Ctrl-C and cancellation included, is thrown into the flow at that place, and
        leaves it as it came.
"""

import contextlib
from collections.abc import Collection

from quaestor.core import plan
from quaestor.core.effects import Emit, Execute, Flow, ReadRecords, Record
from quaestor.core.events import (
    MigrationApplied,
    MigrationFailed,
    MigrationStarted,
    RecordsIgnored,
    RunFinished,
    RunStarted,
)
from quaestor.core.migration import Colour, MigrationDefinition


def run(definitions: plan.Definitions, database: str, prefix: str, colours: Collection[Colour]) -> Flow[list[str]]:
    """Apply all that is pending.

    Args:
        definitions: All registered migrations.
        database: The name of the database, for the events.
        prefix: The prefix of the run, for the events.
        colours: The colours of function for which the runner has a database.

    Returns:
        The names applied, in order.
    """
    sorter = plan.validated(definitions)
    try:
        records = yield from ReadRecords()
    except Exception as error:
        _note(error, f"quaestor: while reading the records of {prefix!r} in the database {database!r}; nothing has run")
        raise
    if records.unreadable:
        yield from Emit(RecordsIgnored(database, prefix, records.unreadable))
    todo = plan.pending(definitions, sorter, records)
    plan.check_databases(todo, colours)
    plan.check_records(todo, records)
    names = tuple(migration.name for migration in todo)
    yield from Emit(RunStarted(database, prefix, names))
    for position, migration in enumerate(todo, start=1):
        yield from _apply(migration, database, prefix, position, len(todo))
    yield from Emit(RunFinished(database, prefix, names))
    return list(names)


def _apply(migration: MigrationDefinition, database: str, prefix: str, position: int, total: int) -> Flow[None]:
    place = (database, prefix, migration.name, position, total)
    yield from Emit(MigrationStarted(*place))
    try:
        seconds = yield from Execute(migration)
        yield from Record(migration.name)
    except GeneratorExit:  # the flow itself is thrown away: there is nobody left to ask
        raise
    except BaseException as error:
        _note(error, f"quaestor: in migration {migration.name!r}, {position} of {total}")
        yield from Emit(MigrationFailed(*place, error))
        raise
    yield from Emit(MigrationApplied(*place, seconds))


def _note(error: BaseException, note: str) -> None:
    with contextlib.suppress(Exception):  # an exception may refuse notes, as a frozen dataclass does: it goes first
        error.add_note(note)
