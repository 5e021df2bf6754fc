"""Faults of processes: killed in a transaction, frozen, with wrong clocks, many at once. Real processes and signals."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.faults.applications import until_expired
from tests.faults.instance import Orders, Start, check_takeover, migrated
from tests.faults.works import IN_TRANSACTION, LAST, NAMES, PLAIN, WORKS, Work, left, once, prepared


@pytest.mark.alone
def test_killed_in_a_transaction(orders: Orders, work_db: Any, start: Start) -> None:
    """What an open transaction of a killed holder has touched does not block the one that waited for it: that one takes
    over as soon as the lease has expired, and the effect is there once.
    """
    held = replace(IN_TRANSACTION, held=True)
    victim = start(replace(orders, works=[held], lease_ttl=1)).go()
    victim.until("stopped")
    successor = start(replace(orders, works=[IN_TRANSACTION], lease_ttl=1, traced=True)).go()
    assert successor.until("LeaseAwaited")["holder"] == victim.process.pid
    killed_at = victim.kill()

    assert successor.outcome()["names"] == [IN_TRANSACTION.name]
    state = left(work_db)
    assert state.records == [IN_TRANSACTION.name]
    assert (state.begun["b"], state.ended["b"]) == (1, 1)
    check_takeover(successor, killed_at, 1)
    assert successor.said("MigrationRetried") == []  # nothing that the killed one has left was in its way


@pytest.mark.parametrize(
    ("work", "where", "begun", "ended"),
    [
        pytest.param(PLAIN, "after update work", 2, 2, id="in a body"),
        pytest.param(PLAIN, "before update lease", 2, 2, id="before the check"),
        pytest.param(PLAIN, "before insert records", 2, 2, id="before the record"),
        pytest.param(IN_TRANSACTION, "after update work", 1, 1, id="in a transaction"),
        pytest.param(IN_TRANSACTION, "before commitTransaction", 1, 1, id="before the commit"),
    ],
)
def test_frozen(orders: Orders, work_db: Any, start: Start, work: Work, where: str, begun: int, ended: int) -> None:
    """A holder that was frozen past its lease finds that when it wakes: no further step, no second record. Its plain
    body is at an end already, or comes to it; of a transaction nothing is left.
    """
    orders = replace(orders, works=[work, LAST], lease_ttl=1)
    frozen = start(replace(orders, stopped_at=where)).go()
    frozen.until("stopped")
    frozen.freeze()
    successor = start(orders).go()
    assert successor.outcome()["names"] == [work.name, LAST.name]
    records = list(work_db.app_migrations.find())

    frozen.go()
    frozen.thaw()
    outcome = frozen.outcome()

    assert outcome["type"] == "LeaseLostError"
    assert frozen.process.wait() == 1
    assert list(work_db.app_migrations.find()) == records
    state = left(work_db)
    assert state.records == [work.name, LAST.name]
    assert (state.begun[work.name], state.ended[work.name]) == (begun, ended)
    assert (state.begun[LAST.name], state.ended[LAST.name]) == (1, 1)
    assert state.holder is None


def test_frozen_alone(orders: Orders, work_db: Any, start: Start) -> None:
    """Frozen past its lease in a transaction, and nobody else came: it commits that one, and goes on."""
    orders = replace(orders, works=[IN_TRANSACTION, LAST], lease_ttl=1)
    frozen = start(replace(orders, stopped_at="before commitTransaction")).go()
    frozen.until("stopped")
    frozen.freeze()
    until_expired(work_db)

    frozen.go()
    frozen.thaw()

    assert frozen.outcome()["names"] == [IN_TRANSACTION.name, LAST.name]
    state = left(work_db)
    assert state.records == [IN_TRANSACTION.name, LAST.name]
    for name in state.records:
        assert (state.begun[name], state.ended[name]) == (1, 1)
    assert state.holder is None


def _until_server_time(db: Any, moment: datetime) -> None:
    """Wait until it is so late by the server's clock, asking the server all the while."""
    db.clock.insert_one({"_id": 1})
    while db.clock.find_one({"$expr": {"$lte": ["$$NOW", moment]}}) is not None:
        pass


@pytest.mark.parametrize("holder_ahead", [True, False])
def test_clocks_two_hours_apart(orders: Orders, work_db: Any, start: Start, *, holder_ahead: bool) -> None:
    """Of two processes whose clocks are an hour ahead and an hour behind, the one waits for the other as long as that
    renews its lease: every migration is executed once, by one at a time.
    """
    works = [replace(PLAIN, held=True), *WORKS[1:]]
    orders = replace(orders, works=works, lease_ttl=1)
    shifts = (1, -1) if holder_ahead else (-1, 1)
    holder, waiter = (start(orders, environment=_clock(hours)) for hours in shifts)
    for instance, hours in zip((holder, waiter), shifts, strict=True):
        shifted = datetime.fromtimestamp(instance.lines[0]["clock"], UTC) - datetime.now(UTC)
        assert abs(shifted - timedelta(hours=hours)) < timedelta(minutes=5)

    holder.go()
    holder.until("stopped")
    waiter.go()
    assert waiter.until("LeaseAwaited")["holder"] == holder.process.pid
    taken = work_db.app_migrations_lock.find_one()
    _until_server_time(work_db, taken["since"] + timedelta(seconds=2))  # twice as long as the lease lasts
    assert work_db.app_migrations_lock.find_one()["owner"] == taken["owner"]
    holder.go()

    assert holder.outcome()["names"] == NAMES
    assert waiter.outcome()["names"] == []
    assert left(work_db) == once(WORKS)
    work = list(work_db.work.find().sort("begunAt"))
    assert {document["pid"] for document in work} == {holder.process.pid}
    for one, following in pairwise(work):
        assert one["endedAt"] <= following["begunAt"]
    recorded_at = work_db.app_migrations.find_one()["appliedAt"].replace(tzinfo=UTC)
    assert abs(recorded_at - datetime.now(UTC)) > timedelta(minutes=55)  # its own clock, in what is for people


@pytest.mark.alone
@pytest.mark.parametrize("minutes", [10, -10])
def test_clock_jumps(orders: Orders, work_db: Any, start: Start, tmp_path: Path, minutes: int) -> None:
    """While one process waits for another, the wall clocks of both jump: the holder keeps the lease as long as it
    lives. Killed, it is replaced as soon as with clocks that are right.
    """
    clock = tmp_path / "clock"
    clock.write_text("+0")
    environment = {**_clock(0), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    del environment["FAKETIME"]  # it would go before the file
    orders = replace(orders, lease_ttl=1, traced=True)
    holder = start(replace(orders, works=[replace(PLAIN, held=True), *WORKS[1:]]), environment=environment).go()
    holder.until("stopped")
    waiter = start(orders, environment=environment).go()
    waiter.until("LeaseAwaited")
    taken = work_db.app_migrations_lock.find_one()
    clock.write_text(f"{minutes:+}m")
    _until_server_time(work_db, taken["renewedAt"] + timedelta(seconds=3))  # three times as long as the lease lasts
    assert work_db.app_migrations_lock.find_one()["owner"] == taken["owner"]
    killed_at = holder.kill()

    assert waiter.outcome()["names"] == NAMES
    check_takeover(waiter, killed_at, 1)
    assert left(work_db).records == NAMES
    recorded_at = work_db.app_migrations.find_one()["appliedAt"].replace(tzinfo=UTC)
    assert abs(recorded_at - datetime.now(UTC) - timedelta(minutes=minutes)) < timedelta(minutes=5)


def _clock(hours: int) -> dict[str, str]:
    """The environment of a process whose wall clock is wrong by so much. Its monotonic clocks are not."""
    files = metadata.files("libfaketime") or []
    library = next(Path(str(file.locate())) for file in files if file.name.startswith("libfaketime.so"))
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{hours:+}h",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def test_eight_at_once(orders: Orders, uri: str, name: str, start: Start) -> None:
    """Of 8 processes that start 20 migrations at once, every migration is executed by one of them, and all return. (How
    long after the first the last one does is measured in benchmarks/instances.py.)
    """
    works = tuple(Work(f"m{number:02}", transaction=number % 2 == 1) for number in range(20))
    orders = replace(orders, works=works)
    with prepared(uri, name, works) as db:
        instances = [start(orders) for _ in range(8)]
        for instance in instances:
            instance.go()
        outcomes = [instance.outcome() for instance in instances]

        assert [outcome["is"] for outcome in outcomes] == ["returned"] * 8, outcomes
        assert sorted(name for outcome in outcomes for name in outcome["names"]) == [work.name for work in works]
        assert left(db) == once(works)


def test_frozen_in_a_rollback_with_another_clock(orders: Orders, work_db: Any, start: Start) -> None:
    """A rollback that was frozen just before it removes a record leaves one that another wrote since, by any clock."""
    orders = replace(orders, works=[PLAIN], lease_ttl=1, calls=[("rollback", [PLAIN.name])])
    migrated(orders)
    frozen = start(replace(orders, stopped_at="before delete records")).go()
    frozen.until("stopped")
    frozen.freeze()
    other = start(replace(orders, calls=[*orders.calls, ("run",)]), environment=_clock(-1)).go()
    assert other.outcome()["names"] == [PLAIN.name]
    records = list(work_db.app_migrations.find())

    frozen.go()
    frozen.thaw()

    assert frozen.outcome()["type"] == "LeaseLostError"
    assert list(work_db.app_migrations.find()) == records
