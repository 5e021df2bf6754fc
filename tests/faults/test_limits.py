"""Workers that get no more descriptors or memory. (Not beside a network, which has no way to the tests' own server.)"""

import re
import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.instance import Instance, Orders, Start
from tests.faults.works import Work, left


def restrict(instance: Instance, limit: str) -> None:
    """Give the process no more of it than it has."""
    pid = instance.process.pid
    open_files = max(int(file.name) for file in Path(f"/proc/{pid}/fd").iterdir()) + 1
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    most = {"NOFILE": open_files, "AS": (pages + 1) * resource.getpagesize()}[limit]
    kind = getattr(resource, f"RLIMIT_{limit}")
    resource.prlimit(pid, kind, (most, resource.prlimit(pid, kind)[1]))


@pytest.mark.parametrize(
    ("limit", "message"),
    [("NOFILE", "Too many open files"), ("AS", "new thread|MemoryError|SyntaxError|Cannot allocate memory")],
)
def test_limits(orders: Orders, work_db: Any, start: Start, limit: str, message: str) -> None:
    """A worker that gets no more descriptors, or no more memory, can't connect."""
    instance = start(replace(orders, uri=f"{orders.uri}&serverSelectionTimeoutMS=2000"))
    restrict(instance, limit)
    instance.go()
    assert re.search(message, instance.outcome()["traceback"])


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("limit", ["NOFILE", "AS"])
def test_limits_in_a_function(orders: Orders, work_db: Any, start: Start, limit: str, *, transaction: bool) -> None:
    """However a run ends that gets no more, it releases the lease."""
    work = Work("a", held=True, transaction=transaction)
    instance = start(replace(orders, works=[work])).go()
    instance.until("stopped")
    restrict(instance, limit)
    instance.go()
    instance.outcome()
    assert left(work_db).holder is None
    assert instance.said("LeaseNotReleased") == []
