"""What can begin, and when."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core.lease import Whereabouts
from quaestor._core.plan import Change
from quaestor._core.scheduler import Begun, Schedule
from tests.functions import nothing

Needs = Mapping[str, Sequence[str]]
DIAMOND: Needs = {"top": [], "left": ["top"], "right": ["top"], "end": ["left", "right"]}


def scheduled(needs: Needs, lanes: int) -> Schedule:
    """A plan of all, in this order."""
    return Schedule([Change(name, True, nothing, "sync") for name in needs], needs, lanes)


def begin(schedule: Schedule) -> list[Begun]:
    """All that can begin now."""
    begun = []
    while (one := schedule.begin()) is not None:
        begun.append(one)
    return begun


def names(begun: Sequence[Begun]) -> list[str]:
    return [one.change.name for one in begun]


def test_one_lane() -> None:
    """One after the other, in the order of the plan, also where that is not one of dependencies."""
    schedule = scheduled({"b": [], "a": [], "c": []}, 1)
    for position, name in enumerate("bac", start=1):
        (begun,) = begin(schedule)
        assert (begun.change.name, begun.position, begun.lane) == (name, position, 0)
        schedule.end(name)
    assert begin(schedule) == []


def test_what_it_needs_has_ended() -> None:
    """A change begins when the last of those that it needs has ended."""
    schedule = scheduled(DIAMOND, 4)
    assert names(begin(schedule)) == ["top"]
    schedule.end("top")
    assert names(begin(schedule)) == ["left", "right"]
    schedule.end("right")
    assert begin(schedule) == []
    schedule.end("left")
    assert names(begin(schedule)) == ["end"]


def test_others_are_done() -> None:
    """What is needed and is not in the plan was applied before."""
    assert names(begin(scheduled({"a": ["applied"], "b": ["a", "applied"]}, 2))) == ["a"]


def test_first_in_order() -> None:
    """Of several that could begin it is the first in the plan that does; one that cannot holds up nobody."""
    schedule = scheduled({"a": [], "b": ["a"], "c": [], "d": [], "e": []}, 2)
    assert names(begin(schedule)) == ["a", "c"]
    schedule.end("c")
    assert names(begin(schedule)) == ["d"]
    schedule.end("a")
    assert names(begin(schedule)) == ["b"]


def test_lanes() -> None:
    """The lane of one that has ended is given to the next, the lowest first."""
    schedule = scheduled(dict.fromkeys("abcdef", ()), 3)
    assert [one.lane for one in begin(schedule)] == [0, 1, 2]
    schedule.end("c")
    schedule.end("a")
    assert [(one.change.name, one.lane) for one in begin(schedule)] == [("d", 0), ("e", 2)]
    schedule.end("b")
    assert [(one.change.name, one.lane) for one in begin(schedule)] == [("f", 1)]


def test_stopped() -> None:
    """Nothing begins any more, also when one that is under way ends; nor is anything said to."""
    schedule = scheduled({"a": [], "b": [], "c": ["a"]}, 2)
    assert names(begin(schedule)) == ["a", "b"]
    schedule.stop()
    assert schedule.whereabouts("a") == Whereabouts(("b",), "a")
    schedule.end("a")
    assert begin(schedule) == []
    assert schedule.whereabouts() == Whereabouts(("b",))


def test_whereabouts() -> None:
    """What is under way, and what can begin: now, or when one that is recorded has ended."""
    schedule = scheduled(DIAMOND, 2)
    assert schedule.whereabouts() == Whereabouts(("top",))
    begin(schedule)
    assert schedule.whereabouts() == Whereabouts(("top",))
    assert schedule.whereabouts("top") == Whereabouts(("left", "right"), "top", ("left", "right"))
    schedule.end("top")
    begin(schedule)
    assert schedule.whereabouts() == Whereabouts(("left", "right"))
    assert schedule.whereabouts("left") == Whereabouts(("right",), "left")
    schedule.end("left")
    assert schedule.whereabouts("right") == Whereabouts(("end",), "right", ("end",))
    schedule.end("right")
    begin(schedule)
    assert schedule.whereabouts("end") == Whereabouts((), "end")


def test_whereabouts_of_one_lane() -> None:
    """The one that is under way; beside its record the next."""
    schedule = scheduled({"b": [], "a": []}, 1)
    assert schedule.whereabouts() == Whereabouts(("b",))
    begin(schedule)
    assert schedule.whereabouts("b") == Whereabouts(("a",), "b", ("a",))


def test_nothing_to_do() -> None:
    """An empty plan begins nothing."""
    schedule = scheduled({}, 3)
    assert begin(schedule) == []
    assert schedule.whereabouts() == Whereabouts(())


def test_end_of_what_has_not_begun() -> None:
    """That would free a lane that is not taken."""
    with pytest.raises(KeyError):
        scheduled({"a": []}, 1).end("a")


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Any dependencies without a cycle, in an order that suits them."""
    drawn: dict[str, list[str]] = {}
    for number in range(draw(st.integers(0, 12))):
        drawn[f"m{number}"] = draw(st.lists(st.sampled_from(sorted(drawn)), unique=True)) if drawn else []
    return drawn


@given(needs=graphs(), lanes=st.integers(1, 5), data=st.data())
def test_any_graph(needs: Needs, lanes: int, data: st.DataObject) -> None:
    """Nothing begins before what it needs has ended; never more are under way than there are lanes, each in one of its
    own, and no lane is idle that could be used; what was named beside a record is exactly what then begins; all of it
    comes to its end, with one lane in the order of the plan.
    """
    schedule = scheduled(needs, lanes)
    under_way: dict[str, int] = {}
    ended: list[str] = []
    announced = schedule.whereabouts().migrations
    while True:
        begun = begin(schedule)
        assert tuple(names(begun)) == announced
        for one in begun:
            assert set(needs[one.change.name]) <= set(ended)
            assert list(needs)[one.position - 1] == one.change.name
            under_way[one.change.name] = one.lane
        assert len(set(under_way.values())) == len(under_way) <= lanes
        assert set(under_way.values()) <= set(range(lanes))
        ready = [name for name in needs if name not in under_way and name not in ended and {*needs[name]} <= {*ended}]
        assert not ready or len(under_way) == lanes
        assert schedule.whereabouts() == Whereabouts(tuple(under_way))
        if not under_way:
            break
        ending = data.draw(st.sampled_from(sorted(under_way)))
        where = schedule.whereabouts(ending)
        announced = where.upcoming
        del under_way[ending]
        assert where == Whereabouts((*under_way, *announced), ending, announced)
        schedule.end(ending)
        ended.append(ending)
    assert sorted(ended) == sorted(needs)
    assert lanes > 1 or ended == list(needs)


@given(needs=graphs(), lanes=st.integers(1, 5), stopped_after=st.integers(0, 12), data=st.data())
def test_any_graph_that_is_stopped(needs: Needs, lanes: int, stopped_after: int, data: st.DataObject) -> None:
    """Whenever it is stopped, only what is under way then comes to its end."""
    schedule = scheduled(needs, lanes)
    under_way = names(begin(schedule))
    ends = 0
    while under_way:
        if ends == stopped_after:
            schedule.stop()
        schedule.end(under_way.pop(data.draw(st.integers(0, len(under_way) - 1))))
        ends += 1
        begun = names(begin(schedule))
        assert not begun or ends <= stopped_after
        under_way += begun
    assert schedule.begin() is None
