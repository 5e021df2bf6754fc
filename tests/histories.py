"""What other tools store, as they wrote it: three migrations were applied, and the third was rolled back.

The documents of Mongock and Flamingock follow their documentation; the others were read from a server.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

from bson import ObjectId

from quaestor.status import Tool

FIRST, SECOND = datetime(2026, 1, 5, 7, 20, 14, 995000, UTC), datetime(2026, 1, 6, 7, 20, 15, 9000, UTC)
THIRD, LATER = datetime(2026, 1, 7, 7, 20, 16, tzinfo=UTC), datetime(2026, 1, 8, 7, 20, 17, tzinfo=UTC)


class History(NamedTuple):
    """The history of a tool."""

    tool: Tool
    collection: str
    theirs: tuple[str, str, str]
    ours: tuple[str, str, str]  # names that a person would give them here
    documents: list[dict[str, Any]]
    keeps_undone: bool  # whether an undone migration stays in the collection


def _make_mongomig(number: int, applied_at: datetime) -> dict[str, Any]:
    return {
        "_id": f"00000000000{number}",
        "revision": f"00000000000{number}",
        "down_revision": f"00000000000{number - 1}" if number > 1 else None,
        "description": f"step {number}",
        "status": "applied",
        "checksum": "sha256:d532cfedb0dedf9b2c818840c5eede1f5db6c8685e5e327ad8cc863a7ef2b984",
        "applied_at": applied_at,
        "execution_time_ms": 3,
        "mongomig_version": "0.4.2",
        "meta": {"environment": None, "hostname": "web-1", "user": None, "git_commit": None},
    }


def make_beanie(*entries: tuple[str, datetime], current: str = "") -> list[dict[str, Any]]:
    """Make a log of Beanie's; the last entry with the current name is the current one."""
    last = max((place for place, (name, _) in enumerate(entries) if name == current), default=-1)
    return [
        {"_id": ObjectId(f"6b0d23be970a0d2629fb{place:04x}"), "ts": date, "name": name, "is_current": place == last}
        for place, (name, date) in enumerate(entries)
    ]


def _make_change(name: str, state: str | None, date: datetime, **more: object) -> dict[str, Any]:
    document = {"executionId": "2026-01-05T07:20:14-1", "changeId": name, "author": "ada", "timestamp": date, **more}
    return document if state is None else document | {"state": state}


def make_changes(*changes: tuple[Any, ...], **more: object) -> list[dict[str, Any]]:
    """Make entries of Mongock or Flamingock: the change, its state and date."""
    return [{"_id": place} | _make_change(*change, **more) for place, change in enumerate(changes)]


_DIGITS = ("20260101000000", "20260102000000", "20260103000000")
_NAMES = ("20260101000000_step", "20260102000000_step", "20260103000000_step")
_FILES = ("20260101000000_step.py", "20260102000000_step.py", "20260103000000_step.py")
_SCRIPTS = ("20260101000000-step.js", "20260102000000-step.js", "20260103000000-step.js")
_REVISIONS = ("000000000001", "000000000002", "000000000003")
_REVISION_FILES = tuple(f"2026010{number}_0000_00000000000{number}_step" for number in (1, 2, 3))

HISTORIES = [
    History(
        "pymongo-migrate",
        "pymongo_migrate",
        _NAMES,
        _NAMES,
        [
            {"_id": ObjectId("6b0d23af2e73a15d1f716800"), "name": _NAMES[0], "applied": FIRST},
            {"_id": ObjectId("6b0d23af2e73a15d1f716804"), "name": _NAMES[1], "applied": SECOND},
            {"_id": ObjectId("6b0d23af2e73a15d1f716808"), "name": _NAMES[2], "applied": None},
        ],
        keeps_undone=True,
    ),
    History(
        "mongodb-migrations",
        "database_migrations",
        _DIGITS,
        _NAMES,
        [
            {"_id": ObjectId("6b0d23b1a854de84de757c2d"), "migration_datetime": _DIGITS[0], "created_at": FIRST},
            {"_id": ObjectId("6b0d23b1a854de84de757c2f"), "migration_datetime": _DIGITS[1], "created_at": SECOND},
        ],
        keeps_undone=False,
    ),
    History(
        "migrate-mongo",
        "changelog",
        _SCRIPTS,
        _NAMES,
        [
            {"fileName": _SCRIPTS[0], "appliedAt": FIRST, "migrationBlock": 1796023234601.0},
            {"fileName": _SCRIPTS[1], "appliedAt": SECOND, "migrationBlock": 1796023234601.0},
        ],
        keeps_undone=False,
    ),
    History(
        "mongrator",
        "mongrator_migrations",
        _NAMES,
        _NAMES,
        [
            {"_id": "_mongrator_lock", "expires_at": LATER, "locked": False, "locked_at": THIRD, "locked_by": "7@web"},
            {"_id": _NAMES[0], "applied_at": FIRST, "checksum": "23af", "direction": "up", "duration_ms": 2},
            {"_id": _NAMES[1], "applied_at": SECOND, "checksum": "ed17", "direction": "up", "duration_ms": 0},
            {"_id": _NAMES[2], "applied_at": THIRD, "checksum": "8adf", "direction": "down", "duration_ms": 2},
        ],
        keeps_undone=True,
    ),
    History(
        "mongomig",
        "__mongomig_migrations",
        _REVISIONS,
        (_REVISION_FILES[0], _REVISION_FILES[1], _REVISION_FILES[2]),
        [_make_mongomig(1, FIRST), _make_mongomig(2, SECOND)],
        keeps_undone=False,
    ),
    History(
        "beanie",
        "migrations_log",
        _FILES,
        _NAMES,
        make_beanie((_FILES[0], FIRST), (_FILES[1], SECOND), (_FILES[2], THIRD), (_FILES[1], LATER), current=_FILES[1]),
        keeps_undone=True,
    ),
    History(
        "mongock",
        "mongockChangeLog",
        _NAMES,
        _NAMES,
        [
            *make_changes(("system-change-00001", "EXECUTED", FIRST), systemChange=True),
            {"_id": 10} | _make_change(_NAMES[0], "EXECUTED", FIRST, type="EXECUTION"),
            {"_id": 11} | _make_change(f"{_NAMES[0]}_before", "EXECUTED", FIRST, type="BEFORE_EXECUTION"),
            {"_id": 12} | _make_change(_NAMES[0], "IGNORED", LATER),
            {"_id": 13} | _make_change(_NAMES[1], "EXECUTED", SECOND),
            {"_id": 14} | _make_change(_NAMES[2], "EXECUTED", THIRD),
            {"_id": 15} | _make_change(_NAMES[2], "ROLLED_BACK", LATER),
        ],
        keeps_undone=True,
    ),
    History(
        "flamingock",
        "flamingockAuditLog",
        _NAMES,
        _NAMES,
        make_changes(
            (_NAMES[0], "STARTED", FIRST),
            (_NAMES[0], "APPLIED", FIRST),
            (_NAMES[1], "FAILED", FIRST),
            (_NAMES[1], "MANUAL_MARKED_AS_APPLIED", SECOND),
            (_NAMES[2], "STARTED", THIRD),
            (_NAMES[2], "APPLIED", THIRD),
            (_NAMES[2], "ROLLED_BACK", THIRD),
        ),
        keeps_undone=True,
    ),
]
