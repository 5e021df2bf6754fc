"""An instance is killed around the precondition and the verification of a migration."""

import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.faults.applications import DRIVERS
from tests.faults.instance import Instance, Orders, Start, caller
from tests.faults.works import Left, Work, left, once, prepared

PLAIN = ["find work", "update work", "update work", "find work", "update lease", "insert records"]
IN_TRANSACTION = ["find work", "update work", "update work", "find work", "insert records", "commitTransaction"]


@pytest.mark.parametrize("transaction", [False, True])
def test_killed_at_every_step(driver: str, uri: str, name: str, start: Start, transaction: bool) -> None:
    """Whenever the holder is killed, the next run asks again, and ends in the right state: in a transaction the work is
    there once, otherwise what was in progress may be there twice.
    """
    works = [Work("a", transaction=transaction, checked=True)]
    orders = Orders(driver=driver, uri=uri, database=name, works=works)
    with prepared(uri, name, works) as db:
        undisturbed = start(replace(orders, traced=True)).go()
        assert undisturbed.outcome()["names"] == ["a"]
        assert left(db) == once(works)
    steps = [line["name"] for line in undisturbed.said("step")]
    expected = [f"{when} {one}" for one in (IN_TRANSACTION if transaction else PLAIN) for when in ("before", "after")]
    first = steps.index(expected[0])
    assert steps[first : first + len(expected)] == expected

    def kill(number: int) -> Left:
        """What is left when it dies there, and another one has run."""
        there = replace(orders, database=f"{name}_{number}", lease_ttl=1)
        with prepared(uri, there.database, works) as db:
            with Instance(replace(there, dies_at=first + number + 1)) as victim:
                victim.go()
                victim.until("dies")
                assert victim.process.wait() == -signal.SIGKILL
            caller(there, lambda _: None)()
            return replace(left(db), holder=None)  # who finds nothing to do leaves the lease of the dead

    tried = range(len(expected))
    if turn := DRIVERS.index(driver):  # all drivers send the same, as seen above: each async one takes half of it
        tried = tried[turn - 1 :: 2]
    with ThreadPoolExecutor(4) as pool:  # each waits for a lease to end, most of the time
        found = list(pool.map(kill, tried))
    if transaction:
        assert found == [once(works)] * len(found)
    else:
        assert all(one.records == ["a"] for one in found)
        assert {one.begun["a"] for one in found} == {1, 2}
        assert all(1 <= one.ended["a"] <= one.begun["a"] for one in found)
