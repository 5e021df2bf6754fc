"""An instance: a process that runs migrations, or undoes them, says what happens, and stops or dies as its orders say.

As a program (`python -m tests.faults.instance ORDERS`, JSON) it says `ready`, waits for a line, runs, and says how that
ended. What it says are lines of JSON: the events under the names of their classes, and

    step      it is before, or after, a command of its own (if `traced`)
    stopped   it is at the step `stopped_at`, or in a migration that is `held`, and waits for a line: an empty one, or
              one that names the step, or the migration
    dies      it is at the step number `dies_at`, and ends itself by SIGKILL
    returned, raised

A step is named by its command and the collection: "before insert records", "after update work", "before update lease".
"""

import asyncio
import contextlib
import json
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from datetime import timedelta
from functools import partial
from operator import methodcaller
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeAlias

from pymongo import AsyncMongoClient, MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

from quaestor import (
    AsyncRunner,
    BackfillStarted,
    Event,
    LeaseAwaited,
    LeaseNotReleased,
    MigrationProgressed,
    MigrationRegistry,
    MigrationRetried,
    RollbackStarted,
    RunStarted,
    SyncRunner,
)
from quaestor.cli.signals import repeat_unhandled
from tests.bodies import run_body, run_body_async
from tests.faults.works import FILTER, SIZE, Work, changes, make_backfill, send

PATIENCE = 120.0
"""For how long a line of an instance is waited for, in seconds, before it counts as hung."""

SLOW = 10.0
"""How late a loaded machine may make a takeover, in seconds. The transactions of a dead holder would block for 60 s."""

COLLECTIONS = {
    "app_migrations": "records",
    "app_migrations_history": "history",
    "app_migrations_lock": "lease",
    "app_migrations_progress": "progress",
}
"""What the library's collections are called in the names of steps."""

Line: TypeAlias = dict[str, Any]
"""What an instance said: `is`, `at` (of a clock that all processes of a machine share, in seconds), and details."""


@dataclass(frozen=True, kw_only=True)
class Orders:
    """What an instance is to do.

    Attributes:
        driver: One of "pymongo", "pymongo-async", "motor".
        uri, database: Where.
        works: The migrations.
        calls: The methods of the runner that it calls, one after the other, each with its arguments; last, if there are
            any, a dictionary of those with names.
        lease_ttl: As for `run`.
        traced: It says every step.
        stopped_at: The step before which, or after which, it stops when it comes there first.
        passed: How often it comes there before that, and goes on.
        dies_at: The number of the step at which it dies, from 1.
        concurrency, retry: As for `run`; 1 and none for all other calls.
    """

    driver: str
    uri: str
    database: str
    works: Sequence[Work]
    calls: Sequence[Sequence[Any]] = (("run",),)
    lease_ttl: float = 30
    traced: bool = False
    stopped_at: str | None = None
    passed: int = 0
    dies_at: int | None = None
    concurrency: int = 1
    retry: Sequence[str] = ()


class Instance:
    """An instance that is being started; the process ends with the context, at the latest.

    Args:
        orders: What it is to do.
        heard: Called with the instance and each line, in a thread of its own; the last line is `ended`.
        environment: Variables of its environment, besides those of this process.
        release: The folder of another release, with its src, tests and tools; None: this one.

    Attributes:
        lines: What it has said, as far as `until` has read.
        process: The process.
    """

    def __init__(
        self,
        orders: Orders,
        *,
        heard: Callable[["Instance", Line], None] | None = None,
        environment: Mapping[str, str] | None = None,
        release: Path | None = None,
    ) -> None:
        path = {} if release is None else {"PYTHONPATH": f"{release / 'src'}:{release}"}
        self.lines: list[Line] = []
        self._inbox: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._waits = heard is None
        self._heard = heard or (lambda _, line: self._inbox.put(line))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.instance", json.dumps(_given(orders))],
            cwd=release,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONFAULTHANDLER": "1", **path, **(environment or {})},
        )
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def __enter__(self) -> Self:
        """Wait until it is ready, unless its lines are heard elsewhere."""
        if self._waits:
            self.until("ready")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # a frozen one too
        self.process.wait()
        self._listener.join()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def go(self, where: str = "") -> Self:
        """Send it the line that it waits for: there, or, if it is not said where, at the first place where it does."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{where}\n")
        self.process.stdin.flush()
        return self

    def until(self, *kinds: str) -> Line:
        """Wait until it says one of these. If it doesn't, it writes where each of its threads is, and ends."""
        while True:
            try:
                line = self._inbox.get(timeout=PATIENCE)
            except queue.Empty:
                self.process.send_signal(signal.SIGABRT)
                self.process.wait()
                raise AssertionError(f"It hasn't said {kinds}: {self.lines}") from None
            self.lines.append(line)
            if line["is"] in kinds:
                return line
            assert line["is"] != "ended", f"it ended before it said {kinds}: {self.lines}"

    def outcome(self) -> Line:
        """Wait for its end; return the line that says how its last call ended: `returned` or `raised`."""
        self.until("ended")
        assert self.process.wait(PATIENCE) in {0, 1}, self.lines
        return self.said("returned", "raised")[-1]

    def said(self, *kinds: str) -> list[Line]:
        """The lines that say one of these, as far as they are read."""
        return [line for line in self.lines if line["is"] in kinds]

    def kill(self) -> float:
        """End it by SIGKILL, and wait for that. Returns when that was."""
        at = time.monotonic()
        self.process.kill()
        self.process.wait()
        return at

    def freeze(self) -> None:
        """Stop it by SIGSTOP, and wait until it has stopped, or ended."""
        self.process.send_signal(signal.SIGSTOP)
        with contextlib.suppress(ChildProcessError):  # it had ended
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def thaw(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._heard(self, json.loads(line))
        self._heard(self, {"is": "ended", "at": time.monotonic()})


Start: TypeAlias = Callable[..., Instance]
"""Starts an instance that follows these orders, and waits until it is ready."""


def _given(value: Any) -> dict[str, Any]:
    """The fields that aren't as by default: an earlier release doesn't know all of them."""
    values = ((field, getattr(value, field.name)) for field in fields(value))
    given = {field.name: one for field, one in values if one != field.default}
    return given | ({"works": [_given(work) for work in value.works]} if isinstance(value, Orders) else {})


_speaking = threading.Lock()


def _say(kind: str, **details: object) -> None:
    with _speaking:  # several threads may have something to say
        print(json.dumps({"is": kind, "at": time.monotonic(), **details}, default=repr), flush=True)


class _Gates:
    """Where this process waits for lines, at several places at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[str, Future[None]]] = []
        self._early: list[str] = []

    def at(self, where: str) -> Future[None]:
        """Done when the line for this place comes."""
        future = Future[None]()
        with self._lock:
            early = next((line for line in self._early if line in {"", where}), None)
            if early is None:
                self._waiting.append((where, future))
            else:
                self._early.remove(early)
                future.set_result(None)
        return future

    def listen(self) -> None:
        """Read the lines, to the end of this process."""
        with open(0, "rb", buffering=0, closefd=False) as lines:  # it holds no lock while it waits, also at the end
            for line in lines:
                self._open(line.decode().strip())

    def _open(self, line: str) -> None:
        with self._lock:
            for gate in self._waiting:
                where, future = gate
                if line in {"", where}:
                    self._waiting.remove(gate)
                    if future.set_running_or_notify_cancel():
                        future.set_result(None)
                        return
                    break  # whoever waited there was cancelled
            else:
                self._early.append(line)
                return
        self._open(line)


_GATES = _Gates()


def _stop(where: str) -> None:
    _say("stopped", where=where)
    _GATES.at(where).result()


async def _stop_async(where: str) -> None:
    gate = asyncio.wrap_future(_GATES.at(where))
    # Said by the loop: an answering signal would otherwise be raised in this task, as an exception of the function.
    asyncio.get_running_loop().call_soon(partial(_say, "stopped", where=where))
    await gate


class _Steps(CommandListener):
    """Counts what the run sends and gets, says it, and stops or dies there. The renewals beside the run do not count.

    A driver calls it in the thread that sends the command: no other one goes out meanwhile, but for the read of a batch
    and the checkpoint beside it. Of these two the first step comes first, and the other thread waits for its turn.
    """

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._number = 0
        self._passed = 0
        self._one_by_one = threading.Lock()
        self._commands: dict[int, str] = {}

    def started(self, event: CommandStartedEvent) -> None:
        if (command := _named(event.command)) is not None:
            self._commands[event.request_id] = command
            self._step(f"before {command}")

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self._after(event)

    def failed(self, event: CommandFailedEvent) -> None:
        self._after(event)

    def _after(self, event: CommandSucceededEvent | CommandFailedEvent) -> None:
        if (command := self._commands.pop(event.request_id, None)) is not None:
            self._step(f"after {command}")

    def _step(self, name: str) -> None:
        with self._one_by_one:
            self._take(name)

    def _take(self, name: str) -> None:
        self._number += 1
        if self._orders.traced:
            _say("step", name=name)
        if self._number == self._orders.dies_at:
            _say("dies", name=name)
            os.kill(os.getpid(), signal.SIGKILL)
        if name == self._orders.stopped_at:
            self._passed += 1
            if self._passed == self._orders.passed + 1:
                _stop(name)


def _named(command: Mapping[str, Any]) -> str | None:
    """The name of a command that is a step of the run."""
    verb = next(iter(command))
    if verb in {"hello", "ping", "endSessions"}:
        return None
    collection = command[verb]
    if not isinstance(collection, str):
        return verb
    if collection == "app_migrations_lock" and verb in {"update", "delete"}:
        key = command[f"{verb}s"][0]["q"]["_id"]
        if key != "lease":
            return f"{verb} {'protection' if key == 'protection' else 'start mark'}"
        if _is_renewal(command):
            return None
    return f"{verb} {COLLECTIONS.get(collection, collection)}"


def _is_renewal(command: Mapping[str, Any]) -> bool:
    """Whether the heartbeat sends it: a check says where the run is, and the release removes fields."""
    return command["updates"][0]["u"].keys() == {"$inc", "$currentDate"} and command["writeConcern"]["w"] == "majority"


def _registry(works: Iterable[Work], driver: str) -> MigrationRegistry:
    registry = MigrationRegistry()
    registry.retire(*[work.name for work in works if work.retired])
    for work in (work for work in works if not work.retired):
        options: dict[str, Any] = {
            "transaction": work.transaction,
            "after_crash": "stop" if work.stops else "rerun",
            "replaces": work.replaces,
            "phase": work.phase,
            "delay": None if work.delay is None else timedelta(seconds=work.delay),
        }
        registry.register(work.name, work.depends_on, **options)(_function(work, driver))
        registry.register_rollback(work.name)(_function(work, driver, "undo_"))
        if work.checked:
            registry.register_precondition(work.name)(_check(work, driver, lambda begun, ended: begun >= ended))
            registry.register_verification(work.name)(_check(work, driver, lambda begun, ended: 0 < ended <= begun))
    return registry


def _check(work: Work, driver: str, is_right: Callable[[int, int], bool]) -> Callable[..., object]:
    """A precondition or a verification, about how often the migration made its changes."""

    def check(db: Any) -> bool:
        found = db.work.find_one({"_id": work.name})
        return is_right(found["begun"], found["ended"])

    async def check_async(db: Any) -> bool:
        found = await db.work.find_one({"_id": work.name})
        return is_right(found["begun"], found["ended"])

    return check if (driver == "pymongo") != work.crossed else check_async


def _function(work: Work, driver: str, prefix: str = "") -> Callable[..., object]:
    """What the migration does, or, with the prefix of other fields, its rollback."""
    if work.way is not None:
        return _backfill(work, driver, prefix)
    this = {"_id": work.name}
    begun, ended = (
        {"$inc": {field: 1}, "$currentDate": {f"{field}At": True}, "$set": {"pid": os.getpid()}}
        for field in (f"{prefix}begun", f"{prefix}ended")
    )

    def pause() -> None:
        time.sleep(work.seconds)
        if work.held:
            _stop(work.name)
        if work.fails:
            raise ValueError(work.name)

    async def pause_async() -> None:
        await asyncio.sleep(work.seconds)
        if work.held:
            await _stop_async(work.name)
        if work.fails:
            raise ValueError(work.name)

    def steps(db: Any, wait: Callable[[], Any]) -> Generator[Any, Any, None]:
        # What a function raises is the caller's, so it repeats a write; in a transaction that is for the library.
        yield from send(lambda: db.work.update_one(this, begun), work.transaction)
        yield wait()
        yield from send(lambda: db.work.update_one(this, ended), work.transaction)

    def body(db: Any) -> None:
        run_body(steps(db, pause))

    async def body_async(db: Any) -> None:
        await run_body_async(steps(db, pause_async))

    return body if (driver == "pymongo") != work.crossed else body_async


def _backfill(work: Work, driver: str, prefix: str) -> Callable[..., object]:
    """Likewise, where it is a backfill."""
    assert work.way is not None

    def pause() -> None:
        time.sleep(work.seconds)
        if work.held:
            _stop(work.name)

    def change(db: Any, documents: list[Any]) -> Generator[Any, Any, None]:
        return changes(db, documents, pause, transaction=work.way == "transaction", prefix=prefix)

    return make_backfill(driver != "pymongo", work.way, change, filter=FILTER, size=SIZE)


def _tell(event: Event) -> None:
    details: dict[str, object] = {"name": name} if (name := getattr(event, "name", None)) is not None else {}
    match event:
        case RunStarted(plan=plan) | RollbackStarted(plan=plan):
            details["plan"] = plan
        case LeaseAwaited(holder=holder):
            details["holder"] = holder.pid
        case MigrationRetried(error=error) | LeaseNotReleased(error=error):
            details["error"] = repr(error)
        case BackfillStarted(done=done) | MigrationProgressed(done=done):
            details["done"] = done
    _say(type(event).__name__, **details)


def caller(orders: Orders, on_event: Callable[[Event], None]) -> Callable[[], list[str]]:
    """What makes the calls in this process, and gives what the last one returned. The driver is imported by now."""
    registry = _registry(orders.works, orders.driver)
    settings: dict[str, Any] = {"on_event": on_event, "lease_ttl": orders.lease_ttl}
    options: dict[str, Any] = {"event_listeners": [_Steps(orders)], "heartbeatFrequencyMS": 500}

    more = {"run": {"concurrency": orders.concurrency, "retry": orders.retry}}
    calls: list[Callable[[Any], Any]] = []
    for method, *given in orders.calls:
        named = given.pop() if given and isinstance(given[-1], dict) else {}
        calls.append(methodcaller(method, *given, **more.get(method, {}), **named))
    crossed = any(work.crossed for work in orders.works)

    def call() -> list[str]:
        with MongoClient[Any](orders.uri, **options) as client:
            # The runner closes that client.
            other = AsyncMongoClient[Any](orders.uri)[orders.database] if crossed else None
            runner = SyncRunner(registry, client[orders.database], "app", async_db=other, **settings)
            return [call_one(runner) for call_one in calls][-1]

    async def call_async(driver: Callable[..., Any]) -> list[str]:
        client = driver(orders.uri, **options)
        other = MongoClient[Any](orders.uri) if crossed and driver is AsyncMongoClient else None
        try:
            sync_db = None if other is None else other[orders.database]
            runner = AsyncRunner(registry, client[orders.database], "app", sync_db=sync_db, **settings)
            return [await call_one(runner) for call_one in calls][-1]
        finally:
            if other is not None:
                other.close()
            if (closing := client.close()) is not None:  # Motor's is no coroutine
                await closing

    match orders.driver:
        case "pymongo":
            return call
        case "pymongo-async":
            return lambda: asyncio.run(call_async(AsyncMongoClient))
        case "motor":
            from motor.motor_asyncio import AsyncIOMotorClient

            return lambda: asyncio.run(call_async(AsyncIOMotorClient))
        case other:
            raise ValueError(other)


def check_takeover(successor: Instance, killed_at: float, ttl: float) -> None:
    """Check that a traced instance, which waited, took over as soon as it had watched the dead holder for a `ttl`.

    By its own steps: how long they take depends on the machine, too.
    """
    steps = [(line["at"], line["name"]) for line in successor.said("step") if line["at"] > killed_at]
    names = [name for _, name in steps]
    first = names.index("before find lease")
    seen_at = steps[names.index("after find lease", first)][0]
    acquired = names.index("before findAndModify lease")
    late = [at for at, name in steps[:acquired] if name == "before find lease" and at > seen_at + ttl]
    assert len(late) <= 2, steps  # one, and one more if the last renewal was on its way when its sender was killed
    started_at = successor.said("RunStarted")[0]["at"]
    assert started_at - killed_at <= ttl + SLOW, steps


def migrated(orders: Orders) -> None:
    """Apply the migrations, in this process."""
    caller(replace(orders, calls=[("run",)]), lambda _: None)()


def _lift_limits() -> None:
    """Lift limits that are too low to say anything, or to end: the end of a daemon thread needs memory."""
    for limit in (resource.RLIMIT_AS, resource.RLIMIT_NOFILE):
        resource.setrlimit(limit, (resource.getrlimit(limit)[1],) * 2)


def _end(number: int, frame: FrameType | None) -> None:
    """End the process as the command line does."""
    if number == signal.SIGTERM:
        sys.exit("terminated")
    signal.default_int_handler(number, frame)


def _main(orders: Orders) -> int:
    call = caller(orders, _tell)
    signal.signal(signal.SIGTERM, _end)
    # Who starts this process may ignore Ctrl-C, which is inherited. asyncio replaces Python's own handler only.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_GATES.listen, daemon=True).start()
    begun = _GATES.at("")
    try:
        with contextlib.ExitStack() as stack:
            if orders.driver == "pymongo":  # in an event loop no call blocks for long
                handle = stack.enter_context(repeat_unhandled(_end))
                for number in (signal.SIGINT, signal.SIGTERM):
                    signal.signal(number, handle)
            # Only now: from here on it may get no more memory, and a thread that starts then may wait forever.
            _say("ready", clock=time.time())
            begun.result()
            names = call()
    except BaseException as error:  # noqa: BLE001 - the process that started this one gets it
        _lift_limits()
        in_batches = getattr(error, "in_batches", False)
        each = error.exceptions if isinstance(error, BaseExceptionGroup) else [error]
        kinds = [type(one).__name__ for one in each]
        _say("raised", type=type(error).__name__, each=kinds, in_batches=in_batches, traceback=traceback.format_exc())
        return 1
    _lift_limits()
    _say("returned", names=names)
    return 0


if __name__ == "__main__":
    _orders = json.loads(sys.argv[1])
    sys.exit(_main(Orders(**{**_orders, "works": [Work(**work) for work in _orders["works"]]})))
