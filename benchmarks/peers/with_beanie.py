"""beanie: free-fall migrations with a document model, in transactions, as its command `beanie migrate` runs them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.tool import Place, Tool

MODULE = """\
import asyncio

from beanie import Document, free_fall_migration


class Thing(Document):
    migration: int

    class Settings:
        name = "things"


class Forward:
    @free_fall_migration(document_models=[Thing])
    async def insert(self, session):
        await Thing(migration={number}).insert(session=session)
        await asyncio.sleep({seconds})


class Backward: ...
"""


def _lay_down(folder: Path, count: int, seconds: float) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"20260101{number:06}_insert.py").write_text(MODULE.format(number=number, seconds=seconds))


@contextmanager
def _ready(place: Place) -> Iterator[Callable[[], object]]:
    from beanie.executors.migrate import MigrationSettings, run_migrate

    settings = {"connection_uri": place.uri, "database_name": place.database, "path": str(place.folder)}
    yield lambda: asyncio.run(run_migrate(MigrationSettings(**settings, use_transaction=True)))


TOOLS = [
    Tool(
        name="beanie",
        requirements=("beanie",),
        distribution="beanie",
        drivers=("pymongo",),
        imports="import beanie",
        called="`beanie migrate`: `run_migrate(settings)`, in transactions",
        connects=True,
        lay_down=_lay_down,
        ready=_ready,
    )
]
