"""Plans that were reviewed: `plan --pin` prints the id, `run --plan` refuses any other plan."""

import json

import pytest

from tests.cli.conftest import SECOND, Project


def pin(project: Project, *arguments: str) -> str:
    output, _ = project.quaestor("plan", "--pin", *arguments)
    return output.removesuffix("\n")


def test_pinned_plan(project: Project) -> None:
    """The id is all that stdout has, for a script; the plan is on stderr. It runs, and again, with nothing to do."""
    output, errors = project.quaestor("plan", "--pin")
    assert errors == project.quaestor("plan")[0]
    assert len(output.split()) == 1
    plan_id = output.strip()

    project.quaestor("run", "--plan", plan_id)
    assert project.recorded() == {"aside", "first", "second"}
    assert "nothing to apply" in project.quaestor("run", "--plan", plan_id)[0]
    assert "nothing to apply" in project.quaestor("plan", "--pin")[1]


def test_pin_as_json(project: Project) -> None:
    """For programs: the id and the plan of one read."""
    pinned = json.loads(project.quaestor("plan", "second", "--pin", "--json")[0])
    assert pinned["id"] == pin(project, "second")
    assert pinned["migrations"] == json.loads(project.quaestor("plan", "second", "--json")[0])


def test_another_plan(project: Project) -> None:
    """Another plan is refused with both ids; the exit code is 1, and nothing has run."""
    plan_id = pin(project)
    project.quaestor("run", "aside")

    _, errors = project.quaestor("run", "--plan", plan_id, code=1)

    assert plan_id in errors
    assert pin(project) in errors
    assert "first, second" in errors
    assert project.recorded() == {"aside"}
    project.quaestor("run", "first", "--plan", pin(project, "first"))


def test_changed_function(project: Project) -> None:
    """The id changes with what a function does, and not with its comments."""
    plan_id = pin(project)
    project.write("shop/migrations/second.py", f"# a comment\n{SECOND}")
    assert pin(project) == plan_id
    project.write("shop/migrations/second.py", SECOND.replace("progress(1, 2)", "progress(2, 2)"))
    assert pin(project) != plan_id
    project.quaestor("run", "--plan", plan_id, code=1)
    assert project.recorded() == set()


@pytest.mark.parametrize("plan_id", ["", "latest", "0123"])
def test_invalid_id(project: Project, plan_id: str) -> None:
    """What can't be an id, such as an empty variable of a shell, is a misuse, even if there is nothing to do."""
    project.quaestor("run")
    assert "plan_id" in project.quaestor("run", "--plan", plan_id, code=2)[1]


def test_pattern(project: Project) -> None:
    """The databases of a pattern may have different plans, so a pin is of one."""
    for arguments in (["plan", "--pin"], ["run", "--plan", "0123456789abcdef"]):
        assert "one database" in project.quaestor(*arguments, "--db", f"{project.db.name}*", code=2)[1]


def test_pin_and_dry_run(project: Project) -> None:
    """A dry run with an id is refused: it wouldn't tell whether the plan is that."""
    assert "not both" in project.quaestor("run", "--dry-run", "--plan", pin(project), code=2)[1]
