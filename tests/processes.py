"""A process that runs migrations and is interrupted by a real signal.

As a program it runs two migrations, of which the second says that it has started and waits. Its arguments: the kind of
the runner, the kind of the second function, the URI, the name of the database.
"""

import asyncio
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from pymongo import AsyncMongoClient, MongoClient

from quaestor import Event, MigrationFailed, MigrationRegistry


@dataclass(frozen=True)
class Ended:
    """What a process left.

    Attributes:
        lines: What it printed.
        errors: Its traceback.
        records: The names in its records.
        released: Whether it gave back the lease.
    """

    lines: list[str]
    errors: str
    records: list[str]
    released: bool


def interrupted(runner: str, kind: str, uri: str, name: str) -> Ended:
    """Start this file as a program, send it SIGINT when its second migration has started, and wait for its end."""
    command = [sys.executable, "-m", "tests.processes", runner, kind, uri, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline().strip()
            process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    with MongoClient(uri) as client:
        records = sorted(record["name"] for record in client[name].app_migrations.find())
        released = client[name].app_migrations_lock.count_documents({"token": 1, "owner": {"$exists": False}}) == 1
    return Ended([first, *output.split("\n")[:-1]], errors, records, released)


def _say(line: str) -> None:
    print(line, flush=True)


def _report_failure(event: Event) -> None:
    if isinstance(event, MigrationFailed):
        _say("failed")


def _registry(kind: str, run: asyncio.Task[Any] | None = None) -> MigrationRegistry:
    registry = MigrationRegistry()
    registry.register("a")(lambda db: None)

    def waits(db: Any) -> None:
        try:
            _say("started")  # in the try, for the signal comes at once
            # Ctrl-C reaches the main thread alone: a function in another one looks whether its run was cancelled
            while run is None or not run.cancelling():
                time.sleep(0.01)
        finally:
            _say("function ended")

    async def waits_async(db: Any) -> None:
        try:
            _say("started")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)  # cleaning up may need the loop once more
            _say("function ended")

    registry.register("b")({"sync": waits, "async": waits_async}[kind])
    return registry


async def _main_async(kind: str, uri: str, name: str) -> None:
    with MongoClient(uri) as client:
        async with AsyncMongoClient(uri) as async_client:
            task = asyncio.current_task()
            assert task is not None
            await _registry(kind, task).run(async_client[name], "app", sync_db=client[name], on_event=_report_failure)


def _main(kind: str, uri: str, name: str) -> None:
    with MongoClient(uri) as client:
        _registry(kind).run_sync(client[name], "app", async_db=AsyncMongoClient(uri)[name], on_event=_report_failure)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it, and that is inherited
    if sys.argv[1] == "async":
        asyncio.run(_main_async(*sys.argv[2:]))
    else:
        _main(*sys.argv[2:])
