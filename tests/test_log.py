"""What the log says of the lease, of transactions and of passes. (Of the rest: tests/sync/test_events.py.)"""

import logging

import pytest

from quaestor import (
    DatabaseFinished,
    Event,
    LeaseAwaited,
    LeaseNotReleased,
    MigrationProgressed,
    MigrationRetried,
    PassChanged,
    PassStarted,
    ReplicasAwaited,
    SessionsNotEnded,
    log_event,
)
from tests.world import lease

WHERE = ("shop", "app")
PLACE = (*WHERE, "a", 1, 2)


@pytest.mark.parametrize(
    ("event", "level", "words"),
    [
        (
            LeaseAwaited(*WHERE, lease(), 61.2),
            logging.INFO,
            "Waiting, for 61 s by now, for the migrations of host (pro",
        ),
        (SessionsNotEnded(*WHERE, PermissionError("no")), logging.WARNING, "for a minute. PermissionError: no"),
        (LeaseNotReleased(*WHERE, 30, OSError()), logging.WARNING, "and ends by itself in 30 s. OSError"),
        (MigrationRetried(*WHERE, "a", 1, 2, 3, OSError("x")), logging.INFO, "Attempt 3 at 'a' (1 of 2): OSError: x"),
        (MigrationRetried(*WHERE, "a", 1, 2, 2, None), logging.INFO, "Attempt 2 at 'a' (1 of 2)"),
        (PassStarted(*PLACE, "users", 0, None), logging.INFO, "'a' goes over 'users'"),
        (PassStarted(*PLACE, "users", 0, 12_345), logging.INFO, "'a' goes over 'users', about 12,345 documents"),
        (PassStarted(*PLACE, "users", 1000, None), logging.INFO, "'a' goes on over 'users', after 1,000 documents"),
        (
            PassStarted(*PLACE, "users", 1000, 12_345),
            logging.INFO,
            "'a' goes on over 'users', after 1,000 of 12,345 documents",
        ),
        (PassChanged(*PLACE, "users"), logging.WARNING, "'a' begins anew over 'users': an earlier attempt was in a"),
        (
            ReplicasAwaited(*PLACE, 12.4, 61.2),
            logging.INFO,
            "'a' waits, for 61 s by now, for replicas that are 12 s behind",
        ),
        (MigrationProgressed(*PLACE, 1000, None, due=True), logging.INFO, "'a': 1,000"),
        (DatabaseFinished(*WHERE, (), OSError("x")), logging.ERROR, "Ended with an error. OSError: x"),
        (MigrationProgressed(*PLACE, 1000, 9000, 412.6, due=True), logging.INFO, "'a': 1,000 of 9,000, 413 a second"),
    ],
)
def test_log(event: Event, level: int, words: str, caplog: pytest.LogCaptureFixture) -> None:
    """One sentence each, with the place and the reason."""
    with caplog.at_level(logging.INFO, "quaestor"):
        log_event(event)

    (record,) = caplog.records
    assert record.levelno == level
    assert record.getMessage().startswith("[shop/app] ")
    assert words in record.getMessage()


def test_database_that_ended_well(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing more is said of it: the end of its run has been."""
    with caplog.at_level(logging.DEBUG, "quaestor"):
        log_event(DatabaseFinished(*WHERE, ("a",)))

    assert caplog.records == []


def test_progress_that_is_not_due(caplog: pytest.LogCaptureFixture) -> None:
    """What a migration says of its progress in between is there for those who ask for it: DEBUG."""
    with caplog.at_level(logging.DEBUG, "quaestor"):
        log_event(MigrationProgressed(*PLACE, 1000, 9000, 412.6))

    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.DEBUG, "[shop/app] 'a': 1,000 of 9,000, 413 a second")
