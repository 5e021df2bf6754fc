"""The commands on a pseudo-terminal: what a user sees, what is asked, and Ctrl-C."""

import os
import re
import signal

import pytest

from tests.cli.conftest import Project
from tests.leases import HELD
from tools.terminal import Terminal, quaestor


def terminal(project: Project, *arguments: str, columns: int = 100, lines: int = 30, **environ: str) -> Terminal:
    return Terminal(quaestor(*arguments), columns, lines, folder=project.folder, environ=project.environ | environ)


def test_run(project: Project) -> None:
    """Each migration has a line with how long it took; the last line sums up."""
    with terminal(project, "run") as screen:
        assert screen.ended() == 0
        lines = screen.lines()
    assert [line.split()[:2] for line in lines if line.startswith("✓")] == [
        ["✓", "aside"],
        ["✓", "first"],
        ["✓", "second"],
    ]
    assert re.fullmatch(r"Applied 3 migrations in \d+\.\d+ s", lines[-1])
    assert b"\x1b[?25h" in screen.written.rpartition(b"\x1b[?25l")[2]  # the cursor is back


def test_failure(project: Project) -> None:
    """What failed is seen in the list, and why below it."""
    with terminal(project, "run", FAILS="boom") as screen:
        assert screen.ended() == 1
        lines = screen.lines()
    assert any(line.startswith("✗ first") for line in lines)
    assert "quaestor: ValueError: boom" in "\n".join(lines)


def test_colours(project: Project) -> None:
    """States have colours, unless NO_COLOR is set; a narrow terminal gets a table that fits."""
    project.quaestor("run", "first")
    with terminal(project, "status", columns=40) as screen:
        assert screen.ended() == 0
        assert [line.split()[1:3] for line in screen.lines()[1:4]] == [
            ["aside", "pending"],
            ["first", "applied"],
            ["second", "pending"],
        ]
        assert screen.screen.buffer[2][0].fg == "green"
    with terminal(project, "status", NO_COLOR="1") as screen:
        assert screen.ended() == 0
        assert screen.screen.buffer[2][0].fg == "default"


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("\n", 1), ("\x03\n", 130), ("\x04", 1)])
def test_rollback_asks(project: Project, answer: str, code: int) -> None:
    """The plan is shown before the question; only a yes does it.

    (After Ctrl-C comes a line: Python does not notice a signal between its prompt and its read.)
    """
    project.quaestor("run")
    with terminal(project, "rollback", "first") as screen:
        screen.shows("second", "first", "Roll back 2", "[y/n]")
        screen.press(answer)
        assert screen.ended() == code
        assert "Traceback" not in "\n".join(screen.lines())
    assert project.recorded() == ({"aside"} if code == 0 else {"aside", "first", "second"})


@pytest.mark.parametrize("arguments", [["first"], ["--last", "1"], ["--to", "aside"]])
def test_rollback_after_another_instance(project: Project, arguments: list[str]) -> None:
    """Only what was shown is undone, whatever another instance applies before the answer: or nothing, with an error."""
    project.quaestor("run", "aside")
    project.quaestor("run", "first")
    with terminal(project, "rollback", *arguments) as screen:
        screen.shows("Roll back 1", "[y/n]")
        project.quaestor("run", "second")
        screen.press("y\n")
        assert screen.ended() == 1
        assert "'second' needs 'first'. Another instance may have applied it since." in " ".join(screen.lines())
    assert project.recorded() == {"aside", "first", "second"}


def test_rollback_of_the_last_after_another_instance(project: Project) -> None:
    """What another instance applies before the answer isn't the last: the migration that was shown is."""
    project.quaestor("run", "first")
    with terminal(project, "rollback", "--last", "1") as screen:
        screen.shows("Roll back 1", "[y/n]")
        project.quaestor("run", "aside")
        screen.press("y\n")
        assert screen.ended() == 0
    assert project.recorded() == {"aside"}


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1)])
def test_mark_all_as_pending_asks(project: Project, answer: str, code: int) -> None:
    """The records to delete are shown before the question; only a yes does it."""
    project.quaestor("mark", "applied", "--all")
    with terminal(project, "mark", "pending", "--all") as screen:
        screen.shows("aside, first, second", f"Mark 3 as pending in {project.db.name}/app?", "[y/n]")
        screen.press(answer)
        assert screen.ended() == code
    assert project.recorded() == (set() if code == 0 else {"aside", "first", "second"})


def test_protected_database(project: Project) -> None:
    """Nobody is asked about a protected database: its name is required, and is enough."""
    project.quaestor("run", "first")
    project.quaestor("protect", "--as", "production")
    for arguments in (["rollback", "first"], ["mark", "pending", "--all"], ["unlock"]):
        with terminal(project, *arguments) as screen:
            assert screen.ended() == 2
            assert "pass --confirm" in " ".join(screen.lines())
    assert project.recorded() == {"first"}
    with terminal(project, "rollback", "first", "--confirm", project.db.name) as screen:
        assert screen.ended() == 0
    assert project.recorded() == set()


def test_pinned_plan(project: Project) -> None:
    """The plan is shown as a table that fits, and its id below it."""
    with terminal(project, "plan", "--pin", columns=40) as screen:
        assert screen.ended() == 0
        lines = screen.lines()
    assert [line.split()[1] for line in lines[1:4]] == ["aside", "first", "second"]
    assert re.fullmatch("[0-9a-f]{16}", lines[-1])


def test_unlock_asks(project: Project) -> None:
    """The holder is shown before the question; only a yes does it."""
    project.db.app_migrations_lock.insert_one(HELD)
    for answer, code in (("n\n", 1), ("y\n", 0)):
        with terminal(project, "unlock") as screen:
            screen.shows("elsewhere (process 4711)", "[y/n]")
            screen.press(answer)
            assert screen.ended() == code
        assert ("owner" in project.db.app_migrations_lock.find_one()) is (code != 0)


def test_interrupted(project: Project) -> None:
    """Ctrl-C ends the migration and releases the lease; the terminal is left as it was."""
    project.write("shop/migrations/aside.py", WAITING)
    with terminal(project, "run") as screen:
        screen.shows("begun")
        screen.press("\x03")
        assert screen.ended() == 130
        lines = screen.lines()
    assert lines[-1] == "quaestor: Interrupted."
    assert b"\x1b[?25h" in screen.written.rpartition(b"\x1b[?25l")[2]
    assert project.recorded() == set()
    assert "owner" not in project.db.app_migrations_lock.find_one()


WAITING = """
import signal
from shop.migrations import registry

@registry.register("aside")
def aside(db):
    print("begun")
    signal.pause()
"""


def test_signal_that_python_misses(project: Project) -> None:
    """A signal that Python noted just before a call that blocks is sent again, which interrupts the call.

    (Here another thread gets it, when the call has begun, which leaves the same state.)
    """
    project.write("shop/migrations/aside.py", MISSING)
    with terminal(project, "run") as screen:
        assert screen.ended() == 130
        assert screen.lines()[-1] == "quaestor: Interrupted."
    assert project.recorded() == set()
    assert "owner" not in project.db.app_migrations_lock.find_one()


MISSING = """
import signal, sys, threading
from shop.migrations import registry

@registry.register("aside")
def aside(db):
    threading.Thread(target=interrupt, args=[threading.get_ident()]).start()
    signal.pause()

def interrupt(thread):
    while sys._current_frames()[thread].f_lineno != aside.__code__.co_firstlineno + 3:
        pass
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
"""


def test_forked_process(project: Project) -> None:
    """A signal to a process that a function forked isn't one to the command, which ends before that process."""
    project.write("shop/migrations/aside.py", FORKING)
    with terminal(project, "run", "aside") as screen:
        code = screen.ended()
        forked = project.db.effects.find_one({"_id": "forked"})
        os.kill(forked["pid"], signal.SIGKILL)
    assert code == 0
    assert forked["wakeup"] == -1  # where Python would write that process's signals


FORKING = """
import os, signal
from shop.migrations import registry

@registry.register("aside")
def aside(db):
    ready, written = os.pipe()
    if (pid := os.fork()) == 0:
        for number in (0, 1, 2):
            os.dup2(written, number)  # the terminal ends with the command
        os.write(written, str(signal.set_wakeup_fd(-1)).encode())
        while True:
            signal.pause()
    db.effects.insert_one({"_id": "forked", "pid": pid, "wakeup": int(os.read(ready, 9))})
"""


def test_waiting(project: Project) -> None:
    """A waiting run shows the holder of the lease, and continues when the lease is released."""
    project.db.app_migrations_lock.insert_one(HELD)
    with terminal(project, "run") as screen:
        screen.shows("elsewhere (process 4711)")
        project.quaestor("unlock", "--yes")
        assert screen.ended() == 0
    assert project.recorded() == {"aside", "first", "second"}


def test_help(project: Project) -> None:
    """It fits a terminal, with the defaults."""
    with terminal(project, "run", "--help", columns=120, lines=50) as screen:
        assert screen.ended() == 0
        shown = "\n".join(screen.lines())
    words = " ".join(re.sub("[│╭╮╰╯─]", " ", shown).split())
    for default in ("1; with a pattern, 8.", "no limit.", "300; with a pattern, 30.", "30."):
        assert f"Defaults to {default}" in words


def test_graph(project: Project) -> None:
    """The graph is drawn with lanes."""
    with terminal(project, "graph") as screen:
        assert screen.ended() == 0
        lines = screen.lines()
    assert [line.split() for line in lines[-3:]] == [["●", "○", "first"], ["●", "○", "second"], ["○", "aside"]]
