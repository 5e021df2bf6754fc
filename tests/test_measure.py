"""The tool that measures the targets of docs/architecture.md."""

import subprocess
import sys
from pathlib import Path

import mongomock
import pytest

from tools import measure_frames, measure_runs
from tools.measure import functions, is_participle

ROOT = Path(__file__).parents[1]
FAIL = measure_frames.FAILURES["plain"][1][0][0]


def test_participles() -> None:
    names = ["applied", "_renewed_every", "saving", "told", "_given_up", "lost"]
    others = ["apply", "need_lease", "ping", "embed", "is_applied", "has_ended", "read", "string"]
    assert [name for name in [*names, *others] if is_participle(name)] == names


def test_functions_that_count() -> None:
    """Methods and nested functions count; magic methods and the signatures of overloads don't."""
    source = """
class Lease:
    def __init__(self): ...
    @overload
    def renew(self): ...
    def renew(self, now=None):
        async def send(): ...
"""
    assert [function.name for function in functions(source)] == ["renew", "send"]


def test_frames_of_a_group() -> None:
    """A group's own frames and those of its worst member add up."""
    database = mongomock.MongoClient()["measured"]
    with pytest.raises(measure_frames.FailedError) as caught:
        measure_runs.make_registry(FAIL, 1).run_sync(database, "measured")
    own = measure_frames.own_frames(caught.value)
    assert own[0] == "registry.py: MigrationRegistry.run_sync"
    group = ExceptionGroup("two failed", [measure_frames.FailedError(), caught.value])
    group.__traceback__ = caught.value.__traceback__
    assert measure_frames.own_frames(group) == [*own, *own]


def test_error_of_another_function() -> None:
    """A run that fails for another reason isn't measured."""
    with pytest.raises(ZeroDivisionError):
        measure_frames.own_frames(ExceptionGroup("one failed", [ZeroDivisionError()]))


def test_runs(uri: str) -> None:
    """Frames and files are counted with all drivers."""
    rows = [*measure_frames.frames(uri), *measure_runs.files(uri)]
    for row in rows:
        assert len(row.details) == (int(row.seen.partition(" ")[0]) if row.target else 0)
    assert [row.target for row in rows] == ["10", "12", "14", "18", "", "", "", "21", ""]


def test_table() -> None:
    """The command prints a Markdown table, and lists the names behind the figures."""
    command = [sys.executable, "-m", "tools.measure", "--only", "lines", "names", "--list"]
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert printed[:2] == ["| what | seen | target |", "|---|---|---|"]
    assert [line.split(" | ")[2] for line in printed[2:6]] == ["18,800 |", "1,150 |", "42,300 |", "3% |"]
    assert printed[6:8] == ["", "functions that begin with a participle or gerund:"]
