"""Databases of many tenants, of a project whose migrations can be held, and fail in some of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pymongo import MongoClient

from tests.cli.conftest import Project

MIGRATIONS = """
import os, time
from quaestor import MigrationRegistry

registry = MigrationRegistry()

def wait_for_the_gate(name):
    if "QUIET" not in os.environ:
        print(f"printed by {name}\\n", end="", flush=True)
    while "GATE" in os.environ and not os.path.exists(os.environ["GATE"]):
        time.sleep(0.01)

@registry.register("first")
def first(db):
    wait_for_the_gate("first")
    db.effects.insert_one({"_id": "first"})

@registry.register_rollback("first")
def undo_first(db):
    wait_for_the_gate("undo_first")
    db.effects.delete_one({"_id": "first"})

@registry.register("second", depends_on=["first"])
async def second(db, context):
    context.progress(1, 2)
    if db.name.endswith(os.environ.get("FAILS", "never")):
        if "EXITS" in os.environ:
            raise SystemExit(int(os.environ["EXITS"]))
        raise ValueError("boom as ada:" + os.environ.get("WORD", "nobody"))
    await db.effects.insert_one({"_id": "second"})

@registry.register_rollback("second")
async def undo_second(db):
    if db.name.endswith(os.environ.get("FAILS", "never")):
        raise ValueError("boom as ada:" + os.environ.get("WORD", "nobody"))
    await db.effects.delete_one({"_id": "second"})

@registry.register("third")
def third(db):
    wait_for_the_gate("third")
"""
HELD_BY = "elsewhere (process 4711)"


class Tenants:
    """Databases whose names begin with the name of the project's database.

    Attributes:
        project: The project, whose setting `db` is the pattern.
        names: Of the databases, in order.
    """

    def __init__(self, project: Project, number: int) -> None:
        self.project = project
        self.client: Any = project.db.client
        self.names = [f"{project.db.name}_{one:02}" for one in range(number)]
        for name in self.names:
            self.client[name].things.insert_one({})
        project.environ["QUAESTOR_DB"] = self.pattern

    @property
    def pattern(self) -> str:
        return f"{self.project.db.name}_*"

    def open_the_gate(self) -> None:
        (self.project.folder / "gate").touch()

    def recorded(self, number: int) -> set[str]:
        return {record["name"] for record in self.client[self.names[number]].app_migrations.find()}

    def effects(self, number: int) -> set[str]:
        return {effect["_id"] for effect in self.client[self.names[number]].effects.find()}

    def leases(self) -> list[str]:
        """The databases in which somebody holds the lease."""
        return [name for name in self.names if "owner" in (self.client[name].app_migrations_lock.find_one() or {})]


@contextmanager
def tenants(project: Project, number: int) -> Iterator[Tenants]:
    """So many databases, dropped in the end."""
    project.write("shop/migrations/__init__.py", MIGRATIONS)
    project.environ["GATE"] = str(project.folder / "gate")
    made = Tenants(project, number)
    try:
        yield made
    finally:
        for process in project.started:
            process.kill()
            process.wait()
        with MongoClient[dict[str, Any]](project.environ["QUAESTOR_URI"]) as client:
            for name in client.list_database_names():
                if name.startswith(f"{project.db.name}_"):
                    client.drop_database(name)
