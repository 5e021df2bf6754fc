"""An instance that migrates many databases, rolls them back or marks what is in them, in this process or in one of its
own; and what is left in each of them.

As a program (`python -m tests.faults.tenants ORDERS`, JSON) it says lines: `stopped` where its orders say, in one
database, until it gets a line; and in the end what came of it, as JSON: the results, or the name of what was raised.
"""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, Self

from pymongo import AsyncMongoClient, MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from quaestor import DatabaseResult, Event, MigrationRegistry
from tests.bodies import run_body, run_body_async
from tests.faults.works import send

NAMES = ["a", "b", "c"]
"""The migrations, each of which needs the one before; `b` is a transaction."""


class Broken(Exception):
    """A user's own exception."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What an instance is to do.

    Attributes:
        driver: One of "pymongo", "pymongo-async", "motor".
        uri: Where.
        databases: The names of the databases.
        call: The method of the registry, without `_sync`, and its arguments after the prefix.
        stops_in: The database and where it stops in it: in a migration or its rollback, once that has written there, or
            at the first step of this kind, such as "after insert", that changes its records.
        fails_in: The database whose `b` raises.
        concurrency, lease_ttl, lease_timeout: As for `run_many`.
    """

    driver: str
    uri: str
    databases: Sequence[str]
    call: Sequence[Any] = ("run_many",)
    stops_in: Sequence[str] = ("", "")
    fails_in: str = ""
    concurrency: int = 8
    lease_ttl: float = 30
    lease_timeout: float | None = None


def migrated(orders: Orders, on_event: Callable[[Event], None] = lambda _: None) -> list[DatabaseResult]:
    """Make the call, in this process."""
    registry = _registry(orders)
    method, *arguments = orders.call
    client_options: dict[str, Any] = {"heartbeatFrequencyMS": 500, "event_listeners": [_Steps(orders)]}
    options: dict[str, Any] = {
        "on_event": on_event,
        "lease_ttl": orders.lease_ttl,
        "lease_timeout": orders.lease_timeout,
        "concurrency": orders.concurrency,
    }

    def databases(client: Any) -> list[Any]:
        return [client[name] for name in orders.databases]

    async def migrate_async(client: Any) -> list[DatabaseResult]:
        try:
            call = getattr(registry, method)
            results: list[DatabaseResult] = await call(databases(client), "app", *arguments, **options)
            return results
        finally:
            if (closing := client.close()) is not None:  # Motor's is no coroutine
                await closing

    async def with_driver() -> list[DatabaseResult]:
        if orders.driver == "motor":
            from motor.motor_asyncio import AsyncIOMotorClient

            return await migrate_async(AsyncIOMotorClient(orders.uri, **client_options))
        return await migrate_async(AsyncMongoClient(orders.uri, **client_options))

    if orders.driver != "pymongo":
        return asyncio.run(with_driver())
    with MongoClient[Any](orders.uri, **client_options) as client:
        results: list[DatabaseResult] = getattr(registry, f"{method}_sync")(
            databases(client), "app", *arguments, **options
        )
        return results


class _Steps(CommandListener):
    """Stops at the step in the orders."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._changes: dict[int, tuple[str, str]] = {}

    def started(self, event: CommandStartedEvent) -> None:
        if event.command.get(event.command_name) == "app_migrations":
            self._changes[event.request_id] = (event.database_name, event.command_name)
            _stop_at(event.database_name, f"before {event.command_name}", self._orders)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        if (change := self._changes.pop(event.request_id, None)) is not None:
            _stop_at(change[0], f"after {change[1]}", self._orders)

    def failed(self, event: CommandFailedEvent) -> None:
        self._changes.pop(event.request_id, None)


@dataclass(frozen=True)
class Left:
    """What is left in a database.

    Attributes:
        records: The names that are recorded, in order; each as often as it is.
        counts: How often each migration wrote, so that it stayed.
        undone: The same of its rollback.
        holder: The owner of the lease; None where it is free.
    """

    records: list[str]
    counts: dict[str, int]
    holder: str | None = None
    undone: dict[str, int] = field(default_factory=dict)

    def is_whole(self) -> bool:
        """Whether all is done: what is no transaction at least once, the transaction once. (A run that was killed may
        have done all but free its lease.)
        """
        return self.records == sorted(self.counts) == NAMES and self.counts["b"] == 1


def left(client: MongoClient[Any], name: str) -> Left:
    """What there is in a database by now."""
    db = client[name]
    return Left(
        sorted(record["name"] for record in db.app_migrations.find()),
        {document["_id"]: document["count"] for document in db.effects.find()},
        (db.app_migrations_lock.find_one() or {}).get("owner"),
        {document["_id"]: document["undone"] for document in db.effects.find({"undone": {"$exists": True}})},
    )


class Instance:
    """An instance in a process of its own, which ends with the context, at the latest."""

    def __init__(self, orders: Orders) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.tenants", json.dumps(asdict(orders))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # a frozen one too
        self.process.communicate()

    def until_stopped(self) -> None:
        """Wait until it stops where its orders say."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "stopped\n"

    def outcome(self) -> Any:
        """Let it go on, and wait for its end; the results, each as a list, or the name of what was raised."""
        output, _ = self.process.communicate("\n", timeout=120)
        return json.loads(output.splitlines()[-1])


@contextlib.contextmanager
def dropped(uri: str, names: Sequence[str]) -> Iterator[MongoClient[Any]]:
    """A client for looking at these databases; they are dropped in the end."""
    with MongoClient[Any](uri) as client:
        yield client
        for name in names:
            client.drop_database(name)


def _registry(orders: Orders) -> MigrationRegistry:
    registry = MigrationRegistry()
    for number, name in enumerate(NAMES):
        registry.register(name, NAMES[:number][-1:], transaction=name == "b")(_function(name, orders))
        registry.register_rollback(name)(_function(name, orders, "undone"))
    return registry


def _function(name: str, orders: Orders, counter: str = "count") -> Callable[[Any], object]:
    def steps(db: Any) -> Generator[Any, Any, None]:
        # What a function raises is the caller's, so it repeats a write; in a transaction that is for the library.
        yield from send(lambda: db.effects.update_one({"_id": name}, {"$inc": {counter: 1}}, upsert=True), name == "b")
        yield partial(_go_on, db.name, name, orders)

    async def function_async(db: Any) -> None:
        await run_body_async(steps(db))

    return (lambda db: run_body(steps(db))) if orders.driver == "pymongo" else function_async


def _go_on(database: str, migration: str, orders: Orders) -> None:
    _stop_at(database, migration, orders)
    if (database, migration) == (orders.fails_in, "b"):
        raise Broken(database)


def _stop_at(database: str, where: str, orders: Orders) -> None:
    if [database, where] == list(orders.stops_in):
        print("stopped", flush=True)
        sys.stdin.readline()


def _main(orders: Orders) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore it, and that is inherited
    try:
        results = migrated(orders)
    except BaseException as error:  # noqa: BLE001 - the process that started this one gets it
        print(json.dumps(type(error).__name__))
        return
    print(json.dumps([(one.database, one.applied, one.error and repr(one.error)) for one in results]))


if __name__ == "__main__":
    _main(Orders(**json.loads(sys.argv[1])))
