"""Records, lock and progress laid beside the migrations of the code."""

from collections.abc import Mapping

from quaestor._core.definition import MigrationDefinition
from quaestor._core.lease import Lock
from quaestor._core.records import Records
from quaestor.status import Lease, MigrationStatus, PassStatus, Status


def status(
    database: str,
    prefix: str,
    ordered: list[MigrationDefinition],
    records: Records,
    lock: Lock,
    *,
    progress: Mapping[str, tuple[PassStatus, ...]],
) -> Status:
    """Lay records, lock and progress beside the migrations of the code, which are given in order."""
    known = {migration.name for migration in ordered}
    at_work = () if lock.holder is None else lock.holder.migrations
    interrupted = _interrupted(lock.ended, records.applied) | {
        # What is kept of a rollback goes with the record.
        name
        for name, passes in progress.items()
        if name in records.applied and name not in at_work and any(one.undo for one in passes)
    }
    migrations = [
        MigrationStatus(
            name=migration.name,
            state="applied" if migration.name in records.applied else "pending",
            applied_at=records.applied_at(migration.name),
            depends_on=tuple(migration.depends_on),
            transaction=migration.transaction,
            has_rollback=migration.rollback is not None,
            description=migration.description,
            interrupted=migration.name in interrupted and not migration.transaction,
            passes=progress.get(migration.name, ()),
        )
        for migration in ordered
    ]
    unknown = [
        MigrationStatus(name, "unknown", records.applied_at(name)) for name in sorted(records.applied.keys() - known)
    ]
    return Status(database, prefix, (*migrations, *unknown), lock.holder)


def _interrupted(ended: Lease | None, applied: Mapping[str, object]) -> set[str]:
    """The migrations that a holder who never released the lease was in. Whoever checks the lease between a function and
    its record names that migration, and those that begin after it.
    """
    if ended is None or ended.work == "mark":
        return set()
    undone = ended.work == "rollback"
    named = {*ended.migrations, ended.recording}
    begun = {name for name in named if name is not None and (name in applied) == undone}
    return begun if ended.recording not in begun else begun.difference(ended.upcoming)
