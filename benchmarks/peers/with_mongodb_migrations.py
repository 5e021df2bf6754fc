"""mongodb-migrations: files with a class `Migration` in a folder, ordered by the time in their names."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.tool import Place, Tool

MODULE = """\
import time

from mongodb_migrations.base import BaseMigration


class Migration(BaseMigration):
    def upgrade(self):
        self.db["things"].insert_one({{"migration": {number}}})
        time.sleep({seconds})
"""


def _lay_down(folder: Path, count: int, seconds: float) -> None:
    folder.mkdir()
    for number in range(count):
        (folder / f"20260101{number:06}_insert.py").write_text(MODULE.format(number=number, seconds=seconds))


@contextmanager
def _ready(place: Place) -> Iterator[Callable[[], object]]:
    from mongodb_migrations.cli import MigrationManager
    from mongodb_migrations.config import Configuration

    def run() -> object:
        settings = {"mongo_url": place.uri_of_database, "mongo_migrations_path": str(place.folder)}
        return MigrationManager(Configuration(settings)).run()

    yield run


TOOLS = [
    Tool(
        name="mongodb-migrations",
        requirements=("mongodb-migrations",),
        distribution="mongodb-migrations",
        drivers=("pymongo",),
        imports="from mongodb_migrations.cli import MigrationManager",
        called="`MigrationManager(config).run()`",
        connects=True,
        lay_down=_lay_down,
        ready=_ready,
    )
]
