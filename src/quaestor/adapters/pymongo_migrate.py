"""pymongo-migrate: `{name, applied}`. An undone migration stays, with `applied: None`."""

from collections.abc import Iterator, Sequence

from quaestor._core.imports import Adapter, Document, Entry


def _read(documents: Sequence[Document]) -> Iterator[Entry]:
    for document in documents:
        applied = document.get("applied")
        if applied is None:
            yield Entry(document.get("name"), "not applied", "rolled back")
        else:
            yield Entry(document.get("name"), "applied", applied_at=applied)


PYMONGO_MIGRATE = Adapter("pymongo-migrate", "pymongo_migrate", _read)
