"""An instance is killed before or after any command of a run, a rollback or an import. Real processes, real signals."""

import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any

import pytest

from quaestor import Event, LeaseAwaited, RollbackStarted, RunStarted
from tests.faults.applications import DRIVERS
from tests.faults.instance import SLOW, Instance, Orders, Start, caller, migrated
from tests.faults.works import NAMES, WORKS, left, once, prepared, undone

BACKWARDS = NAMES[::-1]

CALLS: dict[str, Sequence[Any]] = {"run": ("run",), "rollback": ("rollback", NAMES)}
LEFT = {"run": once(WORKS), "rollback": undone(WORKS)}

FOLLOWING = {"run": ["run"], "rollback": ["rollback", "run"]}
"""What others do when such a call was killed."""


def _steps(recording: str, *, elsewhere: Sequence[str] = (), afterwards: Sequence[str] = ()) -> list[str]:
    plain = ("update work", "update work", "update lease", recording, *afterwards)
    commands = (
        *("find records", *elsewhere, "connectionStatus", "findAndModify lease", "find records"),
        *plain,
        *("update work", "update work", recording, "commitTransaction", "update lease", *afterwards),
        *plain,
        "update lease",
    )
    return [f"{when} {command}" for command in commands for when in ("before", "after")]


STEPS = {
    "run": _steps("insert records", elsewhere=["listDatabases", "listCollections"]),
    "rollback": _steps("delete records", afterwards=["update history"]),
}
"""The steps of a call that nobody disturbs. A run without records looks for others."""


@pytest.mark.alone
@pytest.mark.parametrize("call", CALLS)
def test_killed_at_every_step(orders: Orders, work_db: Any, start: Start, call: str, *, is_long: bool) -> None:
    """Whenever the holder is killed, the next run, or rollback, ends in the right state, and takes over within
    ttl + 0.5 s, which is the median of all, because a loaded machine makes single ones late.
    """
    if call == "rollback":
        migrated(orders)
    orders = replace(orders, calls=[CALLS[call]])
    undisturbed = start(replace(orders, traced=True)).go()
    assert undisturbed.outcome()["names"] == (NAMES if call == "run" else BACKWARDS)
    assert [line["name"] for line in undisturbed.said("step")] == STEPS[call]
    assert left(work_db) == LEFT[call]

    waits: list[float] = []
    number = DRIVERS.index(orders.driver)
    steps = range(1, len(STEPS[call]) + 1)
    if number and not is_long:  # all drivers send the same, as seen above: each async one takes half of it
        steps = steps[number - 1 :: 2]

    def killed_at(step: int) -> str | None:
        """What was wrong, if anything was."""
        # Every step is followed by every call, with the sync driver or an async one.
        following = FOLLOWING[call][((step - 1) // 2 + bool(number)) % len(FOLLOWING[call])]
        try:
            waits.extend(_kill_at(step, replace(orders, database=f"{orders.database}_{step}", lease_ttl=1), following))
        except Exception as error:  # noqa: BLE001 - all steps are tried before the test fails
            return f"{STEPS[call][step - 1]} (step {step}), then a {following}: {type(error).__name__}: {error}"
        return None

    with ThreadPoolExecutor(4) as pool:  # each waits for a lease to end, most of the time
        wrong = [report for report in pool.map(killed_at, steps) if report is not None]
    assert not wrong, "\n\n".join(wrong)
    assert median(waits) <= 1 + 0.5, waits
    assert max(waits) <= 1 + SLOW, waits


def _kill_at(step: int, orders: Orders, following: str) -> list[float]:
    """Returns how long the next one waited for the lease, if it did, in seconds."""
    ((call, *_),) = orders.calls
    times: list[float] = []

    def on_event(event: Event) -> None:
        if isinstance(event, LeaseAwaited | RunStarted | RollbackStarted):
            times.append(time.monotonic())

    with prepared(orders.uri, orders.database, orders.works) as db, Instance(replace(orders, dies_at=step)) as victim:
        if call == "rollback":
            migrated(orders)
        victim.go()
        victim.until("dies")
        assert victim.process.wait() == -signal.SIGKILL
        recorded = left(db).records
        names = caller(replace(orders, calls=[CALLS[following]]), on_event)()
        state = left(db)
        rolled_back = [entry["name"] for entry in db.app_migrations_history.find()]

    assert len(rolled_back) == len(set(rolled_back))
    pending = [name for name in NAMES if name not in recorded]
    assert names == (pending if following == "run" else recorded[::-1])
    assert state.records == LEFT[following].records
    assert state.holder is None or not names
    done = {"run": recorded if call == "run" else NAMES, "rollback": pending if call == "rollback" else []}
    done[following] = done[following] + names
    in_hand = pending[:1] if call == "run" else recorded[-1:]
    for counter, by in {"begun": "run", "ended": "run", "undo_begun": "rollback", "undo_ended": "rollback"}.items():
        for work in WORKS:
            more = getattr(state, counter)[work.name] - done[by].count(work.name)
            # What the killed one had in hand may have been begun, or done, once more, where it is no transaction.
            assert more == 0 or (more == 1 and by == call and work.name in in_hand and not work.transaction), state
    return [end - begin for begin, end in pairwise(times)]


DATES = {name: datetime(2020, 1, day) for day, name in enumerate(NAMES, 1)}  # noqa: DTZ001 - as the other tool reads them


@dataclass(frozen=True)
class Correction:
    """A call that changes records, and runs nothing.

    Attributes:
        call: The call, which changes one record after the other.
        commands: What it sends.
        fields: What must be the same in the end, of each record.
    """

    call: Sequence[Any]
    commands: Sequence[str]
    fields: Sequence[str]


READ_FOREIGN = ("find records", "find pymongo_migrate")
CORRECTIONS = {
    "accept": Correction(
        ("mark_accepted", NAMES),
        [
            *("find records", "findAndModify lease", "find records"),
            *("update lease", "update records", "update history") * len(NAMES),
            "update lease",
        ],
        ("name", "checksum"),
    ),
    "import": Correction(
        ("import_history", "pymongo-migrate"),
        [
            *(*READ_FOREIGN, "findAndModify lease", *READ_FOREIGN),
            *("delete progress", "update lease", "insert records", "delete progress", "update history") * len(NAMES),
            "update lease",
        ],
        ("name", "checksum", "source", "appliedAt"),
    ),
}


@pytest.mark.parametrize("correction", CORRECTIONS)
def test_killed_while_correcting(orders: Orders, correction: str, *, is_long: bool) -> None:
    """Whenever a process that accepts changes or imports a history is killed, what it has written stays, and another
    one does the rest. Without `--long`, each step is tried with one of the drivers.
    """
    there = CORRECTIONS[correction]
    orders = replace(orders, calls=[there.call], lease_ttl=1)
    steps = [f"{when} {command}" for command in there.commands for when in ("before", "after")]

    def kill_at(step: int | None) -> Any:
        """Returns what is left."""
        own = replace(orders, database=f"{orders.database}_{step}")
        dying = replace(own, dies_at=step, traced=step is None)
        with prepared(own.uri, own.database, own.works) as db, Instance(dying) as victim:
            if correction == "accept":
                migrated(own)
                db.app_migrations.update_many({}, {"$unset": {"checksum": ""}})  # as an earlier release recorded them
            else:
                db.pymongo_migrate.insert_many({"name": name, "applied": date} for name, date in DATES.items())
            victim.go()
            if step is None:
                victim.outcome()
                assert [line["name"] for line in victim.said("step")] == steps
            else:
                victim.until("dies")
                assert victim.process.wait() == -signal.SIGKILL
            is_changed = {"checksum": {"$type": "string"}}
            ahead = [name for name in NAMES if db.app_migrations.find_one({"_id": name, **is_changed}) is None]
            assert ahead == NAMES[len(NAMES) - len(ahead) :]
            done: Any = caller(own, lambda _: None)()
            assert (done if correction == "accept" else [one.name for one in done.imported]) == ahead
            state = left(db)
            assert state.holder is None or not ahead
            entries = [entry["name"] for entry in db.app_migrations_history.find()]
            assert len(entries) == len(set(entries))
            records = [[record[field] for field in there.fields] for record in db.app_migrations.find().sort("name")]
        return records, replace(state, holder=None)

    expected = kill_at(None)
    if correction == "import":
        assert [(source, date) for *_, source, date in expected[0]] == [("import", date) for date in DATES.values()]
    first, by = (1, 1) if is_long else (DRIVERS.index(orders.driver) + 1, len(DRIVERS))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(kill_at, range(first, len(steps) + 1, by)):
            assert found == expected
