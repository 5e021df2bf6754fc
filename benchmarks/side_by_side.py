"""Migrations side by side, and many databases at once: how much sooner they are done, with each driver."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient

from benchmarks.table import Row, at_least, at_most
from quaestor import Event, MigrationRegistry
from tools.commands import Commands
from tools.faults import fail_command

INDEPENDENT = 8
WAITED = 0.2  # seconds
LANES = 4
DATABASES = 500
AT_ONCE = 8
AWAY = 10  # milliseconds: a network's distance
ROUNDS = 3
NAME = "quaestor_benchmarks"
APP = "quaestor-benchmarks"


def rows(uri: str) -> Iterator[Row]:
    """All three drivers."""
    with MongoClient[dict[str, Any]](uri) as client:
        names = [f"{NAME}_{number:03}" for number in range(DATABASES)]
        try:
            yield from _sync(client, uri, names)
            for driver, make in (("PyMongo async", AsyncMongoClient), ("Motor", AsyncIOMotorClient)):
                yield from asyncio.run(_asynchronous(client, uri, names, driver, make))
        finally:
            for name in (NAME, *names):
                client.drop_database(name)


def _sync(client: MongoClient[dict[str, Any]], uri: str, names: list[str]) -> Iterator[Row]:
    registry = _registry(INDEPENDENT, lambda _: time.sleep(WAITED))
    seconds: dict[int, list[float]] = {1: [], LANES: []}
    for concurrency in (1, LANES) * ROUNDS:
        client.drop_database(NAME)
        run = partial(registry.run_sync, client[NAME], "app", on_event=_deaf, concurrency=concurrency)
        seconds[concurrency].append(_timed(run))
    yield _side_by_side("PyMongo", seconds)

    registry = _registry(1, lambda _: None)
    commands = Commands()
    with MongoClient[dict[str, Any]](uri, event_listeners=[commands], appname=APP) as away:
        dbs = [away[name] for name in names]
        _check(len(registry.run_many_sync(dbs, "app", on_event=_deaf)))
        loop, many, sent = [], [], []
        with fail_command(uri, ["find"], times="alwaysOn", appName=APP, blockConnection=True, blockTimeMS=AWAY):
            for _ in range(ROUNDS):
                loop.append(_timed(lambda: [registry.run_sync(db, "app", on_event=_deaf) for db in dbs]))
                commands.sent.clear()
                many.append(_timed(lambda: registry.run_many_sync(dbs, "app", on_event=_deaf, concurrency=AT_ONCE)))
                sent.append(len(commands.sent))
    yield from _many("PyMongo", loop, many, sent)


async def _asynchronous(
    client: MongoClient[dict[str, Any]], uri: str, names: list[str], driver: str, make: Callable[..., Any]
) -> list[Row]:
    async def wait(_: Any) -> None:
        await asyncio.sleep(WAITED)

    async def nothing(_: Any) -> None:
        """What is applied already."""

    registry = _registry(INDEPENDENT, wait)
    plain, commands = make(uri), Commands()
    seconds: dict[int, list[float]] = {1: [], LANES: []}
    for concurrency in (1, LANES) * ROUNDS:
        client.drop_database(NAME)
        running = registry.run(plain[NAME], "app", on_event=_deaf, concurrency=concurrency)
        seconds[concurrency].append(await _timed_async(running))
    rows = [_side_by_side(driver, seconds)]

    registry = _registry(1, nothing)
    away = make(uri, event_listeners=[commands], appname=APP)
    dbs = [away[name] for name in names]

    async def one_after_the_other() -> None:
        for db in dbs:
            await registry.run(db, "app", on_event=_deaf)

    _check(len(await registry.run_many(dbs, "app", on_event=_deaf)))
    loop, many, sent = [], [], []
    with fail_command(uri, ["find"], times="alwaysOn", appName=APP, blockConnection=True, blockTimeMS=AWAY):
        for _ in range(ROUNDS):
            loop.append(await _timed_async(one_after_the_other()))
            commands.sent.clear()
            many.append(await _timed_async(registry.run_many(dbs, "app", on_event=_deaf, concurrency=AT_ONCE)))
            sent.append(len(commands.sent))
    rows.extend(_many(driver, loop, many, sent))
    for used in (plain, away):
        if (closing := used.close()) is not None:
            await closing
    return rows


def _side_by_side(driver: str, seconds: dict[int, list[float]]) -> Row:
    one, several = statistics.median(seconds[1]), statistics.median(seconds[LANES])
    what = f"{driver}: time of {INDEPENDENT} independent migrations of {WAITED} s, concurrency={LANES} against 1"
    return at_most(what, several / one, 0.35, f"{several:.2f} s against {one:.2f} s")


def _many(driver: str, loop: list[float], many: list[float], sent: list[int]) -> Iterator[Row]:
    what = f"{driver}: nothing to do in {DATABASES} databases, {AWAY} ms away"
    yield Row(f"{what}: commands", str(max(sent)), str(DATABASES), set(sent) == {DATABASES})
    ratio = statistics.median(loop) / statistics.median(many)
    detail = f"{statistics.median(many):.2f} s against {statistics.median(loop):.2f} s"
    yield at_least(f"{what}: run_many(concurrency={AT_ONCE}), rate against a plain loop", ratio, 6, detail)


def _registry(count: int, function: Callable[[Any], object]) -> MigrationRegistry:
    registry = MigrationRegistry()
    for number in range(count):
        registry.register(f"migration_{number}")(function)
    return registry


def _deaf(_: Event) -> None:
    """Nothing is logged: a line for each database is not what is measured."""


def _check(migrated: int) -> None:
    if migrated != DATABASES:
        raise RuntimeError(f"{migrated} databases were migrated, not {DATABASES}.")


def _timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


async def _timed_async(running: Awaitable[object]) -> float:
    started = time.perf_counter()
    await running
    return time.perf_counter() - started
