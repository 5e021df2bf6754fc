"""What a user sees of many databases, or of several migrations at once, on a pseudo-terminal."""

import re
from collections.abc import Iterator

import pytest

from quaestor.events import (
    MigrationApplied,
    MigrationFailed,
    MigrationProgressed,
    MigrationStarted,
    RunStarted,
)
from tests.cli.conftest import Project
from tests.cli.tenants import HELD_BY, Tenants, tenants
from tests.cli.terminal import Display
from tests.cli.test_on_a_terminal import terminal
from tests.leases import HELD
from tools.terminal import Terminal

PLACE = ("shop", "app", "r1")


@pytest.fixture
def thirty(project: Project) -> Iterator[Tenants]:
    """Thirty databases, and migrations that are held until the gate is open."""
    with tenants(project, 30) as made:
        yield made


@pytest.fixture
def five(project: Project) -> Iterator[Tenants]:
    """The same, five."""
    with tenants(project, 5) as made:
        yield made


def whole(screen: Terminal) -> None:
    """All that is on the screen was seen to fit: nothing has scrolled off while the live table was drawn."""
    assert not screen.screen.history.top


def test_run(thirty: Tenants) -> None:
    """A line for each database in progress, a bar over all, and counts; what fails is told at once, and the end is a
    table of those that failed.
    """
    held, failing = thirty.client[thirty.names[1]], thirty.names[2]
    held.app_migrations_lock.insert_one(HELD)
    with terminal(thirty.project, "run", lines=24, FAILS="_02", QUIET="1") as screen:
        shown = screen.shows("8 in progress", f"Waiting for {HELD_BY}")
        whole(screen)
        assert sorted(line.split()[1] for line in shown[:8]) == thirty.names[:8]
        assert len([line for line in shown if " 0 of 3  first" in line]) == 7
        assert any("0 of 30 databases, " in line for line in shown)
        assert "8 in progress, 22 to go" in shown
        # It fails once it has the lease, not after a timeout, which may be over before all eight run.
        held.app_migrations.insert_one({"_id": "first", "name": "another"})
        held.app_migrations_lock.delete_one({})
        screen.shows(f"✗ {held.name}  RecordConflictError", "1 of 30 databases", "1 failed")
        thirty.open_the_gate()
        screen.shows(f"✗ {failing}  ValueError")
        assert screen.ended() == 1
        lines = screen.lines()
        assert b"\x1b[?25h" in screen.written.rpartition(b"\x1b[?25l")[2]  # the cursor is back
    assert any(line.startswith(f"✗  {held.name}  ") and "_id" in line for line in lines)
    assert any(line.startswith(f"✗  {failing}  ValueError: boom") for line in lines)
    assert re.fullmatch(r"Failed in 2 of 30 databases, applied 85 migrations in 29; it took \d.*", lines[-1])
    assert thirty.leases() == []


@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (24, 5)])
def test_more_than_fit(thirty: Tenants, columns: int, lines: int) -> None:
    """The live table is never taller than the window and never wider: what has no room is counted."""
    with terminal(thirty.project, "run", "--concurrency", "30", columns=columns, lines=lines, QUIET="1") as screen:
        screen.shows(f"{30 - (lines - 4)} more in progress"[: columns - 8], "30 in progress"[:columns])
        whole(screen)
        assert len([line for line in screen.screen.display if line.strip()]) == lines - 1
        thirty.open_the_gate()
        assert screen.ended() == 0
        assert "".join(screen.lines()[-3:]).replace(" ", "").find("Applied90migrationsin30of30databases") >= 0


def test_interrupted(thirty: Tenants) -> None:
    """Ctrl-C: what is waited for is told, and then how far it came; the leases are free, and so is the terminal."""
    with terminal(thirty.project, "run", "--concurrency", "3") as screen:
        screen.until(lambda lines: sum(line == "printed by first" for line in lines) == 3)
        screen.shows("3 in progress, 27 to go")
        screen.press("\x03")
        screen.shows("quaestor: Interrupted: waiting for the migrations in progress: first in")
        thirty.open_the_gate()
        assert screen.ended() == 130
        lines = screen.lines()
        assert not screen.screen.cursor.hidden
    assert lines[-2:] == ["quaestor: Stopped after 0 of 30 databases: 3 migrations applied.", "quaestor: Interrupted."]
    assert [thirty.recorded(number) for number in range(4)] == [{"first"}, {"first"}, {"first"}, set()]
    assert thirty.leases() == []


def migrated(made: Tenants, *names: str) -> None:
    """Apply migrations in all databases, and close the gate."""
    made.open_the_gate()
    made.project.quaestor("run", *names)
    (made.project.folder / "gate").unlink()


def test_rollback(thirty: Tenants) -> None:
    """One question about all databases, with their number and what would be undone. Then it's shown as a run is; a
    database that was made after the question isn't touched.
    """
    migrated(thirty, "second")
    later = thirty.client[f"{thirty.names[0]}_later"]
    with terminal(thirty.project, "rollback", "first", lines=50, FAILS="_02", QUIET="1") as screen:
        shown = screen.shows("[y/n]")
        assert shown[0].split() == ["database", "to", "roll", "back"]
        assert [line.split() for line in shown[1:31]] == [[name, "2", "second,", "first"] for name in thirty.names]
        assert "60 migrations to roll back in 30 of 30 databases: second (30), first (30)." in shown
        question = f"Roll back 60 in 30 of 30 databases ({thirty.pattern}/app)? [y/n] (n):"
        assert "".join(shown[33:]).replace(" ", "") == question.replace(" ", "")
        later.app_migrations.insert_one({"_id": "first", "name": "first"})
        screen.press("y\n")
        screen.until(lambda lines: sum(" 1 of 2  first" in line for line in lines) == 8)
        shown = screen.shows("8 in progress", "1 failed")
        assert any("1 of 30 databases, " in line for line in shown)
        assert "1 failed, 8 in progress, 21 to go" in shown
        thirty.open_the_gate()
        assert screen.ended() == 1
        lines = screen.lines()
    assert any(line.startswith(f"✗  {thirty.names[2]}  ValueError: boom") for line in lines)
    assert re.fullmatch(r"Failed in 1 of 30 databases, rolled back 58 migrations in 29; it took \d.*", lines[-1])
    assert [thirty.recorded(number) for number in range(4)] == [set(), set(), {"first", "second"}, set()]
    assert later.app_migrations.count_documents({}) == 1
    assert thirty.leases() == []


def test_rollback_declined(five: Tenants) -> None:
    """Anything but a yes leaves all of them as they are."""
    migrated(five, "first")
    with terminal(five.project, "rollback", "first") as screen:
        screen.shows("5 migrations to roll back in 5 of 5 databases: first (5).", "[y/n]")
        screen.press("n\n")
        assert screen.ended() == 1
        assert screen.lines()[-1] == "quaestor: Nothing was done."
    assert all(five.recorded(number) == {"first"} for number in range(5))


@pytest.mark.parametrize("arguments", [["--last", "1"], ["--to", "third"]])
def test_rollback_after_another_instance(five: Tenants, arguments: list[str]) -> None:
    """In each database only what was shown for it is undone, whatever another instance applies before the answer."""
    five.open_the_gate()
    five.project.quaestor("run", "third")
    for number, name in enumerate(five.names):
        five.project.quaestor("run", "first" if number < 3 else "second", "--db", name)
    with terminal(five.project, "rollback", *arguments) as screen:
        screen.shows("in 5 of 5 databases", "[y/n]")
        for name in five.names[1:3]:
            five.project.quaestor("run", "second", "--db", name)
        screen.press("y\n")
        assert screen.ended() == 1
        lines = screen.lines()
    assert [line.split()[1] for line in lines if line.startswith("✗  ")] == five.names[1:3]
    assert "Failed in 2 of 5 databases" in lines[-1]
    kept = {"third", "first"} if arguments == ["--last", "1"] else {"third"}
    all_three = {"first", "second", "third"}
    assert [five.recorded(number) for number in range(5)] == [{"third"}, all_three, all_three, kept, kept]
    assert five.leases() == []


def test_interrupted_rollback(five: Tenants) -> None:
    """Ctrl-C says how many were rolled back; nothing new starts."""
    migrated(five, "first")
    with terminal(five.project, "rollback", "first", "--yes", "--concurrency", "3") as screen:
        screen.until(lambda lines: sum(line == "printed by undo_first" for line in lines) == 3)
        screen.press("\x03")
        screen.shows("quaestor: Interrupted: waiting for the migrations in progress: first in")
        five.open_the_gate()
        assert screen.ended() == 130
        lines = screen.lines()
    assert "quaestor: Stopped after 3 of 5 databases: 3 migrations rolled back." in lines
    assert [five.recorded(number) for number in range(4)] == [set(), set(), set(), {"first"}]
    assert five.leases() == []


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1)])
def test_mark_pending_asks(five: Tenants, answer: str, code: int) -> None:
    """The question has the number of records and of databases; only a yes deletes them."""
    five.project.quaestor("mark", "applied", "first", "third")
    with terminal(five.project, "mark", "pending", "third", columns=60) as screen:
        screen.shows("5 migrations to mark as pending in 5 of 5 databases:", "Mark 5 as pending in 5 of 5", "[y/n]")
        screen.press(answer)
        assert screen.ended() == code
        last = screen.lines()[-1]
    assert all(five.recorded(number) == ({"first", "third"} if code else {"first"}) for number in range(5))
    assert ("Nothing was done." if code else "Marked 5 migrations in 5 of 5 databases; it took ") in last


def test_unlock_asks(five: Tenants) -> None:
    """Every lease is shown with its holder. A yes releases these, and none that was acquired since."""
    for number in (1, 4):
        five.client[five.names[number]].app_migrations_lock.insert_one(HELD)
    with terminal(five.project, "unlock", columns=200) as screen:
        shown = screen.shows("[y/n]")
        assert [line.split(": ")[0] for line in shown if "held by elsewhere" in line] == [
            five.names[1],
            five.names[4],
        ]
        assert any("Release it in 2 of 5 databases" in line for line in shown)
        five.client[five.names[3]].app_migrations_lock.insert_one(HELD)
        screen.press("y\n")
        assert screen.ended() == 0
        assert screen.lines()[-1] == "Released in 2 of 2 databases."
    assert five.leases() == [five.names[3]]


def test_nothing_to_do(thirty: Tenants) -> None:
    """One line says so."""
    thirty.open_the_gate()
    thirty.project.quaestor("run")
    with terminal(thirty.project, "run") as screen:
        assert screen.ended() == 0
        assert screen.lines() == ["Up to date: nothing to apply in 30 databases."]


def test_status(thirty: Tenants) -> None:
    """A narrow terminal gets a table that fits."""
    with terminal(thirty.project, "status", columns=40) as screen:
        assert screen.ended() == 0
        lines = screen.lines()
    assert lines[0].split() == ["database", "pending"]
    assert len(lines) == 32


# several migrations of one database at once


def test_side_by_side(thirty: Tenants) -> None:
    """Each migration that runs has a line."""
    arguments = ("run", "--db", thirty.names[0], "--concurrency", "2")
    with terminal(thirty.project, *arguments, QUIET="1") as screen:
        shown = screen.shows("first ", "third ", "0 of 3")
        assert [line.split()[1] for line in shown if re.search(r"\d s$", line) and "of" not in line] == [
            "first",
            "third",
        ]
        assert "○ second" in shown
        thirty.open_the_gate()
        assert screen.ended() == 0
        lines = screen.lines()
    assert sorted(line.split()[1] for line in lines if line.startswith("✓")) == ["first", "second", "third"]
    assert thirty.recorded(0) == {"first", "second", "third"}


def test_more_side_by_side_than_fit() -> None:
    """Those that have no room are counted; each that fails is told."""
    names = [f"m{number:02}" for number in range(20)]
    with Display(40, 10) as terminal:
        terminal.tell(RunStarted(*PLACE, tuple(names)))
        terminal.tell(*(MigrationStarted(*PLACE, name, position, 20) for position, name in enumerate(names, start=1)))
        shown = terminal.shows("… 13 more in progress", "0 of 20")
        assert [line.split()[1] for line in shown[1:8]] == names[:7]
        terminal.tell(MigrationApplied(*PLACE, "m03", 4, 20, 1.0))
        terminal.tell(MigrationProgressed(*PLACE, "m03", 4, 20, 1, 2))  # late: it changes nothing
        terminal.tell(*(MigrationFailed(*PLACE, name, 1, 20, ValueError(name)) for name in ("m05", "m01")))
        terminal.shows("… 10 more in progress", "1 of 20")
        lines = terminal.end()
    done = [line.split()[:2] for line in lines if line.startswith(("✓", "✗"))]
    assert done == [["✓", "m03"], ["✗", "m05"], ["✗", "m01"]]
    assert "Failed to apply 'm05' (1 of 20): ValueError" in " ".join(lines)
    assert "Failed to apply 'm01' (1 of 20): ValueError" in " ".join(lines)
