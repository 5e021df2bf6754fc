"""Workers that get no more descriptors or memory. (Not beside a network, which has no way to the tests' own server.)"""

import resource
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.instance import Orders, Start


@pytest.mark.parametrize(("limit", "message"), [("NOFILE", "Too many open files"), ("AS", "new thread")])
def test_limits(orders: Orders, work_db: Any, start: Start, limit: str, message: str) -> None:
    """A worker that gets no more descriptors, or no more memory, can't connect."""
    instance = start(replace(orders, uri=f"{orders.uri}&serverSelectionTimeoutMS=2000"))
    pid = instance.process.pid
    open_files = max(int(file.name) for file in Path(f"/proc/{pid}/fd").iterdir()) + 1
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    most = {"NOFILE": open_files, "AS": (pages + 1) * resource.getpagesize()}[limit]
    kind = getattr(resource, f"RLIMIT_{limit}")
    resource.prlimit(pid, kind, (most, resource.prlimit(pid, kind)[1]))
    instance.go()
    assert message in instance.outcome()["traceback"]
