"""mongrator: files in a folder, ordered by their names; its runners take the application's client."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.tool import Place, Tool

SYNC = """\
import time


def up(db):
    db["things"].insert_one({{"migration": {number}}})
    time.sleep({seconds})
"""
ASYNC = """\
import asyncio


async def up(db):
    await db["things"].insert_one({{"migration": {number}}})
    await asyncio.sleep({seconds})
"""


def _lay_down(folder: Path, count: int, seconds: float, module: str = SYNC) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"20260101_{number:06}_insert.py").write_text(module.format(number=number, seconds=seconds))


def _lay_down_async(folder: Path, count: int, seconds: float) -> None:
    _lay_down(folder, count, seconds, ASYNC)


def _configuration(place: Place) -> Any:
    from mongrator.config import MigratorConfig

    return MigratorConfig(uri=place.uri, database=place.database, migrations_dir=place.folder)


@contextmanager
def _ready(place: Place) -> Iterator[Callable[[], object]]:
    from mongrator.runner import SyncRunner
    from pymongo import MongoClient

    with MongoClient[dict[str, Any]](place.uri) as client:
        client.admin.command("ping")
        yield lambda: SyncRunner(client, _configuration(place)).up()


@contextmanager
def _ready_async(place: Place) -> Iterator[Callable[[], object]]:
    from mongrator.runner import AsyncRunner
    from pymongo import AsyncMongoClient

    with asyncio.Runner() as runner:
        client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(place.uri)
        runner.run(client.admin.command("ping"))
        yield lambda: runner.run(AsyncRunner(client, _configuration(place)).up())
        runner.run(client.close())


TOOLS = [
    Tool(
        name="mongrator",
        requirements=("mongrator",),
        distribution="mongrator",
        drivers=("pymongo",),
        imports="from mongrator.runner import AsyncRunner, SyncRunner",
        called="`SyncRunner(client, config).up()`",
        connects=False,
        lay_down=_lay_down,
        ready=_ready,
    ),
    Tool(
        name="mongrator (async)",
        requirements=("mongrator",),
        distribution="mongrator",
        drivers=("pymongo",),
        imports="from mongrator.runner import AsyncRunner, SyncRunner",
        called="`await AsyncRunner(client, config).up()`",
        connects=False,
        lay_down=_lay_down_async,
        ready=_ready_async,
    ),
]
