"""`--log-format json`: everything on stderr is a JSON object, one per line, with the same keys."""

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from quaestor.cli.logs import KEYS
from tests.cli.conftest import Project
from tests.cli.tenants import Tenants, tenants

LOGGING = """
import logging
import os
import sys
import threading
import warnings
from shop.migrations import registry

logging.basicConfig(format="a handler of the application: %(message)s", stream=sys.stderr)
own = logging.getLogger("own")
own.addHandler(logging.StreamHandler())
own.propagate = False
warnings.warn("at import", stacklevel=1)
print("imported")

@registry.register("aside")
def aside(db, context):
    print("printed")
    context.logger.info("by %s", context.name)
    logging.getLogger("shop").warning("by the application")
    own.warning("by its own handler")
    warnings.warn("outdated", DeprecationWarning, stacklevel=1)
    thread = threading.Thread(target=logging.getLogger("shop.thread").error, args=["in a thread"])
    thread.start()
    thread.join()
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("shop").exception("caught")
    if "FAILS" in os.environ:
        raise ValueError(os.environ["FAILS"])
"""


def objects(errors: str) -> list[dict[str, Any]]:
    """The objects on stderr; each has all keys."""
    found = [json.loads(line) for line in errors.splitlines()]
    assert all(tuple(one) == KEYS for one in found)
    return found


def find(found: list[dict[str, Any]], text: str) -> dict[str, Any]:
    """The one object with this text in its message."""
    (one,) = [one for one in found if text in one["message"]]
    return one


@pytest.mark.parametrize("source", ["--log-format", "QUAESTOR_LOG_FORMAT", "log_format"])
def test_everything(project: Project, source: str) -> None:
    """Events, log lines, warnings, output and the final error: all are objects that name the migration they are of."""
    project.write("shop/migrations/aside.py", LOGGING)
    option = ["--log-format", "json"] if source == "--log-format" else []
    environ = {"QUAESTOR_LOG_FORMAT": "json"} if source == "QUAESTOR_LOG_FORMAT" else {}
    if source == "log_format":
        project.write("pyproject.toml", (project.folder / "pyproject.toml").read_text() + 'log_format = "json"\n')

    output, errors = project.process("run", "aside", *option, code=1, FAILS="boom", PYTHONWARNINGS="always", **environ)

    assert output == ""
    found = objects(errors)
    names = [one["event"] for one in found if one["event"]]
    assert names == ["RunStarted", "MigrationStarted", "MigrationFailed", "RunFailed"]
    run = find(found, "Applying")["run"]
    place = {"database": project.db.name, "prefix": "app", "run": run, "migration": "aside"}
    for text, logger, level in (
        ("printed", "output", "INFO"),
        ("by aside", "quaestor.migration", "INFO"),
        ("by the application", "shop", "WARNING"),
        ("by its own handler", "own", "WARNING"),
        ("outdated", "py.warnings", "WARNING"),
        ("in a thread", "shop.thread", "ERROR"),
        ("caught", "shop", "ERROR"),
    ):
        one = find(found, text)
        assert (one["logger"], one["level"], one["event"]) == (logger, level, None)
        assert place.items() <= one.items()
    assert "ZeroDivisionError" in find(found, "caught")["message"]
    assert find(found, "1 migration to apply")["migration"] is None
    assert (find(found, "at import")["logger"], find(found, "imported")["logger"]) == ("py.warnings", "output")
    assert (found[-1]["level"], found[-1]["event"]) == ("ERROR", None)
    assert "ValueError: boom" in found[-1]["message"]
    assert place.items() <= found[-1].items()


def test_beside_the_answer(project: Project) -> None:
    """The answer of --json stays on stdout."""
    output, errors = project.process("run", "aside", "first", "--json", "--log-format=json")
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["event"] for event in events][-1] == "RunFinished"
    assert {one["run"] for one in objects(errors)} == {events[0]["run"]}
    assert find(objects(errors), "printed by first")["logger"] == "output"
    output, errors = project.process("status", "--log-format", "json")
    assert "2 applied, 1 pending" in output
    assert errors == ""


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["run", "--nope"], 2, "No such option"),
        (["up"], 2, "quaestor run"),
        (["run", "nobody"], 2, "'nobody'"),
        (["run", "--log-format", "xml"], 2, "'xml' (--log-format)"),
        (["run", "--registry", "nothing"], 2, "'nothing'"),
        (["status", "--uri", "mongodb://ada:geheim@127.0.0.1:1/?serverSelectionTimeoutMS=100"], 75, "Can't reach"),
    ],
)
def test_errors(project: Project, arguments: list[str], code: int, text: str) -> None:
    """Each error is one object, wherever it comes from."""
    output, errors = project.quaestor(*arguments, code=code, QUAESTOR_LOG_FORMAT="json")
    (error,) = objects(errors)
    assert output == ""
    assert text in error["message"]
    assert (error["level"], error["logger"]) == ("ERROR", "quaestor")
    assert "geheim" not in errors


def test_at_once(project: Project) -> None:
    """Of migrations that run at the same time, each log line names its own."""
    project.write("shop/migrations/aside.py", AT_ONCE)
    for command in (["--log-format", "json"], []):
        output, errors = project.process("run", "left", "right", "--concurrency", "2", *command)
        if command:
            found = objects(errors)
            assert [find(found, f"log of {name}")["migration"] for name in ("left", "right")] == ["left", "right"]
        else:
            for name in ("left", "right"):
                assert f"[{project.db.name}/app] In '{name}': log of {name}\n" in errors
            assert "Applied 2 migrations" in output
        project.quaestor("mark", "pending", "left", "right")


AT_ONCE = """
import asyncio
import logging
from shop.migrations import registry

async def log(name):
    logging.getLogger("shop").warning("log of %s", name)

@registry.register("left")
def left(db):
    asyncio.run(log("left"))

@registry.register("right")
async def right(db):
    await asyncio.gather(log("right"))

registry.register("aside")(print)
"""


def test_lines_without_an_end(project: Project) -> None:
    """What is printed without a newline isn't lost, and two migrations at the same time don't share a line."""
    project.write("shop/migrations/aside.py", WITHOUT_END)
    _, errors = project.process("run", "left", "right", "--concurrency", "2", "--log-format", "json")
    found = objects(errors)
    assert [find(found, f"of {name}")["message"] for name in ("left", "right")] == ["dots of left", "dots of right"]
    assert [find(found, f"of {name}")["migration"] for name in ("left", "right")] == ["left", "right"]
    assert find(found, "at import")["message"] == "at import"


WITHOUT_END = """
import threading
from shop.migrations import registry

print("at import", end="")
both = threading.Barrier(2, timeout=30)

def dot(name):
    print("dots", end="")
    both.wait()
    print(f" of {name}", end="")
    both.wait()

@registry.register("left")
def left(db):
    dot("left")

@registry.register("right")
def right(db):
    dot("right")

registry.register("aside")(print)
"""


def test_traceback(project: Project) -> None:
    """With --traceback, the traceback is one object."""
    project.write("shop/migrations/aside.py", LOGGING)
    _, errors = project.process("run", "aside", "--traceback", "--log-format", "json", code=1, FAILS="boom")
    traceback = find(objects(errors), "Traceback (most recent call last)")
    assert (traceback["level"], traceback["migration"]) == ("ERROR", "aside")
    assert "ValueError: boom" in traceback["message"]


def test_interrupted(project: Project) -> None:
    """What an interrupted command says is an object, too."""
    project.write("shop/migrations/aside.py", WAITING)
    process = project.start("run", "aside", environ={"QUAESTOR_LOG_FORMAT": "json"})
    assert process.stderr is not None
    first = []
    for line in process.stderr:
        first.append(line)
        if "begun" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    found = objects("".join(first) + errors)
    assert find(found, "Interrupted while applying")["level"] == "ERROR"


WAITING = """
import signal
from shop.migrations import registry

@registry.register("aside")
def aside(db):
    print("begun")
    signal.pause()
"""


@pytest.fixture
def three(project: Project) -> Iterator[Tenants]:
    """Three databases."""
    with tenants(project, 3) as made:
        made.open_the_gate()
        yield made


def test_many(three: Tenants) -> None:
    """Each object names its database and the run; the failures are there in full, with a summary."""
    output, errors = three.project.process("run", "--log-format", "json", FAILS="_01", code=1)
    found = objects(errors)
    assert output == ""
    runs = {(one["run"], one["database"]) for one in found if one["event"]}
    assert sorted(database for _, database in runs) == three.names
    assert len({run for run, _ in runs}) == 1
    failure, event = find(found, "boom as ada"), find(found, "Failed to apply")
    assert (failure["database"], failure["level"]) == (three.names[1], "ERROR")
    assert all(failure[key] == event[key] for key in ("database", "prefix", "migration", "run"))
    assert "Failed in 1 of 3 databases" in found[-1]["message"]
    assert found[-1]["database"] is None
