"""What the log says of the lease and of transactions. (Of the rest: tests/sync/test_events.py.)"""

import logging

import pytest

from quaestor import Event, LeaseAwaited, LeaseNotReleased, MigrationRetried, SessionsNotEnded, log_event
from tests.world import lease

WHERE = ("shop", "app")


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
