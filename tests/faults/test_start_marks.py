"""An instance is killed around the start mark of a migration that must not be repeated unasked."""

import signal
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from quaestor import Event, InterruptedMigrationError
from tests.faults.applications import DRIVERS
from tests.faults.instance import Instance, Orders, Start, caller
from tests.faults.works import Work, left, prepared

WORKS = (Work("a", stops=True), Work("b"))
NAMES = ["a", "b"]

STEPS = [
    "after find lease",
    "before update start mark",
    "after update start mark",
    "before update work",
    "after update work",
    "before update work",
    "after update work",
    "before update lease",
    "after update lease",
    "before insert records",
    "after insert records",
    "before delete start mark",
    "after delete start mark",
]
"""The steps of a run from the read of the marks to the removal of its own."""

CONTINUED: dict[str, Sequence[Any]] = {
    "retry": ("run",),
    "rollback": ("rollback", ["a"]),
    "mark applied": ("mark_applied", ["a"]),
    "mark pending": ("mark_pending", ["a"]),
}
"""What somebody does who has looked at the data."""

RECORDED = {(how, "before delete start mark") for how in ("retry", "mark applied")}
"""Where the migration is recorded by then, so that its mark is void."""


@pytest.fixture
def orders(driver: str, uri: str, name: str) -> Orders:
    """Orders to run WORKS."""
    return Orders(driver=driver, uri=uri, database=name, works=WORKS)


def test_killed_in_a_run(orders: Orders, work_db: Any, start: Start) -> None:
    """Whenever the holder is killed, a function that may have begun isn't called again until somebody says so; one that
    hasn't begun, or is recorded, doesn't stop the next run.
    """
    undisturbed = start(replace(orders, traced=True)).go()
    assert undisturbed.outcome()["names"] == NAMES
    steps = [line["name"] for line in undisturbed.said("step")]
    first = steps.index(STEPS[0])
    assert steps[first : first + len(STEPS)] == STEPS
    assert list(work_db.app_migrations_lock.find({}, {"_id": 1})) == [{"_id": "lease"}]

    def killed_at(number: int) -> str | None:
        """What was wrong, if anything was."""
        how = [*CONTINUED][(number + DRIVERS.index(orders.driver)) % len(CONTINUED)]
        there = replace(orders, database=f"{orders.database}_{number}", lease_ttl=1)
        try:
            _kill_in_a_run(replace(there, dies_at=first + number + 1), how)
        except Exception as error:  # noqa: BLE001 - all steps are tried before the test fails
            return f"{STEPS[number]} (step {number}), then {how}: {type(error).__name__}: {error}"
        return None

    with ThreadPoolExecutor(4) as pool:  # each waits for a lease to end, most of the time
        wrong = [report for report in pool.map(killed_at, range(len(STEPS))) if report is not None]
    assert not wrong, "\n\n".join(wrong)


def _kill_in_a_run(orders: Orders, how: str) -> None:
    with prepared(orders.uri, orders.database, orders.works) as db:
        _kill(orders)
        marks = list(db.app_migrations_lock.find({"_id": {"$ne": "lease"}}))
        begun, recorded = left(db).begun["a"], left(db).records
        living = replace(orders, dies_at=None)
        if not marks or recorded:
            assert begun == bool(recorded)
            _call(living, "run")
            assert left(db).begun == {"a": 1, "b": 1}
        else:
            with pytest.raises(InterruptedMigrationError) as caught:
                _call(living, "run")
            assert caught.value.interrupted == {"a": marks[0]["startedAt"].replace(tzinfo=UTC)}
            assert (left(db).begun, left(db).holder) == ({"a": begun, "b": 0}, None)
            _call(replace(living, retry=["a"]), *CONTINUED[how])
            _call(living, "run")
            assert left(db).begun == {"a": begun + (how != "mark applied"), "b": 1}
            assert left(db).undo_ended["a"] == (how == "rollback")
        assert left(db).records == NAMES
        assert _call(living, "run") == []


@pytest.mark.parametrize("how", CONTINUED)
@pytest.mark.parametrize("step", ["before delete start mark", "after delete start mark"])
def test_killed_while_continuing(orders: Orders, work_db: Any, start: Start, how: str, step: str) -> None:
    """Who is killed while continuing can do the same again, until it is done."""
    mark = {"_id": {"start": "a"}, "owner": "dead", "startedAt": datetime(2026, 1, 1, tzinfo=UTC)}
    there = replace(orders, calls=[CONTINUED[how]], retry=["a"])
    work_db.app_migrations_lock.insert_one(mark)
    undisturbed = start(replace(there, traced=True)).go()
    done = undisturbed.outcome()["names"]
    assert done == (NAMES if how == "retry" else ["a"])
    steps = [line["name"] for line in undisturbed.said("step")]
    last = max(number for number, name in enumerate(steps, start=1) if name == step)

    there = replace(there, database=f"{orders.database}_2", lease_ttl=1)
    with prepared(there.uri, there.database, there.works) as db:
        db.app_migrations_lock.insert_one(mark)
        _kill(replace(there, dies_at=last))
        living = replace(there, retry=[])
        is_settled = "a" in left(db).records or db.app_migrations_lock.count_documents({"_id": mark["_id"]}) == 0
        assert is_settled is (step == "after delete start mark" or (how, step) in RECORDED)
        if not is_settled:
            with pytest.raises(InterruptedMigrationError):
                _call(living, "run")
            assert _call(replace(living, retry=["a"]), *CONTINUED[how]) == done
        pending = [name for name in NAMES if name not in left(db).records]
        assert _call(living, "run") == pending
        assert left(db).records == NAMES


def _kill(orders: Orders) -> None:
    with Instance(orders) as victim:
        victim.go()
        victim.until("dies")
        assert victim.process.wait() == -signal.SIGKILL


def _call(orders: Orders, *call: Any) -> list[str]:
    def ignore(event: Event) -> None:
        """An event hook."""

    return caller(replace(orders, calls=[call]), ignore)()
