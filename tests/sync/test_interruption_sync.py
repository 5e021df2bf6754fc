"""A sync run that is interrupted by Ctrl-C, or by an exception that ends a generator."""

import asyncio
import contextlib
import contextvars
import linecache
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType, FunctionType
from typing import Any

import pytest

from quaestor import (
    Event,
    LeaseNotReleased,
    MigrationApplied,
    MigrationFailed,
    MigrationRegistry,
    MigrationStarted,
    RunFinished,
    RunStarted,
)
from quaestor._hosts import threads
from quaestor._hosts.calls import Cancellation, current_cancellation, run_in_shielded_thread, start_thread
from quaestor._hosts.threads import ThreadHost, run_to_completion
from quaestor._mongo.mongo_store import MongoStore
from tests.databases import both_kinds, drivers
from tests.functions import ab, are_free, is_free, number_of, recorded, recorded_in
from tests.interruption import Interruption
from tests.meeting import PATIENCE, Events, Moment
from tests.processes import interrupted


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.driver("pymongo")
def test_ctrl_c(uri: str, name: str, kind: str) -> None:
    """SIGINT while a function runs: KeyboardInterrupt, the function has ended, what came before stays recorded."""
    ended = interrupted("sync", kind, uri, name)

    assert "KeyboardInterrupt" in ended.errors
    assert "quaestor: in migration 'b', 2 of 2" in ended.errors
    assert ended.lines == ["started", "function ended", "failed"]
    assert ended.records == ["a"]
    assert ended.released


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_generator_exit(db: Any, registry: MigrationRegistry, *, transaction: bool) -> None:
    """A function that raises GeneratorExit, as broken generators do, fails like any other and releases the lease."""

    @registry.register("a", transaction=transaction)
    def leaves(db: Any) -> None:
        db.users.insert_one({})
        raise GeneratorExit

    with pytest.raises(RuntimeError, match="raised GeneratorExit"):
        registry.run_sync(db, "app")
    assert recorded(db) == []
    assert is_free(db)


@dataclass(frozen=True)
class FrozenStop(StopIteration):
    """A StopIteration that takes no note."""

    code: int = 7


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_stop_iteration(db: Any, registry: MigrationRegistry, concurrency: int, *, transaction: bool) -> None:
    """A StopIteration reaches the caller as it is, with its context, even if it takes no note."""
    stop, context = FrozenStop(), KeyError("k")

    @registry.register("a", transaction=transaction)
    def stops(db: Any) -> None:
        try:
            raise context
        except KeyError:
            raise stop  # noqa: B904 - its context is what this is about

    with pytest.raises(FrozenStop) as caught:
        registry.run_sync(db, "app", concurrency=concurrency)
    assert caught.value is stop
    assert stop.__context__ is context
    assert is_free(db)


def lines_of(function: FunctionType) -> list[int]:
    """List the lines of a function's body."""
    code = function.__code__
    return sorted({line for _, _, line in code.co_lines() if line is not None and line > code.co_firstlineno})


def call_interrupted(call: Callable[[], object], function: FunctionType, line: int) -> None:
    """Call something, and raise KeyboardInterrupt in front of a line of a function, the first time."""
    is_raised = False

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal is_raised
        if frame.f_code is not function.__code__:
            return None
        if event == "line" and frame.f_lineno == line and not is_raised:
            is_raised = True
            raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("line", lines_of(ThreadHost.start_heartbeat))
@pytest.mark.timeout(20, method="thread")
def test_as_heartbeat_starts(db: Any, line: int) -> None:
    """Ctrl-C while the heartbeat's thread starts: the run doesn't wait for a thread that isn't there."""
    with pytest.raises(KeyboardInterrupt):
        call_interrupted(lambda: ab().run_sync(db, "app"), ThreadHost.start_heartbeat, line)
    assert recorded(db) == []
    assert is_free(db)


@pytest.mark.parametrize(("in_function", "times"), [(False, 1), (False, 2), (True, 1)])
@pytest.mark.timeout(20, method="thread")
def test_as_lease_is_released(
    db: Any, registry: MigrationRegistry, monkeypatch: pytest.MonkeyPatch, *, times: int, in_function: bool
) -> None:
    """One Ctrl-C lets the release come to its end; the second one of the run ends it, and an event says so."""
    running, is_released, events = Interruption(), threading.Event(), Events()
    release = MongoStore.release_lease
    ended = threading.Event()
    left = [running.interrupt] * times

    async def release_slowly(store: MongoStore, sessions: tuple[bytes, ...]) -> None:
        while left:
            interrupt = left.pop()
            running.is_raised.clear()
            interrupt()
            # Two signals that nobody has handled yet are one. One that comes just before a wait is seen after it, or
            # with the next signal.
            while not running.is_raised.wait(1):
                interrupt()
            is_released.wait(0.1)
        if times + in_function > 1:
            is_released.wait()
        await release(store, sessions)
        ended.set()

    @registry.register("a")
    def a(db: Any) -> None:
        if in_function:
            raise KeyboardInterrupt

    monkeypatch.setattr(MongoStore, "release_lease", release_slowly)
    with pytest.raises(KeyboardInterrupt):
        running.call(lambda: registry.run_sync(db, "app", on_event=events))
    is_given_up = times + in_function > 1
    assert is_free(db) is not is_given_up
    assert [type(event) for event in events].count(LeaseNotReleased) == is_given_up
    is_released.set()
    assert ended.wait(10)
    assert is_free(db)


@both_kinds
@pytest.mark.parametrize("line", lines_of(ThreadHost._close))  # noqa: SLF001 - the place is what this is about
def test_as_run_closes(db: Any, async_db: Any, registry: MigrationRegistry, line: int) -> None:
    """Ctrl-C while a run ends its threads: they end all the same."""
    seen = set()

    @registry.register("a")
    async def note(db: Any) -> None:
        seen.add(threading.current_thread())

    with contextlib.suppress(KeyboardInterrupt):  # a line may not be reached
        call_interrupted(lambda: registry.run_sync(db, "app", async_db=async_db), ThreadHost._close, line)  # noqa: SLF001
    assert not any(thread.is_alive() for thread in seen)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("kind", [RunStarted, MigrationStarted, MigrationApplied, RunFinished])
def test_many_at_an_event(dbs: list[Any], kind: type[Event], *, again: bool) -> None:
    """Whenever it is interrupted, the call ends when all that it began has: every lease is free, and what its events
    say is recorded. A second Ctrl-C may end a release, and an event says so. The next call does the rest.
    """
    running = Interruption()
    interruptions = [running.interrupt] * (2 if again else 1)
    events = Events({kind: lambda: interruptions and interruptions.pop()()})
    with pytest.raises(KeyboardInterrupt):
        running.call(lambda: ab().run_many_sync(dbs, "app", on_event=events, concurrency=2))

    left = {event.database for event in events if isinstance(event, LeaseNotReleased)}
    assert again or not left
    assert are_free([one for one in dbs if one.name not in left])
    for one in dbs:
        applied = [event for event in events if isinstance(event, MigrationApplied) and event.database == one.name]
        assert [event.name for event in applied] == recorded(one)
    lease_timeout = PATIENCE if left else 0  # a release that nobody waits for comes to its end, too
    assert [result.error for result in ab().run_many_sync(dbs, "app", lease_timeout=lease_timeout)] == [None] * 5
    assert recorded_in(dbs) == [["a", "b"]] * 5


class LateCancellation(Cancellation):
    """One that tells a release of the interruption that led to it, as it may while it tells all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.is_told, self.waits_on = False, threading.Event()

    @contextlib.contextmanager
    def notify(self, end: Callable[[], object]) -> Iterator[None]:
        with super().notify(end):
            if self.is_told:
                self.waits_on.set()
            else:
                self.is_told = True
                end()
            yield


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.timeout(20, method="thread")
def test_release_is_told_late(*, again: bool) -> None:
    """The interruption that ended a run doesn't end its release too. The next one does."""
    cancellation, may_end, ended = LateCancellation(), threading.Event(), threading.Event()
    cancellation.cancel(KeyboardInterrupt())

    async def release() -> None:
        assert cancellation.waits_on.wait(PATIENCE)
        if again:
            cancellation.cancel(KeyboardInterrupt())
            assert may_end.wait(PATIENCE)
        ended.set()

    def call() -> None:
        current_cancellation.set(cancellation)
        run_to_completion(ThreadHost().shield(release, PATIENCE, 0))

    with pytest.raises(KeyboardInterrupt) if again else contextlib.nullcontext():
        contextvars.Context().run(call)
    assert ended.is_set() is not again
    may_end.set()
    assert ended.wait(PATIENCE)


@pytest.mark.timeout(20, method="thread")
def test_signal_before_a_release_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The signal that ends a release comes before its thread runs: it is done all the same, and nobody waits for it."""
    thread: list[Callable[[], None]] = []
    ended = threading.Event()

    def start_late(future: Any, work: Callable[[], Any], *, daemon: bool) -> None:
        thread.append(lambda: start_thread(future, work, daemon=daemon))
        raise KeyboardInterrupt

    async def release() -> None:
        ended.set()

    monkeypatch.setattr(threads, "start_thread", start_late)
    with pytest.raises(KeyboardInterrupt):
        run_to_completion(ThreadHost().shield(release, PATIENCE, 0))
    thread[0]()
    assert ended.wait(PATIENCE)


def in_a_portal(host: ThreadHost, is_noted: Callable[[], object], ended: threading.Event) -> None:
    async def work() -> None:
        is_noted()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    run_to_completion(host.call(work, is_async=True))


def in_a_shielded_thread(_: ThreadHost, is_noted: Callable[[], object], ended: threading.Event) -> None:
    def work() -> None:
        is_noted()
        assert ended.wait(PATIENCE)

    run_in_shielded_thread(work, lambda _: ended.set())


def beside_another(host: ThreadHost, is_noted: Callable[[], object], ended: threading.Event) -> None:
    async def first() -> None:
        pass

    async def second() -> None:
        is_noted()
        assert ended.wait(PATIENCE)

    run_to_completion(host.both(first, second, ended.set))


@pytest.mark.parametrize("waits", [in_a_portal, in_a_shielded_thread, beside_another])
@pytest.mark.timeout(20, method="thread")
def test_signal_just_before_a_wait(waits: Callable[..., None]) -> None:
    """Python notes a signal that comes just before the main thread waits, and the wait goes on. It is handled soon.

    (Here another thread gets the signal during the wait, which leaves the same state.)
    """
    ended, running, main_thread = threading.Event(), Interruption(), threading.get_ident()

    def is_waiting() -> bool:
        frame = sys._current_frames()[main_thread]  # noqa: SLF001 - a debugger would look here, too
        # Another thread runs, so in this line the main thread waits.
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        return frame.f_code is threading.Condition.wait.__code__ and "waiter.acquire(" in line

    def note() -> None:
        while not is_waiting():
            pass
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    with contextlib.closing(ThreadHost()) as host, pytest.raises(KeyboardInterrupt):
        running.call(lambda: waits(host, note, ended))
    assert ended.is_set()


@pytest.mark.timeout(20, method="thread")
def test_signal_when_a_thread_starts() -> None:
    """What runs beside another step is ended also when the signal comes while it starts."""
    ended, running = threading.Event(), Interruption()
    with contextlib.closing(ThreadHost()) as host, pytest.raises(KeyboardInterrupt):
        running.call(lambda: beside_another(host, running.interrupt, ended))
    assert ended.is_set()


def test_many_as_one_ends(dbs: list[Any], registry: MigrationRegistry) -> None:
    """Interrupted just when one database is done, where the next would begin: the other one is waited for."""
    started, interrupted, ended = Moment(), Moment(), []

    @registry.register("a")
    def takes_its_time(db: Any) -> None:
        if number_of(db) == "01":
            started.has_come()
            interrupted.wait()
            db.effects.insert_one({})
            ended.append(number_of(db))
        started.wait()

    def hook() -> None:
        running.interrupt()
        interrupted.has_come()

    running = Interruption()
    events = Events({RunFinished: lambda: interrupted.has_come() if ended else hook()})
    with pytest.raises(KeyboardInterrupt):
        running.call(lambda: registry.run_many_sync(dbs, "app", on_event=events, concurrency=2))

    # (Another database may have started just before the interruption.)
    failed = [event for event in events if isinstance(event, MigrationFailed)]
    assert [event.error for event in failed if event.database == dbs[1].name] == []
    assert ended == ["01"]
    assert recorded(dbs[0]) == recorded(dbs[1]) == ["a"]
    assert are_free(dbs)


@pytest.mark.parametrize("driver", drivers("mongomock"))
def test_second_signal_before_the_release(
    db: Any, registry: MigrationRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lease whose release never started is reported: others wait until it expires."""
    seen: list[Event] = []

    async def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadHost, "shield", interrupted)
    registry.register("a")(lambda db: None)
    with pytest.raises(KeyboardInterrupt):
        registry.run_sync(db, "app", on_event=seen.append)
    assert [type(event) for event in seen if isinstance(event, LeaseNotReleased)] == [LeaseNotReleased]
    assert not is_free(db)
