"""A pass as values: what can be asked for, and what comes next."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core.checkpoint import Checkpoint, Document, Pace, Reminder, check_projection
from quaestor._core.lease import ANNOUNCED_EVERY
from quaestor.errors import InvalidOptionError


@pytest.mark.parametrize("size", [1, 1_000, 2**31 - 2])
@pytest.mark.parametrize("seconds", [0, 0.5, 86_400])
def test_pace(size: int, seconds: float) -> None:
    """A batch and one more document is a number that the server takes; a pass may wait for up to a day."""
    pace = Pace(size, seconds, seconds)
    assert (pace.size, pace.pause, pace.max_lag) == (size, seconds, seconds)
    assert pace.rests


def test_pace_that_rests() -> None:
    """A pass stops between two batches only where it was told to: a lag of nothing is one to wait for."""
    assert not Pace().rests
    assert Pace(pause=0.1).rests
    assert Pace(max_lag=0).rests


@pytest.mark.parametrize("size", [0, -1, 2**31 - 1, 1.0, True, "1000", None])
def test_size_that_cannot_be(size: Any) -> None:
    """A size is a whole number of documents that a server takes; the error says what was given."""
    with pytest.raises(InvalidOptionError, match="size must be a whole number") as caught:
        Pace(size)
    assert repr(size) in str(caught.value)


@pytest.mark.parametrize("seconds", [-1, -0.1, float("nan"), float("inf"), 86_401, True, "1", b""])
@pytest.mark.parametrize("option", ["pause", "max_lag"])
def test_seconds_that_cannot_be(option: str, seconds: Any) -> None:
    """A time to wait is a number of seconds up to a day; the error names the option."""
    with pytest.raises(InvalidOptionError, match=f"^{option} must be a number of seconds"):
        Pace(**{option: seconds})


def test_pause_cannot_be_none() -> None:
    """None is a lag that nobody asks for, and not a pause."""
    with pytest.raises(InvalidOptionError, match=r"^pause"):
        Pace(pause=None)  # type: ignore[arg-type]  # that is what is tested


@pytest.mark.parametrize(
    "projection", [None, {}, {"name": 1}, {"_id": 1}, {"_id": True, "name": 1}, {"name": 0}, [], ["name"], ("name",)]
)
def test_projection(projection: Any) -> None:
    """All that keeps the `_id` can be used."""
    check_projection(projection)


@pytest.mark.parametrize(
    "projection",
    [{"_id": 0}, {"_id": False, "name": 1}, {"_id": "$name"}, {"_id": {"$add": [1]}}, {"_id.a": 1}, ["_id.a"]],
)
def test_projection_without_id(projection: Any) -> None:
    """A pass knows by the `_id` where it is: a projection that drops it or puts something else there is refused."""
    with pytest.raises(InvalidOptionError, match="must keep `_id`"):
        check_projection(projection)


@pytest.mark.parametrize("projection", ["name", b"name", 1, {"name"}])
def test_no_projection(projection: Any) -> None:
    """What is neither a dict nor a list of fields is no projection; a lone field is easily taken for one."""
    with pytest.raises(InvalidOptionError, match="must be a dict or a list"):
        check_projection(projection)


@pytest.mark.parametrize("projection", [[1], [b"name"], ["name", None], {1: 1}])
def test_projection_of_no_names(projection: Any) -> None:
    """Fields are named by strings."""
    with pytest.raises(InvalidOptionError, match="must hold the names of fields"):
        check_projection(projection)


def documents(count: int) -> list[Document]:
    return [{"_id": number} for number in range(count)]


def test_next_batch() -> None:
    """One document more than the batch says where the next one begins, and is not in this one."""
    begun = Checkpoint((9, "z"), (), batches=3, done=30, total=50, collection_id=b"one")

    batch, after = begun.advanced(documents(3), 2)

    assert batch == documents(2)
    assert after == Checkpoint((9, "z"), (2,), batches=4, done=32, total=50, collection_id=b"one")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_last_batch_of_a_type(count: int) -> None:
    """Where no document more is there the next type comes, from its beginning; the last batch may be full, or empty."""
    batch, after = Checkpoint((9, "z"), (5,), done=30).advanced(documents(count), 2)

    assert batch == documents(count)
    assert after == Checkpoint(("z",), (), batches=1, done=30 + count)


def test_none_is_a_start() -> None:
    """An `_id` of None at which a batch begins is not taken for no start."""
    batch, after = Checkpoint((None,)).advanced([{"_id": 0}, {"_id": None}], 1)
    assert batch == [{"_id": 0}]
    assert after.start == (None,)


@pytest.mark.parametrize(("one", "other"), [(1, 1), ("a", "a"), ({"a": 1}, {"a": 1})])
def test_id_that_comes_twice(one: object, other: object) -> None:
    """A batch that would begin at the `_id` with which the last one ended is refused: it could come again for ever."""
    with pytest.raises(InvalidOptionError, match="cannot tell them apart") as caught:
        Checkpoint((9,)).advanced([{"_id": 0}, {"_id": one}, {"_id": other}], 2)
    assert repr(other) in str(caught.value)


@pytest.mark.parametrize(("one", "other"), [(1, True), (0, False), (1, 2), (1.5, "1.5")])
def test_ids_that_differ(one: object, other: object) -> None:
    """What Python takes for the same, and MongoDB does not, is no `_id` that comes twice."""
    batch, after = Checkpoint((9,)).advanced([{"_id": one}, {"_id": other}], 1)
    assert (batch, after.start) == ([{"_id": one}], (other,))


def test_collection_of_a_checkpoint() -> None:
    """It is known by what the server says, as far as both are known; none at all (b"") differs from one."""
    known, unknown = Checkpoint(collection_id=b"one"), Checkpoint()
    answers = [b"one", b"two", b"", None]
    assert [known.is_of(answer) for answer in answers] == [True, False, False, True]
    assert [unknown.is_of(answer) for answer in answers] == [True] * 4
    assert Checkpoint(collection_id=b"").is_of(b"")


@given(count=st.integers(0, 50), size=st.integers(1, 12))
def test_all_batches(count: int, size: int) -> None:
    """All batches together are all documents, in order; none but the last is smaller than asked for."""
    here, seen, sizes = Checkpoint((count,)), [], []
    while here.bounds:
        start = here.start[0] if here.start else 0
        assert isinstance(start, int)
        batch, here = here.advanced(documents(count)[start : start + size + 1], size)
        seen += batch
        sizes.append(len(batch))
    assert seen == documents(count)
    assert here.done == count
    assert here.batches == len(sizes)
    assert set(sizes[:-1]) <= {size}


def test_whole() -> None:
    """The total is an estimate: what is done counts for more, and at the end there was exactly that."""
    assert Checkpoint((9,), done=3, total=None).whole is None
    assert Checkpoint((9,), done=3, total=10).whole == 10
    assert Checkpoint((9,), done=11, total=10).whole == 11
    assert Checkpoint((), done=7, total=10).whole == 7
    assert Checkpoint((), done=11, total=10).whole == 11


def test_reminder() -> None:
    """What goes on is told again when nothing was said of it for a while; and then not at once."""
    reminder = Reminder(100.0)
    times = [0.0, ANNOUNCED_EVERY - 0.1, ANNOUNCED_EVERY, ANNOUNCED_EVERY + 1, 2 * ANNOUNCED_EVERY]
    assert [reminder.is_due(100 + now) for now in times] == [False, False, True, False, True]
    assert reminder.told_at == 100 + 2 * ANNOUNCED_EVERY
