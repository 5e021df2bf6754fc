"""What can start, and when: the schedule, and its supervisor."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from quaestor._core.lease import Location
from quaestor._core.scheduler import Schedule, Start
from tests.test_graph import Needs, acyclic, smallest_order


def make_schedule(needs: Needs, slots: int) -> Schedule:
    return Schedule(list(needs), needs, slots)


def start_all(schedule: Schedule) -> list[Start]:
    """Start all that can start now."""
    return list(iter(schedule.start, None))


def names(starts: Sequence[Start]) -> list[str]:
    return [start.name for start in starts]


def test_stop() -> None:
    """A stopped schedule starts nothing, and names nothing that would start."""
    schedule = make_schedule({"a": [], "b": [], "c": ["a"]}, 2)
    assert names(start_all(schedule)) == ["a", "b"]
    schedule.stop()
    assert schedule.locate("a") == Location(("b",), "a")
    schedule.finish("a")
    assert start_all(schedule) == []
    assert schedule.locate() == Location(("b",))


@given(needs=acyclic(), slots=st.integers(1, 5), data=st.data())
def test_any_graph(needs: Needs, slots: int, data: st.DataObject) -> None:
    """Nothing starts before its dependencies have finished. Slots are used, each by one item, and never exceeded. What
    was named beside a record is exactly what then starts. With one slot, the order is that of the plan.
    """
    needs = {name: needs[name] for name in smallest_order(needs)}
    schedule = make_schedule(needs, slots)
    running: dict[str, int] = {}
    finished: list[str] = []
    announced = schedule.locate().migrations
    while True:
        ready = [
            name for name in needs if name not in running and name not in finished and {*needs[name]} <= {*finished}
        ]
        starts = start_all(schedule)
        assert tuple(names(starts)) == announced
        assert names(starts) == ready[: slots - len(running)], "not the first in order"
        for start in starts:
            assert set(needs[start.name]) <= set(finished)
            assert list(needs)[start.position - 1] == start.name
            running[start.name] = start.slot
        assert len(set(running.values())) == len(running) <= slots
        assert set(running.values()) <= set(range(slots))
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
