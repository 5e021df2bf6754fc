"""Instances of two releases of an application on one database: in the newer one, one migration replaces two of the
older one's. They are killed before and after every command, meet at every command, and wake too late.

Whatever happens, either what is replaced runs or what replaces it, and a run of the newer release ends with the same
records. Without `--long`, only the steps next to a change of records are tried, with one driver or another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, cycle, product
from typing import Any

import pytest

from quaestor import Event, InterruptedMigrationError, LeaseAwaited, MigrationStarted, PartlyReplacedError
from tests.faults.applications import DRIVERS
from tests.faults.instance import Orders, Start
from tests.faults.meetings import (
    RUN,
    Does,
    attempt_all,
    check_killed,
    does,
    find_stops,
    go_on,
    kill,
    meet,
    trace,
    trace_after,
)
from tests.faults.works import Left, Work, left, prepared

pytestmark = pytest.mark.timeout(3600)  # with --long one test takes minutes

A, B, C = Work("a"), Work("b", depends_on=["a"]), Work("c", depends_on=["b"])
AB = Work("ab", replaces=["a", "b"])
ABX = Work("abx", replaces=["ab"])

OLDER = (A, B, C)
OLDER_IN_TRANSACTIONS = (replace(A, transaction=True), replace(B, transaction=True), C)
NEWER, NEWER_IN_TRANSACTION = (AB, C), (replace(AB, transaction=True), C)
KEEPING = (A, B, AB, C)
"""A newer release that still has what it replaces."""
NEWEST = (ABX, AB, C)

EVERYTHING = (*KEEPING, ABX)

PLAIN = ("update work", "update work", "update lease")
BEFORE = ("find records", "findAndModify lease", "find records")
BEFORE_ON_NEW_DATABASE = ("find records", "listDatabases", "listCollections", *BEFORE[1:], "find lease")
RECORD = ("update lease", "insert records")
LAST_ONE = (*PLAIN, "insert records", "update lease")
"""Commands: of the last migration of a run, and of the release."""
UNDO_LAST_ONE = (*PLAIN, "delete records", "update history", "delete progress")
UNMARK = ("delete progress", "update lease", "delete records")


def _with_transactions(commands: Sequence[str]) -> tuple[str, ...]:
    """The commands of a call that looks whose sessions it opens."""
    number = commands.index("findAndModify lease")
    return (*commands[:number], "connectionStatus", *commands[number:])


@dataclass(frozen=True)
class Case:
    """A call of the newer release that is killed at each of its steps.

    Attributes:
        works: The newer release.
        names: What the call returns.
        commands: What it sends.
        call: The call.
        before: What is done before.
        following: What is done when it was killed, and before a run of the newer release; empty: nothing.
    """

    works: Sequence[Work]
    names: Sequence[str]
    commands: Sequence[str]
    call: Sequence[Any] = RUN
    before: Sequence[Does] = ()
    following: Sequence[Sequence[Does]] = ((), ((OLDER, RUN),))

    @property
    def steps(self) -> list[str]:
        """The steps of the call, if nobody disturbs it."""
        return [f"{when} {command}" for command in self.commands for when in ("before", "after")]


def _undone(works: Sequence[Work], commands: Sequence[str], **options: Any) -> Case:
    """A case of a rollback."""
    call = ("rollback", ["ab"])
    options = {"before": [(works, RUN)], "following": [(), [(OLDER, RUN)], [(works, call)]], **options}
    return Case(works, ["c", "ab"], commands, call, **options)


_UNDO_IN_TRANSACTION = (
    *_with_transactions(("find records", "find lease", *BEFORE[1:], "find lease")),
    *UNDO_LAST_ONE,
    *("update work", "update work", "delete records", "commitTransaction"),
    *("delete progress", "update history", "update lease"),
)

CASES = {
    "adopted": Case(NEWER, ["c"], [*BEFORE, *RECORD, *LAST_ONE], before=[(OLDER, ("run", ["b"]))]),
    "adopted by a chain": Case(
        NEWEST, ["c"], [*BEFORE, "find lease", *RECORD, *LAST_ONE], before=[(OLDER, ("run", ["b"]))]
    ),
    "completed": Case(
        KEEPING,
        ["b", "c"],
        [*BEFORE, *PLAIN, "insert records", *RECORD, *LAST_ONE],
        before=[(OLDER, ("run", ["a"]))],
    ),
    "applied": Case(
        NEWER,
        ["ab", "c"],
        [*BEFORE_ON_NEW_DATABASE, "delete progress", *PLAIN, "insert records", "delete progress", *LAST_ONE],
    ),
    "applied in a transaction": Case(
        NEWER_IN_TRANSACTION,
        ["ab", "c"],
        [
            *_with_transactions(BEFORE_ON_NEW_DATABASE),
            *("delete progress", "update work", "update work", "insert records", "commitTransaction"),
            *("delete progress", "update lease", *LAST_ONE),
        ],
    ),
    "undone": _undone(
        NEWER,
        [
            *("find records", "find lease", *BEFORE[1:], "find lease"),
            *UNDO_LAST_ONE,
            *(*PLAIN, "delete records", "delete records", "delete progress", "update history", "update lease"),
        ],
    ),
    "undone in a transaction": _undone(NEWER_IN_TRANSACTION, _UNDO_IN_TRANSACTION),
    "undone before it is adopted": _undone(NEWER_IN_TRANSACTION, _UNDO_IN_TRANSACTION, before=[(OLDER, RUN)]),
    "marked pending": Case(
        NEWER,
        ["c", "ab"],
        [
            *(*BEFORE, "find lease"),
            *(*UNMARK, "delete progress", "update history"),
            *(*UNMARK, "delete records", "delete progress", "update history", "update lease"),
        ],
        ("mark_pending", ["ab", "c"]),
        before=[(NEWER, RUN)],
    ),
    "marked applied": Case(
        NEWER,
        ["ab"],
        [*BEFORE, "find lease", "delete progress", *RECORD, "delete progress", "update history", "update lease"],
        ("mark_applied", ["ab"]),
    ),
}


@pytest.fixture
def orders(driver: str, uri: str, name: str) -> Orders:
    """Orders for a database in which all of these migrations can work."""
    return Orders(driver=driver, uri=uri, database=name, works=EVERYTHING)


@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_step(uri: str, name: str, case: str, *, is_long: bool) -> None:
    """Whenever an instance of the newer release is killed, and whichever release goes on, nothing that is recorded runs
    again, what is replaced doesn't run after its replacement, and a run of the newer release ends in the same state.
    """
    there = CASES[case]
    orders = Orders(driver=DRIVERS[0], uri=uri, database=name, works=EVERYTHING, lease_ttl=1)
    ways = list(product(there.following, DRIVERS))
    stops = find_stops(there.steps)
    changes = [one for one in stops if one[0].endswith(("insert records", "delete records", "commitTransaction"))]
    some = zip([*changes[::2], changes[-1]], cycle(ways), strict=False)
    undisturbed = product([None], ways[: len(DRIVERS) if is_long else 1])
    jobs = chain(undisturbed, product(stops, ways) if is_long else some)
    attempt_all(partial(_kill, there), orders, ((driver, stop, after) for stop, (after, driver) in jobs))


def _kill(case: Case, orders: Orders, following: Sequence[Does]) -> None:
    with prepared(orders.uri, orders.database, EVERYTHING) as db:
        for works, call in case.before:
            does(orders, works, *call)
        before = left(db)
        if orders.stopped_at is not None:
            kill(orders, case.works, case.call)
        else:
            names, steps = trace(orders, case.works, case.call)
            assert names == case.names
            assert steps == case.steps
        check_left(case, before, left(db))
        go_on(db, orders, [*following, (case.works, RUN)], expect)
        check_end(db, orders, case.works)


def check_left(case: Case, before: Left, killed: Left) -> None:
    """Check what the killed one has left: its records are there as a whole, and it has done nothing twice."""
    assert len({"a", "b"}.intersection(killed.records)) in ({1} if before.records == ["a"] else set()) | {0, 2}
    if case.call[0] not in {"rollback", "mark_pending"}:  # which remove the record of a replacement last
        assert "ab" not in killed.records or {"a", "b"} <= set(killed.records), killed
    # One that only counts as applied has no record to go by.
    check_killed([work for work in case.works if work.name != "ab" or "ab" in before.records], before, killed)


def expect(records: list[str], works: Sequence[Work], call: Sequence[Any]) -> list[str]:
    """What a call of a release returns in a database with these records."""
    names = [work.name for work in works]
    is_replaced = "ab" in names and ("ab" in records or {"a", "b"} <= {*records})
    if call[0] == "rollback":
        return [name for name, there in (("c", "c" in records), ("ab", is_replaced)) if there]
    if "ab" not in names:
        return [name for name in names if name not in records]
    replaced = [] if is_replaced else ["b"] if "a" in records else ["ab"]
    return [*replaced, *(["c"] if "c" not in records else [])]


def check_end(db: Any, orders: Orders, works: Sequence[Work]) -> None:
    """Check what a run of the newer release has left: all records, in whose light nothing is to do in either one."""
    documents = {record["name"]: record for record in db.app_migrations.find()}
    replacements = {work.name for work in works if work.replaces}
    assert sorted(documents) == sorted({"a", "b", "c"} | replacements)
    assert left(db).records == sorted(documents)
    last = max(documents[name]["appliedAt"] for name in "ab")
    assert all(documents[one]["appliedAt"] >= last for one in replacements if documents[one]["source"] == "replaces")
    for release in (OLDER, works):
        assert does(orders, release, *RUN) == []
    assert left(db).records == sorted(documents)


@dataclass(frozen=True)
class Meeting:
    """Two instances at once.

    Attributes:
        first, second: Their releases.
        before: What is done before.
    """

    first: Sequence[Work]
    second: Sequence[Work]
    before: Sequence[Does] = ()


HALF: list[Does] = [(OLDER, ("run", ["a"]))]

MEETINGS = {
    "older first": Meeting(OLDER, NEWER),
    "newer first": Meeting(NEWER, OLDER),
    "older first, transactions": Meeting(OLDER_IN_TRANSACTIONS, NEWER_IN_TRANSACTION),
    "newer first, transaction": Meeting(NEWER_IN_TRANSACTION, OLDER_IN_TRANSACTIONS),
    "older first, half done": Meeting(OLDER, KEEPING, HALF),
    "newer first, half done": Meeting(KEEPING, OLDER, HALF),
    "newest first": Meeting(NEWEST, NEWER, [(OLDER, ("run", ["b"]))]),
}


@pytest.mark.parametrize("meeting", MEETINGS)
def test_meet_at_every_step(uri: str, name: str, meeting: str, *, is_long: bool) -> None:
    """Wherever an instance of one release is when one of the other comes, in between two that are replaced too, none
    raises, and one of the two finds done what is left to it.
    """
    there = MEETINGS[meeting]
    orders = Orders(driver=DRIVERS[0], uri=uri, database=name, works=EVERYTHING)
    if is_long:
        _, steps = trace_after(orders, there.before, (there.first, RUN))
        jobs = product(DRIVERS, find_stops(steps))
    else:
        some = [("after find records", 0), ("after insert records", 0), ("after insert records", 1)]
        jobs = zip(DRIVERS, some, strict=True)
    attempt_all(partial(_meet, there), orders, jobs)


def _meet(meeting: Meeting, orders: Orders) -> None:
    with prepared(orders.uri, orders.database, EVERYTHING) as db:
        for works, call in meeting.before:
            does(orders, works, *call)
        before = left(db)
        names = [*chain(*meet(orders, (meeting.first, RUN), (meeting.second, RUN)))]
        found = left(db)
        check_once(before, found, names)
        newer = meeting.first if len(meeting.first) != len(OLDER) or ABX in meeting.first else meeting.second
        assert does(orders, newer, *RUN) == []
        check_end(db, orders, newer)
        assert left(db).begun == found.begun


def check_once(before: Left, found: Left, names: Sequence[str]) -> None:
    """Check that either what is replaced has run, or what replaces it, and everything once."""
    assert len(names) == len(set(names)), names
    assert found.holder is None
    assert found.begun == {name: times + names.count(name) for name, times in before.begun.items()}
    assert found.begun in (dict.fromkeys(found.begun, 0) | ran for ran in ({"a": 1, "b": 1, "c": 1}, {"ab": 1, "c": 1}))


@pytest.mark.parametrize(("driver", "transactions"), [("pymongo", False), ("pymongo-async", True), ("motor", True)])
def test_many_at_once(orders: Orders, work_db: Any, start: Start, *, transactions: bool) -> None:
    """Four instances, two of each release, start at once: every migration runs once, and what is replaced doesn't run
    beside what replaces it.
    """
    older, newer = (OLDER_IN_TRANSACTIONS, NEWER_IN_TRANSACTION) if transactions else (OLDER, NEWER)
    before = left(work_db)
    instances = [start(replace(orders, works=works)) for works in (older, newer) * 2]
    for instance in instances:
        instance.go()

    names = [name for instance in instances for name in instance.outcome()["names"]]
    check_once(before, left(work_db), names)
    assert does(orders, newer, *RUN) == []
    check_end(work_db, orders, newer)


def test_between_two(orders: Orders, work_db: Any, start: Start) -> None:
    """While an older instance is between two of the replaced ones, a plan is refused, a status isn't; a run waits, and
    decides under the lease. If the older one is killed there, it raises and changes nothing. Then the older release
    does the rest; or a mark says that it is done.
    """
    orders = replace(orders, lease_ttl=1)
    victim = start(replace(orders, works=[A, replace(B, held=True), C])).go()
    victim.until("stopped")
    with pytest.raises(PartlyReplacedError):
        does(orders, NEWER, "plan")
    status = does(orders, NEWER, "status")
    assert {one.name: one.state for one in status.migrations} == {"ab": "pending", "c": "pending", "a": "replaced"}
    events: list[Event] = []

    def kill_when_awaited(event: Event) -> None:
        events.append(event)
        if isinstance(event, LeaseAwaited):
            victim.kill()

    records = list(work_db.app_migrations.find())
    with pytest.raises(PartlyReplacedError) as caught:
        does(orders, NEWER, *RUN, on_event=kill_when_awaited)
    assert (caught.value.name, caught.value.recorded, caught.value.missing) == ("ab", ["a"], ["b"])
    assert any(isinstance(event, LeaseAwaited) for event in events)
    assert not any(isinstance(event, MigrationStarted) for event in events)
    assert list(work_db.app_migrations.find()) == records
    assert left(work_db).holder is None

    if orders.driver == "pymongo":
        assert does(orders, OLDER, *RUN) == ["b", "c"]
        assert does(orders, NEWER, *RUN) == []
    else:
        assert does(orders, NEWER, "mark_applied", ["b"]) == ["b"]
        assert does(orders, NEWER, *RUN) == ["c"]
    check_end(work_db, orders, NEWER)


@pytest.mark.parametrize(
    ("driver", "is_newer_first", "transactions"),
    [
        ("pymongo", False, False),
        ("pymongo", True, True),
        ("pymongo-async", False, True),
        ("pymongo-async", True, False),
        ("motor", True, True),
        ("motor", False, True),
    ],
)
def test_frozen(orders: Orders, work_db: Any, start: Start, *, is_newer_first: bool, transactions: bool) -> None:
    """A holder that was frozen past its lease begins nothing more when it wakes after one of the other release has done
    the same work in its own way. A transaction leaves nothing, because each release records the names of the other.
    """
    older, newer = (OLDER_IN_TRANSACTIONS, NEWER_IN_TRANSACTION) if transactions else (OLDER, NEWER)
    first, second = (newer, older) if is_newer_first else (older, newer)
    names = ["a", "b", "c"] if is_newer_first else ["ab", "c"]
    orders = replace(orders, lease_ttl=1)
    frozen = start(replace(orders, works=first, stopped_at="before insert records")).go()
    frozen.until("stopped")
    frozen.freeze()
    assert does(orders, second, *RUN) == names

    frozen.go()
    frozen.thaw()
    assert frozen.outcome()["type"] == "LeaseLostError"

    found = left(work_db)
    counts = dict.fromkeys(found.begun, 0) | dict.fromkeys(names, 1)
    counts[first[0].name] += not transactions
    assert found.begun == found.ended == counts
    assert found.holder is None
    assert does(orders, newer, *RUN) == []
    check_end(work_db, orders, newer)
    assert left(work_db).begun == counts


@pytest.mark.parametrize(
    ("driver", "first", "held", "second", "names"),
    [
        pytest.param(
            "motor", (OLDER, RUN), "c", (NEWER, ("rollback", ["ab"])), ["c", "ab"], id="older run and rollback"
        ),
        pytest.param(
            "pymongo-async",
            (NEWER, ("rollback", ["ab"])),
            "ab",
            (OLDER, RUN),
            ["a", "b", "c"],
            id="rollback and older run",
        ),
        pytest.param(
            "pymongo", (OLDER, RUN), "c", (NEWER, ("mark_pending", ["ab", "c"])), ["c", "ab"], id="older run and mark"
        ),
        pytest.param(
            "motor", (OLDER, RUN), "b", (NEWER, ("mark_applied", ["ab"])), ["ab"], id="older run and mark applied"
        ),
    ],
)
def test_other_calls_meet(
    orders: Orders, work_db: Any, start: Start, first: Does, held: str, second: Does, names: list[str]
) -> None:
    """A rollback or a mark of one release waits for a run of the other, or the run for it, and does what is left."""
    works, call = first
    if call != RUN:
        does(orders, works, *RUN)
    holding = [replace(work, held=work.name == held) for work in works]
    holder = start(replace(orders, works=holding, calls=[call])).go()
    holder.until("stopped")
    waiter = start(replace(orders, works=second[0], calls=[second[1]])).go()
    assert waiter.until("LeaseAwaited")["holder"] == holder.process.pid
    holder.go()

    assert holder.outcome()["is"] == "returned"
    assert waiter.outcome()["names"] == names
    before = left(work_db)
    pending = expect(before.records, NEWER, RUN)
    assert does(orders, NEWER, *RUN) == pending
    check_end(work_db, orders, NEWER)
    assert left(work_db).begun == {name: times + pending.count(name) for name, times in before.begun.items()}


@pytest.mark.parametrize(
    ("driver", "step"),
    [
        ("pymongo", "before insert records"),
        ("pymongo-async", "before delete start mark"),
        ("motor", "after delete start mark"),
    ],
)
def test_started_and_replaced(orders: Orders, work_db: Any, start: Start, step: str) -> None:
    """If the older release was killed in a migration that must not be repeated unasked, what replaces it doesn't run
    either, until somebody says so. Killed then, the next run does the same, unless it was recorded.
    """
    orders = replace(orders, lease_ttl=1)
    victim = start(replace(orders, works=[replace(A, held=True, stops=True), B, C])).go()
    victim.until("stopped")
    victim.kill()
    retry = replace(orders, retry=["a"])

    with pytest.raises(InterruptedMigrationError) as caught:
        does(orders, NEWER, *RUN)
    assert list(caught.value.interrupted) == ["a"]
    assert left(work_db).begun["ab"] == 0
    dying = start(replace(retry, works=NEWER, stopped_at=step)).go()
    dying.until("stopped")
    dying.kill()

    if step == "before insert records":
        with pytest.raises(InterruptedMigrationError):
            does(orders, NEWER, *RUN)
        assert does(retry, NEWER, *RUN) == ["ab", "c"]
    else:
        assert does(orders, NEWER, *RUN) == ["c"]
    check_end(work_db, orders, NEWER)
    counts = left(work_db).begun
    assert (counts["a"], counts["b"], counts["ab"]) == (1, 0, 2 if step == "before insert records" else 1)


@pytest.mark.parametrize(
    ("driver", "step", "started"),
    [("pymongo", "after update start mark", []), ("pymongo-async", "before insert records", ["a", "b"])],
)
def test_replacement_started(orders: Orders, work_db: Any, step: str, started: list[str]) -> None:
    """If the newer release was killed in a replacement that must not be repeated unasked, the older one stops for what
    it replaces. Killed after its own mark alone, it has begun nothing: the older one does it all.
    """
    newer, older = (replace(AB, stops=True), C), (replace(A, stops=True), replace(B, stops=True), C)
    kill(replace(orders, lease_ttl=1, stopped_at=step), newer, RUN)
    if started:
        for works, names in ((older, started), (newer, ["ab"])):
            with pytest.raises(InterruptedMigrationError) as caught:
                does(orders, works, *RUN)
            assert list(caught.value.interrupted) == names
        assert does(replace(orders, retry=["ab"]), newer, *RUN) == ["ab", "c"]
    else:
        assert does(orders, older, *RUN) == ["a", "b", "c"]
        assert does(orders, newer, *RUN) == []
    check_end(work_db, orders, newer)
    assert work_db.app_migrations_lock.count_documents({"_id": {"$ne": "lease"}}) == 0


@pytest.fixture
def work_db(orders: Orders) -> Iterator[Any]:
    """The database of these orders, as the test itself looks at it."""
    with prepared(orders.uri, orders.database, EVERYTHING) as db:
        yield db
