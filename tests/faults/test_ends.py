"""How runs end: by signals while nothing answers, and in processes that end, fork or are interrupted unusually."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.faults.unusual import CASES
from tools.replica_set import replica_set

LIMIT, SLACK = 12, 8  # seconds; a loaded machine may add some

RECORDED = {  # what is recorded then, and how the call ends
    "main ended": (["a", "b"], "returned a b"),
    "fork exit": (["a", "b"], "returned a b"),
    "fork raise": (["a", "b"], "returned a b"),
    "fork return": (["a", "b"], "returned a b"),
    "limit in release": (["a", "b"], "raised SoftTimeLimit"),
    "limit in task": (["a", "b"], "raised SoftTimeLimit"),
    "limit in hook": (["a"], "raised SoftTimeLimit"),
    "second signal": (["a"], "raised KeyboardInterrupt"),
    "second signal, many": (["a"], "raised KeyboardInterrupt"),
}


@pytest.mark.parametrize("case", CASES)
def test_unusual(uri: str, name: str, driver: str, case: str) -> None:
    """No hang, no swallowed exception, no lease left behind; and a forked child does nothing of the run."""
    program = [sys.executable, "-m", "tests.faults.unusual", case, driver, uri, name]
    ended = subprocess.run(program, capture_output=True, text=True, check=False, timeout=100)
    lines = ended.stdout.splitlines()
    records, outcome = RECORDED[case]
    assert lines[-1] == outcome, ended
    assert lines.count("MigrationApplied") == len(records)
    is_held = case.startswith("second signal")  # ends the release
    assert lines.count("LeaseNotReleased") == is_held
    if case.startswith("fork"):
        assert lines.count(f"child {7 if case == 'fork exit' else 1}") == 1
        assert ("must end with os._exit() or sys.exit()" in ended.stderr) is (case != "fork exit")
        assert lines.count("MigrationFailed") == lines.count("RunFailed") == 0
    with MongoClient[Any](uri) as client:
        assert sorted(record["name"] for record in client[name].app_migrations.find()) == records
        assert ("owner" in client[name].app_migrations_lock.find_one()) is is_held
        client.drop_database(name)


APP = """
import os, signal
from quaestor import MigrationRegistry
registry = MigrationRegistry()

@registry.register("a")
def a(db):
    print("started", flush=True)
    db.things.find_one()
"""


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM], [signal.SIGINT, signal.SIGTERM]])
def test_command_line(name: str, tmp_path: Path, signals: list[signal.Signals]) -> None:
    """The command ends within 12 s of a signal while the server doesn't answer, and at once after a second one."""
    (tmp_path / "app.py").write_text(APP.replace("db.things.find_one()", "input()"))
    with replica_set(nodes=1) as group:
        process = subprocess.Popen(
            [sys.executable, "-m", "quaestor", "run", "--registry", "app:registry", "--db", name, "--prefix", "app"],
            env={**os.environ, "QUAESTOR_URI": group.uri},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509 - it may be ignored
        )
        with process:
            assert process.stdout is not None
            lines = iter(process.stdout)
            while "started" not in next(lines):
                pass
            with group.members[0].frozen():
                began = time.monotonic()
                process.send_signal(signals[0])
                output = ""
                for number in signals[1:]:
                    output = next(line for line in lines if "releasing the lease" in line)
                    began = time.monotonic()
                    process.send_signal(number)
                code = process.wait(60)
                took = time.monotonic() - began
            output += process.stdout.read()
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143}[signals[-1]], output
    assert took < (LIMIT if len(signals) == 1 else 2) + SLACK
    assert "Couldn't release the lease" in output
