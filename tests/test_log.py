"""The messages of events about the lease, transactions and backfills, and their levels in the log.

(The other messages: tests/async/test_events.py.)
"""

import logging
import subprocess
import sys

import pytest

from quaestor import (
    BackfillReset,
    BackfillRestarted,
    BackfillStarted,
    CollectionMissing,
    DatabaseFinished,
    Event,
    HistoryNotWritten,
    LeaseAwaited,
    LeaseNotReleased,
    MajorityAwaited,
    MigrationFailed,
    MigrationProgressed,
    MigrationRetried,
    MigrationsWaiting,
    PrimaryChanged,
    ReplicasAwaited,
    RollbackStarted,
    RunFailed,
    RunStarted,
    ServerAwaited,
    SessionsNotEnded,
    log_event,
)
from tests.world import LONG_AGO, lease

WHERE = ("shop", "app", "r1")
PLACE = (*WHERE, "a", 1, 2)


class Silent(Exception):
    def __str__(self) -> str:
        raise TypeError


BOTH = BaseExceptionGroup("both", [KeyboardInterrupt(), SystemExit(1)])


@pytest.mark.parametrize(
    ("event", "level", "facts"),
    [
        (LeaseAwaited(*WHERE, lease(), 0.004), logging.INFO, ["Waiting for the lease, held by host (process 7)"]),
        (LeaseAwaited(*WHERE, lease(), 61.2), logging.WARNING, ["Waiting", "lease", "1 min 1 s", "host (process 7)"]),
        (
            ServerAwaited(*WHERE, "to record 'a'", 65.2, OSError("x")),
            logging.WARNING,
            ["the server to record 'a'", "1 min 5 s", "no majority confirms", "OSError: x"],
        ),
        (
            MajorityAwaited(*WHERE, "to record 'a'", 65.2, OSError("x")),
            logging.WARNING,
            ["a majority", "to record 'a'", "1 min 5 s", "a data-bearing member is down or behind"],
        ),
        (SessionsNotEnded(*WHERE, PermissionError("no")), logging.WARNING, ["a minute", "PermissionError: no"]),
        (LeaseNotReleased(*WHERE, 30, OSError()), logging.WARNING, ["lease", "expires", "30.0 s", "OSError"]),
        (
            HistoryNotWritten(*WHERE, "rolled_back", "a", OSError("x")),
            logging.WARNING,
            ["'a', rolled back", "OSError: x"],
        ),
        (HistoryNotWritten(*WHERE, "unlocked", None, OSError()), logging.WARNING, ["The lease, unlocked", "OSError"]),
        (PrimaryChanged(*PLACE), logging.WARNING, ["'a' (1 of 2)", "primary", "changed", "rolled back"]),
        (MigrationRetried(*PLACE, 3, OSError("x")), logging.INFO, ["'a' (1 of 2)", "attempt 3", "OSError: x"]),
        (MigrationRetried(*PLACE, 2, None), logging.INFO, ["'a' (1 of 2)", "attempt 2"]),
        (MigrationFailed(*PLACE, KeyboardInterrupt()), logging.ERROR, ["Interrupted", "applying 'a' (1 of 2)"]),
        (MigrationFailed(*PLACE, SystemExit(0)), logging.ERROR, ["Failed to apply 'a'", "SystemExit: 0"]),
        (MigrationFailed(*PLACE, OSError("x"), undo=True), logging.ERROR, ["Failed to roll back 'a'", "OSError: x"]),
        (MigrationFailed(*PLACE, Silent()), logging.ERROR, ["Failed to apply 'a' (1 of 2): Silent"]),
        (BackfillStarted(*PLACE, "users", "users", 0, None), logging.INFO, ["'a' (1 of 2)", "'users' starts"]),
        (BackfillStarted(*PLACE, "users", "users", 0, 12_345), logging.INFO, ["starts", "about 12,345 documents"]),
        (BackfillStarted(*PLACE, "users", "users", 1000, None), logging.INFO, ["resumes", "1,000 documents"]),
        (BackfillStarted(*PLACE, "old", "users", 1000, 9000), logging.INFO, ["'old' of 'users'", "1,000 of 9,000"]),
        (CollectionMissing(*PLACE, "users", "users"), logging.WARNING, ["'a'", "there is no collection 'users'"]),
        (
            MigrationsWaiting(*WHERE, {"a": LONG_AGO, "b": None}, ("c",), ("d",)),
            logging.INFO,
            [
                "4 migrations left for later: a (delayed until 2026-01-01 00:00 UTC), b (delayed, its",
                "are pending), c (depends on a delayed one), d (phase post_deploy)",
            ],
        ),
        (BackfillReset(*WHERE, ("a",), "users"), logging.INFO, ["'users' of 'a' starts over in the next run"]),
        (BackfillRestarted(*PLACE, "users", "users"), logging.WARNING, ["'a'", "'users' starts over", "again"]),
        (ReplicasAwaited(*PLACE, 12.4, 61.2), logging.INFO, ["'a' (1 of 2)", "12.4 s behind", "1 min 1 s"]),
        (MigrationProgressed(*PLACE, 1000, None, due=True), logging.INFO, ["'a' (1 of 2): 1,000"]),
        (
            MigrationProgressed(*PLACE, 1000, 9000, 412.6, due=True),
            logging.INFO,
            ["'a' (1 of 2): 1,000 of 9,000", "413/s", "20 s left"],
        ),
        (MigrationProgressed(*PLACE, 1000, 9000, 412.6), logging.DEBUG, ["1,000 of 9,000"]),
        (RunFailed(*WHERE, OSError("x")), logging.ERROR, ["Run failed", "OSError: x"]),
        (RunFailed(*WHERE, KeyboardInterrupt(), work="rollback"), logging.ERROR, ["Rollback interrupted"]),
        (RunFailed(*WHERE, BOTH), logging.ERROR, ["Run failed", "both"]),
        # Events before it have the message.
        (DatabaseFinished(*WHERE, (), OSError("x")), logging.ERROR, ["Ended with an error: OSError"]),
        # The end of the run says the same.
        (DatabaseFinished(*WHERE, ("a",)), logging.DEBUG, ["1 migration applied"]),
        (DatabaseFinished(*WHERE, (), rolled_back=("a",), work="rollback"), logging.DEBUG, ["1 migration rolled back"]),
        (DatabaseFinished(*WHERE, (), marked=("a", "b"), work="mark"), logging.DEBUG, ["2 migrations marked"]),
        (DatabaseFinished(*WHERE, (), work="rollback"), logging.DEBUG, ["0 migrations rolled back"]),
        (RunStarted(*WHERE, ()), logging.DEBUG, ["0 migrations"]),
        (RollbackStarted(*WHERE, ()), logging.DEBUG, ["0 migrations"]),
    ],
)
def test_log(event: Event, level: int, facts: list[str], caplog: pytest.LogCaptureFixture) -> None:
    """Each event is one record at its level: its message after the database and the prefix, which are attributes too,
    as are the run and the migration.
    """
    with caplog.at_level(logging.DEBUG, "quaestor"):
        log_event(event)

    (record,) = caplog.records
    assert record.levelno == level
    assert record.getMessage() == f"[shop/app] {event}"
    attributes = {"database": "shop", "prefix": "app", "run": "r1", "migration": getattr(event, "name", None)}
    assert attributes.items() <= vars(record).items()
    assert [fact for fact in facts if fact not in str(event)] == []


def test_log_configured_after_the_import() -> None:
    """A dictConfig that comes after the import of the package disables none of its loggers."""
    program = """
import logging.config
import quaestor, quaestor.registry, quaestor.context, quaestor.cli.app
logging.config.dictConfig({"version": 1})  # disables the existing loggers, by default
quaestor.log_event(quaestor.RunFinished("shop", "app", "r1", ()))
print([name for name, made in logging.root.manager.loggerDict.items() if name.startswith("quaestor") and made.disabled])
"""
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert output.stdout == "[]\n"
