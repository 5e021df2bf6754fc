"""A checkpoint as a value: how far a backfill is, and what comes next."""

from typing import Any

import pytest

from quaestor._core.checkpoint import Checkpoint, Throttle, check_projection, is_same_collection
from quaestor._core.lease import REPORT_INTERVAL, Reminder
from quaestor.errors import InvalidOptionError


@pytest.mark.parametrize(
    "options",
    [
        *({"size": size} for size in [0, -1, 2**31 - 1, 1.0, True, "1000", None]),
        *({"max_bytes": number} for number in [0, 1.5, True, None]),
        *({"pause": seconds} for seconds in [-1, float("nan"), float("inf"), 86_401, True, "1", None]),
        {"max_lag": -0.1},
    ],
)
def test_bad_throttle(options: dict[str, Any]) -> None:
    """A size is a whole number of documents, a time a number of seconds, up to a day; the error names the option."""
    with pytest.raises(InvalidOptionError, match=rf"^{next(iter(options))}"):
        Throttle(**options)


@pytest.mark.parametrize(
    "projection",
    [
        *[{"_id": 0}, {"_id": False, "name": 1}, {"_id": "$name"}, {"_id": {"$add": [1]}}, {"_id.a": 1}, ["_id.a"]],
        *["name", b"name", 1, {"name"}, [1], [b"name"], ["name", None], {1: 1}],
    ],
)
def test_bad_projection(projection: Any) -> None:
    """A projection is a dict or a list of fields. It keeps the `_id`, because checkpoints are `_id`s."""
    with pytest.raises(InvalidOptionError, match=r"^projection"):
        check_projection(projection)


@pytest.mark.parametrize(
    "projection", [None, {}, {"name": 1}, {"_id": 1}, {"_id": True, "name": 1}, {"name": 0}, [], ["name"], ("name",)]
)
def test_projection(projection: Any) -> None:
    """A projection that keeps the `_id` is accepted."""
    check_projection(projection)


def test_same_collection() -> None:
    """Collections are compared by UUID, as far as the server says; a missing one (b"") differs from others."""
    answers = [b"one", b"two", b"", None]
    assert [is_same_collection(b"one", answer) for answer in answers] == [True, False, False, True]
    assert [is_same_collection(None, answer) for answer in answers] == [True] * 4
    assert is_same_collection(b"", b"")


def test_estimate() -> None:
    """The total is exact at the end. Before, an estimate that was too low is unknown, and never shown as 100%."""
    assert Checkpoint((9,), done=3, total=None).estimate is None
    assert Checkpoint((9,), done=3, total=10).estimate == 10
    assert Checkpoint((9,), done=10, total=10).estimate is None
    assert Checkpoint((9,), done=11, total=10).estimate is None
    assert Checkpoint((), done=7, total=10).estimate == 7
    assert Checkpoint((), done=11, total=None).estimate == 11


def test_reminder() -> None:
    """A report is due again after a while."""
    reminder = Reminder(100.0)
    times = [0.0, REPORT_INTERVAL - 0.1, REPORT_INTERVAL, REPORT_INTERVAL + 1, 2 * REPORT_INTERVAL]
    assert [reminder.is_due(100 + now) for now in times] == [False, False, True, False, True]
    assert reminder.reported_at == 100 + 2 * REPORT_INTERVAL
