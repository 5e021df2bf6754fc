"""mongomig: `{_id: revision, status, applied_at}`. An undone migration is removed.

`failed` and `running` (its process was killed) may be half done, or half undone.
"""

import re
from collections.abc import Collection, Iterator, Sequence

from quaestor._core.imports import Adapter, Document, Entry


def _read(documents: Sequence[Document]) -> Iterator[Entry]:
    for document in documents:
        name, status = document.get("_id"), document.get("status", "applied")
        if status == "applied":
            yield Entry(name, "applied", applied_at=document.get("applied_at"))
        elif status == "failed":
            yield Entry(name, "unclear", "it has failed, and may be half done, or half undone")
        elif status == "running":
            yield Entry(name, "unclear", "it is running, or its process was killed, and it may be half done")
        else:
            yield Entry(name, "unclear", "its status isn't a known one")


def _find(name: str, known: Collection[str]) -> list[str]:
    """Find the migration of the revision's name, or those of its file's name, such as 20260101_0930_ab12_split."""
    if name in known:
        return [name]
    return sorted(one for one in known if re.fullmatch(rf"\d{{8}}_\d{{4}}_{re.escape(name)}(_.*)?", one, re.DOTALL))


MONGOMIG = Adapter("mongomig", "__mongomig_migrations", _read, _find)
