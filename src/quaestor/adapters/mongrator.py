"""mongrator: `{_id: name, applied_at, direction}`, with its lock among them.

An undone migration stays, with `direction: "down"`.
"""

from collections.abc import Iterator, Sequence

from quaestor._core.imports import Adapter, Document, Entry

_LOCK = "_mongrator_lock"


def _read(documents: Sequence[Document]) -> Iterator[Entry]:
    for document in documents:
        name = document.get("_id")  # none in a view
        if name == _LOCK:
            continue
        match document.get("direction"):
            case "up":
                yield Entry(name, "applied", applied_at=document.get("applied_at"))
            case "down":
                yield Entry(name, "not applied", "rolled back")
            case _:
                yield Entry(name, "unclear", "its direction is neither up nor down")


MONGRATOR = Adapter("mongrator", "mongrator_migrations", _read)
