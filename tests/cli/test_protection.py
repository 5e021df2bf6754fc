"""Protected databases: what undoes something requires the name of the database, with or without a terminal."""

import json
from typing import Any

import pytest

from tests.cli.conftest import Project
from tests.cli.tenants import tenants
from tests.leases import HELD
from tools.faults import fail_command

UNDOING = {
    "rollback": ["rollback", "first"],
    "mark": ["mark", "pending", "first"],
    "mark all": ["mark", "pending", "--all"],
    "unlock": ["unlock"],
}


def protect(project: Project, label: str = "production") -> None:
    project.quaestor("protect", "--as", label)


@pytest.mark.parametrize("arguments", UNDOING.values(), ids=[*UNDOING])
@pytest.mark.parametrize("way", [[], ["--yes"], ["--confirm", "shp"], ["--yes", "--confirm", "shp"]], ids=str)
def test_confirmation_is_required(project: Project, arguments: list[str], way: list[str]) -> None:
    """Without the right name nothing is done, and the exit code is 2: --yes isn't enough."""
    project.quaestor("run", "first")
    protect(project)
    project.db.app_migrations_lock.replace_one({"_id": "lease"}, HELD)

    _, errors = project.quaestor(*arguments, *way, code=2)

    assert "Nothing was done." in errors
    assert ("'shp'" if "shp" in way else "protected as 'production'. To do it all the same, pass --confirm") in errors
    assert project.db.name in errors
    assert project.recorded() == project.effects() == {"first"}
    assert project.db.app_migrations_lock.find_one({"_id": "lease"}) == HELD


@pytest.mark.parametrize("arguments", UNDOING.values(), ids=[*UNDOING])
@pytest.mark.parametrize("is_protected", [True, False])
def test_confirmation(project: Project, arguments: list[str], is_protected: bool) -> None:
    """The name of the database takes the place of --yes, whether it is protected or not."""
    project.quaestor("run", "first")
    if is_protected:
        protect(project)
    if arguments == ["unlock"]:
        project.db.app_migrations_lock.replace_one({"_id": "lease"}, HELD)

    project.quaestor(*arguments, "--confirm", project.db.name)

    assert project.recorded() == ({"first"} if arguments == ["unlock"] else set())
    assert "owner" not in project.db.app_migrations_lock.find_one({"_id": "lease"})


def test_wrong_name_of_an_unprotected_database(project: Project) -> None:
    """Whoever names another database than the one of the settings is stopped in any case."""
    project.quaestor("run", "first")
    for arguments in UNDOING.values():
        assert "names 'shp'" in project.quaestor(*arguments, "--confirm", "shp", code=2)[1]
    assert "names 'shp'" in project.quaestor("mark", "applied", "second", "--confirm", "shp", code=2)[1]
    assert project.recorded() == {"first"}


def test_commands_that_need_no_confirmation(project: Project) -> None:
    """What undoes nothing works as before: run, mark applied, dry runs, and everything that only reads."""
    protect(project)
    project.quaestor("run", "first")
    project.quaestor("mark", "applied", "second")
    assert "first" in project.quaestor("rollback", "first", "--dry-run")[0]
    project.quaestor("plan")
    project.quaestor("check", code=1)
    assert project.recorded() == {"first", "second"}


def test_label(project: Project) -> None:
    """The status shows the label, until the protection ends, which needs the confirmation as well."""
    assert "protected" not in project.quaestor("status")[0]
    assert json.loads(project.quaestor("status", "--json")[0])["protected_as"] is None
    protect(project, "staging")
    protect(project)
    assert f"{project.db.name}/app, protected as production: 3 pending." in project.quaestor("status")[0]
    assert json.loads(project.quaestor("status", "--json")[0])["protected_as"] == "production"

    project.quaestor("protect", "--off", code=2)
    project.quaestor("protect", "--off", "--confirm", "shp", code=2)
    assert "protected as production" in project.quaestor("status")[0]
    assert "No longer protected" in project.quaestor("protect", "--off", "--confirm", project.db.name)[0]
    assert "protected" not in project.quaestor("status")[0]
    project.quaestor("protect", "--off")


@pytest.mark.parametrize("way", [[], ["--as", "production", "--off"], ["--as", ""], ["--as", " "]], ids=str)
def test_misuse(project: Project, way: list[str]) -> None:
    """Either a label that can be seen, or --off; otherwise nothing is written."""
    project.quaestor("protect", *way, code=2)
    assert project.db.list_collection_names() == []


def test_prefixes_are_apart(project: Project) -> None:
    """Another prefix is another application: it isn't protected."""
    protect(project)
    assert "protected" not in project.quaestor("status", "--prefix", "other")[0]


@pytest.mark.parametrize("stored", ["", 7, {"production": True}])
def test_label_of_somebody_else(project: Project, stored: Any) -> None:
    """Whatever people have stored as the label protects the database."""
    project.db.app_migrations_lock.insert_one({"_id": "protection", "label": stored})
    assert str(stored) in project.quaestor("unlock", "--yes", code=2)[1]


def test_unreadable_label(project: Project) -> None:
    """If the label can't be read, the database may be protected, so nothing is done."""
    away = "mongodb://127.0.0.1:1/shop?serverSelectionTimeoutMS=100"
    assert "nothing has run" in project.quaestor("unlock", "--yes", "--uri", away, code=75)[1]

    project.quaestor("run", "first")
    collection = f"{project.db.name}.app_migrations_lock"
    with fail_command(project.environ["QUAESTOR_URI"], ["find"], times="alwaysOn", namespace=collection, errorCode=13):
        for arguments in UNDOING.values():
            assert "nothing has run" in project.quaestor(*arguments, "--yes", code=2)[1]
    assert project.recorded() == {"first"}


def test_pattern(project: Project) -> None:
    """A pattern protects all databases that match it, and confirms by itself."""
    with tenants(project, 3) as made:
        project.environ.pop("GATE")
        assert "Protected as production: 3 databases." in project.quaestor("protect", "--as", "production")[0]
        project.quaestor("protect", "--off", "--db", made.names[1], "--confirm", made.names[1])
        output = project.quaestor("status")[0]
        assert "protected as" in output
        assert output.count("production") == 2
        assert "protected as 'production'" in project.quaestor("protect", "--off", code=2)[1]
        project.quaestor("protect", "--off", "--confirm", made.names[0], code=2)
        project.quaestor("protect", "--off", "--confirm", made.pattern)
        assert "production" not in project.quaestor("status")[0]


@pytest.mark.parametrize("arguments", UNDOING.values(), ids=[*UNDOING])
def test_one_of_many_is_protected(project: Project, arguments: list[str]) -> None:
    """If one database that matches is protected, the pattern must be confirmed by itself, and then it is for all."""
    with tenants(project, 3) as made:
        made.open_the_gate()
        project.quaestor("run", "first")
        project.quaestor("protect", "--as", "production", "--db", made.names[1])
        for name in made.names:
            made.client[name].app_migrations_lock.replace_one({"_id": "lease"}, HELD)
        for way in ([], ["--yes"], ["--confirm", made.names[1]]):
            _, errors = project.quaestor(*arguments, *way, code=2)
            assert errors.endswith("Nothing was done.\n")
        _, errors = project.quaestor(*arguments, "--yes", code=2)
        assert f"{made.names[1]}/app is protected as 'production'" in errors
        assert f"--confirm '{made.pattern}'" in errors
        assert [made.recorded(number) for number in range(3)] == [{"first"}] * 3
        assert made.leases() == made.names
        if arguments != ["unlock"]:
            project.quaestor("unlock", "--confirm", made.pattern)

        project.quaestor(*arguments, "--confirm", made.pattern)

        left: set[str] = {"first"} if arguments == ["unlock"] else set()
        assert [made.recorded(number) for number in range(3)] == [left] * 3
        assert made.leases() == []


def test_unreadable_label_of_one_of_many(project: Project) -> None:
    """If one can't be read, it may be protected: nothing is done in any."""
    with tenants(project, 3) as made:
        made.open_the_gate()
        project.quaestor("run", "first")
        collection = f"{made.names[1]}.app_migrations_lock"
        failure = fail_command(
            project.environ["QUAESTOR_URI"], ["find"], times="alwaysOn", namespace=collection, errorCode=13
        )
        with failure:
            for arguments in UNDOING.values():
                assert "nothing has run" in project.quaestor(*arguments, "--yes", code=2)[1]
        assert [made.recorded(number) for number in range(3)] == [{"first"}] * 3
