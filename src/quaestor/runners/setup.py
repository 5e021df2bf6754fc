"""What both runners are made of: their checked arguments, and the flows that these start."""

from collections.abc import Mapping
from typing import Any, Protocol

from quaestor.core import flows
from quaestor.core.effects import Flow
from quaestor.core.events import Hook
from quaestor.core.migration import Colour, MigrationDefinition
from quaestor.runners import databases, hooks


class Registry(Protocol):
    """What a runner needs of a `MigrationRegistry`."""

    @property
    def migrations(self) -> Mapping[str, MigrationDefinition]:
        """All registered migrations by name."""


class Setup:
    """The checked arguments of a runner of one colour.

    Attributes:
        databases: The database of each colour that there is one for.
        records: The records collection, of the driver of `db`.
        tell: The event hook as a function that never fails.
    """

    def __init__(
        self, registry: Registry, colour: Colour, db: Any, other_db: Any, prefix: str, *, on_event: Hook | None
    ) -> None:
        self.databases = databases.by_colour(colour, db, other_db)
        self._database: str = db.name
        self._prefix = databases.checked_prefix(prefix, self._database)
        self.records = databases.records_collection(db, self._prefix)
        self.tell = hooks.guarded(on_event)
        self._registry = registry

    def run(self) -> Flow[list[str]]:
        """The flow that applies all that is pending."""
        migrations = dict(self._registry.migrations)  # what is registered while it runs is for the next run
        return flows.run(migrations, self._database, self._prefix, self.databases.keys())
