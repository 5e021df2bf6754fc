"""Importing what the real tools have written: each applies three migrations and rolls one back, and quaestor goes on.

Each is installed into an environment of its own, with npm for migrate-mongo. Mongock and Flamingock, which need Java,
are left out. Their dates are checked in a time zone that isn't this machine's.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from pymongo import MongoClient

from benchmarks.peers.environments import NotInstalledError, make, newest_python
from quaestor import MigrationRegistry, SyncRunner
from quaestor.adapters import register_folder
from tests.histories import HISTORIES

ROOT = Path(__file__).parents[2]
ZONE = "America/New_York"
NUMBERS = (1, 2, 3)


class Place(NamedTuple):
    """Where a tool works: its files, and the database."""

    folder: Path
    uri: str
    database: str

    @property
    def uri_of_database(self) -> str:
        """The URI with the name of the database in it."""
        return urlsplit(self.uri)._replace(path=f"/{self.database}").geturl()

    @property
    def files(self) -> str:
        """The folder of the migrations, as a text."""
        return str(self.folder / "migrations")


Commands = Callable[[Place], Sequence[Sequence[str]]]
PYMONGO_MIGRATE = """
name = "2026010{number}_step"
dependencies = {before}

def upgrade(db):
    db.things.insert_one({{"_id": {number}}})

def downgrade(db):
    db.things.delete_one({{"_id": {number}}})
"""
MONGODB_MIGRATIONS = """
from mongodb_migrations.base import BaseMigration

class Migration(BaseMigration):
    def upgrade(self):
        self.db.things.insert_one({{"_id": {number}}})

    def downgrade(self):
        self.db.things.delete_one({{"_id": {number}}})
"""
MONGRATOR = """
def up(db):
    db["things"].insert_one({{"_id": {number}}})

def down(db):
    db["things"].delete_one({{"_id": {number}}})
"""
MONGOMIG = '''
"""step {number}"""

revision = "00000000000{number}"
down_revision = {down_revision}
branch_labels = None
depends_on = None
reversible = True
snapshot_hash = None
mongomig_format = 1

def upgrade(ctx):
    ctx.collection("things").insert_one({{"_id": {number}}})

def downgrade(ctx):
    ctx.collection("things").delete_one({{"_id": {number}}})
'''
BEANIE = """
from beanie import Document, free_fall_migration

class Thing(Document):
    id: int

    class Settings:
        name = "things"

class Forward:
    @free_fall_migration(document_models=[Thing])
    async def insert(self, session):
        await Thing(id={number}).insert(session=session)

class Backward:
    @free_fall_migration(document_models=[Thing])
    async def remove(self, session):
        await Thing.find(Thing.id == {number}).delete(session=session)
"""
MIGRATE_MONGO = """
module.exports = {{
  async up(db) {{ await db.collection("things").insertOne({{_id: {number}}}); }},
  async down(db) {{ await db.collection("things").deleteOne({{_id: {number}}}); }},
}};
"""
CONFIGURATIONS = {
    "mongomig": {
        "mongomig.yaml": "database:\n  uri: ${PEER_URI}\n  name: ${PEER_DATABASE}\n",
        "migrations/env.py": "from mongomig import MongoMetadata\n\n"
        'target_metadata = MongoMetadata.default(storage="python")\n',
    },
    "migrate-mongo": {
        "migrate-mongo-config.js": """
module.exports = {
  mongodb: {url: process.env.PEER_URI, databaseName: process.env.PEER_DATABASE, options: {}},
  migrationsDir: "migrations", changelogCollectionName: "changelog", lockCollectionName: "changelog_lock", lockTtl: 0,
  migrationFileExtension: ".js", useFileHash: false, moduleSystem: "commonjs",
};
""",
    },
}


class Peer(NamedTuple):
    """A tool, and how it is used."""

    tool: Any
    requirements: Sequence[str]
    file: str
    text: str
    commands: Commands  # to apply everything, and to undo the last
    is_local: bool = False


PEERS = [
    Peer(
        "pymongo-migrate",
        ["pymongo-migrate==1.0.0"],
        "migrations/2026010{number}_step.py",
        PYMONGO_MIGRATE,
        lambda place: [
            ["pymongo-migrate", "upgrade", "-u", place.uri_of_database, "-m", place.files],
            ["pymongo-migrate", "downgrade", "-u", place.uri_of_database, "-m", place.files, "20260102_step"],
        ],
    ),
    Peer(
        "mongodb-migrations",
        ["mongodb-migrations==1.3.1"],
        "migrations/2026010{number}000000_step.py",
        MONGODB_MIGRATIONS,
        lambda place: [
            command := ["mongodb-migrate", "--url", place.uri_of_database, "--migrations", place.files],
            [*command, "--downgrade", "--to_datetime", "20260102000000"],
        ],
        is_local=True,
    ),
    Peer(
        "mongrator",
        ["mongrator==0.4.3"],
        "migrations/2026010{number}_step.py",
        MONGRATOR,
        lambda _: [["mongrator", "up"], ["mongrator", "down", "--steps", "1"]],
    ),
    Peer(
        "mongomig",
        ["mongomig==0.4.2"],
        "migrations/versions/2026010{number}_0000_00000000000{number}_step.py",
        MONGOMIG,
        lambda _: [["mongomig", "upgrade", "head"], ["mongomig", "downgrade", "--yes"]],
    ),
    Peer(
        "beanie",
        ["beanie"],
        "migrations/2026010{number}000000_step.py",
        BEANIE,
        lambda place: [
            command := ["beanie", "migrate", "-uri", place.uri, "-db", place.database, "-p", place.files],
            [*command, "--backward", "-d", "1"],
        ],
        is_local=True,
    ),
    Peer(
        "migrate-mongo",
        ["migrate-mongo@14.0.7", "mongodb@7"],
        "migrations/2026010{number}000000-step.js",
        MIGRATE_MONGO,
        lambda _: [["migrate-mongo", "up"], ["migrate-mongo", "down"]],
    ),
]


def install(peer: Peer, folder: Path) -> Path:
    """Install a tool; return the folder of its commands. Skips the test if it can't be had here, and says why."""
    if peer.tool == "migrate-mongo":
        if (npm := shutil.which("npm")) is None:
            pytest.skip("it needs npm")
        options = ["--no-audit", "--no-fund", "--loglevel=error"]
        subprocess.run([npm, "install", "--prefix", str(folder), *options, *peer.requirements], check=True)
        return folder / "node_modules" / ".bin"
    python = newest_python() if peer.tool == "mongrator" else sys.executable
    requirements = [*peer.requirements, "--constraint", str(ROOT / "constraints.txt")]
    try:
        return make(folder / "environment", python, requirements).parent
    except NotInstalledError as error:
        if "needs Python" not in str(error):
            raise
        pytest.skip(str(error))


def lay_down(peer: Peer, place: Place) -> list[str]:
    """Write the three migrations; return the names of their files without the suffix."""
    files = []
    for path, text in CONFIGURATIONS.get(peer.tool, {}).items():
        (place.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (place.folder / path).write_text(text)
    for number in NUMBERS:
        file = place.folder / peer.file.format(number=number)
        file.parent.mkdir(parents=True, exist_ok=True)
        names = {"before": files[-1:], "down_revision": repr(f"00000000000{number - 1}") if number > 1 else None}
        file.write_text(peer.text.format(number=number, **names))
        files.append(file.stem)
    return files


def make_registry(peer: Peer, place: Place, files: Sequence[str]) -> MigrationRegistry:
    """Register the files as they are, if that is possible, or what a person would write in their place."""
    registry = MigrationRegistry()
    if peer.tool in {"pymongo-migrate", "mongodb-migrations", "mongrator"}:
        assert register_folder(registry, place.files, tool=peer.tool) == files
        return registry

    def register(number: int, name: str, depends_on: Sequence[str]) -> None:
        @registry.register(name, depends_on)
        def insert(db: Any) -> None:
            db.things.insert_one({"_id": number})

        @registry.register_rollback(name)
        def remove(db: Any) -> None:
            db.things.delete_one({"_id": number})

    for number, name in zip(NUMBERS, files, strict=True):
        register(number, name, files[number - 2 : number - 1] if number > 1 else [])
    return registry


def list_fields(documents: Sequence[Mapping[str, Any]]) -> set[str]:
    return {field for document in documents for field in document} - {"_id"}


@pytest.mark.timeout(300)  # the installation
@pytest.mark.parametrize("peer", PEERS, ids=[peer.tool for peer in PEERS])
def test_import(peer: Peer, tmp_path: Path, uri: str, name: str) -> None:
    """What the tool has applied is recorded with its dates, and quaestor applies and undoes the rest."""
    commands = install(peer, tmp_path)
    place = Place(tmp_path, uri, name)
    files = lay_down(peer, place)
    peer_environment = {"PEER_URI": uri, "PEER_DATABASE": name, "TZ": ZONE, "PYTHONUTF8": "1"}
    peer_environment |= {"MONGRATOR_URI": uri, "MONGRATOR_DB": name, "MONGRATOR_MIGRATIONS_DIR": place.files}
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")} | peer_environment
    began = datetime.now(UTC) - timedelta(milliseconds=1)  # MongoDB cuts microseconds
    for command, *arguments in peer.commands(place):
        subprocess.run([commands / command, *arguments], cwd=tmp_path, env=environment, check=True)
    ended = datetime.now(UTC)

    with MongoClient[dict[str, Any]](uri) as client:
        db = client[name]
        assert [one["_id"] for one in db.things.find(sort=[("_id", 1)])] == [1, 2]
        history = next(one for one in HISTORIES if one.tool == peer.tool)
        assert list_fields([*db[history.collection].find()]) == list_fields(history.documents)

        runner = SyncRunner(make_registry(peer, place, files), db)
        result = runner.import_history(peer.tool, timezone=ZONE if peer.is_local else None)

        assert [one.name for one in result.imported] == files[:2]
        assert all(began <= one.applied_at <= ended for one in result.imported)
        assert len(result.not_applied) == history.keeps_undone
        assert result.unplaced == ()
        assert runner.run() == files[2:]
        assert [one["_id"] for one in db.things.find(sort=[("_id", 1)])] == [1, 2, 3]
        assert runner.rollback(files[1:]) == [files[2], files[1]]
        assert [one["_id"] for one in db.things.find()] == [1]
        assert runner.run() == files[1:]
