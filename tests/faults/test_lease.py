"""A lease that is lost, taken over, freed or ignored: whoever lost it stops, and nothing is recorded twice."""

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import AsyncIterator, Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import AsyncMongoClient
from pymongo.uri_parser import parse_uri

from quaestor import Lease, LeaseAwaited, LeaseLostError, MigrationFailed, MigrationRegistry, SessionsNotEnded
from tests.faults.applications import Application, State, effect, hold, lsid, old_record, release, state
from tools.faults import Fault, fail_command


@pytest.mark.parametrize("driver", ["pymongo-async", "motor"])
def test_blocked_loop(app: Application, db: Any) -> None:
    """A body that blocks the event loop for longer than the lease lasts, while nobody else waits: the run goes on."""

    @app.migration("a")
    def blocks(db: Any) -> Generator[Any, Any, None]:
        yield from effect("a", db)
        time.sleep(1.2)  # it is the fault: nothing is waited for

    app.leaves_effects("b")

    assert app.run(lease_ttl=1.0) == ["a", "b"]
    assert state(db) == State(["a", "b"], ["a", "b"])


@pytest.mark.parametrize("driver", ["pymongo-async", "motor"])
def test_blocked_loop_while_another_waits(app: Application, other: Application, db: Any) -> None:
    """Likewise, while another instance waits: that one takes over, and this one finds it before it records."""
    other.leaves_effects("a")

    with ThreadPoolExecutor() as elsewhere:

        @app.migration("a")
        def blocks(db: Any) -> Generator[Any, Any, None]:
            yield from effect("a", db)
            assert elsewhere.submit(other.run).result(timeout=60) == ["a"]

        app.leaves_effects("b")
        with pytest.raises(LeaseLostError) as caught:
            app.run(lease_ttl=1.0)

    assert caught.value.migration == "a"
    assert app.list_events(MigrationFailed)[0].error is caught.value
    assert app.bodies == ["a"]
    assert app.run() == ["b"]
    assert state(db) == State(["a", "b"], ["a", "a", "b"])


def test_unlocked(app: Application, other: Application, db: Any) -> None:
    """Whoever's lease was freed stops before its record; the next run applies."""
    freed: list[Lease | None] = []

    @app.migration("a")
    def is_unlocked(db: Any) -> Generator[Any, Any, None]:
        yield from effect("a", db)
        if len(app.bodies) == 1:
            yield lambda: freed.append(other.unlock())

    with pytest.raises(LeaseLostError) as caught:
        app.run()

    assert caught.value.migration == "a"
    assert [lease and lease.migrations for lease in freed] == [("a",)]
    assert state(db) == State([], ["a"])
    assert other.unlock() is None
    assert app.run() == ["a"]
    assert state(db) == State(["a"], ["a", "a"])


@pytest.mark.parametrize(("transaction", "effects"), [(False, ["a", "a"]), (True, ["a"])])
def test_taken_over(
    app: Application, other: Application, db: Any, uri: str, name: str, transaction: bool, effects: list[str]
) -> None:
    """Another instance takes over from one that is cut off in its body: that one stops; one record, by the other."""
    other.leaves_effects("a", "b", transaction=transaction)
    lock = f"{name}.app_migrations_lock"
    with contextlib.ExitStack() as stack:

        @app.migration("a", transaction=transaction)
        def is_cut_off(observed: Any) -> Generator[Any, Any, None]:
            yield from effect("a", observed)
            cut = fail_command(uri, ["update"], namespace=lock, appName="app", times="alwaysOn", closeConnection=True)
            yield partial(stack.enter_context, cut)
            yield lambda: applied.extend(other.run())
            yield stack.close

        applied: list[str] = []
        app.leaves_effects("b", transaction=transaction)
        with pytest.raises(LeaseLostError):
            app.run(lease_ttl=1.0)

    assert applied == ["a", "b"]
    assert app.bodies == ["a"]
    assert state(db) == State(["a", "b"], [*effects, "b"])
    assert db.app_migrations_lock.find_one()["token"] == 2


@pytest.mark.parametrize("fault", [{}, {"closeConnection": True}, {"errorCode": 189}], ids=str)
def test_awaited(app: Application, other: Application, db: Any, uri: str, name: str, fault: dict[str, Any]) -> None:
    """An instance that finds the lease held waits, whatever befalls its commands, and finds nothing to do then."""
    waiting = threading.Event()
    other.when[LeaseAwaited] = lambda _: waiting.set()
    other.leaves_effects("a")
    lock = f"{name}.app_migrations_lock"
    with (
        fail_command(uri, ["findAndModify"], namespace=lock, appName="other", times=2, **fault)
        if fault
        else contextlib.nullcontext() as struck,
        ThreadPoolExecutor() as elsewhere,
    ):

        @app.migration("a")
        def takes_its_time(db: Any) -> Generator[Any, Any, None]:
            found.append(elsewhere.submit(other.run))
            yield partial(waiting.wait, 30)
            yield from effect("a", db)

        found: list[Any] = []
        assert app.run() == ["a"]
        assert found[0].result(timeout=30) == []

    assert struck is None or struck.hits == 2
    assert other.list_events(LeaseAwaited)[0].holder.migrations == ("a",)
    assert other.bodies == []
    assert state(db) == State(["a"], ["a"])


@pytest.mark.parametrize(
    ("fault", "times", "codes"),
    [
        pytest.param({"closeConnection": True}, 2, [], id="lost twice"),
        pytest.param({"errorCode": 189}, 2, [], id="PrimarySteppedDown"),
        pytest.param({"errorCode": 13}, 1, [13], id="Unauthorized"),
    ],
)
def test_sessions_of_a_killed_holder(
    app: Application, db: Any, uri: str, fault: dict[str, Any], times: int, codes: list[int]
) -> None:
    """The command that ends them is sent again when it is lost; where it is refused, that is an event, and no more."""
    hold(db, seconds=0.05, sessions=[lsid(db.client, uuid.uuid4().bytes)])
    app.leaves_effects("a")

    with fail_command(uri, ["killSessions"], appName="app", times=times, **fault) as struck:
        assert app.run() == ["a"]

    assert struck.hits == times
    assert [event.error.code for event in app.list_events(SessionsNotEnded)] == codes
    assert state(db) == State(["a"], ["a"])


def test_old_tool_at_the_same_time(app: Application, db: Any) -> None:
    """The old tool knows no lease and records while a run is on: nothing is lost, and our records are there once."""

    @app.migration("a")
    def meets_the_old_tool(observed: Any) -> Generator[Any, Any, None]:
        yield from effect("a", observed)
        yield partial(db.app_migrations.insert_many, [old_record("a"), old_record("b"), old_record("b")])

    app.leaves_effects("b")

    assert app.run() == ["a", "b"]
    assert app.run() == []

    assert state(db) == State(["a", "a", "b", "b", "b"], ["a", "b"])
    ours = [record["_id"] for record in db.app_migrations.find({"_id": {"$type": "string"}})]
    assert sorted(ours) == ["a", "b"]


@pytest.mark.parametrize(
    ("before", "records", "effects"),
    [
        pytest.param([old_record("z")], ["a", "a", "z"], ["a"], id="both record"),
        pytest.param([], ["a"], [], id="conflict"),  # it makes the collection of the records under the transaction
    ],
)
def test_old_tool_in_a_transaction(
    app: Application, db: Any, before: list[Any], records: list[str], effects: list[str]
) -> None:
    """The same while a transaction is open: where they conflict the old tool's record stands, and nothing of ours."""
    for record in before:
        db.app_migrations.insert_one(record)

    @app.migration("a", transaction=True)
    def meets_the_old_tool(observed: Any) -> Generator[Any, Any, None]:
        yield from effect("a", observed)
        yield partial(db.app_migrations.insert_one, old_record("a"))

    assert app.run() == ["a"]
    assert app.run() == []

    assert app.bodies == ["a"]
    assert state(db) == State(records, effects)


def test_old_tool_before_the_turn(app: Application, db: Any) -> None:
    """What the old tool recorded while a run waited for its turn is not applied again, its duplicates included."""
    db.app_migrations.insert_one(old_record("a"))
    hold(db, seconds=60)
    app.leaves_effects("a", "b", "c")

    def old_tool(_: LeaseAwaited) -> None:
        db.app_migrations.insert_many([old_record("a"), old_record("b"), old_record("b")])
        release(db)

    app.when[LeaseAwaited] = old_tool

    assert app.run() == ["c"]
    assert app.bodies == ["c"]
    assert state(db) == State(["a", "a", "b", "b", "c"], ["c"])


@pytest.mark.parametrize("driver", ["pymongo-async", "motor"])
@pytest.mark.parametrize("command", ["findAndModify", "insert"])
def test_cancelled_during_a_command(driver: str, uri: str, name: str, db: Any, command: str) -> None:
    """Cancelled while the lease is acquired or a record written: neither comes when the run has ended."""
    registry = MigrationRegistry()

    @registry.register("a")
    async def nothing(db: Any) -> None: ...

    async def cancel(fault: Fault) -> State:
        client: Any = {"pymongo-async": AsyncMongoClient, "motor": AsyncIOMotorClient}[driver](uri, appname="cancelled")
        running = asyncio.create_task(registry.run(client[name], "app"))
        await asyncio.to_thread(fault.wait)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        ended = state(db)
        await asyncio.sleep(1)  # as long as the server holds the command
        if closing := client.close():
            await closing
        return ended

    held = {"blockConnection": True, "blockTimeMS": 800, "appName": "cancelled"}
    with fail_command(uri, [command], **held) as fault:
        ended = asyncio.run(cancel(fault))

    assert ended.holder is None
    assert state(db) == ended


@contextlib.asynccontextmanager
async def late_command(uri: str, command: bytes, other: bytes) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """Relay to a server. The first message with a command is sent on when the other one has been answered, or in half
    a second, even if the client has gone by then. Yields the address, and an event that is set when it is held back.
    """
    held, overtaken, arrived = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def relay(near: SocketStream) -> None:
        async with (
            near,
            await anyio.connect_tcp(*parse_uri(uri)["nodelist"][0]) as far,
            anyio.create_task_group() as both,
        ):
            is_held = has_sent_other = False

            async def reply() -> None:
                async for data in far:
                    if is_held:
                        arrived.set()
                    if has_sent_other:
                        overtaken.set()
                    with contextlib.suppress(anyio.BrokenResourceError):  # the client has gone
                        await near.send(data)

            both.start_soon(reply)
            async for data in near:
                if command in data and not held.is_set():
                    is_held = True
                    held.set()
                    with anyio.move_on_after(0.5):
                        await overtaken.wait()
                has_sent_other = has_sent_other or other in data
                await far.send(data)
            if is_held:
                await arrived.wait()
            await far.send_eof()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, relay)
        yield f"127.0.0.1:{listener.extra(SocketAttribute.local_port)}", held  # noqa: S610 - not Django's
        await arrived.wait()
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize("driver", ["pymongo-async", "motor"])
def test_cancelled_command_that_arrives_late(driver: str, uri: str, name: str, db: Any) -> None:
    """Cancelled while the command that acquires the lease is on its way: the release doesn't overtake it."""
    registry = MigrationRegistry()

    @registry.register("a")
    async def nothing(db: Any) -> None: ...

    async def cancel() -> None:
        async with late_command(uri, b"findAndModify", b"\x02update\x00") as (address, held):
            to_relay: Any = {"pymongo-async": AsyncMongoClient, "motor": AsyncIOMotorClient}[driver]
            # Retryable writes of one session can't overtake each other, but nothing says that it is one session.
            client = to_relay(f"mongodb://{address}", directConnection=True, retryWrites=False)
            running = asyncio.create_task(registry.run(client[name], "app"))
            await held.wait()
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            if closing := await asyncio.to_thread(client.close):  # Motor's sends, and the relay needs the loop
                await closing

    asyncio.run(cancel())
    assert state(db).holder is None
