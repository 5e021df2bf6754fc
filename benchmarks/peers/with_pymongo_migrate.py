"""pymongo-migrate: a folder of modules, each of which names the one before it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.tool import Place, Tool

MODULE = '''\
"""insert {number}"""

import time

name = "{name}"
dependencies = {before}


def upgrade(db):
    db["things"].insert_one({{"migration": {number}}})
    time.sleep({seconds})


def downgrade(db):
    pass
'''


def _name(number: int) -> str:
    return f"20260101{number:06}_insert"


def _lay_down(folder: Path, count: int, seconds: float) -> None:
    folder.mkdir()
    for number in range(count):
        before = [_name(number - 1)] if number else []
        text = MODULE.format(number=number, name=_name(number), before=before, seconds=seconds)
        (folder / f"{_name(number)}.py").write_text(text)


@contextmanager
def _ready(place: Place) -> Iterator[Callable[[], object]]:
    from pymongo import MongoClient
    from pymongo_migrate.mongo_migrate import MongoMigrate

    with MongoClient[dict[str, Any]](place.uri) as client:
        client.admin.command("ping")
        yield lambda: MongoMigrate(client, place.database, migrations_dir=str(place.folder)).migrate()


TOOLS = [
    Tool(
        name="pymongo-migrate",
        requirements=("pymongo-migrate",),
        distribution="pymongo-migrate",
        drivers=("pymongo",),
        imports="from pymongo_migrate.mongo_migrate import MongoMigrate",
        called="`MongoMigrate(client, database, folder).migrate()`",
        connects=False,
        lay_down=_lay_down,
        ready=_ready,
    )
]
