"""A checkpoint as a value: how far a backfill is, and what comes next."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core.checkpoint import Checkpoint, Document, Reminder, Throttle, check_projection
from quaestor._core.lease import REPORT_INTERVAL
from quaestor.errors import InvalidOptionError


@pytest.mark.parametrize("size", [1, 1_000, 2**31 - 2])
@pytest.mark.parametrize("seconds", [0, 0.5, 86_400])
def test_throttle(size: int, seconds: float) -> None:
    """A batch and one more document is a limit that the server takes; a pause lasts up to a day."""
    throttle = Throttle(size, seconds, seconds)
    assert (throttle.size, throttle.pause, throttle.max_lag) == (size, seconds, seconds)
    assert throttle.rests


def test_throttle_that_rests() -> None:
    """By default a backfill doesn't rest between two batches; a lag of 0 is one to wait for."""
    assert not Throttle().rests
    assert Throttle(pause=0.1).rests
    assert Throttle(max_lag=0).rests


@pytest.mark.parametrize("size", [0, -1, 2**31 - 1, 1.0, True, "1000", None])
def test_bad_size(size: Any) -> None:
    """A size is a whole number of documents; the error shows the argument."""
    with pytest.raises(InvalidOptionError, match=r"^size") as caught:
        Throttle(size)
    assert repr(size) in str(caught.value)


@pytest.mark.parametrize("seconds", [-1, -0.1, float("nan"), float("inf"), 86_401, True, "1", b""])
@pytest.mark.parametrize("option", ["pause", "max_lag"])
def test_bad_seconds(option: str, seconds: Any) -> None:
    """A time is a number of seconds, up to a day; the error names the option."""
    with pytest.raises(InvalidOptionError, match=rf"^{option}"):
        Throttle(**{option: seconds})


def test_pause_of_none() -> None:
    """None is a max_lag, but no pause."""
    with pytest.raises(InvalidOptionError, match=r"^pause"):
        Throttle(pause=None)  # type: ignore[arg-type]  # that is what is tested


@pytest.mark.parametrize(
    "projection", [None, {}, {"name": 1}, {"_id": 1}, {"_id": True, "name": 1}, {"name": 0}, [], ["name"], ("name",)]
)
def test_projection(projection: Any) -> None:
    """A projection that keeps the `_id` is accepted."""
    check_projection(projection)


@pytest.mark.parametrize(
    "projection",
    [{"_id": 0}, {"_id": False, "name": 1}, {"_id": "$name"}, {"_id": {"$add": [1]}}, {"_id.a": 1}, ["_id.a"]],
)
def test_projection_without_id(projection: Any) -> None:
    """A projection that drops or replaces the `_id` is refused, because checkpoints are `_id`s."""
    with pytest.raises(InvalidOptionError, match="`_id`"):
        check_projection(projection)


@pytest.mark.parametrize("projection", ["name", b"name", 1, {"name"}])
def test_bad_projection(projection: Any) -> None:
    """A projection is a dict or a list of fields."""
    with pytest.raises(InvalidOptionError, match=r"^projection"):
        check_projection(projection)


@pytest.mark.parametrize("projection", [[1], [b"name"], ["name", None], {1: 1}])
def test_projection_without_names(projection: Any) -> None:
    """Names of fields are str."""
    with pytest.raises(InvalidOptionError, match=r"^projection"):
        check_projection(projection)


def documents(count: int) -> list[Document]:
    return [{"_id": number} for number in range(count)]


def test_next_batch() -> None:
    """The next batch starts at the document behind the batch."""
    started = Checkpoint((9, "z"), (), batches=3, done=30, total=50, collection_id=b"one")

    batch, after = started.advance(documents(3), 2)

    assert batch == documents(2)
    assert after == Checkpoint((9, "z"), (2,), batches=4, done=32, total=50, collection_id=b"one")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_last_batch_of_a_type(count: int) -> None:
    """After the last batch of a type, which may be full or empty, the next type starts."""
    batch, after = Checkpoint((9, "z"), (5,), done=30).advance(documents(count), 2)

    assert batch == documents(count)
    assert after == Checkpoint(("z",), (), batches=1, done=30 + count)


def test_none_is_a_start() -> None:
    """None is an `_id` at which a batch can start."""
    batch, after = Checkpoint((None,)).advance([{"_id": 0}, {"_id": None}], 1)
    assert batch == [{"_id": 0}]
    assert after.start == (None,)


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


@given(count=st.integers(0, 50), size=st.integers(1, 12))
def test_all_batches(count: int, size: int) -> None:
    """All batches together are all documents, in order; only the last is smaller."""
    here, seen, sizes = Checkpoint((count,)), [], []
    while here.bounds:
        start = here.start[0] if here.start else 0
        assert isinstance(start, int)
        batch, here = here.advance(documents(count)[start : start + size + 1], size)
        seen += batch
        sizes.append(len(batch))
    assert seen == documents(count)
    assert here.done == count
    assert here.batches == len(sizes)
    assert set(sizes[:-1]) <= {size}


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
