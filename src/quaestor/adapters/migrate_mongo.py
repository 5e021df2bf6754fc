"""migrate-mongo (Node.js): `{fileName, appliedAt}`. An undone migration is removed.

With `useFileHash`, a file that has changed is applied again, and has several documents.
"""

import re
from collections.abc import Collection, Iterator, Sequence

from quaestor._core.imports import Adapter, Document, Entry


def _read(documents: Sequence[Document]) -> Iterator[Entry]:
    for document in documents:
        yield Entry(document.get("fileName"), "applied", applied_at=document.get("appliedAt"))


def _find(name: str, known: Collection[str]) -> list[str]:
    """Find the migration of the file's name, or of this without its suffix, or with underscores in place of dashes."""
    stem = re.sub(r"\.\w+$", "", name)
    return next(([one] for one in (name, stem, stem.replace("-", "_")) if one in known), [])


MIGRATE_MONGO = Adapter("migrate-mongo", "changelog", _read, _find)
