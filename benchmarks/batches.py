"""What passes over collections in batches cost, beside loops by hand and Beanie; what kills do to them; their memory.

As a program it is a process that is killed, or whose memory is measured. Its arguments: what it is, the driver, the
URI, and for one that is killed whether its batches are transactions, for the other one the collection.
"""

import asyncio
import random
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from pymongo import AsyncMongoClient, MongoClient, UpdateOne

from benchmarks.table import Row, at_least, at_most
from quaestor import AsyncMigrationContext, BackfillStarted, Event, MigrationContext, MigrationRegistry

DRIVERS = ("PyMongo", "PyMongo async", "Motor")
SIZE = 1_000
USERS = 200_000
ROUNDS = 4
ONE_BY_ONE = 5_000
ITERATED = 50_000
ITERATED_ROUNDS = 3
KILLS = 10
KILLED_TTL = 1.0
FEW, MANY = 10_000, 1_000_000
NAME = "quaestor_benchmarks"
ORIGINALS = "quaestor_benchmarks_originals"
Client = MongoClient[dict[str, Any]]


@dataclass(frozen=True)
class Way:
    """A way to change all users, in both colours.

    Attributes:
        sync: Given a database of PyMongo.
        asynchronous: Given one of PyMongo's async client, or Motor's.
    """

    sync: Callable[[Any], object]
    asynchronous: Callable[[Any], Awaitable[object]]


def rows(uri: str) -> Iterator[Row]:
    """All three drivers; Beanie with the one that it has."""
    with Client(uri) as client:
        _drop(client)
        try:
            _make_originals(client)
            seconds = {}
            for driver in DRIVERS:
                ours, by_hand = _in_turn(client, USERS, (_of(driver, uri, QUAESTOR), _of(driver, uri, BY_HAND)), ROUNDS)
                seconds[driver] = statistics.median(ours)
                yield _beside_by_hand(driver, ours, by_hand)
                yield _beside_one_by_one(client, driver, uri, seconds[driver])
            yield _beside_beanie(client, uri)
            for driver in DRIVERS:
                for transaction in (False, True):
                    yield _killed(client, driver, uri, seconds[driver], transaction=transaction)
            for driver in DRIVERS:
                yield _memory(driver, uri)
        finally:
            _drop(client)


def _drop(client: Client) -> None:
    client.drop_database(NAME)
    client.drop_database(ORIGINALS)


def _make_originals(client: Client) -> None:
    """The server makes them."""
    originals = client[ORIGINALS]
    number = {"$add": [{"$multiply": ["$thousands", 1_000]}, "$ones"]}
    user = {
        "name": {"$concat": ["Grace", {"$toString": "$thousands"}, " Hopper", {"$toString": "$ones"}]},
        "email": {"$concat": ["grace.hopper.", {"$toString": number}, "@example.com"]},
        "city": {"$arrayElemAt": [["Amsterdam", "Barcelona", "Copenhagen", "Dublin"], {"$mod": ["$ones", 4]}]},
        "joined": {"$toDate": {"$multiply": [{"$toLong": number}, 100_000]}},
        "visits": "$ones",
        "active": {"$eq": [{"$mod": ["$ones", 2]}, 0]},
    }
    for collection, count, document in (
        ("users", USERS, user),
        ("few", FEW, {"n": number}),
        ("many", MANY, {"n": number}),
    ):
        originals.one.drop()
        originals.one.insert_one({})
        steps: list[dict[str, Any]] = [
            {"$project": {"thousands": {"$range": [0, count // 1_000]}}},
            {"$unwind": "$thousands"},
            {"$project": {"thousands": 1, "ones": {"$range": [0, 1_000]}}},
            {"$unwind": "$ones"},
            {"$project": {"_id": 0, **document}},
            {"$out": collection},
        ]
        originals.one.aggregate(steps)


def _fresh(client: Client, count: int) -> None:
    """A new database with so many users; what the server still had to write has been written."""
    client.drop_database(NAME)
    client[ORIGINALS].users.aggregate([{"$limit": count}, {"$out": {"db": NAME, "coll": "users"}}])
    client.admin.command("fsync")


def _in_turn(
    client: Client, count: int, ways: tuple[Callable[[], float], Callable[[], float]], rounds: int
) -> tuple[list[float], list[float]]:
    """The seconds that two ways take for so many users. Each is the first one in every other round."""
    taken: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        for which in (0, 1) if number % 2 else (1, 0):
            _fresh(client, count)
            taken[which].append(ways[which]())
            changed = client[NAME].users.count_documents({"first": {"$exists": True}, "last": {"$exists": True}})
            if changed != count:
                sys.exit(f"{changed} users were changed in place of {count}.")
    return taken


def _of(driver: str, uri: str, way: Way) -> Callable[[], float]:
    """Go this way with this driver; returns the seconds that it takes, without connecting."""
    if driver == "PyMongo":
        return lambda: _seconds(uri, way)
    return lambda: asyncio.run(_seconds_async(driver, uri, way))


def _seconds(uri: str, way: Way) -> float:
    with Client(uri) as client:
        client.admin.command("ping")
        started = time.perf_counter()
        way.sync(client[NAME])
        return time.perf_counter() - started


async def _seconds_async(driver: str, uri: str, way: Way) -> float:
    client = _async_client(driver, uri)
    await client.admin.command("ping")
    started = time.perf_counter()
    await way.asynchronous(client[NAME])
    taken = time.perf_counter() - started
    if (closing := client.close()) is not None:
        await closing
    return taken


def _async_client(driver: str, uri: str) -> Any:
    from motor.motor_asyncio import AsyncIOMotorClient  # not in the processes of another driver

    return AsyncIOMotorClient(uri) if driver == "Motor" else AsyncMongoClient(uri)


def _beside_by_hand(driver: str, ours: list[float], by_hand: list[float]) -> Row:
    ratio = statistics.median(by_hand) / statistics.median(ours)
    rounds = sorted(hand / our for our, hand in zip(ours, by_hand, strict=True))
    detail = (
        f"{USERS / statistics.median(ours):,.0f} a second; rounds {rounds[0]:.2f} to {rounds[-1]:.2f}, "
        f"sums {sum(by_hand) / sum(ours):.3f}"
    )
    return at_least(f"{driver}: rate of a backfill of {USERS:,} documents, against a loop by hand", ratio, 0.95, detail)


def _beside_one_by_one(client: Client, driver: str, uri: str, ours: float) -> Row:
    _fresh(client, ONE_BY_ONE)
    others = _of(driver, uri, ONE_AT_A_TIME)()
    ratio = (USERS / ours) / (ONE_BY_ONE / others)
    detail = f"{USERS / ours:,.0f} against {ONE_BY_ONE / others:,.0f} a second"
    return at_least(f"{driver}: the same, against find and update_one of {ONE_BY_ONE:,} documents", ratio, 20, detail)


def _beside_beanie(client: Client, uri: str) -> Row:
    from benchmarks import iterative  # it takes Beanie, and that memory

    def iterated() -> float:
        return asyncio.run(iterative.seconds(uri, NAME))

    ours, beanie = _in_turn(client, ITERATED, (_of("PyMongo async", uri, QUAESTOR), iterated), ITERATED_ROUNDS)
    ratio = statistics.median(beanie) / statistics.median(ours)
    rounds = sorted(theirs / our for our, theirs in zip(ours, beanie, strict=True))
    rates = [f"{ITERATED / statistics.median(taken):,.0f}" for taken in (ours, beanie)]
    detail = f"{rates[0]} against {rates[1]} a second; rounds {rounds[0]:.2f} to {rounds[-1]:.2f}"
    what = f"PyMongo async: rate of a backfill of {ITERATED:,} documents, against Beanie's iterative migration"
    return at_least(what, ratio, 3, detail)


def _killed(client: Client, driver: str, uri: str, seconds: float, *, transaction: bool) -> Row:
    """Kill it at random moments, in the first half of a whole pass all together, and let it come to its end."""
    _fresh(client, USERS)
    kills, ended = 0, None
    while ended != 0:
        process = subprocess.Popen(  # noqa: S603 - it is this file
            [sys.executable, "-m", "benchmarks.batches", "killed", driver, uri, str(int(transaction))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        with process:
            is_passing = cast("IO[str]", process.stdout).readline() == "passing\n"
            if is_passing and kills < KILLS:
                time.sleep(random.uniform(0, seconds / (2 * KILLS)))  # noqa: S311 - a moment, not a secret
                process.kill()
        ended = process.returncode
        kills += ended == -signal.SIGKILL
        if ended not in {0, -signal.SIGKILL}:
            sys.exit(f"A process that was to be killed ended with {ended} by itself.")
    seen = {
        one["_id"]: one["count"]
        for one in client[NAME].users.aggregate([{"$group": {"_id": {"$ifNull": ["$seen", 0]}, "count": {"$sum": 1}}}])
    }
    missed = seen.get(0, 0)
    again = sum(count * (times - 1) for times, count in seen.items() if times)
    limit = 0 if transaction else kills * SIZE
    measured = f"{USERS - missed:,} changed, {again:,} of them twice  ({kills} kills)"
    how = "each batch a transaction" if transaction else "no transactions"
    reach = f"all changed, at most {limit:,} twice"
    reached = kills == KILLS and not missed and again <= limit
    return Row(f"{driver}: killed {KILLS} times in a backfill of {USERS:,} documents, {how}", measured, reach, reached)


def _memory(driver: str, uri: str) -> Row:
    peaks = {}
    for collection in ("few", "many"):
        command = [sys.executable, "-m", "benchmarks.batches", "memory", driver, uri, collection]
        ended = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - it is this file
        peaks[collection] = int(ended.stdout)
    detail = f"{peaks['many'] / 2**20:.1f} against {peaks['few'] / 2**20:.1f} MiB"
    what = f"{driver}: peak memory of a backfill of {MANY:,} documents, against {FEW:,}"
    return at_most(what, peaks["many"] / peaks["few"], 1.1, detail)


def _change(document: dict[str, Any]) -> UpdateOne:
    first, last = document["name"].split()
    return UpdateOne({"_id": document["_id"]}, {"$set": {"first": first, "last": last}})


def _registry(function: Callable[..., object]) -> MigrationRegistry:
    registry = MigrationRegistry()
    registry.register("split_names")(function)
    return registry


def _no_log(_: Event) -> None:
    """It is not measured what a log takes."""


def _split(db: Any, context: MigrationContext) -> None:
    for documents in context.batches(db.users, size=SIZE):
        db.users.bulk_write([_change(document) for document in documents])


async def _split_async(db: Any, context: AsyncMigrationContext) -> None:
    async for documents in context.batches(db.users, size=SIZE):
        await db.users.bulk_write([_change(document) for document in documents])


def _migrate(db: Any) -> None:
    _registry(_split).run_sync(db, "batches", on_event=_no_log)


async def _migrate_async(db: Any) -> None:
    await _registry(_split_async).run(db, "batches", on_event=_no_log)


def _by_hand(db: Any) -> None:
    changes = []
    for document in db.users.find().sort("_id", 1).batch_size(SIZE):
        changes.append(_change(document))
        if len(changes) == SIZE:
            db.users.bulk_write(changes)
            changes = []
    if changes:
        db.users.bulk_write(changes)


async def _by_hand_async(db: Any) -> None:
    changes = []
    async for document in db.users.find().sort("_id", 1).batch_size(SIZE):
        changes.append(_change(document))
        if len(changes) == SIZE:
            await db.users.bulk_write(changes)
            changes = []
    if changes:
        await db.users.bulk_write(changes)


def _one_by_one(db: Any) -> None:
    for document in db.users.find():
        first, last = document["name"].split()
        db.users.update_one({"_id": document["_id"]}, {"$set": {"first": first, "last": last}})


async def _one_by_one_async(db: Any) -> None:
    async for document in db.users.find():
        first, last = document["name"].split()
        await db.users.update_one({"_id": document["_id"]}, {"$set": {"first": first, "last": last}})


QUAESTOR = Way(_migrate, _migrate_async)
BY_HAND = Way(_by_hand, _by_hand_async)
ONE_AT_A_TIME = Way(_one_by_one, _one_by_one_async)


def _tell(event: Event) -> None:
    if isinstance(event, BackfillStarted):
        print("passing", flush=True)  # noqa: T201 - it is how the processes talk


def _seen(documents: list[dict[str, Any]]) -> list[UpdateOne]:
    return [UpdateOne({"_id": document["_id"]}, {"$inc": {"seen": 1}}) for document in documents]


def _to_be_killed(uri: str, *, transaction: bool) -> None:
    with Client(uri) as client:
        users = client[NAME].users

        def count(_: Any, context: MigrationContext) -> None:
            def body(documents: list[dict[str, Any]]) -> None:
                users.bulk_write(_seen(documents))

            if transaction:
                context.for_each_batch(users, body, size=SIZE)
                return
            for documents in context.batches(users, size=SIZE):
                body(documents)

        _registry(count).run_sync(client[NAME], "killed", on_event=_tell, lease_ttl=KILLED_TTL)


async def _to_be_killed_async(driver: str, uri: str, *, transaction: bool) -> None:
    client = _async_client(driver, uri)
    users = client[NAME].users

    async def count(_: Any, context: AsyncMigrationContext) -> None:
        async def body(documents: list[dict[str, Any]]) -> None:
            await users.bulk_write(_seen(documents))

        if transaction:
            await context.for_each_batch(users, body, size=SIZE)
            return
        async for documents in context.batches(users, size=SIZE):
            await body(documents)

    await _registry(count).run(client[NAME], "killed", on_event=_tell, lease_ttl=KILLED_TTL)


def _remember(uri: str, collection: str) -> None:
    with Client(uri) as client:
        things = client[ORIGINALS][collection]

        def mark(_: Any, context: MigrationContext) -> None:
            for documents in context.batches(things, size=SIZE):
                things.update_many({"_id": {"$in": [one["_id"] for one in documents]}}, {"$set": {"seen": True}})

        _registry(mark).run_sync(client[NAME], f"memory_{collection}", on_event=_no_log)


async def _remember_async(driver: str, uri: str, collection: str) -> None:
    client = _async_client(driver, uri)
    things = client[ORIGINALS][collection]

    async def mark(_: Any, context: AsyncMigrationContext) -> None:
        async for documents in context.batches(things, size=SIZE):
            await things.update_many({"_id": {"$in": [one["_id"] for one in documents]}}, {"$set": {"seen": True}})

    await _registry(mark).run(client[NAME], f"memory_{collection}", on_event=_no_log)


def _process(what: str, driver: str, uri: str, detail: str) -> None:
    if what == "killed":
        if driver == "PyMongo":
            _to_be_killed(uri, transaction=detail == "1")
        else:
            asyncio.run(_to_be_killed_async(driver, uri, transaction=detail == "1"))
        return
    if driver == "PyMongo":
        _remember(uri, detail)
    else:
        asyncio.run(_remember_async(driver, uri, detail))
    print(_peak())  # noqa: T201 - it is how the processes talk


def _peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux ru_maxrss begins with what the process had that started this one
        return int(status.read_text().partition("VmHWM:")[2].split()[0]) * 1_024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    _process(*sys.argv[1:])
