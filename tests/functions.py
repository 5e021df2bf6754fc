"""Migrations that do nothing, of both colours."""

from collections.abc import Mapping, Sequence

from quaestor import MigrationDefinition


def nothing(db: object) -> None:
    """A `def` migration."""


async def nothing_async(db: object) -> None:
    """An `async def` migration."""


def definitions(needs: Mapping[str, Sequence[str]], *, transactional: bool = False) -> dict[str, MigrationDefinition]:
    """Migrations that do nothing, with these dependencies; nor do their rollbacks."""
    return {
        name: MigrationDefinition(name, nothing, needed, transactional, rollback=nothing)
        for name, needed in needs.items()
    }
