"""An application that migrates, written once and run with every driver; and what it leaves in the database."""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal, TypeAlias

import pymongo
from bson import ObjectId
from bson.binary import UUID_SUBTYPE, Binary
from pymongo import MongoClient

from quaestor import AsyncRunner, Event, Lease, MigrationRegistry, SyncRunner
from tests.bodies import run_body, run_body_async
from tests.databases import opened, opened_async
from tests.faults.works import FILTER, SIZE, Way, changes, make_backfill
from tests.leases import HELD
from tools.faults import Fault
from tools.replica_set import ReplicaSet

DRIVERS = ("pymongo", "pymongo-async", "motor")

FAULTS_OF_PRIMARY: dict[str, Callable[[ReplicaSet], object]] = {
    "killed": ReplicaSet.kill_primary,
    "stepped down": ReplicaSet.step_down,
}

COMMANDS = {
    "read": ("find", "app_migrations"),
    "look": ("aggregate", "app_migrations_lock"),
    "acquire": ("findAndModify", "app_migrations_lock"),
    "check": ("update", "app_migrations_lock"),
    "record": ("insert", "app_migrations"),
    "unrecord": ("delete", "app_migrations"),
    "accept": ("update", "app_migrations"),
    "note": ("update", "app_migrations_history"),
}
"""The library's own commands: name and collection."""

Failing: TypeAlias = Callable[..., contextlib.AbstractContextManager[Fault]]
"""Makes a command of COMMANDS fail, for the application alone."""

Body: TypeAlias = Callable[[Any], Generator[Any, Any, None]]
"""A migration's function for every driver. It yields each operation on the database and gets back what came of it.

An operation of an asynchronous driver is awaited. A function that is yielded is called outside of the body's
transaction and of its event loop: that is how a body waits, and how something else happens meanwhile.
"""


class Application:
    """A registry, and a database that it migrates with the prefix `app`.

    Args:
        kind: Whether the database is sync or async.
        opener: Makes the context manager that opens it; it is opened for every run.

    Attributes:
        registry: The migrations.
        bodies: The names of the migrations whose function was called, in order; of a rollback `undo` and the name.
        events: The events of the runs, in order.
        when: What to do at an event of a type; called with it.
    """

    def __init__(self, kind: Literal["sync", "async"], opener: Callable[[], Any]) -> None:
        self._kind = kind
        self._opened = opener
        self.registry = MigrationRegistry()
        self.bodies: list[str] = []
        self.events: list[Event] = []
        self.when: dict[type[Event], Callable[[Any], object]] = {}

    def migration(
        self, name: str, depends_on: Sequence[str] = (), *, transaction: bool = False
    ) -> Callable[[Body], Body]:
        """Register a body."""
        return self._registering(name, self.registry.register(name, depends_on, transaction=transaction))

    def rollback_of(self, name: str) -> Callable[[Body], Body]:
        """Register the body that undoes a migration."""
        return self._registering(f"undo {name}", self.registry.register_rollback(name))

    def _registering(self, name: str, register: Callable[[Any], object]) -> Callable[[Body], Body]:
        def decorator(body: Body) -> Body:
            def function(db: Any) -> None:
                self.bodies.append(name)
                run_body(body(db))

            async def function_async(db: Any) -> None:
                self.bodies.append(name)
                await run_body_async(body(db))

            chosen = {"sync": function, "async": function_async}[self._kind]
            register(chosen)
            return body

        return decorator

    def goes_over(
        self, way: Way, *, name: str = "a", meanwhile: Callable[[int], object] | None = None, **options: Any
    ) -> None:
        """Register a backfill over `things`, which does with each batch what `changes` does.

        Args:
            way: How it is gone.
            name: The name of the migration.
            meanwhile: Called in each batch between its log and its change, outside of its transaction and of its event
                loop, with the number that the batch has for this application, from 1.
            options: As for `batches`.
        """
        options = {"filter": FILTER, "size": SIZE, **options}

        def change(db: Any, documents: list[Any]) -> Generator[Any, Any, None]:
            self.bodies.append(name)
            between = None if meanwhile is None else partial(meanwhile, len(self.bodies))
            return changes(db, documents, between, transaction=way == "transaction")

        self.registry.register(name)(make_backfill(self._kind == "async", way, change, **options))

    def leaves_effects(self, *names: str, transaction: bool = False) -> None:
        """Register migrations that insert their name into `effects`, and whose rollbacks insert `undo` and it."""
        for name in names:
            self.migration(name, transaction=transaction)(partial(effect, name))
            self.rollback_of(name)(partial(effect, f"undo {name}"))

    def run(self, *, concurrency: int = 1, **options: Any) -> list[str]:
        """Run the migrations, so many of them at once."""
        names: list[str] = self._called(lambda runner: runner.run(concurrency=concurrency), options)
        return names

    def unlock(self) -> Lease | None:
        """Free the lease of whoever holds it."""
        freed: Lease | None = self.call("unlock")
        return freed

    def call(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call this method of a runner that has these options."""
        return self._called(lambda runner: getattr(runner, method)(*arguments), options)

    def _called(self, method: Callable[[Any], Any], options: Mapping[str, Any]) -> Any:
        if self._kind == "sync":
            with self._opened() as db:
                return method(SyncRunner(self.registry, db, "app", on_event=self._tell, **options))

        async def call() -> Any:
            async with self._opened() as db:
                return await method(AsyncRunner(self.registry, db, "app", on_event=self._tell, **options))

        return asyncio.run(call())

    def list_events(self, of: type[Event]) -> list[Any]:
        """The events of a type, so far."""
        return [event for event in self.events if type(event) is of]

    def _tell(self, event: Event) -> None:
        self.events.append(event)
        if type(event) in self.when:
            self.when[type(event)](event)


def application(driver: str, uri: str, database: str, **options: Any) -> Application:
    """An application with one of the drivers that need a server; the options are its client's.

    A fail point for it alone has appName="app".
    """
    options = {"appname": "app", "heartbeatFrequencyMS": 500, **options}
    if driver == "pymongo":
        return Application("sync", partial(opened, "pymongo", uri, database, **options))
    family = {"pymongo-async": "pymongo", "motor": "motor"}[driver]
    return Application("async", partial(opened_async, family, uri, database, **options))


def effect(name: str, db: Any) -> Generator[Any, Any, None]:
    """A body that inserts the name into `effects`."""
    yield db.effects.insert_one({"migration": name})


@dataclass(frozen=True)
class State:
    """What runs have left.

    Attributes:
        records: The names that are recorded, in order; each as often as it is.
        effects: The names that migrations and rollbacks inserted, likewise.
        holder: The owner of the lease; None where it is free.
    """

    records: list[str]
    effects: list[str]
    holder: str | None = None


def state(db: Any) -> State:
    """The state of a synchronous database."""
    records = list(db.app_migrations.find())
    assert all(isinstance(record["appliedAt"], datetime) for record in records)
    lock = db.app_migrations_lock.find_one() or {}
    return State(
        sorted(record["name"] for record in records),
        sorted(document["migration"] for document in db.effects.find()),
        lock.get("owner"),
    )


def old_record(name: str) -> dict[str, object]:
    """A record as mongo-quaestor 0.1.0 writes it, which knows no lease."""
    return {"_id": ObjectId(), "name": name, "appliedAt": datetime.now(UTC)}


def lsid(client: MongoClient[Any], session_id: bytes) -> dict[str, Binary]:
    """A session of this client as the server, and the lock document, names it."""
    users = client.admin.command("connectionStatus")["authInfo"]["authenticatedUsers"]
    user = f"{users[0]['user']}@{users[0]['db']}" if users else ""
    return {"id": Binary(session_id, UUID_SUBTYPE), "uid": Binary(hashlib.sha256(user.encode()).digest())}


def hold(db: Any, *, seconds: float, sessions: Sequence[Mapping[str, Binary]] = ()) -> None:
    """Leave the lease as a run leaves it that is killed: whoever waits replaces it after so many seconds."""
    now = datetime.now(UTC)
    lock = HELD | {"owner": "somebody", "token": 7, "pid": 4321, "migrations": ["a"], "sessions": list(sessions)}
    times = {"since": now - timedelta(minutes=1), "renewedAt": now, "ttl": seconds}
    db.app_migrations_lock.replace_one({"_id": "lease"}, lock | times, upsert=True)


def release(db: Any) -> None:
    """Release the lease as its holder does."""
    db.app_migrations_lock.replace_one({"_id": "lease"}, {"token": 7, "sessions": []})


@contextlib.contextmanager
def transactions_live(uri: str, seconds: int) -> Iterator[None]:
    """Let the server end transactions that are older, while the context lasts."""
    with MongoClient[dict[str, Any]](uri) as client:
        parameter = "transactionLifetimeLimitSeconds"
        before = client.admin.command({"setParameter": 1, parameter: seconds})["was"]
        try:
            yield
        finally:
            client.admin.command({"setParameter": 1, parameter: before})


def until_expired(db: Any) -> None:
    """Wait until the lease that somebody holds has expired, by the server's clock."""
    expires_at = {"$add": ["$renewedAt", {"$multiply": ["$ttl", 1000]}]}
    with pymongo.timeout(30):
        while db.app_migrations_lock.find_one({"$expr": {"$lt": [expires_at, "$$NOW"]}}) is None:
            time.sleep(0.02)
