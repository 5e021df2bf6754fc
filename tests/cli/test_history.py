"""`history` and `show`: who did what and when, and everything about one migration; failures in the status."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console, Group

from quaestor import HistoryEntry
from quaestor.cli.history_reports import parse_since, report_history
from quaestor.cli.settings import CommandError
from quaestor.status import Happening, MigrationRecord, RecordedError
from tests.cli.conftest import Project
from tests.cli.tenants import tenants
from tests.cli.test_commands import PASSING, lines
from tests.leases import HELD

NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def live(project: Project) -> None:
    """Let something of each kind happen: `first` fails, is applied and rolled back; `aside` is applied."""
    project.quaestor("run", "first", FAILS="boom", code=1)
    project.quaestor("run", "first", QUAESTOR_RELEASE="1.4.2")
    project.quaestor("rollback", "first", "--yes")
    project.quaestor("mark", "applied", "first", "second")
    project.quaestor("mark", "pending", "second")
    project.quaestor("run", "aside")


def test_history(project: Project) -> None:
    """A line for each entry, newest first: when, of which migration, what, and of a failure why."""
    live(project)
    output, _ = project.quaestor("history")
    rows = lines(output)
    assert rows[0][:4] == ["when", "(UTC)", "migration", "what"]
    assert [(row[0], *row[3:5]) for row in rows[1:]] == [
        ("✓", "aside", "applied"),
        ("○", "second", "marked"),
        ("✓", "second", "marked"),
        ("✓", "first", "marked"),
        ("○", "first", "rolled"),
        ("✗", "first", "failed"),
    ]
    assert "ValueError: boom" in output
    assert "1.4.2" not in output  # of the record that the rollback has removed


def test_chosen_entries(project: Project) -> None:
    """Names, --failed and --since choose among the entries; a name that nobody knows is a misuse."""
    live(project)
    assert len(lines(project.quaestor("history", "aside")[0])) == 1 + 1
    assert len(lines(project.quaestor("history", "first", "aside")[0])) == 1 + 4
    assert len(lines(project.quaestor("history", "--failed")[0])) == 1 + 1
    assert len(lines(project.quaestor("history", "--since", "2h")[0])) == 1 + 6
    assert "no such entry" in project.quaestor("history", "--since", "2999-01-01")[0]
    assert "no such entry" in project.quaestor("history", "aside", "--failed")[0]
    assert "'frist'" in project.quaestor("history", "frist", code=2)[1]
    assert "--since must be" in project.quaestor("history", "--since", "yesterday", code=2)[1]


def test_history_as_json(project: Project) -> None:
    """All fields, for programs."""
    live(project)
    applied, *_, rolled_back, failed = json.loads(project.quaestor("history", "--json")[0])
    assert (applied["what"], applied["name"], applied["record"]["source"]) == ("applied", "aside", "run")
    assert applied["at"].endswith("+00:00")
    assert rolled_back["record"]["release"] == "1.4.2"
    assert failed["error"] == {"type": "ValueError", "message": "boom"}
    assert len({applied["run"], rolled_back["run"], failed["run"]}) == 3


def test_empty_history(project: Project) -> None:
    """Before anything has happened, it says so."""
    assert "no such entry" in project.quaestor("history")[0]
    assert json.loads(project.quaestor("history", "--json")[0]) == []


@pytest.mark.parametrize(
    ("text", "date"),
    [
        ("30m", NOW - timedelta(minutes=30)),
        ("12h", NOW - timedelta(hours=12)),
        ("7d", NOW - timedelta(days=7)),
        ("2w", NOW - timedelta(days=14)),
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01T10:00", datetime(2026, 11, 1, 10, tzinfo=UTC)),
        ("2026-11-01T10:00+02:00", datetime(2026, 11, 1, 8, tzinfo=UTC)),
    ],
)
def test_since(text: str, date: datetime) -> None:
    """An age before now, or a date, in UTC unless it says otherwise."""
    assert parse_since(text, NOW) == date


@pytest.mark.parametrize(
    "text", ["", "7", "d", "-7d", "7 days", "99999999999d", "2026-13-01", "\N{ARABIC-INDIC DIGIT ONE}d"]
)
def test_wrong_since(text: str) -> None:
    """Everything else is refused, before the server is asked."""
    with pytest.raises(CommandError, match="--since"):
        parse_since(text, NOW)


def entry(what: Happening, name: str | None = "split_the_names_of_users", **fields: Any) -> HistoryEntry:
    who: dict[str, Any] = {"run": "0123456789abcdef", "host": "web-7d4b9", "user": "deploy", "release": "1.4.2"}
    return HistoryEntry(what, name, NOW, **(who | fields))


@pytest.mark.parametrize("width", [60, 80, 120, 10_000])
def test_width(width: int) -> None:
    """On every terminal each entry is one line that fits, with its date, migration and what happened."""
    entries = [
        entry("failed", error=RecordedError("ValueError", "a long story " * 20), duration_ms=3200),
        entry("failed", undo=True, error=RecordedError("KeyError", "")),
        entry("rolled_back", duration_ms=125_000, record=MigrationRecord(NOW)),
        entry("restarted", backfill="users"),
        entry("unlocked", None),
        entry("applied", duration_ms=30, record=MigrationRecord(NOW)),
        entry("applied", record=MigrationRecord(NOW, source="replaces")),
    ]
    console = Console(width=width)
    with console.capture() as captured:
        console.print(Group(*report_history(entries, width)))
    shown = [line.rstrip() for line in captured.get().splitlines()]

    assert len(shown) == 1 + len(entries)
    assert max(map(cell_len, shown)) <= width
    assert all("2026-11-30 12:00" in line for line in shown[1:])
    assert "rollback failed" in shown[2]
    assert "applied" in shown[6]
    assert "recorded" in shown[7]  # by a replacement, without a call of its function
    if width >= 120:
        assert "ValueError: a long story" in shown[1]
        assert "2 min 5 s; was applied" in shown[3]
        assert "backfill users" in shown[4]
        assert "deploy@web-7d4b9" in shown[5]


# Failures in the status


def test_failed_migration(project: Project) -> None:
    """The status and the graph show a failed migration as failed, with when and what, until it is applied."""
    project.quaestor("run", "first", FAILS="boom", code=1)
    for command, code in (("status", 0), ("check", 1)):
        output, _ = project.quaestor(command, code=code)
        (said,) = [line for line in output.splitlines() if line.startswith("first failed at 20")]
        assert said.endswith("UTC: ValueError: boom")
    output, _ = project.quaestor("status")
    assert lines(output)[2][:3] == ["✗", "first", "failed"]
    assert "2 pending, 1 failed." in output
    assert "1 failed" in project.quaestor("graph", "--format", "html")[0]
    assert "✗" in project.quaestor("graph")[0]

    project.quaestor("run", "first")
    assert "failed" not in project.quaestor("status")[0]
    assert "first failed" not in project.quaestor("check", code=1)[0]


def test_failed_rollback(project: Project) -> None:
    """A migration whose rollback has failed is still applied; the reason is shown."""
    failing = "@registry.register_rollback('first')\ndef undo_first(db):\n    raise ValueError('stuck')\n"
    text = (project.folder / "shop/migrations/first.py").read_text()
    project.quaestor("run", "first")
    project.write("shop/migrations/first.py", text.partition("@registry.register_rollback")[0] + failing)
    project.quaestor("rollback", "first", "--yes", code=1)
    output, _ = project.quaestor("status")
    assert "✓  first" in output
    assert "The rollback of first failed at" in output
    assert "rollback failed" in project.quaestor("history")[0]


def test_failures_in_many_databases(project: Project) -> None:
    """The table of a pattern counts them, and the reasons name their databases."""
    with tenants(project, 2) as made:
        made.open_the_gate()
        project.quaestor("run", FAILS="01", code=1)
        output, _ = project.quaestor("status")
        assert "failed" in output.splitlines()[0]
        assert f"{made.names[1]}: second failed at" in output


# Everything about one migration


def show(project: Project, name: str) -> dict[str, str]:
    """The rows of the table: titles and facts."""
    output, _ = project.quaestor("show", name)
    head, _, _ = output.partition("\n\n")
    rows = [line.split(maxsplit=1) for line in head.splitlines()[1:]]
    return dict(rows)


def test_show(project: Project) -> None:
    """What it does, where its code is, what it needs and what needs it, its record, and its history."""
    live(project)
    output, _ = project.quaestor("show", "first")
    facts = show(project, "first")
    assert output.startswith("✓ first: applied\n")
    assert facts["description"] == "What comes first."
    assert facts["code"].startswith("shop/migrations/first.py:")
    assert facts["rollback"].startswith("shop/migrations/first.py:")
    assert facts["code"] != facts["rollback"]
    assert facts["needed"].split() == ["by", "second", "(pending)"]
    assert facts["recorded"].endswith("UTC")
    assert "ValueError: boom" in output
    assert "rolled back" in output

    second = show(project, "second")
    assert second["needs"] == "first (applied)"
    assert second["kind"] == "in a transaction with its record"
    assert "recorded" not in second
    assert show(project, "aside")["rollback"] == "none"


def test_show_as_json(project: Project) -> None:
    """All of it, for programs; what isn't there is null."""
    live(project)
    shown = json.loads(project.quaestor("show", "first", "--json")[0])
    assert (shown["name"], shown["state"], shown["needed_by"]) == ("first", "applied", ["second"])
    assert shown["status"]["description"] == "What comes first."
    assert shown["code"].startswith("shop/migrations/first.py:")
    assert shown["record"]["what"] == "marked_applied"
    assert len(shown["history"]) == 3
    assert json.loads(project.quaestor("show", "second", "--json")[0])["record"] is None


def test_show_progress(project: Project) -> None:
    """A failed backfill: how far it is, and why; and who is at it now."""
    project.write("shop/migrations/aside.py", PASSING)
    project.db.things.insert_many([{"_id": number} for number in range(250)])
    project.quaestor("run", "aside", FAILS="boom", code=1)
    facts = show(project, "aside")
    assert facts["backfills"].startswith("things: 40%, 100 of 250; 20")
    assert facts["failed"].endswith("UTC: ValueError: boom")
    project.db.app_migrations_lock.replace_one({"_id": "lease"}, HELD | {"migrations": ["aside"]})
    assert project.quaestor("show", "aside")[0].startswith("▸ aside: running\n")


def test_show_what_the_code_lacks(project: Project) -> None:
    """A migration that is only recorded, or only in the history, is shown as far as it is known."""
    project.db.app_migrations.insert_one({"_id": "x", "name": "from tomorrow", "appliedAt": NOW})
    output, _ = project.quaestor("show", "from tomorrow")
    assert output.startswith("? from tomorrow: unknown\n")
    assert "not registered" in output
    assert "2026-11-30 12:00:00 UTC" in output

    project.quaestor("mark", "pending", "from tomorrow")
    output, _ = project.quaestor("show", "from tomorrow")
    assert output.startswith("from tomorrow\n")
    assert "marked pending" in output
    assert json.loads(project.quaestor("show", "from tomorrow", "--json")[0])["state"] == "absent"

    assert "'frist'" in project.quaestor("show", "frist", code=2)[1]


def test_long_history(project: Project) -> None:
    """The history of a migration that has failed for months is cut, and the way to the rest is shown."""
    project.db.app_migrations_history.insert_many([{"what": "failed", "name": "first", "at": NOW} for _ in range(30)])
    assert "And 10 more: quaestor history first" in project.quaestor("show", "first")[0]


GUARDED = """
from shop.migrations import registry

@registry.register("aside", after_crash="stop")
def aside(db):
    db.effects.insert_one({"_id": "CHANGES"})

@registry.register_precondition("aside")
def is_empty(db):
    return True

@registry.register_verification("aside")
def is_there(db):
    return True
"""


def test_show_guards(project: Project) -> None:
    """Where its guards are, that it stops after a crash, and that it has changed since it was applied."""
    project.write("shop/migrations/aside.py", GUARDED)
    project.quaestor("run", "aside")
    assert "changed" not in show(project, "aside")
    project.write("shop/migrations/aside.py", GUARDED.replace("CHANGES", "changed"))
    facts = show(project, "aside")
    assert facts["preconditions"].startswith("shop/migrations/aside.py:")
    assert facts["verifications"].startswith("shop/migrations/aside.py:")
    assert facts["changed"] == "since it was applied"
    assert "after a crash" in project.quaestor("show", "aside")[0]
    shown = json.loads(project.quaestor("show", "aside", "--json")[0])
    assert (shown["after_crash"], shown["status"]["changed"]) == ("stop", True)
