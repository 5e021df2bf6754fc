"""Other tools' migrations and histories.

`register_folder` registers a folder of another tool's files as they are. The runners' `import_history` reads what that
tool has applied.
"""

from typing import TYPE_CHECKING

from quaestor._core.imports import Adapter
from quaestor._text import find_similar
from quaestor.adapters.beanie import BEANIE
from quaestor.adapters.folders import register_folder
from quaestor.adapters.migrate_mongo import MIGRATE_MONGO
from quaestor.adapters.mongock import FLAMINGOCK, MONGOCK
from quaestor.adapters.mongodb_migrations import MONGODB_MIGRATIONS
from quaestor.adapters.mongomig import MONGOMIG
from quaestor.adapters.mongrator import MONGRATOR
from quaestor.adapters.pymongo_migrate import PYMONGO_MIGRATE
from quaestor.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["register_folder"]

ADAPTERS: "Mapping[str, Adapter]" = {
    one.tool: one
    for one in (PYMONGO_MIGRATE, MONGODB_MIGRATIONS, MIGRATE_MONGO, MONGRATOR, MONGOMIG, BEANIE, MONGOCK, FLAMINGOCK)
}
"""The adapters of all tools, by the tool."""


def find_adapter(tool: object) -> Adapter:
    """Find the adapter of a tool."""
    if isinstance(tool, str) and tool in ADAPTERS:
        return ADAPTERS[tool]
    similar = find_similar(tool, ADAPTERS) if isinstance(tool, str) else None
    hint = "" if similar is None else f" Did you mean {similar!r}?"
    raise InvalidOptionError(f"tool must be one of {', '.join(map(repr, ADAPTERS))}, not {tool!r:.40}.{hint}")
