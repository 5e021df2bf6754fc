"""mongo-quaestor as it was published first, which is also imported as `quaestor`: functions in a registry, on Motor."""

import asyncio
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.tool import Place, Tool

# It has nothing to find migrations with: the application imports them.
PACKAGE = """\
import importlib
import pkgutil

from quaestor import MigrationRegistry

registry = MigrationRegistry()
for module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{module.name}")
"""
MODULE = """\
import asyncio

from {package} import registry


@registry.register("migration_{number:03}", depends_on={before})
async def insert(db):
    await db.things.insert_one({{"migration": {number}}})
    await asyncio.sleep({seconds})
"""


def _lay_down(folder: Path, count: int, seconds: float) -> None:
    folder.mkdir()
    (folder / "__init__.py").write_text(PACKAGE)
    for number in range(count):
        before = [f"migration_{number - 1:03}"] if number else []
        text = MODULE.format(package=folder.name, number=number, before=before, seconds=seconds)
        (folder / f"migration_{number:03}.py").write_text(text)


@contextmanager
def _ready(place: Place) -> Iterator[Callable[[], object]]:
    from motor.motor_asyncio import AsyncIOMotorClient

    import quaestor  # noqa: F401 - what an application has imported when it comes to its migrations

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
        name="mongo-quaestor 0.1 (Motor)",
        requirements=("mongo-quaestor<0.2",),
        distribution="mongo-quaestor",
        drivers=("pymongo", "motor"),
        imports="from quaestor import MigrationRegistry",
        called="`await registry.run(db, prefix)`",
        connects=False,
        lay_down=_lay_down,
        ready=_ready,
    )
]
