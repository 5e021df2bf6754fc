"""What can start, and when: the schedule, and its supervisor."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core.lease import Location
from quaestor._core.scheduler import Schedule, Start, supervise
from quaestor._core.store import Finished, Step
from quaestor._hosts.threads import run_to_completion

Needs = Mapping[str, Sequence[str]]
DIAMOND: Needs = {"top": [], "left": ["top"], "right": ["top"], "end": ["left", "right"]}


def make_schedule(needs: Needs, slots: int) -> Schedule:
    return Schedule(list(needs), needs, slots)


def start_all(schedule: Schedule) -> list[Start]:
    """Start all that can start now."""
    return list(iter(schedule.start, None))


def names(starts: Sequence[Start]) -> list[str]:
    return [start.name for start in starts]


def test_one_slot() -> None:
    """With one slot, everything runs in the order of the plan, whatever that is."""
    schedule = make_schedule({"b": [], "a": [], "c": []}, 1)
    for position, name in enumerate("bac", start=1):
        assert start_all(schedule) == [Start(name, position, 0)]
        schedule.finish(name)
    assert start_all(schedule) == []


def test_dependencies() -> None:
    """An item starts when the last of its dependencies has finished. Those that aren't in the plan are applied."""
    schedule = make_schedule(DIAMOND, 4)
    assert names(start_all(schedule)) == ["top"]
    schedule.finish("top")
    assert names(start_all(schedule)) == ["left", "right"]
    schedule.finish("right")
    assert start_all(schedule) == []
    schedule.finish("left")
    assert names(start_all(schedule)) == ["end"]
    assert names(start_all(make_schedule({"a": ["applied"], "b": ["a", "applied"]}, 2))) == ["a"]


def test_first_in_order() -> None:
    """Of several, the first in the plan starts; one that can't holds up nobody."""
    schedule = make_schedule({"a": [], "b": ["a"], "c": [], "d": [], "e": []}, 2)
    assert names(start_all(schedule)) == ["a", "c"]
    schedule.finish("c")
    assert names(start_all(schedule)) == ["d"]
    schedule.finish("a")
    assert names(start_all(schedule)) == ["b"]


def test_slots() -> None:
    """A free slot is used by the next item, the lowest first."""
    schedule = make_schedule(dict.fromkeys("abcdef", ()), 3)
    assert [start.slot for start in start_all(schedule)] == [0, 1, 2]
    schedule.finish("c")
    schedule.finish("a")
    assert [(start.name, start.slot) for start in start_all(schedule)] == [("d", 0), ("e", 2)]
    with pytest.raises(KeyError):
        schedule.finish("f")


def test_stop() -> None:
    """A stopped schedule starts nothing, and names nothing that would start."""
    schedule = make_schedule({"a": [], "b": [], "c": ["a"]}, 2)
    assert names(start_all(schedule)) == ["a", "b"]
    schedule.stop()
    assert schedule.locate("a") == Location(("b",), "a")
    schedule.finish("a")
    assert start_all(schedule) == []
    assert schedule.locate() == Location(("b",))


def test_locate() -> None:
    """The location names what is in progress and what can start: now, or when the item to record has finished."""
    schedule = make_schedule(DIAMOND, 2)
    assert schedule.locate() == Location(("top",))
    start_all(schedule)
    assert schedule.locate("top") == Location(("left", "right"), "top", ("left", "right"))
    schedule.finish("top")
    start_all(schedule)
    assert schedule.locate() == Location(("left", "right"))
    assert schedule.locate("left") == Location(("right",), "left")
    schedule.finish("left")
    assert schedule.locate("right") == Location(("end",), "right", ("end",))
    assert make_schedule({}, 3).locate() == Location(())


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, list[str]]:
    """Any dependencies without a cycle, in an order that suits them."""
    drawn: dict[str, list[str]] = {}
    for number in range(draw(st.integers(0, 12))):
        drawn[f"m{number}"] = draw(st.lists(st.sampled_from(sorted(drawn)), unique=True)) if drawn else []
    return drawn


@given(needs=graphs(), slots=st.integers(1, 5), data=st.data())
def test_any_graph(needs: Needs, slots: int, data: st.DataObject) -> None:
    """Nothing starts before its dependencies have finished. Slots are used, each by one item, and never exceeded. What
    was named beside a record is exactly what then starts. With one slot, the order is that of the plan.
    """
    schedule = make_schedule(needs, slots)
    running: dict[str, int] = {}
    finished: list[str] = []
    announced = schedule.locate().migrations
    while True:
        starts = start_all(schedule)
        assert tuple(names(starts)) == announced
        for start in starts:
            assert set(needs[start.name]) <= set(finished)
            assert list(needs)[start.position - 1] == start.name
            running[start.name] = start.slot
        assert len(set(running.values())) == len(running) <= slots
        assert set(running.values()) <= set(range(slots))
        ready = [
            name for name in needs if name not in running and name not in finished and {*needs[name]} <= {*finished}
        ]
        assert not ready or len(running) == slots
        assert schedule.locate() == Location(tuple(running))
        if not running:
            break
        recording = data.draw(st.sampled_from(sorted(running)))
        location = schedule.locate(recording)
        announced = location.upcoming
        del running[recording]
        assert location == Location((*running, *announced), recording, announced)
        schedule.finish(recording)
        finished.append(recording)
    assert sorted(finished) == sorted(needs)
    assert slots > 1 or finished == list(needs)


class FakeWorkers:
    """Workers that end in the order that a test draws.

    Attributes:
        running: The workers in progress.
        started: All, in order.
    """

    def __init__(self, data: st.DataObject, interrupted_at: int, fails: Collection[str]) -> None:
        self.running: dict[str, Step[None]] = {}
        self.started: list[str] = []
        self.ended: list[str] = []
        self._data = data
        self._interrupted_at = interrupted_at
        self._fails = fails
        self._is_stopped = False

    def start(self, key: str, step: Step[None]) -> None:
        assert not self._is_stopped, "it starts after a failure or an interruption"
        self.running[key] = step
        self.started.append(key)

    async def next_finished(self) -> Finished[str] | None:
        if len(self.ended) == self._interrupted_at:
            self._interrupted_at = -1
            self._is_stopped = True
            return None
        assert self.running, "nothing is in progress"
        key = self._data.draw(st.sampled_from(sorted(self.running)))
        await self.running.pop(key)()
        self.ended.append(key)
        self._is_stopped |= key in self._fails
        return Finished(key, ValueError(key) if key in self._fails else None)


@given(st.data(), graphs(), st.integers(1, 5), st.integers(-1, 8), st.sets(st.sampled_from(["m0", "m3", "m5"])))
def test_supervise(data: st.DataObject, needs: Needs, slots: int, interrupted_at: int, fails: set[str]) -> None:
    """All that can start does, in the order of the plan, but nothing after a failure or an interruption. Those in
    progress are waited for.
    """
    schedule = make_schedule(needs, slots)
    workers = FakeWorkers(data, interrupted_at, fails)
    failures: list[BaseException] = []

    async def work(start: Start) -> None:
        if start.name not in fails:
            schedule.finish(start.name)

    run_to_completion(supervise(schedule, work, nullcontext(), failures, workers))

    assert not workers.running
    assert sorted(workers.ended) == sorted(workers.started)
    assert [str(error) for error in failures] == [name for name in workers.ended if name in fails]
    if not failures and (interrupted_at < 0 or interrupted_at > len(workers.ended)):
        assert sorted(workers.started) == sorted(needs)
