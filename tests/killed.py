"""A process that applies or undoes migrations and is killed at a place of one's choice, and what it leaves.

As a program it stops there, says so, and waits for its end. Its arguments: the driver, the work ("run" or "rollback"),
the migration, the place, the URI, the name of the database.
"""

import asyncio
import subprocess
import sys
from typing import Any

from pymongo import AsyncMongoClient, MongoClient
from pymongo.monitoring import CommandStartedEvent

from quaestor import AsyncRunner, MigrationRegistry, SyncRunner
from tests.operations import LONG_AGO
from tools.commands import Commands

DEATHS = [
    ("run", "a", "in the function"),
    ("run", "b", "in the function"),
    ("run", "b", "before the record"),
    ("rollback", "c", "in the function"),
    ("rollback", "b", "in the function"),
    ("rollback", "b", "before the record"),
]
"""The work, the migration that it is left in, and the place there; of three, each of which needs the one before."""

NEEDS = {"a": [], "b": ["a"], "c": ["b"]}


def killed(driver: str, death: tuple[str, str, str], uri: str, name: str) -> None:
    """Start this file as a program, kill it when it has stopped, and let its lease end."""
    program = [sys.executable, "-m", "tests.killed", driver, *death, uri, name]
    process = subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "stopped\n"
    finally:
        process.kill()
        process.communicate()
    with MongoClient(uri) as client:
        held = {"_id": "lease", "expiresAt": {"$gt": LONG_AGO}}
        assert client[name].app_migrations_lock.update_one(held, {"$set": {"expiresAt": LONG_AGO}}).matched_count


def _stop() -> None:
    print("stopped", flush=True)
    sys.stdin.read()  # for ever: nobody writes


class _Stop(Commands):
    """Stops before the command that writes or removes the record of a migration."""

    def __init__(self, migration: str) -> None:
        super().__init__()
        self._migration = migration

    def started(self, event: CommandStartedEvent) -> None:
        command = event.command
        changes = [*command.get("documents", []), *(delete["q"] for delete in command.get("deletes", []))]
        if any(change.get("name") == self._migration for change in changes):
            _stop()


def _registry(asynchronous: bool, stops: tuple[str, str] | None) -> MigrationRegistry:
    """Migrations and rollbacks; the function of the one stops, given as the work and the name."""
    registry = MigrationRegistry()

    def function(work: str, name: str) -> Any:
        def body(db: Any) -> None:
            if (work, name) == stops:
                _stop()

        async def body_async(db: Any) -> None:
            body(db)

        return body_async if asynchronous else body

    for name, depends_on in NEEDS.items():
        registry.register(name, depends_on)(function("run", name))
        registry.register_rollback(name)(function("rollback", name))
    return registry


def _main(driver: str, work: str, migration: str, place: str, uri: str, name: str) -> None:
    if work == "rollback":
        with MongoClient(uri) as client:
            _registry(False, None).run_sync(client[name], "app")
    in_function = place == "in the function"
    registry = _registry(driver != "pymongo", (work, migration) if in_function else None)
    options: dict[str, Any] = {} if in_function else {"event_listeners": [_Stop(migration)]}
    if driver == "pymongo":
        runner = SyncRunner(registry, MongoClient(uri, **options)[name], "app")
        _ = runner.run() if work == "run" else runner.rollback(["a"])
    else:
        asyncio.run(_main_async(driver, registry, work, uri, name, options))


async def _main_async(
    driver: str, registry: MigrationRegistry, work: str, uri: str, name: str, options: dict[str, Any]
) -> None:
    if driver == "motor":
        from motor.motor_asyncio import AsyncIOMotorClient

        client: Any = AsyncIOMotorClient(uri, **options)
    else:
        client = AsyncMongoClient(uri, **options)
    runner = AsyncRunner(registry, client[name], "app")
    await (runner.run() if work == "run" else runner.rollback(["a"]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
