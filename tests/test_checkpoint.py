"""A checkpoint as a value: how far a backfill is, and what comes next."""

from typing import Any

import pytest

from quaestor._core.checkpoint import Checkpoint, Document, Throttle, check_projection
from quaestor._core.lease import REPORT_INTERVAL, Reminder
from quaestor.errors import InvalidOptionError


@pytest.mark.parametrize(
    "options",
    [
        *({"size": size} for size in [0, -1, 2**31 - 1, 1.0, True, "1000", None]),
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


def documents(count: int) -> list[Document]:
    return [{"_id": number} for number in range(count)]


@pytest.mark.parametrize(("one", "other"), [(1, 1), ("a", "a"), ({"a": 1}, {"a": 1})])
def test_id_that_comes_twice(one: object, other: object) -> None:
    """A batch that would start at the `_id` with which the last one ended is refused: it could come again forever."""
    with pytest.raises(InvalidOptionError, match="two shards") as caught:
        Checkpoint((9,)).advance([{"_id": 0}, {"_id": one}, {"_id": other}], 2)
    assert repr(other) in str(caught.value)


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (1, 2), (1.5, "1.5")])
def test_ids_that_differ(one: object, other: object) -> None:
    """`_id`s that are equal in Python, but not in MongoDB, differ."""
    batch, after = Checkpoint((9,)).advance([{"_id": one}, {"_id": other}], 1)
    assert (batch, after.start) == ([{"_id": one}], (other,))


def test_collection_of_a_checkpoint() -> None:
    """Collections are compared by UUID, as far as the server says; a missing one (b"") differs from others."""
    known, unknown = Checkpoint(collection_id=b"one"), Checkpoint()
    answers = [b"one", b"two", b"", None]
    assert [known.is_of(answer) for answer in answers] == [True, False, False, True]
    assert [unknown.is_of(answer) for answer in answers] == [True] * 4
    assert Checkpoint(collection_id=b"").is_of(b"")


def test_estimate() -> None:
    """The total is estimated: it is never less than what is done, and exact at the end."""
    assert Checkpoint((9,), done=3, total=None).estimate is None
    assert Checkpoint((9,), done=3, total=10).estimate == 10
    assert Checkpoint((9,), done=11, total=10).estimate == 11
    assert Checkpoint((), done=7, total=10).estimate == 7
    assert Checkpoint((), done=11, total=10).estimate == 11


def test_reminder() -> None:
    """A report is due again after a while."""
    reminder = Reminder(100.0)
    times = [0.0, REPORT_INTERVAL - 0.1, REPORT_INTERVAL, REPORT_INTERVAL + 1, 2 * REPORT_INTERVAL]
    assert [reminder.is_due(100 + now) for now in times] == [False, False, True, False, True]
    assert reminder.reported_at == 100 + 2 * REPORT_INTERVAL
