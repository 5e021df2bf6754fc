"""The flow of a run over many databases, fed by hand: what begins when, and what it comes to."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor import CircularDependencyError, DatabaseResult, MissingDependencyError, UnknownMigrationError
from quaestor._core.effects import Finished, NextFinished, Start
from quaestor._core.many import ManyFlow, Migrate, many
from tests.functions import definitions

GOOD = definitions({"a": [], "b": ["a"]})


def result(number: int) -> DatabaseResult:
    """What comes of a database."""
    return DatabaseResult(f"db{number}", [f"migration of {number}"], LookupError() if number % 3 == 1 else None)


def first(keys: Sequence[int]) -> int:
    """Of those under way the one that began first."""
    return keys[0]


@dataclass
class Runs:
    """Performs the flow: runs are under way from when they are begun, and end in the order that is chosen.

    Attributes:
        number: How many databases there are.
        concurrency: How many of them may be under way at once.
        choose: Chooses which one ends next.
        interruptions: What is raised in place of an end, by the number of those that ended before.
        refused: Those that cannot be begun.
        under_way: Those that are, by the keys of their effects.
        begun: All that were, in order.
        ended: Likewise.
        interrupted: Whether it was by now.
    """

    number: int
    concurrency: int
    choose: Callable[[Sequence[int]], int] = first
    interruptions: dict[int, list[BaseException]] = field(default_factory=dict)
    refused: Collection[int] = ()
    under_way: dict[int, int] = field(default_factory=dict)
    begun: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    interrupted: bool = False

    def migrate(self) -> list[DatabaseResult]:
        """Perform all of it."""
        flow = many(GOOD, None, self.number, self.concurrency)
        go_on: Callable[[], Migrate | Start[Migrate] | NextFinished] = partial(next, flow)
        while True:
            try:
                effect = go_on()
            except StopIteration as end:
                results: list[DatabaseResult] = end.value
                return results
            answer = self.answer(effect)
            go_on = partial(flow.throw, answer) if isinstance(answer, BaseException) else partial(flow.send, answer)

    def answer(self, effect: Migrate | Start[Migrate] | NextFinished) -> Finished | BaseException | None:
        """The answer to an effect, or what it raises."""
        match effect:
            case Start(key, Migrate(number), is_told=True):
                assert not self.interrupted, "it has begun after the interruption"
                assert number not in self.begun
                if number in self.refused:
                    return RuntimeError(number)
                self.begun.append(number)
                self.under_way[key] = number
                assert len(self.under_way) <= self.concurrency
                return None
            case NextFinished():
                assert self.under_way, "nothing is under way"
                if self.interruptions.get(len(self.ended)):
                    self.interrupted = True
                    return self.interruptions[len(self.ended)].pop()
                if not self.interrupted and not self.refused:
                    left = self.number - len(self.ended)
                    assert len(self.under_way) == min(self.concurrency, left), "another one could be under way"
                key = self.choose(sorted(self.under_way))
                number = self.under_way.pop(key)
                self.ended.append(number)
                return Finished(key, result(number))
            case _:
                raise AssertionError(effect)


@given(st.data(), st.integers(0, 30), st.integers(1, 8))
def test_order(data: st.DataObject, number: int, concurrency: int) -> None:
    """As many as may be are under way, never more; they begin in order, each as soon as another one has ended; and the
    results are in order, whatever the order in which they end.
    """
    runs = Runs(number, concurrency, lambda keys: data.draw(st.sampled_from(keys)))

    results = runs.migrate()

    assert [one.database for one in results] == [f"db{number}" for number in range(number)]
    assert [one.applied for one in results] == [[f"migration of {number}"] for number in range(number)]
    assert [one.error is not None for one in results] == [number % 3 == 1 for number in range(number)]
    assert runs.begun == list(range(number))


@given(st.data(), st.integers(1, 20), st.integers(1, 8), st.integers(1, 3))
def test_interrupted(data: st.DataObject, number: int, concurrency: int, times: int) -> None:
    """After an interruption, or several, nothing begins; those under way are waited for; then it is raised."""
    errors: list[BaseException] = [KeyboardInterrupt() for _ in range(times)]
    before = data.draw(st.integers(0, number - 1))
    runs = Runs(number, concurrency, lambda keys: data.draw(st.sampled_from(keys)), {before: list(errors)})

    with pytest.raises(KeyboardInterrupt) as caught:
        runs.migrate()

    assert caught.value in errors
    assert runs.begun == list(range(min(number, before + concurrency)))
    assert sorted(runs.ended) == runs.begun


@given(st.data(), st.integers(1, 10), st.integers(1, 4))
def test_not_begun(data: st.DataObject, number: int, concurrency: int) -> None:
    """Where a run cannot be begun, for want of threads say, those under way are waited for all the same."""
    refused = data.draw(st.sets(st.integers(0, number - 1), min_size=1))
    runs = Runs(number, concurrency, refused=refused)

    with pytest.raises(RuntimeError) as caught:
        runs.migrate()

    assert caught.value.args[0] in refused
    assert runs.under_way == {}
    assert sorted(runs.ended) == runs.begun


@pytest.mark.parametrize(
    ("needs", "targets", "error"),
    [
        ({"a": ["z"]}, None, MissingDependencyError),
        ({"a": ["b"], "b": ["a"]}, None, CircularDependencyError),
        ({"a": []}, ["a", "z"], UnknownMigrationError),
    ],
)
@pytest.mark.parametrize("number", [0, 3])
def test_bad_input(needs: dict[str, list[str]], targets: list[str] | None, error: type[Exception], number: int) -> None:
    """What is wrong in each of them, and be there none, is raised before anything begins."""
    with pytest.raises(error):
        next(many(definitions(needs), targets, number, 2))


def test_cancelled_before_it_began() -> None:
    """A run that was cancelled before its first step has no result: the others are waited for all the same."""
    flow = many(GOOD, None, 3, 2)
    interruption = KeyboardInterrupt()
    asked = [next(flow), flow.send(None), flow.send(None), flow.throw(interruption)]
    assert asked[2:] == [NextFinished()] * 2

    assert flow.send(Finished(1, error=KeyboardInterrupt())) == NextFinished()
    with pytest.raises(KeyboardInterrupt) as caught:
        flow.send(Finished(0, result(0)))
    assert caught.value is interruption


def test_thrown_away() -> None:
    """A flow that is thrown away asks for nothing more, wherever it is."""
    flow: ManyFlow = many(GOOD, ["a"], 3, 2)
    asked = [next(flow), flow.send(None), flow.send(None)]
    assert [type(effect) for effect in asked] == [Start, Start, NextFinished]
    flow.close()

    flow = many(GOOD, [], 3, 2)
    assert isinstance(next(flow), Start)
    flow.close()
