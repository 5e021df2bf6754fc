"""What a run sends and how long it takes, on the real server, with each driver."""

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient, MongoClient, WriteConcern
from pymongo.read_concern import ReadConcern

from benchmarks.table import Row, at_most
from quaestor import MigrationRegistry
from tools.commands import Commands

RECORDED = (200, 100_000)
APPLIED = 500
COUNTED = 100
ROUNDS = 7
NAME = "quaestor_benchmarks"


def rows(uri: str) -> Iterator[Row]:
    """All three drivers."""
    with MongoClient[dict[str, Any]](uri) as client:
        client.drop_database(NAME)
        try:
            yield from _sync(client, uri)
            yield from asyncio.run(_asynchronous(client, uri, "PyMongo async", AsyncMongoClient))
            yield from asyncio.run(_asynchronous(client, uri, "Motor", AsyncIOMotorClient))
        finally:
            client.drop_database(NAME)


def _sync(client: MongoClient[dict[str, Any]], uri: str) -> Iterator[Row]:
    commands = Commands()
    with MongoClient[dict[str, Any]](uri, event_listeners=[commands]) as watched:
        db = watched[NAME]
        for count in RECORDED:
            registry = _registry(count, _nothing)
            _record_all(client, count)
            registry.run_sync(db, "idle")  # connects
            commands.sent.clear()
            started = time.perf_counter()
            registry.run_sync(db, "idle")
            yield _idle("PyMongo", count, commands.names, time.perf_counter() - started)

        for transaction in (False, True):
            registry = _registry(COUNTED, _body, transaction=transaction)
            client.drop_database(NAME)
            commands.sent.clear()
            registry.run_sync(db, "counted")
            yield _counted("PyMongo", commands, transaction=transaction)

    registry = _registry(APPLIED, _body)
    ours, bare = [], []
    for _ in range(ROUNDS):
        client.drop_database(NAME)
        ours.append(_timed(lambda: registry.run_sync(client[NAME], "busy")))
        client.drop_database(NAME)
        bare.append(_timed(lambda: _by_hand(client[NAME])))
    yield _busy("PyMongo", ours, bare)


async def _asynchronous(
    client: MongoClient[dict[str, Any]], uri: str, driver: str, make: Callable[..., Any]
) -> list[Row]:
    rows = []
    commands = Commands()
    watched, plain = make(uri, event_listeners=[commands]), make(uri)
    for count in RECORDED:
        registry = _registry(count, _nothing_async)
        _record_all(client, count)
        await registry.run(watched[NAME], "idle")
        commands.sent.clear()
        started = time.perf_counter()
        await registry.run(watched[NAME], "idle")
        rows.append(_idle(driver, count, commands.names, time.perf_counter() - started))

    for transaction in (False, True):
        registry = _registry(COUNTED, _body_async, transaction=transaction)
        client.drop_database(NAME)
        commands.sent.clear()
        await registry.run(watched[NAME], "counted")
        rows.append(_counted(driver, commands, transaction=transaction))

    registry = _registry(APPLIED, _body_async)
    ours, bare = [], []
    await plain.admin.command("ping")
    for _ in range(ROUNDS):
        client.drop_database(NAME)
        ours.append(await _timed_async(lambda: registry.run(plain[NAME], "busy")))
        client.drop_database(NAME)
        bare.append(await _timed_async(lambda: _by_hand_async(plain[NAME])))
    rows.append(_busy(driver, ours, bare))
    for used in (watched, plain):
        if (closing := used.close()) is not None:
            await closing
    return rows


def _idle(driver: str, count: int, sent: list[str], seconds: float) -> Row:
    what = f"{driver}: commands of a run with nothing to do, {count:,} records"
    return Row(what, f"{', '.join(sent)}  ({seconds * 1e3:.0f} ms)", "find alone", sent == ["find"])


def _counted(driver: str, commands: Commands, *, transaction: bool) -> Row:
    count = sum("things" not in command.values() for command in commands.sent)
    limit = (3 if transaction else 2) * COUNTED + 6  # two look for records elsewhere
    what = f"{driver}: commands of a run of {COUNTED} migrations" + (", in transactions" if transaction else "")
    return Row(what, str(count), f"at most {limit}", count <= limit)


def _busy(driver: str, ours: list[float], bare: list[float]) -> Row:
    ratio = statistics.median(ours) / statistics.median(bare)
    detail = f"{statistics.median(ours) / APPLIED * 1e3:.2f} ms a migration"
    return at_most(f"{driver}: time to apply {APPLIED} migrations, against a loop by hand", ratio, 1.4, detail)


def _registry(count: int, function: Callable[..., object], *, transaction: bool = False) -> MigrationRegistry:
    registry = MigrationRegistry()
    for number in range(count):
        registry.register(f"migration_{number:06}", transaction=transaction)(function)
    return registry


def _record_all(client: MongoClient[dict[str, Any]], count: int) -> None:
    names = [f"migration_{number:06}" for number in range(count)]
    client[NAME].idle_migrations.drop()
    client[NAME].idle_migrations.insert_many(
        {"_id": name, "name": name, "appliedAt": datetime.now(UTC)} for name in names
    )


def _nothing(db: Any) -> None:
    """A migration that is never called."""


async def _nothing_async(db: Any) -> None:
    """A migration that is never called."""


def _body(db: Any) -> None:
    """What each migration does: one write."""
    db.things.insert_one({})


async def _body_async(db: Any) -> None:
    """What each migration does: one write."""
    await db.things.insert_one({})


def _by_hand(db: Any) -> None:
    """The same commands without quaestor."""
    records = db.get_collection("hand_migrations", None, None, WriteConcern("majority"), ReadConcern("majority"))
    applied = {record["name"] for record in records.find({}, {"name": 1})}
    for number in range(APPLIED):
        name = f"migration_{number:06}"
        if name not in applied:
            _body(db)
            records.insert_one({"_id": name, "name": name, "appliedAt": datetime.now(UTC)})


async def _by_hand_async(db: Any) -> None:
    """The same commands without quaestor."""
    records = db.get_collection("hand_migrations", None, None, WriteConcern("majority"), ReadConcern("majority"))
    applied = {record["name"] async for record in records.find({}, {"name": 1})}
    for number in range(APPLIED):
        name = f"migration_{number:06}"
        if name not in applied:
            await _body_async(db)
            await records.insert_one({"_id": name, "name": name, "appliedAt": datetime.now(UTC)})


def _timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


async def _timed_async(function: Callable[[], Awaitable[object]]) -> float:
    started = time.perf_counter()
    await function()
    return time.perf_counter() - started
