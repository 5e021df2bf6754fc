"""What is shown while migrations run: on a real terminal, in a log, and to programs."""

import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from quaestor import events
from quaestor._text import format_duration
from quaestor.cli.display import show_events
from quaestor.cli.event_lines import write_json_lines, write_plain_lines
from quaestor.cli.progress import Progress, RunProgress
from quaestor.events import (
    BackfillReset,
    BackfillRestarted,
    BackfillStarted,
    ChangesAccepted,
    CollectionMissing,
    DatabaseFinished,
    DependenciesPending,
    Event,
    HistoryImported,
    HistoryNotWritten,
    LeaseAwaited,
    LeaseNotReleased,
    MajorityAwaited,
    MigrationApplied,
    MigrationFailed,
    MigrationProgressed,
    MigrationRetried,
    MigrationRolledBack,
    MigrationStarted,
    MigrationsWaiting,
    OtherPrefixesFound,
    PrimaryChanged,
    RecordsIgnored,
    RecordsMarked,
    RecordsUnknown,
    RegistryEmpty,
    ReplacementRecorded,
    ReplicasAwaited,
    RollbackFinished,
    RollbackStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    ServerAwaited,
    SessionsNotEnded,
    SimilarDatabaseFound,
)
from quaestor.status import Lease
from tests.cli.terminal import Display

PLACE = ("shop", "app", "r1")
NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)
HOLDER = Lease("run-1", 7, "web-1", 4242, NOON, 3, 30.0, NOON, ("b",), (b"\x00\xff",))
ERROR = ValueError("no login\nas ada:hunter2")
EVENTS: list[Event] = [
    RunStarted(*PLACE, ("a", "b")),
    RecordsIgnored(*PLACE, (1, None, b"\xff", float("nan"), {"k": [NOON]}, ERROR)),
    RecordsUnknown(*PLACE, ("newer",)),
    RegistryEmpty(*PLACE),
    OtherPrefixesFound(*PLACE, ("blog",)),
    SimilarDatabaseFound(*PLACE, "shops"),
    DependenciesPending(*PLACE, {"b": ["a"], "d": ["a", "c"]}),
    ReplacementRecorded(*PLACE, "n", ("o", "p")),
    MigrationsWaiting(*PLACE, {"c": NOON, "e": None}, ("f",), ("g",)),
    LeaseAwaited(*PLACE, HOLDER, 30.0),
    ServerAwaited(*PLACE, "to check the lease", 5.0, ERROR),
    MajorityAwaited(*PLACE, "to record 'a'", 35.0, ERROR),
    SessionsNotEnded(*PLACE, ERROR),
    LeaseNotReleased(*PLACE, 30.0, ERROR),
    HistoryNotWritten(*PLACE, "failed", "a", ERROR),
    MigrationStarted(*PLACE, "a", 1, 2),
    MigrationRetried(*PLACE, "a", 1, 2, 2, ERROR),
    MigrationProgressed(*PLACE, "a", 1, 2, 10, None, due=True),
    BackfillStarted(*PLACE, "a", 1, 2, "users", "users", 0, 10),
    BackfillRestarted(*PLACE, "a", 1, 2, "users", "users"),
    BackfillReset(*PLACE, ("a",), "users"),
    ChangesAccepted(*PLACE, ("a",)),
    CollectionMissing(*PLACE, "a", 1, 2, "users", "users"),
    PrimaryChanged(*PLACE, "a", 1, 2),
    ReplicasAwaited(*PLACE, "a", 1, 2, 12.5, 30.0),
    MigrationApplied(*PLACE, "a", 1, 2, 1.5),
    MigrationRolledBack(*PLACE, "a", 1, 2, 1.5, undo=True),
    MigrationFailed(*PLACE, "b", 2, 2, ERROR),
    RunFinished(*PLACE, ("a", "b")),
    RollbackStarted(*PLACE, ("b", "a")),
    RollbackFinished(*PLACE, ("b", "a")),
    RecordsMarked(*PLACE, ("a",), applied=True),
    HistoryImported(*PLACE, ("a",), "mongrator"),
    DatabaseFinished(*PLACE, ("a",), ERROR),
    RunFailed(*PLACE, ERROR, work="rollback"),
]
SIZES = [(80, 24), (40, 10)]


def clean(text: str) -> str:
    return text.replace("hunter2", "***")


def applied(names: list[str], first: int = 1, total: int | None = None) -> list[Any]:
    """The events of these migrations, each of which takes a second of the terminal's clock."""
    orders: list[Any] = []
    for position, name in enumerate(names, start=first):
        place = (*PLACE, name, position, len(names) if total is None else total)
        orders += [MigrationStarted(*place), 1.0, MigrationApplied(*place, 1.0)]
    return orders


def test_all_events_are_here() -> None:
    """The tests that follow know each event."""
    kinds = {kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)}
    assert {type(event) for event in EVENTS} == kinds - {Event, events.RunEvent, events.MigrationEvent}


# as lines


@pytest.mark.parametrize(
    "event", [event for event in EVENTS if not isinstance(event, RunFailed)], ids=lambda event: type(event).__name__
)
def test_plain_line(event: Event) -> None:
    """An event is one line: time, level, place and message, without the password or control characters."""
    file = io.StringIO()
    write_plain_lines(file, clean, lambda: NOON)(event)
    assert re.fullmatch(r"2026-01-02T12:00:00Z (INFO   |WARNING|ERROR  ) shop/app \S.*\n", file.getvalue())
    assert "hunter2" not in file.getvalue()
    assert file.getvalue()[:-1].isprintable()


def test_plain_lines_leave_the_error_to_the_command() -> None:
    """The command reports the error of a failed run itself, on stderr."""
    file = io.StringIO()
    write_plain_lines(file, clean)(RunFailed(*PLACE, ERROR, work="run"))
    assert file.getvalue() == ""


def test_plain_words() -> None:
    """The lines say what a person wants to know."""
    file = io.StringIO()
    hook = write_plain_lines(file, clean, lambda: NOON)
    for event in (
        RunStarted(*PLACE, ("a", "b")),
        MigrationStarted(*PLACE, "a", 1, 2),
        MigrationApplied(*PLACE, "a", 1, 2, 1.5),
        MigrationFailed(*PLACE, "b", 2, 2, ERROR),
        MigrationFailed(*PLACE, "b", 2, 2, KeyboardInterrupt()),
        RunFinished(*PLACE, ()),
        RunFinished(*PLACE, ("a",)),
        RollbackFinished(*PLACE, ("a", "b")),
        DatabaseFinished(*PLACE, ("a",)),
        DatabaseFinished(*PLACE, (), ERROR),
    ):
        hook(event)
    assert [line[21:].replace("shop/app ", "") for line in file.getvalue().splitlines()] == [
        "INFO    2 migrations to apply: a, b",
        "INFO    Applying 'a' (1 of 2)",
        "INFO    Applied 'a' (1 of 2) in 1.5 s",
        "ERROR   Failed to apply 'b' (2 of 2): ValueError",
        "ERROR   Interrupted while applying 'b' (2 of 2)",
        "INFO    Up to date: nothing to apply.",
        "INFO    Applied 1 migration",
        "INFO    Rolled back 2 migrations",
        "ERROR   Ended with an error: ValueError",
    ]


def test_plain_progress_is_rare() -> None:
    """Of the progress of a migration only what is due is written, every 30 s, as in the log."""
    file = io.StringIO()
    hook = write_plain_lines(file, clean, lambda: NOON)
    for done in range(100):
        hook(MigrationProgressed(*PLACE, "a", 1, 1, done * 1000, 100_000, due=done % 30 == 29))
    assert re.findall(r"12:\d\d:\d\dZ.*: (.*)", file.getvalue()) == [
        "29,000 of 100,000",
        "59,000 of 100,000",
        "89,000 of 100,000",
    ]


def test_plain_words_of_a_backfill() -> None:
    """The lines say over what a migration goes, from where on, how fast, and what it waits for."""
    file = io.StringIO()
    hook = write_plain_lines(file, clean, lambda: NOON)
    place = (*PLACE, "a", 1, 1)
    for event in (
        BackfillStarted(*place, "users", "users", 0, None),
        BackfillStarted(*place, "users", "users", 0, 90_000),
        BackfillStarted(*place, "users", "users", 2_000, 90_000),
        MigrationProgressed(*place, 30_000, 90_000, 1000.0, due=True),
        MigrationProgressed(*place, 30_000, None, 2.5, due=True),
        BackfillRestarted(*place, "users", "users"),
        ReplicasAwaited(*place, 12.5, 90.0),
    ):
        hook(event)
    assert [line[21:].replace("shop/app In 'a' (1 of 1): ", "") for line in file.getvalue().splitlines()] == [
        "INFO    backfill of 'users' starts",
        "INFO    backfill of 'users' starts, about 90,000 documents",
        "INFO    backfill of 'users' resumes after 2,000 of 90,000 documents",
        "INFO    30,000 of 90,000, 1,000/s, 1 min 0 s left",
        "INFO    30,000, 2.5/s",
        (
            "WARNING backfill of 'users' starts over, because its filter or collection has changed since the last "
            "attempt. It may process documents again"
        ),
        "INFO    waiting for replicas that are 12.5 s behind (1 min 30 s so far)",
    ]


def test_json_of_a_backfill() -> None:
    """The numbers of a backfill are JSON numbers; unknown ones are null."""
    file = io.StringIO()
    hook = write_json_lines(file, clean, lambda: NOON)
    place = (*PLACE, "a", 1, 1)
    hook(BackfillStarted(*place, "users", "users", 2_000, None))
    hook(MigrationProgressed(*place, 3_000, 9_000, 125.5, due=True))
    started, progressed = map(json.loads, file.getvalue().splitlines())
    assert {"collection": "users", "done": 2000, "total": None}.items() <= started.items()
    assert {"done": 3000, "total": 9000, "rate": 125.5, "due": True, "undo": False}.items() <= progressed.items()


def test_plain_text_of_any_encoding() -> None:
    """A log that knows ASCII alone gets what it can write; names steer nothing."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, "ascii")
    write_plain_lines(file, clean, lambda: NOON)(MigrationStarted(*PLACE, "é\n\x1b[31m", 1, 1))
    assert raw.getvalue().endswith(rb"Applying '\xe9\n\x1b[31m' (1 of 1)" + b"\n")


def test_long_message_is_cut() -> None:
    """An error that goes on for pages does not fill a log."""
    file = io.StringIO()
    write_plain_lines(file, clean)(LeaseNotReleased(*PLACE, 30.0, ValueError("x" * 10_000)))
    assert len(file.getvalue()) < 2100
    assert file.getvalue().endswith("x…\n")


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_json_line(event: Event) -> None:
    """Each event is one JSON object with its class, the time and all its fields, without the password."""
    file = io.StringIO()
    write_json_lines(file, clean, lambda: NOON)(event)
    assert file.getvalue().count("\n") == 1
    assert "hunter2" not in file.getvalue()
    told = json.loads(file.getvalue(), parse_constant=pytest.fail)
    assert told["event"] == type(event).__name__
    assert told["time"] == "2026-01-02T12:00:00+00:00"
    assert list(told)[2:4] == ["database", "prefix"]
    assert set(told) == {"event", "time"} | {
        name for kind in type(event).__mro__ for name in getattr(kind, "__slots__", ())
    }


def test_json_values() -> None:
    """Errors are objects, a lease is one without its sessions, times are ISO 8601, and any `_id` has a form."""
    file = io.StringIO()
    hook = write_json_lines(file, clean)
    for event in (LeaseAwaited(*PLACE, HOLDER, 30.0), SessionsNotEnded(*PLACE, ERROR), EVENTS[1]):
        hook(event)
    awaited, failed, ignored = map(json.loads, file.getvalue().splitlines())
    assert (awaited["holder"]["host"], awaited["holder"]["since"]) == ("web-1", "2026-01-02T12:00:00+00:00")
    assert "sessions" not in awaited["holder"]
    assert {"type": "ValueError", "message": "no login\nas ada:***", "code": None}.items() <= failed["error"].items()
    assert ignored["ids"][:5] == [1, None, r"b'\xff'", "nan", {"k": ["2026-01-02T12:00:00+00:00"]}]


def test_json_of_later_events() -> None:
    """An event that nobody thought of yet is written as well."""

    @dataclass(frozen=True)
    class Later:
        database: str
        count: int

    file = io.StringIO()
    hook: Any = write_json_lines(file, clean, lambda: NOON)
    hook(Later("shop", 3))
    assert json.loads(file.getvalue()) == {"event": "Later", "time": NOON.isoformat(), "database": "shop", "count": 3}


def test_json_has_stdout_for_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """What migrations print does not get between the objects."""
    with show_events(RunProgress(clean), as_json=True) as hook:
        print("a migration says something")
        hook(EVENTS[0])
    output, errors = capsys.readouterr()
    assert json.loads(output)["plan"] == ["a", "b"]
    assert errors == "a migration says something\n"


@pytest.mark.parametrize("environ", [{}, {"FORCE_COLOR": "1"}, {"TERM": "xterm-256color", "COLORTERM": "truecolor"}])
def test_without_terminal(environ: dict[str, str]) -> None:
    """A pipe gets plain lines at once, each when it happens, and no codes, whatever the environment asks for."""
    code = """
from quaestor.cli.display import show_events
from quaestor.cli.progress import RunProgress
from quaestor.events import MigrationStarted
with show_events(RunProgress(str)) as hook:
    hook(MigrationStarted("shop", "app", "r1", "a", 1, 1))
    input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | environ,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline().endswith(" INFO    shop/app Applying 'a' (1 of 1)\n")
        assert process.communicate("\n")[0] == ""


# on a terminal


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_run(columns: int, lines: int) -> None:
    """What waits, what runs and for how long, what is done and how long it took; at the end what became of it all."""
    names = ["a", "b", "c"]
    with Display(columns, lines) as terminal:
        terminal.shows("Reading what is applied")
        terminal.tell(RunStarted(*PLACE, tuple(names)), *applied(names[:1], total=3))
        terminal.tell(MigrationStarted(*PLACE, "b", 2, 3), 2.5)
        shown = terminal.shows("3 migrations to apply to shop/app", "b     2.5 s", "1 of 3, 3.5 s")
        assert [line[0] for line in shown if line][:2] == ["3", "✓"]
        assert "○ c" in shown
        assert terminal.screen.cursor.hidden
        terminal.tell(MigrationApplied(*PLACE, "b", 2, 3, 2.4), *applied(["c"], 3), RunFinished(*PLACE, tuple(names)))
        assert terminal.end() == [
            "3 migrations to apply to shop/app",
            "✓ a     1.0 s",
            "✓ b     2.4 s",
            "✓ c     1.0 s",
            "Applied 3 migrations in 4.5 s",
        ]
        assert not terminal.screen.cursor.hidden


@pytest.mark.parametrize(
    ("started", "finished", "closing"),
    [
        (RunStarted(*PLACE, ()), RunFinished(*PLACE, ()), "Up to date: nothing to apply."),
        (
            RollbackStarted(*PLACE, ()),
            RollbackFinished(*PLACE, ()),
            "Nothing to roll back: not applied.",
        ),
    ],
)
def test_nothing_to_do(started: Event, finished: Event, closing: str) -> None:
    """One line says so."""
    with Display(80, 24) as terminal:
        terminal.tell(started, finished)
        assert terminal.end() == [closing]


def test_recorded_and_waiting() -> None:
    """A run says which migrations it only records, and which it leaves for later."""
    with Display(80, 24) as terminal:
        terminal.tell(ReplacementRecorded(*PLACE, "n", ("o", "p")), RunStarted(*PLACE, ()))
        terminal.tell(MigrationsWaiting(*PLACE, {"c": NOON}, (), ("g",)), RunFinished(*PLACE, ()))
        assert terminal.end() == [
            "Recorded 'n' as applied, because it replaces applied migrations: o, p",
            "2 migrations left for later: c (delayed until 2026-01-02 12:00 UTC), g (phase",
            "post_deploy)",
            "Up to date: nothing to apply.",
        ]


def test_rollback() -> None:
    """What is undone looks as what is done, and the words say which it is."""
    place = (*PLACE, "b", 1, 1)
    with Display(80, 24) as terminal:
        terminal.tell(RollbackStarted(*PLACE, ("b",)), MigrationStarted(*place, undo=True))
        terminal.tell(MigrationRolledBack(*place, 0.25, undo=True), RollbackFinished(*PLACE, ("b",)))
        assert terminal.end() == [
            "1 migration to roll back in shop/app",
            "✓ b    0.25 s",
            "Rolled back 1 migration in 0.00 s",
        ]


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_progress(columns: int, lines: int) -> None:
    """A migration that reports shows count, share, rate and the time left, also beyond its end and backwards."""
    place = (*PLACE, "a", 1, 1)
    with Display(columns, lines) as terminal:
        terminal.tell(
            RunStarted(*PLACE, ("a",)), MigrationStarted(*place), MigrationProgressed(*place, 20_000, 100_000)
        )
        terminal.shows("20%", "20,000 of", "100,000")
        terminal.tell(10.0, MigrationProgressed(*place, 50_000, 100_000))
        terminal.shows("50%", "50,000 of", "3,000/s", "17 s left")
        terminal.tell(MigrationProgressed(*place, 120_000, 100_000))
        terminal.shows("120,000 of", without="%")
        terminal.tell(MigrationProgressed(*place, 7, 100_000))
        terminal.shows("0%", "7 of 100,000", without="/s")
        terminal.tell(MigrationProgressed(*place, 8, None))
        terminal.shows("  8", without="%")


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_pass(columns: int, lines: int) -> None:
    """A backfill has a bar at once, whose rate counts from where it resumes; the next backfill has its own."""
    place = (*PLACE, "a", 1, 1)
    with Display(columns, lines) as terminal:
        terminal.tell(RunStarted(*PLACE, ("a",)), MigrationStarted(*place))
        terminal.tell(BackfillStarted(*place, "users", "users", 20_000, 100_000))
        terminal.shows("20%", "20,000 of", "100,000", without="/s")
        terminal.tell(10.0, MigrationProgressed(*place, 50_000, 100_000, 3000.0))
        terminal.shows("50%", "3,000/s", "17 s left")
        terminal.tell(
            MigrationProgressed(*place, 100_000, 100_000, 3000.0), BackfillStarted(*place, *["orders"] * 2, 0, 500)
        )
        terminal.shows("0%", "0 of 500", without="/s")
        terminal.tell(BackfillStarted(*place, "views", "views", 0, None))
        terminal.shows("  0", without="%")


def test_backfill_that_waits_for_replicas() -> None:
    """The display prints what a backfill waits for above its rows."""
    place = (*PLACE, "a", 1, 1)
    with Display(80, 24) as terminal:
        terminal.tell(
            RunStarted(*PLACE, ("a",)), MigrationStarted(*place), BackfillStarted(*place, *["users"] * 2, 0, 100)
        )
        terminal.tell(MigrationProgressed(*place, 10, 100, 5.0), ReplicasAwaited(*place, 12.5, 0.0))
        terminal.shows("! In 'a' (1 of 1): waiting for replicas that are 12.5 s behind", "10 of 100")


def test_batch_that_is_retried() -> None:
    """A batch that is attempted again says why; the bar stays."""
    place = (*PLACE, "a", 1, 1)
    with Display(80, 24) as terminal:
        terminal.tell(
            RunStarted(*PLACE, ("a",)), MigrationStarted(*place), BackfillStarted(*place, *["users"] * 2, 0, 100)
        )
        terminal.tell(MigrationProgressed(*place, 10, 100, 5.0), MigrationRetried(*place, 2, ERROR))
        terminal.shows("! Retrying 'a' (1 of 1), attempt 2: ValueError: no login as ada:***", "10 of 100")


def test_waiting_for_the_servers() -> None:
    """That a run waits for the server, or for a majority, is a warning above the migration in progress."""
    place = (*PLACE, "a", 1, 1)
    with Display(80, 24) as terminal:
        terminal.tell(RunStarted(*PLACE, ("a",)), MigrationStarted(*place))
        terminal.tell(ServerAwaited(*PLACE, "to check the lease", 5.0, ERROR))
        terminal.shows("! Waiting for the server to check the lease (5.0 s so far)", "0 of 1")
        terminal.tell(MajorityAwaited(*PLACE, "to record 'a'", 35.0, ERROR))
        terminal.shows("! Waiting for a majority of the replica set to record 'a' (35.0 s so far)", "0 of 1")


def test_backfill_that_starts_over() -> None:
    """The warning that a backfill starts over stays on the screen."""
    place = (*PLACE, "a", 1, 1)
    with Display(100, 24) as terminal:
        terminal.tell(RunStarted(*PLACE, ("a",)), MigrationStarted(*place), BackfillRestarted(*place, "users", "users"))
        terminal.tell(
            BackfillStarted(*place, *["users"] * 2, 0, 100),
            MigrationApplied(*place, 1.0),
            RunFinished(*PLACE, ("a",)),
        )
        text = " ".join(terminal.end())
    assert "! In 'a' (1 of 1): backfill of 'users' starts over" in text


def test_waiting_for_another_instance() -> None:
    """The holder of the lease is shown, and how long the run has waited for it, also when it gives up."""
    with Display(40, 10) as terminal:
        terminal.tell(LeaseAwaited(*PLACE, HOLDER, 30.0), 4.0)
        terminal.shows("Waiting for web-1 (process 4242)", "34.0 s")
        terminal.press("\x03")
        assert terminal.ended() == 130
        assert "Stopped. Waiting for web-1 (process" in terminal.lines()[0]


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_failure(columns: int, lines: int) -> None:
    """Retries and warnings are shown without the password; a failure stays, with its class alone."""
    place = (*PLACE, "b", 2, 3)
    with Display(columns, lines) as terminal:
        terminal.tell(RecordsUnknown(*PLACE, ("newer",)), RunStarted(*PLACE, ("a", "b", "c")), *applied(["a"], total=3))
        terminal.tell(MigrationStarted(*place), MigrationRetried(*place, 2, ERROR))
        terminal.shows("! Retrying 'b' (2 of 3), attempt 2:")
        terminal.tell(3.0, MigrationFailed(*place, ERROR), LeaseNotReleased(*PLACE, 30.0, ERROR))
        terminal.tell(RunFailed(*PLACE, ERROR))
        text = " ".join(terminal.end())
        assert "! 1 applied migration not found in the code" in text
        assert "newer" in text
        assert "✗ b     3.0 s" in text
        assert "Failed to apply 'b' (2 of 3): ValueError ! Couldn't release" in text
        assert text.endswith("Stopped after 1 of 3")
        assert b"hunter2" not in terminal.written


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_interrupt(columns: int, lines: int) -> None:
    """Ctrl-C leaves what was done, what was interrupted, and a cursor."""
    with Display(columns, lines) as terminal:
        terminal.tell(RunStarted(*PLACE, ("a", "b", "c")), *applied(["a"], total=3))
        terminal.tell(MigrationStarted(*PLACE, "b", 2, 3), 2.0)
        terminal.shows("b     2.0 s", "○ c")
        terminal.press("\x03")
        assert terminal.ended() == 130
        shown = terminal.lines()
        assert shown[1:3] == ["✓ a     1.0 s", "✗ b     2.0 s"]
        assert " ".join(shown[3:]).startswith("Interrupted while applying 'b' (2 of 3)")
        assert not terminal.screen.cursor.hidden
        assert terminal.screen.cursor.x == 0


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_many_migrations(columns: int, lines: int) -> None:
    """Of 200, the screen shows those around the one in progress; each finished one is once in the scrollback."""
    names = [f"m{number:03}" for number in range(1, 201)]
    with Display(columns, lines) as terminal:
        terminal.tell(RunStarted(*PLACE, tuple(names)), *applied(names[:100], total=200))
        terminal.tell(MigrationStarted(*PLACE, "m101", 101, 200))
        shown = terminal.shows("m101", "○ m102", "more", "100 of 200")
        assert "✓ m100     1.0 s" in shown
        for name in names[100:]:
            terminal.tell(f"{name} prints [bold]\n", *applied([name], names.index(name) + 1, 200))
        terminal.tell(RunFinished(*PLACE, tuple(names)))
        everything = terminal.end()
    done = [line.split()[1] for line in everything if line.startswith("✓")]
    assert done == names
    assert [line for line in everything if "prints" in line] == [f"{name} prints [bold]" for name in names[100:]]
    assert everything[-1] == "Applied 200 migrations in 3 min 20 s"
    assert len(everything) == 302


@pytest.mark.parametrize(("columns", "lines"), SIZES)
def test_names(columns: int, lines: int) -> None:
    """Names are shown as they are: markup, wide letters; cut where they are too long; and what steers is harmless."""
    names = ["[bold]x[/bold]", "日本語の移行", "a\nb\x1b[2Jc\u202e", "long_" * 30, ":smile:"]
    with Display(columns, lines) as terminal:
        terminal.tell(RunStarted(*PLACE, tuple(names)), *applied(names), RunFinished(*PLACE, tuple(names)))
        everything = terminal.end()
    starts = ["✓ [bold]x[/bold] ", "✓ 日本語の移行 ", r"✓ a\nb\x1b[2Jc\u202e ", "✓ long_long_", "✓ :smile: "]
    rows = everything[1:-1]
    assert [row.startswith(start) for row, start in zip(rows, starts, strict=True)] == [True] * 5
    assert "…     1.0 s" in rows[3]
    assert all(row.endswith("  1.0 s") for row in rows)


def test_output_of_migrations() -> None:
    """What a migration prints is above the display, also a line without an end."""
    with Display(80, 24) as terminal:
        terminal.tell(RunStarted(*PLACE, ("a",)), MigrationStarted(*PLACE, "a", 1, 1), "one\ntwo [/b]")
        terminal.shows("one", "a    0.00 s")
        terminal.tell(MigrationApplied(*PLACE, "a", 1, 1, 1.0), RunFinished(*PLACE, ("a",)))
        lines = terminal.end()
    assert lines[1:] == ["one", "✓ a     1.0 s", "two [/b]", "Applied 1 migration in 0.00 s"]


def test_no_color() -> None:
    """With NO_COLOR nothing is coloured, and the signs show the states."""
    colour = re.compile(rb"\x1b\[[0-9;]*?\b(3[0-7]|38;[0-9;]+|9[0-7])m")
    written = []
    for environ in ({}, {"NO_COLOR": "1"}):
        with Display(80, 24, **environ) as terminal:
            terminal.tell(RunStarted(*PLACE, ("a", "b")), *applied(["a"], total=2))
            terminal.shows("✓ a", "○ b")
            written.append(terminal.written)
    assert [bool(colour.search(output)) for output in written] == [True, False]


@pytest.mark.parametrize("environ", [{"TERM": "dumb"}, {"PYTHONIOENCODING": "latin-1"}])
def test_terminal_without_abilities(environ: dict[str, str]) -> None:
    """A terminal that moves no cursor, or has no such signs, gets plain lines."""
    with Display(80, 24, **environ) as terminal:
        terminal.tell(MigrationStarted(*PLACE, "a", 1, 1))
        lines = terminal.end()
    assert lines[0].endswith("INFO    shop/app Applying 'a' (1 of 1)")
    assert b"\x1b" not in terminal.written


# numbers


def test_durations() -> None:
    """Times as people say them."""
    assert [format_duration(seconds) for seconds in (0, 0.25, 3.21, 59.94, 125.9, 3600, 4020)] == [
        "0.00 s",
        "0.25 s",
        "3.2 s",
        "59.9 s",
        "2 min 5 s",
        "1 h 0 min",
        "1 h 7 min",
    ]


def test_pace() -> None:
    """The rate counts from the first report, for a migration may go on where it was left; it begins again with it."""
    progress = Progress(90_000, 100_000, 0)
    assert str(progress) == "90%, 90,000 of 100,000"
    assert str(progress.update(90_015, 100_000, 10)) == "90%, 90,015 of 100,000, 1.5/s, 1 h 50 min left"
    assert str(progress.update(90_000, 100_000, 10)) == "90%, 90,000 of 100,000"
    assert (
        str(progress.update(10, 100_000, 10).update(110, 100_000, 11)) == "0%, 110 of 100,000, 100/s, 16 min 39 s left"
    )
    assert str(Progress(0, 0, 0)) == "0 of 0"
    assert str(Progress(-1, 10, 0)) == "0%, -1 of 10"
