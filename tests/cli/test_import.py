"""`quaestor import`: the history of another tool, as a dry run and in earnest, and what can't be placed."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from tests.cli.conftest import Project

APPLIED_AT = datetime(2026, 7, 1, 12, 30, tzinfo=UTC)


def put(project: Project, *applied: str, undone: tuple[str, ...] = ()) -> None:
    """Leave the records of mongrator."""
    documents: list[Any] = [{"_id": name, "direction": "up", "applied_at": APPLIED_AT} for name in applied]
    documents += [{"_id": name, "direction": "down", "applied_at": APPLIED_AT} for name in undone]
    project.db.mongrator_migrations.insert_many(documents)


def test_dry_run(project: Project) -> None:
    """It shows what would be recorded, and records nothing."""
    put(project, "first", undone=("second",))

    output, _ = project.quaestor("import", "mongrator", "--dry-run")

    assert output.splitlines() == [
        "to import  applied (UTC)",
        "first      2026-07-01 12:30:00",
        "",
        "not applied there  why",
        "second             rolled back",
        "",
        "2 migrations of mongrator in the collection mongrator_migrations: 1 to import, 1 not applied there.",
    ]
    assert project.recorded() == set()


def test_import(project: Project) -> None:
    """What the tool has applied is recorded, nothing is run, and the next run applies the rest."""
    put(project, "first")

    output, _ = project.quaestor("import", "mongrator", "--release", "1.4.2")
    again, _ = project.quaestor("import", "mongrator")

    assert "Imported 1 migration from mongrator: first" in output
    assert "1 migration of mongrator in the collection mongrator_migrations: 1 imported." in output
    assert "Nothing to import from mongrator" in again
    assert "1 migration of mongrator in the collection mongrator_migrations: 1 recorded already." in again
    assert project.db.app_migrations.find_one({"_id": "first"})["release"] == "1.4.2"
    assert project.effects() == set()
    project.quaestor("run")
    assert project.effects() == {"second", "aside"}
    assert "imported" in project.quaestor("history", "first")[0]


def test_what_cannot_be_placed(project: Project) -> None:
    """Nothing is imported then, with exit code 1, unless the option says to go on."""
    put(project, "first", "frist")

    for arguments in (["--dry-run"], []):
        output, errors = project.quaestor("import", "mongrator", *arguments, code=1)
        assert "frist       no migration here has this name; did you mean first?" in output
        assert "1 migration of mongrator can't be placed. Register or retire these names" in errors
        assert ("Nothing was imported" in errors) is (arguments == [])
        assert project.recorded() == set()

    output, errors = project.quaestor("import", "mongrator", "--allow-unplaced")
    assert "1 imported, 1 not placed." in output
    assert errors == ""
    assert project.recorded() == {"first"}


@pytest.mark.parametrize("is_allowed", [False, True])
def test_json(project: Project, is_allowed: bool) -> None:
    """The answer is one object. What was refused wasn't imported."""
    put(project, "first", "frist", undone=("second",))
    allowed = ["--allow-unplaced"] if is_allowed else []

    output, _ = project.quaestor("import", "mongrator", "--json", *allowed, code=not is_allowed)

    imported = {"name": "first", "theirs": "first", "applied_at": "2026-07-01T12:30:00+00:00"}
    assert json.loads(output) == {
        "tool": "mongrator",
        "collection": "mongrator_migrations",
        "imported": [imported] if is_allowed else [],
        "recorded": [],
        "not_applied": [{"name": "second", "reason": "rolled back"}],
        "unplaced": [{"name": "frist", "reason": "no migration here has this name; did you mean first?"}],
    }
    planned, _ = project.quaestor("import", "mongrator", "--json", "--dry-run", code=1)
    assert json.loads(planned)["imported"] == ([] if is_allowed else [imported])


def test_options(project: Project) -> None:
    """A file has the names, and the collection and the time zone are options."""
    project.db.old.insert_one({"migration_datetime": "1", "created_at": APPLIED_AT})
    project.write("names.json", '{"1": "first"}')

    output, _ = project.quaestor(
        *("import", "mongodb-migrations", "--map", "names.json"),
        *("--collection", "old", "--timezone", "Europe/Berlin"),
    )

    assert "first     1                      2026-07-01 10:30:00" in output
    assert project.recorded() == {"first"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mongratr"], 2, "Did you mean 'mongrator'?"),
        (["mongrator"], 1, "has no collection 'mongrator_migrations', so mongrator has applied nothing there"),
        (["mongrator", "--timezone", "UTC"], 2, "mongrator stores its dates in UTC"),
        (["mongrator", "--map", "missing.json"], 2, "Can't read missing.json: No such file"),
        (["mongrator", "--map", "text.json"], 2, "text.json isn't JSON"),
        (["mongrator", "--map", "twice.json"], 2, "twice.json isn't JSON: the name 'a' is there twice"),
        (["mongrator", "--map", "deep.json"], 2, "deep.json isn't JSON: maximum recursion depth"),
        (["mongrator", "--map", "list.json"], 2, 'list.json must have a JSON object such as {"their name"'),
        (["mongrator", "--map", "wrong.json"], 2, "There is no migration 'frist'. Did you mean 'first'?"),
    ],
)
def test_mistakes(project: Project, arguments: list[str], code: int, message: str) -> None:
    """They are reported with what to do; nothing is imported."""
    wrong = {"text": "no JSON", "list": "[1]", "wrong": '{"a": "frist"}', "twice": '{"a": "first", "a": "second"}'}
    for name, text in {**wrong, "deep": "[" * 100_000}.items():
        project.write(f"{name}.json", text)

    assert message in project.quaestor("import", *arguments, code=code)[1]


def test_missing_tool(project: Project) -> None:
    """Without a tool it says what is missing."""
    assert "Missing argument" in project.quaestor("import", code=2)[1]
