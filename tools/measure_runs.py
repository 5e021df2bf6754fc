"""Measure runs on a real server with each driver: files, commands and wall time. See tools/measure.py."""

import asyncio
import contextlib
import inspect
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from pymongo import AsyncMongoClient, MongoClient, WriteConcern
from pymongo.read_concern import ReadConcern

import quaestor
from quaestor import MigrationRegistry
from tools.commands import Commands

PACKAGE = Path(quaestor.__file__).parent
NAME = "quaestor_measure"
COUNTED = 100
TIMED = 500
ROUNDS = 6


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: The name of the figure.
        seen: The figure as measured, with its parts.
        target: The figure to reach; empty for a row that only informs.
        details: The names behind the figure, one a line.
    """

    what: str
    seen: str
    target: str = ""
    details: tuple[str, ...] = ()


class Driver:
    """One driver and its connected client: applies a registry in the way that fits the driver.

    Args:
        name: For the table.
        make: Makes the client.
        is_async: Apply with `registry.run`, not with `registry.run_sync`.
        options: Options of the client.
    """

    def __init__(self, name: str, make: Callable[..., Any], uri: str, *, is_async: bool, **options: Any) -> None:
        self.name = name
        self.is_async = is_async
        self._loop = asyncio.Runner() if is_async else None
        self._client = self._call(lambda: make(uri, **options))  # Motor's client belongs to a loop
        self.db = self._client[NAME]
        self._call(lambda: self.db.command("ping"))  # connects

    def _call(self, function: Callable[[], Any]) -> Any:
        if self._loop is None:
            return function()

        async def call() -> Any:
            result = function()
            return await result if inspect.isawaitable(result) else result

        return self._loop.run(call())

    def apply(self, registry: MigrationRegistry, **options: Any) -> None:
        """Apply all migrations of the registry."""
        run = registry.run if self.is_async else registry.run_sync
        self._call(lambda: run(self.db, "measured", **options))

    def apply_by_hand(self) -> None:
        """Do the same as a run of `TIMED` migrations, without quaestor."""
        by_hand = _apply_by_hand_async if self.is_async else _apply_by_hand
        self._call(lambda: by_hand(self.db))

    def close(self) -> None:
        """Close the client, and the event loop if there is one."""
        self._call(self._client.close)
        if self._loop is not None:
            self._loop.close()


@contextlib.contextmanager
def drivers(uri: str, **options: Any) -> Iterator[list[Driver]]:
    """Connect with PyMongo, PyMongo async and Motor; all three are closed when the context ends."""
    from motor.motor_asyncio import AsyncIOMotorClient  # late: the other figures can be measured without Motor

    with contextlib.ExitStack() as stack:
        found = []
        for name, make, is_async in (
            ("PyMongo", MongoClient, False),
            ("PyMongo async", AsyncMongoClient, True),
            ("Motor", AsyncIOMotorClient, True),
        ):
            found.append(Driver(name, make, uri, is_async=is_async, **options))
            stack.callback(found[-1].close)
        yield found


# Files


def files(uri: str) -> Iterator[Row]:
    """Count the files whose functions one plain migration calls, from the call of the run to its return."""
    with MongoClient[dict[str, Any]](uri) as client, drivers(uri) as found:
        seen = {driver.name: _called(client, driver) for driver in found}
    calls = by_driver({name: called.total() for name, called in seen.items()})
    worst = max(seen.values(), key=len)
    counts = by_driver({name: len(called) for name, called in seen.items()})
    details = tuple(f"{shorten(file)}: {number} calls" for file, number in sorted(worst.items()))
    yield Row("files that one plain migration goes through", f"{len(worst)} ({counts})", "21", details)
    yield Row("calls of functions in these files", calls)


def _called(client: MongoClient[dict[str, Any]], driver: Driver) -> Counter[str]:
    """Count the calls by file, in a second run: the first imports modules and fills caches."""
    calls: Counter[str] = Counter()

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            calls[frame.f_code.co_filename] += 1

    for _ in range(2):
        reset(client)
        calls.clear()
        threading.setprofile(profile)  # threads that the run starts
        sys.setprofile(profile)
        try:
            driver.apply(make_registry(_write_async if driver.is_async else _write, 1))
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return Counter({file: number for file, number in calls.items() if is_own(file)})


# Commands


def commands(uri: str) -> Iterator[Row]:
    """Count the commands that a run sends besides those of the migrations, and those of a run with nothing to do."""
    listener = Commands()
    seen: dict[str, dict[str, int]] = {"none": {}, "plain": {}, "transaction": {}}
    with MongoClient[dict[str, Any]](uri) as client, drivers(uri, event_listeners=[listener]) as found:
        for driver in found:
            for kind in ("plain", "transaction"):
                function = _write_async if driver.is_async else _write
                registry = make_registry(function, COUNTED, transaction=kind == "transaction")
                reset(client)
                seen[kind][driver.name] = _sent(listener, driver, registry)
            seen["none"][driver.name] = _sent(listener, driver, registry)
    what = f"commands of a first run of {COUNTED} migrations"  # two look for records elsewhere
    yield Row(what, by_driver(seen["plain"]), str(2 * COUNTED + 6))
    yield Row(f"{what}, each in a transaction", by_driver(seen["transaction"]), str(3 * COUNTED + 6))
    yield Row("commands of a run with nothing to do", by_driver(seen["none"]), "1")


def _sent(listener: Commands, driver: Driver, registry: MigrationRegistry) -> int:
    listener.sent.clear()
    driver.apply(registry)
    return sum("things" not in command.values() for command in listener.sent)


# Wall time


def wall_time(uri: str) -> Iterator[Row]:
    """Compare a run of trivial migrations with a loop that does the same by hand: best of alternating rounds."""
    with MongoClient[dict[str, Any]](uri) as client, drivers(uri) as found:
        for driver in found:
            registry = make_registry(_write_async if driver.is_async else _write, TIMED)
            ours, bare = [], []
            for _ in range(ROUNDS):
                reset(client)
                ours.append(_seconds(partial(driver.apply, registry)))
                reset(client)
                bare.append(_seconds(driver.apply_by_hand))
            (wall, cpu), (bare_wall, bare_cpu) = _best(ours), _best(bare)
            yield Row(
                f"wall time of {TIMED} trivial migrations against a bare loop, {driver.name}",
                f"{wall / bare_wall:.2f} ({wall * 1e3:.0f} ms against {bare_wall * 1e3:.0f}; "
                f"of the CPU {cpu / bare_cpu:.2f}, {cpu * 1e3:.0f} ms against {bare_cpu * 1e3:.0f})",
                "1.55" if driver.is_async else "1.4",
            )


def _seconds(function: Callable[[], None]) -> tuple[float, float]:
    """Return the wall time of a call, and the CPU time of all threads, which other programs disturb less."""
    started = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def _best(rounds: list[tuple[float, float]]) -> tuple[float, float]:
    wall, cpu = zip(*rounds, strict=True)
    return min(wall), min(cpu)


def _apply_by_hand(db: Any) -> None:
    records = db.get_collection("by_hand", None, None, WriteConcern("majority"), ReadConcern("majority"))
    applied = {record["name"] for record in records.find({}, {"name": 1})}
    for name in map(_name, range(TIMED)):
        if name not in applied:
            _write(db)
            records.insert_one({"_id": name, "name": name, "appliedAt": datetime.now(UTC)})


async def _apply_by_hand_async(db: Any) -> None:
    records = db.get_collection("by_hand", None, None, WriteConcern("majority"), ReadConcern("majority"))
    applied = {record["name"] async for record in records.find({}, {"name": 1})}
    for name in map(_name, range(TIMED)):
        if name not in applied:
            await _write_async(db)
            await records.insert_one({"_id": name, "name": name, "appliedAt": datetime.now(UTC)})


# What several figures need


def is_own(file: str) -> bool:
    """Whether a file belongs to the package."""
    return Path(file).is_relative_to(PACKAGE)


def shorten(file: str) -> str:
    """Return the path below the package."""
    return Path(file).relative_to(PACKAGE).as_posix()


def make_registry(function: Callable[..., Any], count: int, *, transaction: bool = False) -> MigrationRegistry:
    """Register a function so many times."""
    registry = MigrationRegistry()
    for number in range(count):
        registry.register(_name(number), transaction=transaction)(function)
    return registry


def _name(number: int) -> str:
    return f"migration_{number:04}"


def _write(db: Any) -> None:
    db.things.insert_one({})


async def _write_async(db: Any) -> None:
    await db.things.insert_one({})


def reset(client: MongoClient[dict[str, Any]]) -> None:
    """Start from an empty database that has the collection to write to."""
    client.drop_database(NAME)
    client[NAME].create_collection("things")


def by_driver(figures: Mapping[str, int]) -> str:
    """Write a figure once if all drivers have the same, and by driver otherwise."""
    if len(set(figures.values())) == 1:
        return f"{next(iter(figures.values()))} on each driver"
    return ", ".join(f"{name} {figure}" for name, figure in figures.items())
