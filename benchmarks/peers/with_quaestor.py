"""quaestor as it is in this checkout: a package of migrations, which its registry discovers."""

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.tool import Place, Tool

PACKAGE = """\
from quaestor import MigrationRegistry

registry = MigrationRegistry()
registry.discover(__name__)
"""
SYNC = """\
import time

from {package} import registry


@registry.register("migration_{number:03}", depends_on={before})
def insert(db):
    db.things.insert_one({{"migration": {number}}})
    time.sleep({seconds})
"""
ASYNC = """\
import asyncio

from {package} import registry


@registry.register("migration_{number:03}", depends_on={before})
async def insert(db):
    await db.things.insert_one({{"migration": {number}}})
    await asyncio.sleep({seconds})
"""


def _lay_down(folder: Path, count: int, seconds: float, module: str = SYNC) -> None:
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE)
    for number in range(count):
        before = [f"migration_{number - 1:03}"] if number else []
        text = module.format(package=folder.name, number=number, before=before, seconds=seconds)
        (folder / f"migration_{number:03}.py").write_text(text)


def _lay_down_async(folder: Path, count: int, seconds: float) -> None:
    _lay_down(folder, count, seconds, ASYNC)


@contextmanager
def _ready(place: Place) -> Iterator[Callable[[], object]]:
    from pymongo import MongoClient

    import quaestor  # noqa: F401 - what an application has imported when it comes to its migrations

    sys.path.insert(0, str(place.folder.parent))
    with MongoClient[dict[str, Any]](place.uri) as client:
        client.admin.command("ping")
        yield lambda: importlib.import_module(place.folder.name).registry.run_sync(client[place.database], "peers")


@contextmanager
def _ready_async(place: Place) -> Iterator[Callable[[], object]]:
    from pymongo import AsyncMongoClient

    import quaestor  # noqa: F401 - as above

    sys.path.insert(0, str(place.folder.parent))
    with asyncio.Runner() as runner:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(place.uri)
        runner.run(client.admin.command("ping"))
        yield lambda: runner.run(
            importlib.import_module(place.folder.name).registry.run(client[place.database], "peers")
        )
        runner.run(client.close())


@contextmanager
def _ready_motor(place: Place) -> Iterator[Callable[[], object]]:
    from motor.motor_asyncio import AsyncIOMotorClient

    import quaestor  # noqa: F401 - as above

    async def ping() -> None:
        await client.admin.command("ping")

    async def run() -> object:
        return await importlib.import_module(place.folder.name).registry.run(client[place.database], "peers")

    sys.path.insert(0, str(place.folder.parent))
    with asyncio.Runner() as runner:
        client: Any = AsyncIOMotorClient(place.uri)
        runner.run(ping())
        yield lambda: runner.run(run())
        client.close()


TOOLS = [
    Tool(
        name="quaestor (PyMongo)",
        requirements=(".", "motor"),  # the wheel that is made of this checkout
        distribution="mongo-quaestor",
        drivers=("pymongo",),
        imports="from quaestor import MigrationRegistry",
        called="`registry.run_sync(db, prefix)`",
        connects=False,
        lay_down=_lay_down,
        ready=_ready,
    ),
    Tool(
        name="quaestor (PyMongo async)",
        requirements=(".", "motor"),
        distribution="mongo-quaestor",
        drivers=("pymongo",),
        imports="from quaestor import MigrationRegistry",
        called="`await registry.run(db, prefix)`",
        connects=False,
        lay_down=_lay_down_async,
        ready=_ready_async,
    ),
    Tool(
        name="quaestor (Motor)",
        requirements=(".", "motor"),
        distribution="mongo-quaestor",
        drivers=("pymongo", "motor"),
        imports="from quaestor import MigrationRegistry",
        called="`await registry.run(db, prefix)`",
        connects=False,
        lay_down=_lay_down_async,
        ready=_ready_motor,
    ),
]
