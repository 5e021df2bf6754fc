"""mongodb-migrations: `{migration_datetime, created_at}`, the digits of the file's name and local time.

An undone migration is removed.
"""

import re
from collections.abc import Collection, Iterator, Sequence

from quaestor._core.imports import Adapter, Document, Entry


def _read(documents: Sequence[Document]) -> Iterator[Entry]:
    for document in documents:
        yield Entry(document.get("migration_datetime"), "applied", applied_at=document.get("created_at"))


def _find(name: str, known: Collection[str]) -> list[str]:
    """Find the migrations whose names begin with these digits."""
    return sorted(one for one in known if name.isdecimal() and re.fullmatch(rf"{name}(?!\d).*", one, re.DOTALL))


MONGODB_MIGRATIONS = Adapter("mongodb-migrations", "database_migrations", _read, _find, is_local=True)
