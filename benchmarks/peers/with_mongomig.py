"""mongomig: a project with a mongomig.yaml and a chain of revisions."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.peers.tool import Place, Tool

CONFIGURATION = """\
database:
  uri: ${MONGODB_URI}
  name: ${MONGODB_DATABASE}
"""
ENVIRONMENT = """\
from mongomig import MongoMetadata

target_metadata = MongoMetadata.default(storage="python")
"""
REVISION = '''\
"""insert {number}"""

import time

revision = "{revision}"
down_revision = {before!r}
branch_labels = None
depends_on = None
reversible = True
snapshot_hash = None
mongomig_format = 1


def upgrade(ctx):
    ctx.collection("things").insert_one({{"migration": {number}}})
    time.sleep({seconds})


def downgrade(ctx):
    pass
'''


def _lay_down(folder: Path, count: int, seconds: float) -> None:
    versions = folder / "migrations" / "versions"
    versions.mkdir(parents=True)
    (folder / "mongomig.yaml").write_text(CONFIGURATION)
    (folder / "migrations" / "env.py").write_text(ENVIRONMENT)
    for number in range(count):
        before = f"{number - 1:012x}" if number else None
        text = REVISION.format(number=number, revision=f"{number:012x}", before=before, seconds=seconds)
        (versions / f"20260101_0000_{number:012x}_insert.py").write_text(text)


@contextmanager
def _ready(place: Place) -> Iterator[Callable[[], object]]:
    from mongomig import upgrade_to_head

    def run() -> object:
        os.environ["MONGODB_URI"], os.environ["MONGODB_DATABASE"] = place.uri, place.database
        return upgrade_to_head(config=place.folder / "mongomig.yaml")

    yield run


TOOLS = [
    Tool(
        name="mongomig",
        requirements=("mongomig",),
        distribution="mongomig",
        drivers=("pymongo",),
        imports="from mongomig import upgrade_to_head",
        called="`upgrade_to_head()`, which waits for another run",
        connects=True,
        lay_down=_lay_down,
        ready=_ready,
    )
]
