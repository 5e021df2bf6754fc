"""Instances of one release or another that are killed at a step, or at a step when another instance comes."""

import queue
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeAlias

from quaestor import Event, LeaseAwaited, RollbackFinished, RunFinished
from tests.faults.instance import Instance, Orders, caller
from tests.faults.works import Left, Work, left, prepared
from tests.meeting import PATIENCE

RUN = ("run",)

Does: TypeAlias = tuple[Sequence[Work], Sequence[Any]]
"""A release, and a call of it."""

Stop: TypeAlias = tuple[str, int]
"""A step to stop at, and how often an instance comes there before."""


def does(orders: Orders, works: Sequence[Work], *call: Any, on_event: Callable[[Event], None] | None = None) -> Any:
    """Make a call with a release, in this process, which stops nowhere."""

    def ignore(_: Event) -> None:
        """An event hook."""

    return caller(replace(orders, works=works, calls=[call], stopped_at=None), on_event or ignore)()


def trace(orders: Orders, works: Sequence[Work], call: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Let an instance make a call that nobody disturbs; return what it gave, and its steps."""
    # A slow machine takes longer than a short lease, which takes more steps.
    with Instance(replace(orders, works=works, calls=[call], traced=True, lease_ttl=30)) as undisturbed:
        names = undisturbed.go().outcome()["names"]
        return names, [line["name"] for line in undisturbed.said("step")]


def kill(orders: Orders, works: Sequence[Work], call: Sequence[Any]) -> None:
    """Let an instance make a call, and kill it where it stops."""
    with Instance(replace(orders, works=works, calls=[call])) as victim:
        victim.go()
        victim.until("stopped")
        victim.kill()


def find_stops(steps: Sequence[str]) -> list[Stop]:
    """Find where to stop at each of these steps."""
    return [(step, steps[:number].count(step)) for number, step in enumerate(steps)]


def stopping(orders: Orders, stop: Stop | None) -> Orders:
    """The orders to stop there, if anywhere, in a database of their own."""
    where, passed = stop or (None, 0)
    database = f"{orders.database}_{uuid.uuid4().hex[:8]}"
    return replace(orders, stopped_at=where, passed=passed, database=database)


def meet(orders: Orders, first: Does, second: Does) -> tuple[Any, Any]:
    """Let an instance stop as ordered, and go on when another has got as far as it can; return what both give."""
    events = queue.SimpleQueue[Event]()
    with ThreadPoolExecutor(1) as pool, Instance(replace(orders, works=first[0], calls=[first[1]])) as instance:
        instance.go()
        instance.until("stopped")
        works, call = second
        other = pool.submit(does, orders, works, *call, on_event=events.put)
        while not isinstance(events.get(timeout=PATIENCE), LeaseAwaited | RunFinished | RollbackFinished):
            """It gets as far as it can."""
        instance.go()
        return instance.outcome()["names"], other.result(PATIENCE)


def check_killed(works: Iterable[Work], before: Left, killed: Left) -> None:
    """Check that the killed one did nothing twice, and nothing in a transaction without its record."""
    for work in works:
        has_changed = (work.name in before.records) != (work.name in killed.records)
        for counts in ("begun", "undo_begun"):
            times = getattr(killed, counts)[work.name] - getattr(before, counts)[work.name]
            assert times in {0, 1}, killed
            assert times <= has_changed or not work.transaction, killed


def go_on(
    db: Any,
    orders: Orders,
    calls: Iterable[Does],
    expect: Callable[[list[str], Sequence[Work], Sequence[Any]], list[str]],
) -> None:
    """Make these calls, and check that each returns what is expected, given the records, and does that once."""
    for works, call in calls:
        before = left(db)
        names = expect(before.records, works, call)
        assert does(orders, works, *call) == names, call
        found = left(db)
        for counts, done in (("begun", call[0] == "run"), ("undo_begun", call[0] == "rollback")):
            was = getattr(before, counts)
            assert getattr(found, counts) == {one: was[one] + (done and one in names) for one in was}, found


def trace_after(orders: Orders, before: Iterable[Does], does_then: Does) -> tuple[list[str], list[str]]:
    """Let an instance make a call after these, in a new database; return what it gave, and its steps."""
    with prepared(orders.uri, orders.database, orders.works):
        for works, call in before:
            does(orders, works, *call)
        return trace(orders, *does_then)


def attempt_all(attempt: Callable[..., None], orders: Orders, jobs: Iterable[tuple[Any, ...]]) -> None:
    """Attempt this with each driver where an instance stops there, each in a database of its own; and with what else
    a job has. All are attempted before the test fails; several at once, because each waits for a lease, most of the
    time.
    """

    def attempt_one(job: tuple[Any, ...]) -> str | None:
        driver, stop, *more = job
        try:
            attempt(stopping(replace(orders, driver=driver), stop), *more)
        except Exception as error:  # noqa: BLE001 - it is reported
            return f"{driver}, {stop}, {more}: {type(error).__name__}: {error}"
        return None

    with ThreadPoolExecutor(6) as pool:
        wrong = [report for report in pool.map(attempt_one, jobs) if report is not None]
    assert not wrong, "\n\n".join(wrong)
