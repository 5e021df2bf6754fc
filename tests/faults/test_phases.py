"""Instances that leave migrations for later, undo the last ones, or mark what others need: killed next to every change
of records, and at once with another instance, of a release that knows no phases and no delays, too.

What waits doesn't run by accident, and everything runs once, whichever instance applies it. `--long` tries every step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import pytest

from tests.faults.applications import DRIVERS
from tests.faults.instance import Orders
from tests.faults.meetings import RUN, Does, attempt_all, check_killed, does, find_stops, go_on, kill, meet, trace_after
from tests.faults.works import Work, left, prepared

pytestmark = pytest.mark.timeout(3600)  # with --long one test takes minutes

DAY = 24 * 60 * 60.0

FIRST = Work("first")
CLEANED = Work("cleaned", depends_on=["first"], phase="post_deploy", transaction=True)
NEXT = Work("next", depends_on=["cleaned"])
LATE = Work("late", depends_on=["next"], phase="post_deploy")
ROLLOUT = (FIRST, CLEANED, NEXT, LATE)
"""An old clean-up, which a deploy migration needs, and a new one, which nothing needs; in the order of a plan."""

DROP = Work("drop", depends_on=["first"], delay=DAY, transaction=True)
AFTER, OTHER = Work("after", depends_on=["drop"]), Work("other")
DELAYED = (FIRST, DROP, AFTER, OTHER)
"""One that waits for a day, one that needs it, and one that doesn't."""

PHASELESS = tuple(replace(work, phase="deploy") for work in ROLLOUT)
DELAYLESS = (FIRST, replace(DROP, delay=None), AFTER, OTHER)
"""The same in a release that knows no phases and no delays."""

WITHOUT_DROP = (FIRST, OTHER)
THREE = (Work("x"), Work("y", transaction=True), Work("z"))
RETIRED = (*THREE[:2], replace(THREE[2], retired=True))
EVERYTHING = tuple({work.name: work for work in (*ROLLOUT, *DELAYED, *THREE)}.values())

DEPLOY, POST_DEPLOY = ("run", {"phase": "deploy"}), ("run", {"phase": "post_deploy"})
NO_DELAY = ("run", {"ignore_delays": True})
STEPS = ("run", {"steps": 2})
LAST, TO = ("rollback", {"last": 2}), ("rollback", {"to": "x"})
MARK = ("mark_applied", ["late"], {"with_dependencies": True})


@dataclass(frozen=True)
class Case:
    """A call that is killed.

    Attributes:
        works: The release.
        call: The call.
        names: What it returns.
        before: What is done before.
        following: What is done when it was killed, and before a run without delays; the call itself, unless given.
    """

    works: Sequence[Work]
    call: Sequence[Any]
    names: Sequence[str]
    before: Sequence[Does] = ()
    following: Sequence[Does] = ()


CASES = {
    "deploy": Case(ROLLOUT, DEPLOY, ["first", "cleaned", "next"]),
    "post-deploy": Case(ROLLOUT, POST_DEPLOY, ["first", "cleaned", "next", "late"], following=[(ROLLOUT, DEPLOY)]),
    "deploy, then a release without phases": Case(
        ROLLOUT, DEPLOY, ["first", "cleaned", "next"], following=[(PHASELESS, RUN)]
    ),
    "steps": Case(ROLLOUT, STEPS, ["first", "cleaned"]),
    "delayed": Case(DELAYED, RUN, ["other"], [(WITHOUT_DROP, ("run", ["first"]))]),
    "without delay": Case(
        DELAYED, NO_DELAY, ["drop", "after", "other"], [(WITHOUT_DROP, ("run", ["first"]))], [(DELAYED, RUN)]
    ),
    "new database": Case(DELAYED, RUN, ["first", "drop", "after", "other"]),
    "last": Case(THREE, LAST, ["z", "y"], [(THREE, RUN)]),
    "to": Case(THREE, TO, ["z", "y"], [(THREE, RUN)]),
    "last but a retired one": Case(RETIRED, LAST, ["y", "x"], [(THREE, RUN)]),
    "marked with dependencies": Case(ROLLOUT, MARK, ["first", "cleaned", "next", "late"]),
}


def expect(records: list[str], works: Sequence[Work], call: Sequence[Any]) -> list[str]:
    """What a call returns in a database with these records."""
    method, options = call[0], call[-1] if len(call) > 1 else {}
    if method == "rollback":
        applied = [work.name for work in reversed(works) if work.name in records and not work.retired]
        return applied[: options["last"]] if "last" in options else applied[: applied.index(options["to"])]
    pending = [work for work in works if work.name not in records]
    if options.get("phase") == "deploy":
        pending = [work for work in pending if work.phase == "deploy" or work is CLEANED]
    if records and not options.get("ignore_delays"):
        delayed = {work.name for work in pending if work.delay is not None}
        pending = [work for work in pending if delayed.isdisjoint({work.name, *work.depends_on})]
    return [work.name for work in pending][: options.get("steps")]


@pytest.mark.parametrize("case", CASES)
def test_killed(uri: str, name: str, case: str, *, is_long: bool) -> None:
    """Whenever an instance is killed, the next one does what is left of the same, and no more: what waits has to be
    asked for. Nothing that is recorded runs again. In the end everything is applied.
    """
    there = CASES[case]
    orders = Orders(driver=DRIVERS[0], uri=uri, database=name, works=EVERYTHING, lease_ttl=1)
    if is_long:
        names, steps = trace_after(orders, there.before, (there.works, there.call))
        assert names == there.names
        jobs = product(DRIVERS, find_stops(steps))
    else:
        change = "delete records" if there.call[0] == "rollback" else "insert records"
        some = [(f"before {change}", 0), (f"after {change}", 0), (f"after {change}", len(there.names) - 1)]
        jobs = zip(DRIVERS, dict.fromkeys(some), strict=False)
    attempt_all(partial(_kill, there), orders, jobs)


def _kill(case: Case, orders: Orders) -> None:
    with prepared(orders.uri, orders.database, EVERYTHING) as db:
        for works, call in case.before:
            does(orders, works, *call)
        before = left(db)
        kill(orders, case.works, case.call)
        killed = left(db)
        check_killed(case.works, before, killed)
        following = case.following or [(case.works, case.call)]
        if case.call is LAST:  # the same again would undo two more
            still = len(killed.records) - 1
            following = [(case.works, ("rollback", {"last": still}))] if still else []
        go_on(db, orders, [*following, (case.works, NO_DELAY)], expect)
        assert left(db).records == sorted(work.name for work in case.works)


@dataclass(frozen=True)
class Meeting:
    """Two instances at once.

    Attributes:
        first, second: What they do.
        before: What is done before.
        waits: What doesn't run then.
        may_wait: What may or may not run then.
    """

    first: Does
    second: Does
    before: Sequence[Does] = ()
    waits: Sequence[str] = ()
    may_wait: Sequence[str] = ()


HALF: list[Does] = [(WITHOUT_DROP, ("run", ["first"]))]
OTHERS: list[Does] = [(WITHOUT_DROP, ("run", ["other"]))]
JUST_NOW = ((DELAYED, RUN), (WITHOUT_DROP, RUN))
"""A release with the delayed one, and an earlier one, which applies what it waits for."""

MEETINGS = {
    "phases first": Meeting((ROLLOUT, DEPLOY), (PHASELESS, RUN)),
    "phases second": Meeting((PHASELESS, RUN), (ROLLOUT, DEPLOY)),
    "both phases": Meeting((ROLLOUT, DEPLOY), (ROLLOUT, POST_DEPLOY)),
    "delays first": Meeting((DELAYED, RUN), (DELAYLESS, RUN), HALF),
    "delays second": Meeting((DELAYLESS, RUN), (DELAYED, RUN), HALF),
    "applied just now": Meeting(*JUST_NOW, OTHERS, waits=["drop", "after"]),
    "applied just now, second": Meeting(*JUST_NOW[::-1], OTHERS, waits=["drop", "after"]),
    "new database": Meeting(*JUST_NOW, may_wait=["drop", "after"]),
    "new database, second": Meeting(*JUST_NOW[::-1], may_wait=["drop", "after"]),
}


@pytest.mark.parametrize("meeting", MEETINGS)
def test_meet(uri: str, name: str, meeting: str, *, is_long: bool) -> None:
    """Wherever an instance of one release is when one of the other comes, everything runs once, and what waits waits
    although its dependency was applied after the look that came first.
    """
    there = MEETINGS[meeting]
    orders = Orders(driver=DRIVERS[0], uri=uri, database=name, works=EVERYTHING)
    if is_long:
        _, steps = trace_after(orders, there.before, there.first)
        jobs = product(DRIVERS, find_stops(steps))
    else:
        some = [("after find records", 0), ("before insert records", 0), ("after insert records", 0)]
        jobs = zip(DRIVERS, some, strict=True)
    attempt_all(partial(_meet, there), orders, jobs)


def _meet(meeting: Meeting, orders: Orders) -> None:
    with prepared(orders.uri, orders.database, EVERYTHING) as db:
        for works, call in meeting.before:
            does(orders, works, *call)
        before = left(db)
        names = [name for done in meet(orders, meeting.first, meeting.second) for name in done]
        found = left(db)
        assert len(names) == len(set(names)), names
        assert found.begun == {name: times + (name in names) for name, times in before.begun.items()}
        assert found.records == sorted([*before.records, *names])
        works = max(meeting.first[0], meeting.second[0], key=len)
        waiting = {work.name for work in works if work.name not in found.records}
        assert set(meeting.waits) <= waiting <= {*meeting.waits, *meeting.may_wait}
        go_on(db, orders, [(works, NO_DELAY)], expect)
        assert left(db).records == sorted(work.name for work in works)


@pytest.mark.parametrize(
    ("driver", "where"),
    [("pymongo", "after find records"), ("pymongo-async", "before delete records"), ("motor", "before update history")],
)
def test_last_twice(orders: Orders, where: str) -> None:
    """Two instances that undo the last one at once undo two, whichever comes first."""
    orders = replace(orders, works=THREE)
    with prepared(orders.uri, orders.database, THREE) as db:
        does(orders, THREE, *RUN)
        last = (THREE, ("rollback", {"last": 1}))
        undone = meet(replace(orders, stopped_at=where), last, last)
        assert sorted(undone) == [["y"], ["z"]]
        assert left(db).records == ["x"]
        assert left(db).undo_ended == {"x": 0, "y": 1, "z": 1}
