"""How long instances that start at once wait for each other: real processes, on the real server, with each driver.

As a program it is one of them. Its arguments: the driver, the URI, the prefix. It says when it is ready, waits for a
line, and says when its run ended (seconds of the machine's clock) and how many migrations it applied.
"""

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO, Any, cast

from pymongo import AsyncMongoClient, MongoClient

from benchmarks.table import Row
from quaestor import MigrationRegistry

INSTANCES = 8
MIGRATIONS = 20
ROUNDS = 5
LIMIT = 1.2
NAME = "quaestor_benchmarks"


def rows(uri: str) -> Iterator[Row]:
    """All three drivers."""
    with MongoClient[dict[str, Any]](uri) as client:
        for driver in ("PyMongo", "PyMongo async", "Motor"):
            apart = []
            for number in range(ROUNDS):
                client.drop_database(NAME)
                apart.append(_round(driver, uri, f"round_{number}"))
                _check(client[NAME].things.count_documents({}))
            seen = ", ".join(f"{seconds:.2f}" for seconds in sorted(apart))
            what = (
                f"{driver}: {INSTANCES} processes at once, {MIGRATIONS} migrations: time from the first end to the last"
            )
            yield Row(what, f"{max(apart):.2f} s  (of {seen})", f"at most {LIMIT} s", max(apart) <= LIMIT)
        client.drop_database(NAME)


def _round(driver: str, uri: str, prefix: str) -> float:
    """Start them at once. Returns how long after the first one the last one came back, in seconds."""
    command = [sys.executable, "-m", "benchmarks.instances", driver, uri, prefix]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - it is this file
        for _ in range(INSTANCES)
    ]
    for process in started:
        cast("IO[str]", process.stdout).readline()
    for process in started:
        stdin = cast("IO[str]", process.stdin)
        stdin.write("go\n")
        stdin.flush()
    said = [process.communicate()[0].split() for process in started]
    _check(sum(int(applied) for _, applied in said))
    ended = [float(end) for end, _ in said]
    return max(ended) - min(ended)


def _check(applied: int) -> None:
    if applied != MIGRATIONS:
        sys.exit(f"{applied} migrations were applied in place of {MIGRATIONS}.")


def _registry(function: Callable[..., object]) -> MigrationRegistry:
    registry = MigrationRegistry()
    for number in range(MIGRATIONS):
        registry.register(f"migration_{number:02}")(function)
    return registry


def _body(db: Any) -> None:
    db.things.insert_one({})


async def _body_async(db: Any) -> None:
    await db.things.insert_one({})


def _told_to() -> None:
    print("ready", flush=True)  # noqa: T201 - it is how the processes talk
    sys.stdin.readline()


def _ended(applied: list[str]) -> None:
    print(time.time(), len(applied))  # noqa: T201 - likewise


def _instance(uri: str, prefix: str) -> None:
    with MongoClient[dict[str, Any]](uri) as client:
        client.admin.command("ping")
        _told_to()
        _ended(_registry(_body).run_sync(client[NAME], prefix, on_event=lambda _: None))


async def _instance_async(driver: str, uri: str, prefix: str) -> None:
    from motor.motor_asyncio import AsyncIOMotorClient

    client: Any = AsyncIOMotorClient(uri) if driver == "Motor" else AsyncMongoClient(uri)
    await client.admin.command("ping")
    _told_to()
    _ended(await _registry(_body_async).run(client[NAME], prefix, on_event=lambda _: None))
    if (closing := client.close()) is not None:
        await closing


if __name__ == "__main__":
    driver, *place = sys.argv[1:]
    if driver == "PyMongo":
        _instance(*place)
    else:
        asyncio.run(_instance_async(driver, *place))
