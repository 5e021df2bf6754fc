"""Every command on the real server, without a terminal: what it does, says and returns."""

import json
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import Mock

import pytest
from typer.main import get_command

from quaestor.cli.app import app
from tests.cli.conftest import FIRST, REGISTRY, Project
from tests.leases import HELD


def lines(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()]


def test_status(project: Project) -> None:
    """A line for each migration in the order of the plan, with its state, and one that sums up."""
    output, _ = project.quaestor("status")
    table = lines(output)
    assert [row[1] for row in table[1:4]] == ["aside", "first", "second"]
    assert [row[0] for row in table[1:4]] == ["○", "○", "○"]
    assert table[-1] == [f"{project.db.name}/app:", "3", "pending."]

    project.quaestor("run", "first")
    project.db.app_migrations.insert_one({"_id": "x", "name": "from tomorrow"})
    output, _ = project.quaestor("status")
    signs = {row[1]: row[0] for row in lines(output)[1:5]}
    assert signs == {"aside": "○", "first": "✓", "second": "○", "from": "?"}
    assert "1 applied, 2 pending, 1 unknown." in output
    assert "What comes first." in output


def test_status_as_json(project: Project) -> None:
    """All that there is to know, for programs."""
    project.quaestor("run", "second")
    project.db.app_migrations_lock.replace_one({}, HELD)

    status = json.loads(project.quaestor("status", "--json")[0])

    second = status["migrations"][2]
    assert (second["name"], second["state"], second["depends_on"]) == ("second", "applied", ["first"])
    assert (second["transaction"], second["has_rollback"], second["interrupted"]) == (True, True, False)
    assert second["applied_at"].endswith("+00:00")
    assert status["lease"]["host"] == "elsewhere"
    assert "sessions" not in status["lease"]


def test_progress_in_status(project: Project) -> None:
    """The status shows how far an interrupted backfill is, until its migration is applied."""
    project.write("shop/migrations/aside.py", PASSING)
    project.db.things.insert_many([{"_id": number} for number in range(250)])

    assert "ValueError: boom" in project.quaestor("run", "aside", FAILS="boom", code=1)[1]

    row, _ = lines(project.quaestor("status")[0])[1:3]
    assert row[:7] == ["✗", "aside", "failed", "things:", "40%,", "100", "of"]
    (kept,) = json.loads(project.quaestor("status", "--json")[0])["migrations"][0]["backfills"]
    assert kept.pop("updated_at").endswith("+00:00")
    assert kept == {
        "name": "things",
        "collection": "things",
        "done": 100,
        "total": 250,
        "finished": False,
        "undo": False,
    }

    output, _ = project.quaestor("run", "aside")
    assert "In 'aside' (1 of 1): backfill of 'things' resumes after 100 of 250 documents" in output
    assert "progress" not in project.quaestor("status")[0]
    assert json.loads(project.quaestor("status", "--json")[0])["migrations"][0]["backfills"] == []
    assert project.db.effects.find_one() == {"_id": "aside", "seen": 250}


PASSING = """
import os
from shop.migrations import registry

@registry.register("aside")
def aside(db, context):
    for batch in context.batches(db.things, size=50):
        if "FAILS" in os.environ and batch[0]["_id"] == 100:
            raise ValueError(os.environ["FAILS"])
        db.effects.update_one({"_id": "aside"}, {"$inc": {"seen": len(batch)}}, upsert=True)
"""


def test_backfill_that_starts_over(project: Project) -> None:
    """If its filter has changed in the code, a backfill starts over with a warning."""
    project.write("shop/migrations/aside.py", PASSING)
    project.db.things.insert_many([{"_id": number} for number in range(250)])
    project.quaestor("run", "aside", FAILS="boom", code=1)
    project.write("shop/migrations/aside.py", PASSING.replace("db.things,", "db.things, {'_id': {'$gt': 5}},"))

    output, _ = project.quaestor("run", "aside")

    (warning,) = [line for line in output.splitlines() if "WARNING" in line]
    assert "In 'aside' (1 of 1): backfill of 'things' starts over" in warning


def test_check(project: Project) -> None:
    """0: up to date; 1: something is pending or unknown; 2: a misuse; 75: the server can't be reached."""
    assert "3 pending: aside, first, second." in project.quaestor("check", code=1)[0]
    project.quaestor("run")
    assert "3 applied" in project.quaestor("check", code=0)[0]
    project.db.app_migrations.insert_one({"_id": "x", "name": "from tomorrow"})
    assert "1 unknown: from tomorrow." in project.quaestor("check", code=1)[0]
    project.quaestor("check", "--allow-unknown")
    assert "'shp'" in project.quaestor("check", "--registry", "shp", code=2)[1]
    project.quaestor("check", "--uri", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100", code=75)


VERIFIED = """
from shop.migrations import first, registry

@registry.register("verified", ["first"])
def verified(db):
    pass

@registry.register_verification("first")
async def is_there(db, context):
    print("printed by is_there")
    found = await db.effects.find_one({"_id": "first"})
    if found is None and await db.effects.find_one():
        raise ValueError("It's gone.")
    return 0 if found is None else True

@registry.register_verification("verified")
def is_there_too(db):
    return db.effects.find_one({"_id": "first"}) is not None
"""


def test_check_verify(project: Project) -> None:
    """With --verify, the verifications of applied migrations are called, sync and async ones: 1 if any fails."""
    project.write("shop/migrations/verified.py", VERIFIED)
    assert "Verified: 0 migrations." in project.quaestor("check", "--verify", code=1)[0]
    project.quaestor("run")
    assert "Verified: 2 migrations." in project.quaestor("check", "--verify")[0]
    project.db.effects.delete_one({"_id": "first"})
    project.quaestor("check")

    output, _ = project.quaestor("check", "--verify", code=1)
    assert output.splitlines() == [
        "The verification of first failed: shop.migrations.verified.is_there raised ValueError: It's gone.",
        "The verification of verified failed: shop.migrations.verified.is_there_too returned False.",
        "Verified: 2 migrations.",
    ]
    output, errors = project.quaestor("check", "--verify", "--json", code=1)
    answer = json.loads(output)
    assert answer["migrations"]
    assert list(answer["failed_verifications"]) == ["first", "verified"]
    assert "printed by is_there" in errors
    project.quaestor("check", "--verify", "--uri", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100", code=75)
    project.db.effects.drop()
    assert "returned a value of type int" in project.quaestor("check", "--verify", code=2)[1]


def test_failed_guard(project: Project) -> None:
    """A precondition that fails ends a run with 1, and shows the user's own line that raised."""
    project.write("shop/migrations/verified.py", VERIFIED.replace("_verification", "_precondition"))
    project.db.effects.insert_one({"_id": "another"})

    output, errors = project.quaestor("run", "first", code=1)

    assert "Migration 'first' didn't begin" in errors
    assert "raised ValueError: It's gone." in errors
    assert re.search(r'verified.py", line \d+, in is_there\n    raise ValueError', errors)
    assert "Applied 0" not in output
    assert project.recorded() == set()


@pytest.mark.parametrize("db", [None, "*"])
def test_empty_registry(project: Project, db: str | None) -> None:
    """Without migrations nothing is up to date: `check` exits with 2, and all others say so."""
    project.write("shop/migrations/__init__.py", REGISTRY.replace("registry.discover(__name__)", ""))
    project.db.things.insert_one({})
    options = [] if db is None else ["--db", f"{project.db.name}{db}"]
    said = "No migration is registered."
    assert said in project.quaestor("check", *options, code=2)[1]
    assert said in "".join(project.quaestor("status", *options))
    assert said in "".join(project.quaestor("run", "--dry-run", *options))
    output, _ = project.quaestor("run", *options)
    assert f"WARNING {project.db.name}/app No migration is registered, so nothing was" in output
    assert "up to date" not in output.lower()
    if db is None:
        assert project.quaestor("plan")[0].startswith(said)
        for mark in ("applied", "pending"):
            assert "WARNING" in project.quaestor("mark", mark, "--all")[0]
    assert "up to date" not in project.quaestor("check", "--json", *options, code=2)[0].lower()


def test_after_a_crash(project: Project) -> None:
    """A migration that failed halfway isn't repeated unasked; `--retry`, a rollback or a mark continues."""
    project.write("shop/migrations/first.py", FIRST.replace('"first")', '"first", after_crash="stop")', 1))
    assert "ValueError: boom" in project.quaestor("run", "first", FAILS="boom", code=1)[1]

    for command in (["run"], ["run", "--dry-run"], ["plan"], ["run", "--retry", "aside"]):
        _, errors = project.quaestor(*command, code=1)
        assert "'first' (started 20" in errors
        assert "`quaestor run --retry first`" in errors
    assert project.recorded() == set()
    row = next(row for row in lines(project.quaestor("status")[0]) if "first" in row)
    assert row[:3] == ["!", "first", "interrupted"]
    assert row[3].startswith("20")
    shown = json.loads(project.quaestor("status", "--json")[0])["migrations"]
    assert {one["name"]: one["interrupted_since"] is not None for one in shown} == {
        "aside": False,
        "first": True,
        "second": False,
    }
    assert "no migration 'frist'" in project.quaestor("run", "--retry", "frist", code=2)[1]

    assert "first" in project.quaestor("rollback", "first", "--dry-run")[0]
    assert "first" in project.quaestor("run", "--retry", "first", "--dry-run")[0]
    project.quaestor("run", "--retry", "first")
    assert project.recorded() == {"aside", "first", "second"}


@pytest.mark.parametrize("db", [None, "*"])
def test_order_conflicts(project: Project, db: str | None) -> None:
    """What a new database applies the other way round, and a pending dependency, are warnings and in the JSON."""
    records = [
        {"_id": name, "name": name, "appliedAt": datetime(2026, 1, day, tzinfo=UTC)}
        for day, name in enumerate("cba", 1)
    ]
    project.db.app_migrations.insert_many([*records, {"_id": "second", "name": "second"}])
    registrations = "".join(f"registry.register({name!r})(print)\n" for name in "abc")
    project.write("shop/migrations/letters.py", f"from shop.migrations import registry\n{registrations}")
    options = [] if db is None else ["--db", f"{project.db.name}{db}"]
    said = "Warning: a new database applies these the other way round: c before b; c before a. If that"
    for command, code in (("status", 0), ("check", 1)):
        output, _ = project.quaestor(command, *options, code=code)
        assert said in output
        assert "Warning: second is applied, and depends on pending migrations: first." in output
        assert output.count(project.db.name) >= (1 if db is None else 2) * (command == "status")
        answer = json.loads(project.quaestor(command, "--json", *options, code=code)[0])
        seen = answer if db is None else answer[0]
        assert seen["order_conflicts"] == [{"first": "c", "second": "b"}, {"first": "c", "second": "a"}]
    if db is None:
        project.quaestor("run", "--strict", code=1)
        output, _ = project.quaestor("run")
        assert "WARNING" in output
        assert "pending" in output
        assert "'second' needs 'first'" in output
    project.quaestor("mark", "pending", "a", "b", "c")
    assert "Warning: a new" not in project.quaestor("check", *options, code=1)[0]


def test_plan(project: Project) -> None:
    """What a run would do and why, in order; nothing is written."""
    output, _ = project.quaestor("plan", "second")
    assert lines(output)[1:] == [
        ["1", "first", "needed", "by", "second", "What", "comes", "first."],
        ["2", "second", "asked", "for"],
    ]
    assert project.quaestor("run", "--dry-run", "second")[0] == output
    planned = json.loads(project.quaestor("plan", "--json")[0])
    assert [one["name"] for one in planned] == ["aside", "first", "second"]
    assert project.db.list_collection_names() == []
    project.quaestor("run")
    assert project.quaestor("plan")[0] == "Up to date: nothing to apply.\n"


def test_run(project: Project) -> None:
    """One command applies sync and async migrations, a line for each; a second run has nothing to do."""
    output, _ = project.quaestor("run")
    assert project.recorded() == project.effects() == {"aside", "first", "second"}
    for name in ("aside", "first", "second"):
        assert f"Applied '{name}'" in output
    assert "printed by first" in output
    assert "\x1b" not in output
    assert "nothing to apply" in project.quaestor("run")[0]


def test_run_as_json(project: Project) -> None:
    """Each event is a line of JSON on stdout, and nothing else is: what a migration prints goes to stderr."""
    output, errors = project.quaestor("run", "--json")
    events = [json.loads(line) for line in output.splitlines()]
    assert [event["event"] for event in events if event["event"].startswith("Run")] == ["RunStarted", "RunFinished"]
    assert {"event": "MigrationProgressed", "done": 1, "total": 2}.items() <= events[-3].items()
    assert events[0]["plan"] == ["aside", "first", "second"]
    assert "printed by first" in errors


def test_release(project: Project) -> None:
    """The release is an option of commands that write, or comes from the environment; a wrong one is a mistake."""
    project.quaestor("run", "aside", "--release", "1.4.2", QUAESTOR_RELEASE="1.4.1")
    project.quaestor("mark", "applied", "first", QUAESTOR_RELEASE="1.4.1")

    assert {one["name"]: one["release"] for one in project.db.app_migrations.find()} == {
        "aside": "1.4.2",
        "first": "1.4.1",
    }
    assert "release" in project.quaestor("run", "--release", "1\n4", code=2)[1]
    assert "--release" in project.quaestor("plan", "--release", "1.4.2", code=2)[1]


def test_log(project: Project) -> None:
    """What a migration logs is on stderr; what a module prints when it is imported is not in the answer."""
    project.write("shop/migrations/aside.py", LOGGING)
    output, errors = project.quaestor("run", "aside", "--json")
    assert [json.loads(line)["event"] for line in output.splitlines()][-1] == "RunFinished"
    assert "logged by aside" in errors
    assert "imported" in errors
    json.loads(project.quaestor("status", "--json")[0])


LOGGING = """
from shop.migrations import registry

print("imported")

@registry.register("aside")
def aside(db, context):
    context.logger.info("logged by %s", context.name)
"""


def test_signs_in_ascii(project: Project) -> None:
    """Where stdout has no Unicode, signs are ASCII characters of the same width, and other characters are escaped."""
    project.write("shop/migrations/extra.py", EXTRA)
    project.quaestor("run", "first")
    table = project.process("status", PYTHONIOENCODING="ascii")[0]
    assert {row[1]: row[0] for row in lines(table)[1:5]} == {
        "aside": "-",
        "first": "+",
        "second": "-",
        "zw\\xf6lf": "-",
    }
    graph = project.process("graph", PYTHONIOENCODING="ascii")[0]
    assert graph.isascii()
    assert {tuple(line.split()[:2]) for line in graph.splitlines()[2:]} >= {("*", "+"), ("+-*", "-"), ("-", "aside")}
    assert "\\u" not in table + graph
    project.process("graph", "-f", "svg", PYTHONIOENCODING="ascii")


EXTRA = """
from shop.migrations import registry

@registry.register("zw\\u00f6lf", depends_on=["first"])
def extra(db):
    pass
"""


def test_database_of_the_address(project: Project) -> None:
    """A database that an address names is taken, unless a stronger source, or the same, names another."""
    assert "other/app:" in project.quaestor("status", "--uri", "mongomock://other")[0]
    assert "third/app:" in project.quaestor("status", "--uri", "mongomock://other", "--db", "third")[0]
    project.environ["QUAESTOR_URI"] = "mongomock://other"
    assert f"{project.db.name}/app:" in project.quaestor("status")[0]


def test_targets(project: Project) -> None:
    """A run of some applies these and what they need; a name that there is not is refused with the one meant."""
    project.quaestor("run", "second")
    assert project.recorded() == {"first", "second"}
    assert "Did you mean 'aside'?" in project.quaestor("run", "asid", code=2)[1]


def test_failure(project: Project) -> None:
    """A migration that raises: what, where, and the user's own frames; --traceback shows those of quaestor, too."""
    output, errors = project.quaestor("run", FAILS="boom", code=1)
    assert "quaestor: ValueError: boom" in errors
    assert "in migration 'first', 2 of 3" in errors
    assert 'first.py", line 10, in first\n    raise ValueError(os.environ["FAILS"])\n' in errors
    assert "_functions.py" not in errors
    assert "Failed to apply 'first'" in output
    assert project.recorded() == {"aside"}
    _, errors = project.quaestor("run", "--traceback", FAILS="boom", code=1)
    assert "Traceback" in errors
    assert "_functions.py" in errors
    assert 'raise ValueError(os.environ["FAILS"])' in errors


def test_failures_at_once(project: Project) -> None:
    """Of migrations that fail at the same time, the frames of each are shown."""
    project.write("shop/migrations/first.py", TOGETHER)
    _, errors = project.quaestor("run", "--concurrency", "2", "left", "right", code=1)
    for name in ("left", "right"):
        assert f"in {name}\n    meet({name!r})" in errors


TOGETHER = """
import threading
from shop.migrations import registry

barrier = threading.Barrier(2)

def meet(name):
    barrier.wait()
    raise ValueError(name)

@registry.register("left")
def left(db):
    meet('left')

@registry.register("right")
def right(db):
    meet('right')

registry.register("first")(print)
"""


def test_unreachable(project: Project) -> None:
    """The exit code says that it may work later, and the error where the address was set."""
    unreachable = "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100"
    for command in ("status", "run", "check"):
        _, errors = project.quaestor(command, code=75, QUAESTOR_URI=unreachable)
        assert "Can't reach MongoDB at 127.0.0.1:1" in errors
        assert "QUAESTOR_URI" in errors


def test_unknown_host(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host name that DNS doesn't know is a misuse; a name server that doesn't answer may work later."""
    import dns.resolver

    faults: list[tuple[Exception, int]] = [
        (dns.resolver.NXDOMAIN(), 2),
        (dns.resolver.LifetimeTimeout(timeout=1, errors=[]), 75),
    ]
    for fault, code in faults:
        monkeypatch.setattr(dns.resolver, "resolve", Mock(side_effect=fault))
        _, errors = project.quaestor("status", "--uri", "mongodb+srv://ada:geheim@cluster.example.org/shop", code=code)
        assert "DNS" in errors
        assert "--uri" in errors
        assert "geheim" not in errors


@pytest.mark.parametrize("meant", [("up", "run"), ("migrate", "run"), ("upgrade", "run"), ("stamp", "mark")])
def test_commands_of_other_tools(bare: Project, meant: tuple[str, str]) -> None:
    """They get a hint to ours."""
    _, errors = bare.quaestor(meant[0], code=2)
    assert f"`quaestor {meant[1]}`" in errors


def test_options_before_the_command(bare: Project) -> None:
    """They get a hint where to put them; unknown options don't."""
    assert "quaestor run --uri" in bare.quaestor("--uri", "mongodb://h", "run", code=2)[1]
    assert "quaestor COMMAND --db" in bare.quaestor("--db=shop", code=2)[1]
    assert "No such option" in bare.quaestor("--nope", "run", code=2)[1]


def test_misuse(project: Project) -> None:
    """An error in the arguments is one line that names the help."""
    _, errors = project.quaestor("run", "--concurrenzy", "2", code=2)
    assert errors.startswith("quaestor: No such option")
    assert errors.endswith("`quaestor run --help`.\n")
    assert "'NAME'" in project.quaestor("show", code=2)[1]
    _, errors = project.quaestor("rollback", "a", "--confirm", code=2)
    assert errors == "quaestor: Option '--confirm' requires an argument. See `quaestor --help`.\n"


def test_hook(project: Project) -> None:
    """--on-event calls a function with every event, beside the display. An error in it is logged; the run goes on."""
    project.write("shop/hooks.py", HOOKS)
    output, errors = project.quaestor("run", "aside", "--on-event", "shop.hooks:note")
    assert "Applied 'aside'" in output
    assert "RunStarted MigrationStarted MigrationApplied RunFinished" in errors
    _, errors = project.process("run", "first", QUAESTOR_ON_EVENT="shop.hooks:fails")
    assert "fails" in errors
    assert "RuntimeError: broken hook" in errors
    assert project.recorded() == {"aside", "first"}
    for name in ("later", "nothing", "missing"):
        _, errors = project.quaestor("run", "--on-event", f"shop.hooks:{name}", code=2)
        assert name in errors
    assert project.recorded() == {"aside", "first"}


HOOKS = """
import sys

names = []
nothing = None

def note(event):
    names.append(type(event).__name__)
    if names[-1] == "RunFinished":
        print(*names, file=sys.stderr)

def fails(event):
    raise RuntimeError("broken hook")

async def later(event):
    pass
"""


def test_interrupted_backfill(project: Project) -> None:
    """After a signal the command says what is kept and how to resume; then it resumes there."""
    project.write("shop/migrations/aside.py", PASSING.replace('raise ValueError(os.environ["FAILS"])', "wait()") + WAIT)
    project.db.things.insert_many([{"_id": number} for number in range(250)])
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        process = project.start("run", "aside", environ={"FAILS": "yes"})
        assert process.stdout is not None
        assert any("begun" in line for line in process.stdout)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == code
        assert "checkpoint" in errors
        assert "aside, 100 of 250 documents" in errors
        assert "Run the same command again" in errors
    assert "resumes after 100 of 250" in project.quaestor("run", "aside")[0]


WAIT = """
def wait():
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler) if False else None
    print("begun", flush=True)
    signal.pause()
"""


def test_strict(project: Project) -> None:
    """Unknown records are a warning, and with --strict a reason to stop."""
    project.db.app_migrations.insert_one({"_id": "x", "name": "from tomorrow"})
    assert "from tomorrow" in project.quaestor("run", "--strict", code=1)[1]
    assert project.effects() == set()
    output, _ = project.quaestor("run")
    assert "WARNING" in output
    assert "from tomorrow" in output


def test_rollback(project: Project) -> None:
    """Roll back a migration after its dependents, sync and async; without a terminal only with --yes."""
    project.quaestor("run")
    assert project.quaestor("rollback", "first", "--json", code=2)[0] == ""
    output, errors = project.quaestor("rollback", "first", code=2)
    assert [row[1] for row in lines(output)[1:]] == ["second", "first"]
    assert "--yes" in errors
    assert project.recorded() == {"aside", "first", "second"}
    assert project.quaestor("rollback", "first", "--dry-run")[0] == output
    planned = json.loads(project.quaestor("rollback", "first", "--dry-run", "--json")[0])
    assert [(one["name"], one["because_of"]) for one in planned] == [("second", ["first"]), ("first", [])]

    output, _ = project.quaestor("rollback", "first", "--yes")
    assert project.recorded() == project.effects() == {"aside"}
    assert output.index("'second'") < output.index("'first'")
    assert "Nothing to roll back" in project.quaestor("rollback", "first")[0]
    project.quaestor("run")
    events = project.quaestor("rollback", "second", "--yes", "--json")[0].splitlines()
    assert json.loads(events[-1])["rolled_back"] == ["second"]


def test_restart_backfill(project: Project) -> None:
    """A backfill starts over when a person confirms it; the command says which, or that there is none."""
    assert "Nothing to restart" in project.quaestor("restart-backfill", "first", "--yes")[0]
    checkpoint = {
        "token": 0,
        "collection": "things",
        "done": 1,
        "total": 2,
        "finished": False,
        "updatedAt": datetime.now(UTC),
    }
    for name in ("things", "others"):
        key = {"migration": "first", "undo": False, "backfill": name}
        project.db.app_migrations_progress.insert_one(checkpoint | {"_id": key})
    assert "pass --yes" in project.quaestor("restart-backfill", "first", code=2)[1]
    assert "pass --yes" in project.quaestor("restart-backfill", "first", "--json", code=2)[1]
    assert "'things', 'others'" in project.quaestor("restart-backfill", "first", "--yes", code=2)[1]
    output, _ = project.quaestor("restart-backfill", "first", "--backfill", "things", "--yes")
    assert "The backfill 'things' of 'first' starts over in the next run" in output
    (left,) = project.db.app_migrations_progress.find()
    assert left["_id"]["backfill"] == "others"
    events = project.quaestor("restart-backfill", "first", "--yes", "--json")[0].splitlines()
    assert json.loads(events[-1])["event"] == "BackfillReset"
    assert "There is no migration 'frist'" in project.quaestor("restart-backfill", "frist", "--yes", code=2)[1]


def test_irreversible(project: Project) -> None:
    """What has no rollback is named before anything is done."""
    project.quaestor("run")
    _, errors = project.quaestor("rollback", "aside", "first", "--yes", code=1)
    assert "No rollback is registered for aside." in errors
    assert project.recorded() == {"aside", "first", "second"}


def test_mark(project: Project) -> None:
    """Records are written and removed, and nothing is run; what would leave a gap is refused."""
    assert "'second' needs 'first'" in project.quaestor("mark", "applied", "second", code=1)[1]
    assert "first, second" in project.quaestor("mark", "applied", "second", "first")[0]
    assert "'second' needs 'first'" in project.quaestor("mark", "pending", "first", code=1)[1]
    project.quaestor("mark", "applied", "--all")
    assert project.recorded() == {"aside", "first", "second"}
    assert "Nothing to mark" in project.quaestor("mark", "applied", "--all")[0]
    assert json.loads(project.quaestor("mark", "applied", "--all", "--json")[0])["event"] == "RecordsMarked"
    assert "second" in project.quaestor("mark", "pending", "second")[0]
    assert "Nothing to mark" in project.quaestor("mark", "pending", "second")[0]
    assert project.recorded() == {"aside", "first"}
    assert project.effects() == set()
    project.db.app_migrations_lock.replace_one({}, HELD, upsert=True)
    assert "elsewhere" in project.quaestor("mark", "applied", "second", "--lease-timeout", "0", code=75)[1]
    project.quaestor("mark", "applied", code=2)
    project.quaestor("mark", "applied", "first", "--all", code=2)


def test_changed(project: Project) -> None:
    """Status and check warn about a changed migration, and a strict check fails, until the change is accepted."""
    project.quaestor("run")
    project.quaestor("check", "--strict")
    assert "Nothing to accept" in project.quaestor("mark", "accepted", "--all")[0]
    project.write("shop/migrations/first.py", FIRST.replace("db.effects", "db['effects']"))

    for command in ("status", "check"):
        output, _ = project.quaestor(command)
        assert "Warning: changed since they were applied: first." in output
        assert "quaestor mark accepted NAME" in output
    output, _ = project.quaestor("check", "--strict", code=1)
    assert output.startswith("1 changed: first.\n")
    output, _ = project.quaestor("check", "--strict", "--db", f"{project.db.name}*", code=1)
    assert f"{project.db.name}: 1 changed: first." in output
    seen = json.loads(project.quaestor("check", "--strict", "--json", code=1)[0])["migrations"]
    assert {one["name"]: one["changed"] for one in seen} == {"aside": False, "first": True, "second": False}
    assert "Up to date" in project.quaestor("run")[0]

    assert "'frist'" in project.quaestor("mark", "accepted", "frist", code=2)[1]
    assert (
        "Accepted the present code of 1 migration: first" in project.quaestor("mark", "accepted", "first", "aside")[0]
    )
    project.quaestor("check", "--strict")
    assert "Warning" not in project.quaestor("status")[0]
    assert project.effects() == {"aside", "first", "second"}


def test_mark_all_as_pending(project: Project) -> None:
    """It deletes every record, so it names them and asks; without a terminal it takes --yes."""
    assert "Nothing to mark" in project.quaestor("mark", "pending", "--all")[0]
    project.quaestor("mark", "applied", "first", "aside")
    output, errors = project.quaestor("mark", "pending", "--all", code=2)
    assert output == "To mark as pending, which deletes the record of each: aside, first.\n"
    assert errors == "quaestor: Not a terminal: pass --yes to confirm.\n"
    output, errors = project.quaestor("mark", "pending", "--all", "--json", code=2)
    assert (output, errors) == ("", "quaestor: --json can't ask for confirmation: pass --yes.\n")
    assert project.recorded() == {"aside", "first"}
    project.quaestor("mark", "pending", "--all", "--yes")
    assert project.recorded() == set()


def test_unlock(project: Project) -> None:
    """The holder of the lease is shown, and --yes releases it; if nobody holds it, there is no question."""
    assert "Nobody" in project.quaestor("unlock")[0]
    assert "Nobody" in project.quaestor("unlock", "--yes")[0]
    project.db.app_migrations_lock.insert_one(HELD)
    output, errors = project.quaestor("unlock", code=2)
    assert "elsewhere (process 4711)" in output
    assert "--yes" in errors
    assert "quaestor unlock" in project.quaestor("run", "--lease-timeout", "0", code=75)[1]
    assert "elsewhere (process 4711)" in project.quaestor("unlock", "--yes")[0]
    project.quaestor("run", "--lease-timeout", "0")


@pytest.mark.parametrize(
    ("form", "file", "words"),
    [
        ("terminal", "g.txt", "✓ first"),
        ("mermaid", "g.mmd", "flowchart LR"),
        ("dot", "g.dot", "rankdir"),
        ("svg", "g.SVG", "<svg"),
        ("html", "deep/g.html", "<!"),
    ],
)
def test_graph(project: Project, form: str, file: str, words: str) -> None:
    """In every form, to stdout or to a file; with the states of the database, and without one without them."""
    project.quaestor("run", "first")
    output, _ = project.quaestor("graph", "--format", form)
    assert words in output
    assert all(name in output for name in ("first", "second", "aside"))
    _, errors = project.quaestor("graph", "--output", file)
    assert errors.strip() == f"Written: {file}"
    written = (project.folder / file).read_text()
    assert written.strip() == output.strip()
    del project.environ["QUAESTOR_URI"]
    project.quaestor("graph", "--format", form)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-o", "g.md"], "The suffix of g.md names no format. Use one of .txt, .mmd, .dot, .svg, .html, or pass"),
        (["-o", "graph"], "The suffix of graph names no format."),
        (["-o", "g.svg", "-f", "dot"], "--format dot doesn't fit g.svg, which would be svg."),
        (["-o", "g.txt", "-f", "mermaid"], "--format mermaid doesn't fit g.txt, which would be terminal."),
    ],
)
def test_graph_file_of_no_format(project: Project, arguments: list[str], said: str) -> None:
    """The suffix decides, so what it doesn't decide, or what contradicts it, is refused before anything is asked."""
    assert said in project.quaestor("graph", *arguments, "--uri", "mongodb://127.0.0.1:1", code=2)[1]
    assert not list(project.folder.glob("g*"))
    project.quaestor("graph", "-f", "dot", "-o", "graph.gv")
    assert "rankdir" in (project.folder / "graph.gv").read_text()


def test_graph_without_the_extra(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures need a library, and say so; a terminal, Mermaid and DOT don't."""
    monkeypatch.setitem(sys.modules, "fast_sugiyama", None)
    for form in ("svg", "html"):
        _, errors = project.quaestor("graph", "-o", f"g.{form}", code=2)
        needs = f'{form.upper()} needs fast-sugiyama: pip install "mongo-quaestor[graph]"'
        assert errors == f"quaestor: {needs}\n"
    for form in ("terminal", "mermaid", "dot"):
        assert "second" in project.quaestor("graph", "-f", form)[0]


def test_new(project: Project) -> None:
    """A module in its place, found by the next command; it and the project's other migrations can be run."""
    output, _ = project.quaestor("new", "third", "--depends-on", "second", "--transaction")
    file = project.folder / "shop/migrations/third.py"
    assert str(file) in output
    assert "async def third(" in file.read_text()
    assert "third" in project.quaestor("plan", "third")[0]
    _, errors = project.quaestor("run", "third", code=1)
    assert f"NotImplementedError: This migration isn't written yet ({file}, line 14)." in errors
    assert "in migration 'third', 3 of 3" in errors
    assert project.recorded() == {"first", "second"}
    assert "Did you mean 'second'?" in project.quaestor("new", "fourth", "-d", "secon", code=2)[1]
    output, _ = project.quaestor("new", "The fourth", "--sync")
    assert "It is recorded as 'The fourth'; its function is the_fourth.\n" in output
    fourth = (project.folder / "shop/migrations/the_fourth.py").read_text()
    assert '@registry.register("The fourth", depends_on=["aside", "third"])\ndef the_fourth(' in fourth
    assert "not both" in project.quaestor("new", "fifth", "-d", "first", "--independent", code=2)[1]
    project.quaestor("new", "fifth", "--independent")
    assert '@registry.register("fifth")\n' in (project.folder / "shop/migrations/fifth.py").read_text()
    project.write("shop/migrations/broken.py", "1 / 0")
    assert "ZeroDivisionError" in project.quaestor("new", "sixth", code=2)[1]
    assert not (project.folder / "shop/migrations/sixth.py").exists()


def test_init(bare: Project, uri: str, name: str) -> None:
    """In an empty folder a project that works; a second time nothing is overwritten."""
    output, _ = bare.quaestor("init", "shop.migrations", "--prefix", "shop")
    assert "pyproject.toml" in output
    bare.quaestor("new", "first")
    bare.environ["MONGODB_URI"] = uri
    assert "1 pending" in bare.quaestor("status", "--db", name)[0]
    file = bare.folder / "shop/migrations/first.py"
    file.write_text(file.read_text().replace("raise NotImplementedError", "print", 1))
    bare.quaestor("run", "--db", name)
    bare.quaestor("check", "--db", name)
    assert "set up" in bare.quaestor("init", "shop.migrations", code=2)[1]


def test_in_memory(project: Project) -> None:
    """mongomock:// runs sync and async migrations in memory."""
    project.write("shop/migrations/second.py", SECOND_WITHOUT_TRANSACTION)
    project.environ["QUAESTOR_URI"] = "mongomock://"
    assert "Applied 3 migrations" in project.quaestor("run")[0]
    assert project.recorded() == set()


SECOND_WITHOUT_TRANSACTION = """
from shop.migrations import registry

@registry.register("second", depends_on=["first"])
async def second(db):
    await db.effects.insert_one({"_id": "second"})
    assert [effect["_id"] async for effect in db.effects.find()] == ["aside", "first", "second"]
"""


@pytest.mark.parametrize("password", ["geheim", "p%40ss%2Fword", "a:b"])
def test_password(project: Project, password: str) -> None:
    """It appears in no output, whatever happens: not in the driver's error, not in a user's, not in a traceback."""
    uri = f"mongodb://user:{password}@{project.environ['QUAESTOR_URI'].partition('//')[2]}"
    unreachable = f"mongodb://user:{password}@127.0.0.1:1/?serverSelectionTimeoutMS=100"
    plain = password.replace("%40", "@").replace("%2F", "/")
    for arguments in (
        ("run", "--uri", uri),
        ("status", "--uri", uri, "--traceback"),
        ("run", "--uri", unreachable, "--traceback", "--json"),
        ("check", "--uri", f"mongodb://user:{password}@h:x/", "--traceback"),
    ):
        is_away = unreachable in arguments and ":" not in password  # otherwise the URI is refused
        output, errors = project.quaestor(*arguments, code=75 if is_away else 2)
        assert errors
        assert password not in output + errors
        assert plain not in output + errors


BULK_WRITE = """
from pymongo import InsertOne
from shop.migrations import registry

@registry.register("aside")
def aside(db):
    db.users.bulk_write([InsertOne({"_id": 1, "ssn": f"ssn-{number}"}) for number in range(300)], ordered=False)
"""


def test_no_document(project: Project) -> None:
    """A bulk write that fails shows its code when it fails, and its message once, at the end; --traceback the rest."""
    project.write("shop/migrations/aside.py", BULK_WRITE)
    output, errors = project.quaestor("run", "aside", code=1)
    assert "Failed to apply 'aside' (1 of 1): BulkWriteError 11000 (DuplicateKey)\n" in output
    assert errors.startswith("quaestor: BulkWriteError 11000 (DuplicateKey): 299 write errors, the first: E11000 dup")
    assert "\n  in migration 'aside', 1 of 1\n" in errors
    assert not re.search(r"ssn-\d", output + errors)
    output, errors = project.quaestor("run", "aside", "--json", code=1)
    failed = [json.loads(line) for line in output.splitlines() if '"MigrationFailed"' in line]
    assert [(one["error"]["code"], one["error"]["write_errors"]) for one in failed] == [(11000, 300)]
    assert not re.search(r"ssn-\d", output + errors)
    output, errors = project.quaestor("run", "aside", "--traceback", code=1)
    assert not re.search(r"ssn-\d", output)
    assert re.search(r"ssn-\d", errors)


def test_password_in_an_error_of_a_migration(project: Project) -> None:
    """Nor where a migration's own exception has it."""
    with_option = project.environ["QUAESTOR_URI"] + "&authMechanismProperties=AWS_SESSION_TOKEN:geheim"
    output, errors = project.quaestor("run", "--uri", with_option, "--traceback", FAILS="it is geheim", code=1)
    assert "it is ***" in errors
    assert "geheim" not in output + errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals(project: Project, number: signal.Signals) -> None:
    """SIGTERM, as orchestrators send it, and Ctrl-C: the function ends, nothing is recorded, the lease is free."""
    project.write("shop/migrations/aside.py", WAITING)
    process = project.start("run", "aside")
    assert process.stdout is not None
    assert any("begun" in line for line in process.stdout)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}[number]
    assert "Traceback" not in errors
    assert project.recorded() == set()
    assert project.effects() == {"cleaned up"}
    assert "owner" not in project.db.app_migrations_lock.find_one()


def test_nohup(project: Project) -> None:
    """A signal that the process ignores from its start, as after `nohup`, stays ignored."""
    project.write("shop/migrations/aside.py", WAITING)
    process = project.start("run", "aside", hangup=signal.SIG_IGN)
    assert process.stdout is not None
    assert any("begun" in line for line in process.stdout)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_two_signals(project: Project) -> None:
    """A second SIGTERM doesn't end the process before the function in progress has ended; the lease is released."""
    project.write("shop/migrations/aside.py", CLEANING)
    process = project.start("run", "aside")
    assert process.stdout is not None
    assert process.stderr is not None
    for word, stream in (("begun", process.stdout), ("waiting for the migrations", process.stderr)):
        assert any(word in line for line in stream)
        process.send_signal(signal.SIGTERM)
    project.db.signals.insert_one({"_id": "go on"})
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert project.effects() == {"cleaned up"}
    assert "owner" not in project.db.app_migrations_lock.find_one()


CLEANING = """
import asyncio
from shop.migrations import registry

@registry.register("aside")
async def aside(db):
    db_has_said_so = None
    try:
        print("begun", flush=True)
        await asyncio.Event().wait()
    finally:
        while not db_has_said_so:
            try:
                db_has_said_so = await db.signals.find_one({"_id": "go on"})
            except asyncio.CancelledError:
                pass
        await db.effects.insert_one({"_id": "cleaned up"})
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["URI"],
        ["status", "URI"],
        ["run", "URI"],
        ["rollback", "--yes", "URI"],
        ["mark", "applied", "URI"],
        ["mark", "URI"],
        ["graph", "--format", "URI"],
        ["graph", "--output=URI/x"],
        ["run", "--registry", "URI"],
        ["status", "--db", "URI"],
        ["init", "URI"],
        ["new", "URI"],
    ],
    ids=" ".join,
)
def test_address_in_a_wrong_place(project: Project, arguments: list[str]) -> None:
    """An address that is given as something else is refused, and not shown."""
    uri = "mongodb://bob:geheim@127.0.0.1:1/db"
    output, errors = project.quaestor(*(argument.replace("URI", uri) for argument in arguments), code=2)
    assert "looks like an address" in errors
    assert "geheim" not in output + errors


def test_address_as_a_setting(project: Project) -> None:
    """An environment variable that holds an address in the wrong place is refused likewise."""
    _, errors = project.quaestor("status", QUAESTOR_PREFIX="mongodb://bob:geheim@127.0.0.1:1/db", code=2)
    assert "looks like an address" in errors
    assert "geheim" not in errors


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ("sys.exit('it is geheim')", "SystemExit: it is ***"),
        ("sys.exit(0)", "SystemExit: 0"),
        ("quit()", "SystemExit"),
        ("raise typer.Exit", "Exit"),
        ("raise typer.Abort", "Abort"),
        ("raise typer.BadParameter('it is geheim')", "BadParameter: it is ***"),
        ("raise BaseException('it is geheim')", "BaseException: it is ***"),
        ("raise ExceptionGroup('both', [ValueError('geheim'), KeyError('b')])", "both: ValueError: ***"),
        ("raise Mute", "Mute"),
    ],
)
def test_odd_failures(project: Project, failure: str, words: str) -> None:
    """Whatever a migration raises becomes a sentence without the password."""
    project.write("shop/migrations/aside.py", ODD.format(failure=failure))
    with_option = project.environ["QUAESTOR_URI"] + "&authMechanismProperties=AWS_SESSION_TOKEN:geheim"
    output, errors = project.quaestor("run", "aside", "--uri", with_option, code=1)
    assert f"quaestor: {words}" in errors
    assert "in migration 'aside', 1 of 1" in errors
    assert ("Return instead: a migration that calls sys.exit() has failed." in errors) == words.startswith("SystemExit")
    assert ("Interrupted" in output + errors) == failure.startswith("raise BaseException")
    assert "geheim" not in output + errors


ODD = """
import sys
import typer
from shop.migrations import registry

class Mute(Exception):
    def __str__(self):
        raise TypeError

@registry.register("aside")
def aside(db):
    {failure}
"""


def test_broken_pipe(project: Project) -> None:
    """A closed stdout stops nothing: the migrations are applied, and there is no traceback."""
    for arguments in (["run"], ["status", "--json"]):
        process = project.start(*arguments)
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()
        process.wait(60)
        process.stdout = None
    assert project.recorded() >= {"aside"}


WAITING = """
import signal
from shop.migrations import registry

signal.signal(signal.SIGINT, signal.default_int_handler)

@registry.register("aside")
def aside(db):
    try:
        print("begun", flush=True)
        signal.pause()
    finally:
        db.effects.insert_one({"_id": "cleaned up"})
"""


def test_without_the_extra(bare: Project) -> None:
    """Without Typer the command says what to install."""
    bare.write("typer.py", "raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')")
    _, errors = bare.process("status", code=2, PYTHONPATH=str(bare.folder))
    assert errors == "quaestor: The command line needs typer: pip install 'mongo-quaestor[cli]'\n"


COMMANDS = (
    "status",
    "plan",
    "run",
    "rollback",
    "mark",
    "import",
    "restart-backfill",
    "graph",
    "new",
    "squash",
    "init",
    "unlock",
    "check",
)


def test_list_of_commands(bare: Project) -> None:
    """Without a command there is the list of them; --version shows the version."""
    listed = bare.quaestor(code=2)[0]
    assert all(command in listed for command in COMMANDS)
    assert bare.quaestor("--version")[0].startswith("quaestor 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_help(bare: Project, command: str) -> None:
    """It says what the command, its arguments and its options do, gives an example, and shows no types of Python's."""
    output, _ = bare.quaestor(command, "--help", COLUMNS="200")
    assert f"quaestor {command} " in output
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", output).split())
    for parameter in get_command(app).commands[command].params:
        assert parameter.name == "help" or " ".join((getattr(parameter, "help", "") or "").split()) in words
        if parameter.param_type_name == "argument":
            assert parameter.help
    assert f"Examples: quaestor {command}" in words
    assert not re.search(r"<\w+", output)
    assert ("with a pattern" in words) is (command in {"run", "rollback", "mark"})
    assert ("QUAESTOR_URI, MONGODB_URI" in words) is (command != "init")
    if command == "check":
        assert "not readiness or liveness" in words


def test_installed_command(bare: Project) -> None:
    """`quaestor` is the same as `python -m quaestor`."""
    script = Path(sys.executable).with_name("quaestor")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, env=bare.environ)
    assert done.stdout == bare.quaestor("--version")[0]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(project: Project, shell: str) -> None:
    """Shells complete commands, and the names of migrations."""
    undetected = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    assert "_QUAESTOR_COMPLETE" in project.process("--show-completion", shell, **undetected)[0].upper()
    words = {"bash": ("quaestor run fi", "2"), "zsh": ("quaestor run fi", ""), "fish": ("quaestor run fi", "fi")}[shell]
    environ = {
        "_QUAESTOR_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": words[0],
        "COMP_CWORD": words[1],
        "_TYPER_COMPLETE_ARGS": words[0],
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": "fi",
    }
    script = Path(sys.executable).with_name("quaestor")
    done = subprocess.run(
        [script],
        capture_output=True,
        text=True,
        check=False,
        cwd=project.folder,
        env=project.environ | environ,
    )
    assert "first" in done.stdout
    assert "second" not in done.stdout
