"""The command line for many databases at once, without a terminal, on the real server."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, Group

from quaestor import DatabaseResult
from quaestor.cli.reports import report_results, summarize_results
from quaestor.cli.settings import CommandError, Setting, Settings
from tests.cli.conftest import Project
from tests.cli.tenants import HELD_BY, MIGRATIONS, Tenants, tenants
from tests.leases import HELD

EVERYTHING = {"first", "second", "third"}


@pytest.fixture
def three(project: Project) -> Iterator[Tenants]:
    """Three databases, and migrations that nothing holds."""
    with tenants(project, 3) as made:
        made.open_the_gate()
        yield made


def test_run(three: Tenants) -> None:
    """All databases that match are migrated; each event says where, and the end sums up. Then nothing is to do."""
    output, errors = three.project.quaestor("run")
    assert [three.recorded(number) for number in range(3)] == [EVERYTHING] * 3
    assert [three.effects(number) for number in range(3)] == [{"first", "second"}] * 3
    for name in three.names:
        assert f"INFO    {name}/app Applied 'second'" in output
    assert "Applied 9 migrations in 3 of 3 databases; it took " in output
    assert errors == ""
    assert "\x1b" not in output
    output, _ = three.project.quaestor("run")
    assert output.endswith("Up to date: nothing to apply in 3 databases.\n")
    assert three.project.recorded() == set()


def test_failures(project: Project) -> None:
    """Of thirty databases one fails, one is leased to another instance and one has too long a name: the others are
    migrated, the table shows each of the three with its reason, and the command exits with 1.
    """
    with tenants(project, 29) as made:
        made.open_the_gate()
        longer = f"{made.names[0]}{'x' * 20}"
        made.client[longer].things.insert_one({})
        prefix = "p" * (255 - len(f"{made.names[0]}.") - len("_migrations_progress"))
        lock = made.client[made.names[5]][f"{prefix}_migrations_lock"]
        lock.insert_one(HELD)
        output, errors = project.quaestor("run", "--lease-timeout", "0.5", "--prefix", prefix, FAILS="_07", code=1)
        for number, name in enumerate(made.names):
            recorded = {record["name"] for record in made.client[name][f"{prefix}_migrations"].find()}
            assert recorded == {5: set(), 7: {"first"}}.get(number, EVERYTHING)
        assert made.client[longer].list_collection_names() == ["things"]
        assert lock.find_one() == HELD
    table = output[output.index("✗  ") :].splitlines()
    told = " ".join(table)
    assert f"✗  {longer}" in told
    assert "20 bytes too long" in told
    assert f"✗  {made.names[5]}" in told
    assert HELD_BY in told
    assert "--lease-timeout" in told
    assert "ValueError: boom" in told
    assert "in migration 'second', 2 of 3" in told
    assert table[-1].startswith("Failed in 3 of 30 databases, applied 82 migrations in 28; it took ")
    assert "Traceback" not in errors


def test_as_json(three: Tenants) -> None:
    """An object for each event, with its database, and a last one with what became of each; no password in them."""
    with_option = three.project.environ["QUAESTOR_URI"] + "&authMechanismProperties=AWS_SESSION_TOKEN:geheim"
    arguments = ("run", "--json", "--uri", with_option)
    output, errors = three.project.quaestor(*arguments, FAILS="_01", WORD="geheim", code=1)
    *events, last = [json.loads(line) for line in output.splitlines()]
    assert {event["database"] for event in events} == set(three.names)
    assert {event["event"] for event in events} >= {"RunStarted", "MigrationProgressed", "MigrationFailed"}
    assert (last["event"], last["time"][-6:]) == ("RunManyFinished", "+00:00")
    done, failed, _ = last["results"]
    assert done == {"database": three.names[0], "applied": ["first", "second", "third"], "error": None}
    assert (failed["database"], failed["applied"]) == (three.names[1], ["first"])
    assert failed["error"]["message"].startswith("ValueError: boom as ada:***")
    assert "printed by first" in errors
    assert "geheim" not in output + errors


def test_exit(three: Tenants) -> None:
    """A migration that exits has failed, in one database as in many, whatever its exit code."""
    output, _ = three.project.quaestor("run", FAILS="_01", EXITS="0", code=1)
    assert "Failed to apply 'second' (2 of 3): SystemExit" in output
    assert "Failed in 1 of 3 databases" in output
    assert [three.recorded(number) for number in range(3)] == [EVERYTHING, {"first"}, EVERYTHING]
    _, errors = three.project.quaestor("run", "--db", three.names[1], FAILS="_01", EXITS="0", code=1)
    assert errors.startswith("quaestor: SystemExit: 0 (")


def test_some_migrations(three: Tenants) -> None:
    """Names of migrations and --strict count for each of the databases."""
    three.project.quaestor("run", "first")
    assert [three.recorded(number) for number in range(3)] == [{"first"}] * 3
    three.client[three.names[2]].app_migrations.insert_one({"_id": "x", "name": "from tomorrow"})
    output, _ = three.project.quaestor("run", "--strict", code=1)
    assert [three.recorded(number) for number in range(3)] == [EVERYTHING, EVERYTHING, {"first", "from tomorrow"}]
    assert "Failed in 1 of 3 databases, applied 4 migrations in 2" in output
    assert "WARNING" in three.project.quaestor("run")[0]


def test_dry_run(three: Tenants) -> None:
    """What would be done in which of them; nothing is."""
    three.project.quaestor("run", "--db", three.names[1])
    output, _ = three.project.quaestor("run", "--dry-run", "second")
    assert three.project.quaestor("plan", "second")[0] == output
    assert [line.split() for line in output.splitlines()] == [
        ["database", "to", "apply"],
        [three.names[0], "2", "first,", "second"],
        [three.names[2], "2", "first,", "second"],
        [],
        ["4", "migrations", "to", "apply", "in", "2", "of", "3", "databases."],
    ]
    planned = json.loads(three.project.quaestor("run", "--dry-run", "--json")[0])
    assert [one["database"] for one in planned] == three.names
    assert [[step["name"] for step in one["planned"]] for one in planned] == [
        ["first", "second", "third"],
        [],
        ["first", "second", "third"],
    ]
    assert three.recorded(0) == set()
    three.client[three.names[2]].app_migrations.insert_one({"_id": "x", "name": "from tomorrow"})
    output, errors = three.project.quaestor("run", "--dry-run", "--strict", code=1)
    assert "3 migrations to apply in 1 of 2 databases." in output
    assert errors.startswith(f"quaestor: {three.names[2]}: ")
    _, _, failed = json.loads(three.project.quaestor("run", "--dry-run", "--strict", "--json", code=1)[0])
    assert "from tomorrow" in failed["error"]["message"]
    assert failed["planned"] is None


def test_status(three: Tenants) -> None:
    """The table has a line for each database, outdated ones first, with the holder of the lease."""
    three.project.quaestor("run", "--db", three.names[0])
    three.project.quaestor("run", "first", "--db", three.names[1])
    three.client[three.names[1]].app_migrations_lock.replace_one({}, HELD)
    three.client[three.names[2]].app_migrations.insert_one({"_id": "x", "name": "from tomorrow"})
    table = [line.split() for line in three.project.quaestor("status")[0].splitlines()]
    assert table[0][:4] == ["database", "applied", "pending", "unknown"]
    assert table[1][:5] == ["○", three.names[1], "1", "2", "elsewhere"]
    assert table[2:4] == [["○", three.names[2], "3", "1"], ["✓", three.names[0], "3"]]
    assert table[-1] == ["3", "databases:", "1", "up", "to", "date,", "2", "not."]
    statuses = json.loads(three.project.quaestor("status", "--json")[0])
    assert [status["database"] for status in statuses] == three.names
    assert [len(status["migrations"]) for status in statuses] == [3, 3, 4]


def test_check(three: Tenants) -> None:
    """0: all are up to date; 1: some aren't, and are named; 2: an error in one of them; 75: no server."""
    three.project.quaestor("run", "--db", three.names[0])
    output, _ = three.project.quaestor("check", code=1)
    assert output.splitlines() == [f"{name}: 3 pending: first, second, third." for name in three.names[1:]]
    assert len(json.loads(three.project.quaestor("check", "--json", code=1)[0])) == 3
    three.project.quaestor("run")
    assert three.project.quaestor("check")[0] == "Up to date: 3 databases.\n"
    three.client[three.names[2]].app_migrations.insert_one({"_id": "x", "name": "from tomorrow"})
    assert three.project.quaestor("check", code=1)[0] == f"{three.names[2]}: 1 unknown: from tomorrow.\n"
    three.project.quaestor("check", "--allow-unknown")
    three.client[f"{three.names[2]}{'x' * 20}"].things.insert_one({})
    prefix = "p" * (255 - len(f"{three.names[0]}.") - len("_migrations_progress"))
    output, errors = three.project.quaestor("check", "--prefix", prefix, code=2)
    assert len(output.splitlines()) == 3
    assert "20 bytes too long" in errors
    told = json.loads(three.project.quaestor("status", "--prefix", prefix, "--json", code=2)[0])
    assert told[3].keys() == {"database", "error"}
    three.project.quaestor("check", "--uri", "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=100", code=75)


def test_check_verify(three: Tenants) -> None:
    """With --verify, the verifications are called in each database; those that fail are named, and are in the JSON."""
    three.project.write(
        "shop/migrations/__init__.py",
        f"""{MIGRATIONS}
@registry.register_verification("first")
async def is_there(db):
    if db.name.endswith(os.environ.get("FAILS", "never")):
        return 7
    return await db.effects.find_one({{"_id": "first"}}) is not None
""",
    )
    three.project.quaestor("run")
    assert three.project.quaestor("check", "--verify")[0] == "Up to date: 3 databases.\nVerified: 3 migrations.\n"
    three.client[three.names[1]].effects.delete_one({"_id": "first"})
    failed = "shop.migrations.is_there returned False"
    output, _ = three.project.quaestor("check", "--verify", code=1)
    assert output.splitlines()[0] == f"{three.names[1]}: The verification of first failed: {failed}."
    answers = json.loads(three.project.quaestor("check", "--verify", "--json", code=1)[0])
    assert [answer["failed_verifications"] for answer in answers] == [{}, {"first": failed}, {}]
    output, errors = three.project.quaestor("check", "--verify", code=2, FAILS=three.names[0])
    assert "Verified: 2 migrations." in output
    assert f"{three.names[0]}: The verification shop.migrations.is_there of migration 'first' returned a" in errors


def test_rollback(three: Tenants) -> None:
    """What is named is undone in all databases that match, with what depends on it; then nothing is to do."""
    three.project.quaestor("run", "second")
    output, errors = three.project.quaestor("rollback", "first", "--yes", "--concurrency", "2")
    assert [three.recorded(number) for number in range(3)] == [set()] * 3
    assert [three.effects(number) for number in range(3)] == [set()] * 3
    for name in three.names:
        assert f"INFO    {name}/app Rolled back 'first' (2 of 2)" in output
    assert "Rolled back 6 migrations in 3 of 3 databases; it took " in output
    assert errors == ""
    output, _ = three.project.quaestor("rollback", "first", "--yes")
    assert output.endswith("Nothing to roll back in 3 databases.\n")
    three.project.quaestor("run", "second")
    assert "Rolled back 3 migrations" in three.project.quaestor("rollback", "--to", "first", "--yes")[0]
    assert [three.recorded(number) for number in range(3)] == [{"first"}] * 3
    assert "Rolled back 3 migrations" in three.project.quaestor("rollback", "--last", "1", "--yes")[0]
    assert [three.recorded(number) for number in range(3)] == [set()] * 3
    assert three.leases() == []


def test_failed_rollback(three: Tenants) -> None:
    """A database where it fails, or where something can't be undone, is in the table; the others are rolled back."""
    three.project.quaestor("run", "second")
    three.client[three.names[2]].app_migrations_lock.replace_one({}, HELD)
    output, errors = three.project.quaestor("rollback", "first", "--yes", "--lease-timeout", "0.2", FAILS="_01", code=1)
    assert [three.recorded(number) for number in range(3)] == [set(), {"first", "second"}, {"first", "second"}]
    assert f"✗  {three.names[1]}  ValueError: boom" in output
    assert "while rolling back migration 'second', 1 of 2" in output
    assert f"✗  {three.names[2]}  Waited" in output
    assert "Failed in 2 of 3 databases, rolled back 2 migrations in 1; it took " in output
    assert "Traceback" not in errors
    three.project.quaestor("rollback", "first", "--yes", "--lease-timeout", "0", "--db", f"{three.pattern}2", code=75)


def test_rollback_as_json(three: Tenants) -> None:
    """The last object has what became of each; with a log in JSON, that and the errors are in it."""
    three.project.quaestor("run", "second")
    output, _ = three.project.quaestor("rollback", "second", "--yes", "--json", FAILS="_01", code=1)
    *events, last = [json.loads(line) for line in output.splitlines()]
    assert {event["event"] for event in events} >= {"RollbackStarted", "MigrationRolledBack", "DatabaseFinished"}
    finished = {event["database"]: event for event in events if event["event"] == "DatabaseFinished"}
    assert (finished[three.names[0]]["rolled_back"], finished[three.names[0]]["work"]) == (["second"], "rollback")
    assert last["event"] == "RollbackManyFinished"
    assert last["results"][0] == {"database": three.names[0], "rolled_back": ["second"], "error": None}
    assert last["results"][1]["rolled_back"] == []
    assert last["results"][1]["error"]["type"] == "ValueError"

    _, errors = three.project.quaestor("rollback", "first", "--yes", "--log-format", "json", FAILS="_01", code=1)
    logged = [json.loads(line) for line in errors.splitlines()]
    assert {line["event"] for line in logged if line["database"] == three.names[0]} >= {"RollbackFinished"}
    assert {line["migration"] for line in logged if line["event"] == "MigrationFailed"} == {"second"}
    assert [line["message"][:38] for line in logged[-1:]] == ["Failed in 1 of 3 databases, rolled back"[:38]]


def test_rollback_needs_a_confirmation(three: Tenants) -> None:
    """Without a terminal the plan of each is shown, and nothing is done; a dry run shows it, too."""
    three.project.quaestor("run", "second", "--db", three.names[0])
    three.project.quaestor("run", "first", "--db", three.names[2])
    plan = [
        ["database", "to", "roll", "back"],
        [three.names[0], "2", "second,", "first"],
        [three.names[2], "1", "first"],
        [],
    ]
    counted = "3 migrations to roll back in 2 of 3 databases: second (1), first (2)."
    output, errors = three.project.quaestor("rollback", "first", code=2)
    assert [line.split() for line in output.splitlines()[:-1]] == plan
    assert output.splitlines()[-1] == counted
    assert errors == "quaestor: Not a terminal: pass --yes to confirm.\n"
    output, errors = three.project.quaestor("rollback", "first", "--dry-run")
    assert [line.split() for line in output.splitlines()[:-1]] == plan
    assert output.splitlines()[-1] == counted
    planned = json.loads(three.project.quaestor("rollback", "first", "--dry-run", "--json")[0])
    assert [len(one["planned"]) for one in planned] == [2, 0, 1]
    assert planned[0]["planned"][0]["undo"] is True
    assert "--json can't ask" in three.project.quaestor("rollback", "first", "--json", code=2)[1]
    assert "0 migrations to roll back in 0 of 3" in three.project.quaestor("rollback", "third")[0]
    assert [three.recorded(number) for number in range(3)] == [{"first", "second"}, set(), {"first"}]

    three.project.quaestor("run", "third", "--db", three.names[1])
    output, errors = three.project.quaestor("rollback", "first", "third", code=1)
    assert "3 migrations to roll back in 2 of 2 databases" in output
    assert f"{three.names[1]}: " in errors
    assert errors.endswith("Nothing was done. To go on with the other databases, pass --yes.\n")
    three.project.quaestor("rollback", "first", "third", "--confirm", three.pattern, code=1)
    assert [three.recorded(number) for number in range(3)] == [set(), {"third"}, set()]


def test_mark(three: Tenants) -> None:
    """Migrations are marked in all that match, without running; what is wrong in one is shown, and the others go on."""
    three.project.quaestor("run", "first", "--db", three.names[0])
    output, errors = three.project.quaestor("mark", "applied", "--all")
    assert "Marked 8 migrations in 3 of 3 databases; it took " in output
    assert errors == ""
    assert [three.recorded(number) for number in range(3)] == [EVERYTHING] * 3
    assert [three.effects(number) for number in range(3)] == [{"first"}, set(), set()]
    output, _ = three.project.quaestor("mark", "applied", "--all", "--concurrency", "1")
    assert output.endswith("Nothing to mark in 3 databases.\n")

    output, _ = three.project.quaestor("mark", "pending", "--all", "--yes")
    three.project.quaestor("mark", "applied", "second", "--with-dependencies")
    assert [three.recorded(number) for number in range(3)] == [{"first", "second"}] * 3
    three.project.quaestor("mark", "pending", "second", "--yes")
    assert [three.recorded(number) for number in range(3)] == [{"first"}] * 3
    three.project.quaestor("run", "second", "--db", three.names[1])
    output, _ = three.project.quaestor("mark", "pending", "first", "--yes", code=1)
    assert f"✗  {three.names[1]}  " in output
    assert "Failed in 1 of 3 databases, marked 2 migrations in 2; it took " in output
    assert [three.recorded(number) for number in range(3)] == [set(), {"first", "second"}, set()]

    three.client[three.names[1]].app_migrations.update_one({"name": "first"}, {"$set": {"checksum": "another"}})
    output, _ = three.project.quaestor("mark", "accepted", "--all", "--json")
    last = json.loads(output.splitlines()[-1])
    assert last["event"] == "MarkManyFinished"
    assert [result["marked"] for result in last["results"]] == [[], ["first"], []]


def test_mark_pending_needs_a_confirmation(three: Tenants) -> None:
    """In many databases, deleting records is confirmed, with the number of databases and the names."""
    three.project.quaestor("mark", "applied", "--all", "--db", three.names[0])
    three.project.quaestor("mark", "applied", "first", "--db", three.names[2])
    assert (
        "--with-dependencies" in three.project.quaestor("mark", "pending", "second", "--with-dependencies", code=2)[1]
    )
    output, errors = three.project.quaestor("mark", "pending", "first", "second", code=2)
    *table, last = output.splitlines()
    assert [line.split() for line in table] == [
        ["database", "to", "mark", "as", "pending"],
        [three.names[0], "2", "first,", "second"],
        [three.names[2], "1", "first"],
        [],
    ]
    assert last == "3 migrations to mark as pending in 2 of 3 databases: first (2), second (1)."
    assert errors == "quaestor: Not a terminal: pass --yes to confirm.\n"
    assert [three.recorded(number) for number in range(3)] == [EVERYTHING, set(), {"first"}]
    output, _ = three.project.quaestor("mark", "pending", "--all", "--yes")
    assert "Marked 4 migrations in 2 of 3 databases, nothing to mark in 1; it took " in output


def test_history(three: Tenants) -> None:
    """The entries of all, newest first, each with its database; with --json a list for each database."""
    three.project.quaestor("run", "first", "--db", three.names[2])
    three.project.quaestor("run", "first", "--db", three.names[0])
    three.project.quaestor("run", "second", "--db", three.names[0], FAILS="_00", code=1)
    three.project.quaestor("rollback", "first", "--db", three.names[2], "--yes")
    table = [line.split() for line in three.project.quaestor("history")[0].splitlines()]
    assert table[0][:5] == ["when", "(UTC)", "database", "migration", "what"]
    assert [(row[3], row[4], row[5]) for row in table[1:]] == [
        (three.names[2], "first", "rolled"),
        (three.names[0], "second", "failed"),
        (three.names[0], "first", "applied"),
    ]
    assert len(three.project.quaestor("history", "--failed")[0].splitlines()) == 2
    assert three.project.quaestor("history", "third")[0] == "The history has no such entry.\n"
    histories = json.loads(three.project.quaestor("history", "first", "--json")[0])
    assert [(one["database"], [entry["what"] for entry in one["history"]], one["error"]) for one in histories] == [
        (three.names[0], ["applied"], None),
        (three.names[1], [], None),
        (three.names[2], ["rolled_back"], None),
    ]
    three.client[three.names[1]].app_migrations.insert_one({"_id": "old", "name": "old"})
    assert len(three.project.quaestor("history", "old")[0].splitlines()) == 2, "the others don't know it"
    assert three.project.quaestor("history", "older", code=2)[1].count("'older'") == 1


def test_unlock(three: Tenants) -> None:
    """The leases that are held are released, and each holder is named."""
    for number in (0, 2):
        three.client[three.names[number]].app_migrations_lock.insert_one(HELD)
    output, errors = three.project.quaestor("unlock", code=2)
    assert [line.partition("held by ")[0] for line in output.splitlines()] == [
        f"{three.names[0]}: ",
        f"{three.names[2]}: ",
    ]
    assert errors == "quaestor: Not a terminal: pass --yes to confirm.\n"
    assert three.leases() == [three.names[0], three.names[2]]
    output, _ = three.project.quaestor("unlock", "--yes")
    first, second, last = output.splitlines()
    assert first.startswith(f"{three.names[0]}: released. It was held by {HELD_BY}")
    assert second.startswith(f"{three.names[2]}: released.")
    assert last == "Released in 2 of 3 databases."
    assert three.leases() == []
    assert three.project.quaestor("unlock", "--yes")[0] == "Nobody holds the lease of 3 databases.\n"
    assert "Nobody holds the lease of 3 databases, or it has expired." in three.project.quaestor("unlock")[0]


def test_concurrency_of_one_database(three: Tenants) -> None:
    """`--concurrency` of a rollback or mark is for many databases."""
    for command in (["rollback", "first", "--yes"], ["mark", "applied", "first"]):
        _, errors = three.project.quaestor(*command, "--db", three.names[0], "--concurrency", "2", code=2)
        assert errors == "quaestor: --concurrency is for many databases. Pass a pattern (--db), or leave it out.\n"
        assert "from 1 to 100" in three.project.quaestor(*command, "--concurrency", "0", code=2)[1]


def test_no_match(three: Tenants) -> None:
    """A pattern without a match is an error; none matches the databases of MongoDB itself."""
    for command in ("run", "check"):
        _, errors = three.project.quaestor(command, "--db", "nobody_*", code=2)
        assert "No database matches 'nobody_*'. Correct the pattern (--db)" in errors
    assert "No database matches" in three.project.quaestor("status", "--db", "adm*", code=2)[1]
    assert "No database matches" in three.project.quaestor("run", "--uri", "mongomock://", "--db", "t*", code=2)[1]


def test_patterns() -> None:
    """A `?` is one character, a `*` any number, `[...]` one of these where there is one of the others; case counts."""
    names = ["tenant_2", "tenant_10", "Tenant_3", "tenant_1", "admin", "config", "local", "tenant_[1]"]

    def matched(pattern: str) -> list[str]:
        settings = Settings({"db": Setting(pattern, Path())})
        assert settings.is_pattern
        return settings.match_names(names)

    assert matched("tenant_?") == ["tenant_1", "tenant_2"]
    assert matched("tenant_[12]*") == ["tenant_1", "tenant_10", "tenant_2"]
    assert matched("*3") == ["Tenant_3"]
    assert matched("*") == ["Tenant_3", "tenant_1", "tenant_10", "tenant_2", "tenant_[1]"]
    with pytest.raises(CommandError):
        matched("x*")


def test_sources_of_the_pattern(three: Tenants) -> None:
    """A pattern may stand in the options, in the environment, in pyproject.toml and in the address."""
    project = three.project
    del project.environ["QUAESTOR_DB"]
    summary = "3 databases: 0 up to date, 3 not."
    assert summary in project.quaestor("status", "--db", three.pattern)[0]
    assert summary in project.quaestor("status", QUAESTOR_DB=three.pattern)[0]
    address = project.environ["QUAESTOR_URI"].replace("/?", f"/{three.pattern}?")
    assert address != project.environ["QUAESTOR_URI"]
    assert summary in project.quaestor("status", "--uri", address)[0]
    settings = (project.folder / "pyproject.toml").read_text()
    project.write("pyproject.toml", f"{settings}db = '{three.pattern}'\n")
    assert summary in project.quaestor("status")[0]
    assert "(0)" not in project.quaestor("graph", QUAESTOR_URI="")[0]  # which needs no database


@pytest.mark.parametrize(
    "arguments", [["restart-backfill", "first", "--yes"], ["show", "first"], ["graph"]], ids=" ".join
)
def test_commands_for_one_database(three: Tenants, arguments: list[str]) -> None:
    """Others refuse a pattern, and say their name."""
    output, errors = three.project.quaestor(*arguments, code=2)
    assert errors.endswith(f"`{arguments[0]}` works on one database. Name it (--db).\n")
    assert output == ""


@pytest.mark.parametrize(
    ("db", "option", "value"),
    [
        ("", "--concurrency", "0"),
        ("_*", "--concurrency", "101"),
        ("_*", "--lease-timeout", "-1"),
        ("", "--patience", "-1"),
        ("_*", "--patience", "-1"),
    ],
)
def test_bad_numbers(three: Tenants, db: str, option: str, value: str) -> None:
    """They are refused in a sentence before anything is done."""
    output, errors = three.project.quaestor("run", "--db", f"{three.project.db.name}{db}", option, value, code=2)
    assert f"{option[2:].replace('-', '_')} must be a" in errors
    assert output == ""
    assert three.client[three.names[0]].list_collection_names() == ["things"]


def test_wrong_everywhere(three: Tenants) -> None:
    """An error that every database would have is shown once."""
    for command in (
        ["run"],
        ["run", "--dry-run"],
        ["rollback", "--dry-run"],
        ["rollback", "--yes"],
        ["mark", "applied"],
    ):
        output, errors = three.project.quaestor(*command, "secon", code=2)
        assert errors.count("Did you mean 'second'?") == 1
        assert output == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals(project: Project, number: signal.Signals) -> None:
    """After a signal nothing new starts; the migrations in progress are named, finish and are recorded; all leases are
    released, and the command says how far it came.
    """
    with tenants(project, 5) as made:
        process = project.start("run", "--concurrency", "2")
        assert process.stdout is not None
        assert process.stderr is not None
        for _ in range(2):
            assert any("printed by first" in line for line in process.stdout)
        process.send_signal(number)
        waiting = process.stderr.readline()
        assert waiting.startswith("quaestor: Interrupted: waiting for the migrations in progress: first in ")
        assert all(name in waiting for name in made.names[:2])
        made.open_the_gate()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}[number]
        assert "quaestor: Stopped after 0 of 5 databases: 2 migrations applied." in errors
        assert "Traceback" not in errors
        assert [made.recorded(one) for one in range(5)] == [{"first"}] * 2 + [set()] * 3
        assert [made.effects(one) for one in range(5)] == [{"first"}] * 2 + [set()] * 3
        assert made.leases() == []


def test_side_by_side_in_one_database(three: Tenants) -> None:
    """With --concurrency, migrations of one database that don't depend on each other run at once, and are named when
    the command is interrupted.
    """
    (three.project.folder / "gate").unlink()
    process = three.project.start("run", "--db", three.names[0], "--concurrency", "3")
    assert process.stdout is not None
    assert process.stderr is not None
    printed = (line for line in process.stdout if "printed by" in line)
    assert {next(printed).split()[-1], next(printed).split()[-1]} == {"first", "third"}
    process.send_signal(signal.SIGINT)
    waiting = process.stderr.readline()
    assert waiting == "quaestor: Interrupted: waiting for the migrations in progress: first, third.\n"
    three.open_the_gate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "quaestor: Interrupted.\n"
    assert three.recorded(0) == {"first", "third"}
    assert three.leases() == []


# what is said in the end


def results(*, idle: int = 0, migrated: int = 0, failed: int = 0) -> list[DatabaseResult]:
    return [
        *(DatabaseResult(f"i{number}", []) for number in range(idle)),
        *(DatabaseResult(f"m{number}", ["a", "b"]) for number in range(migrated)),
        *(DatabaseResult(f"f{number}", [], ValueError("boom")) for number in range(failed)),
    ]


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"idle": 1}, "Up to date: nothing to apply in 1 database."),
        ({"migrated": 2}, "Applied 4 migrations in 2 of 2 databases; it took 3 s"),
        ({"migrated": 2, "idle": 1}, "Applied 4 migrations in 2 of 3 databases, nothing to apply in 1; it took 3 s"),
        ({"failed": 2}, "Failed in 2 of 2 databases; it took 3 s"),
        ({"failed": 1, "idle": 1}, "Failed in 1 of 2 databases, nothing to apply in 1; it took 3 s"),
        ({"failed": 1, "migrated": 1}, "Failed in 1 of 2 databases, applied 2 migrations in 1; it took 3 s"),
    ],
)
def test_summary(counts: dict[str, int], words: str) -> None:
    """One sentence sums up, and says nothing of what there was none of."""
    assert summarize_results(results(**counts), "3 s") == words


def test_many_results() -> None:
    """All databases that failed are listed; what they say is harmless."""
    listed: list[Any] = [*results(migrated=500, failed=30), DatabaseResult("\x1b[2J[b]", [], ValueError("\x1b[1m"))]
    console = Console(width=60, markup=False)
    with console.capture() as captured:
        console.print(Group(*report_results(listed, "3 s", str, 60)))
    lines = captured.get().splitlines()
    assert [line.split()[:2] for line in lines[:30]] == [["✗", f"f{number}"] for number in range(30)]
    assert lines[30].split() == ["✗", "\\x1b[2J[b]", "\\x1b[1m"]
    assert "\x1b" not in captured.get()
