"""The graph: is it sound, and in which order can it be applied."""

import itertools
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core import graph
from quaestor._core.definition import find_look_alike
from quaestor.errors import CircularDependencyError, MissingDependencyError

Needs = Mapping[str, list[str]]
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=3)
names = names.filter(lambda name: find_look_alike(name) is None)


@st.composite
def acyclic(draw: st.DrawFn) -> Needs:
    """A graph whose edges all lead back in one hidden order, registered in another."""
    hidden = draw(st.lists(names, unique=True, max_size=12))
    needs = {
        name: draw(st.lists(st.sampled_from(hidden[:place]), max_size=4, unique=True)) if place else []
        for place, name in enumerate(hidden)
    }
    return {name: needs[name] for name in draw(st.permutations(hidden))}


@st.composite
def closed(draw: st.DrawFn) -> Needs:
    """Any graph whose dependencies all exist."""
    nodes = draw(st.lists(names, unique=True, min_size=1, max_size=8))
    return {name: draw(st.lists(st.sampled_from(nodes), max_size=3)) for name in nodes}


def smallest_order(needs: Needs) -> list[str]:
    """The order by its definition: always the alphabetically first of those whose dependencies are done."""
    ordered: list[str] = []
    while len(ordered) < len(needs):
        ready = [name for name in needs if name not in ordered and set(needs[name]) <= set(ordered)]
        ordered.append(min(ready))
    return ordered


@given(acyclic())
def test_order_is_the_smallest(needs: Needs) -> None:
    """Dependencies come first; of those that are ready, always the alphabetically first."""
    ordered = graph.order(graph.make_sorter(needs))

    assert sorted(ordered) == sorted(needs)
    assert all(ordered.index(needed) < ordered.index(name) for name in needs for needed in needs[name])
    assert ordered == smallest_order(needs)


@given(closed(), st.data())
def test_cycle_is_a_cycle(needs: Needs, data: st.DataObject) -> None:
    """A reported cycle is one. It starts with its smallest name, and doesn't depend on the order of registration."""
    try:
        graph.make_sorter(needs)
    except CircularDependencyError as error:
        cycle = error.cycle
    else:
        assert smallest_order(needs)
        return

    assert cycle[0] == cycle[-1] == min(cycle)
    assert len(set(cycle)) == len(cycle) - 1
    assert all(after in needs[before] for before, after in itertools.pairwise(cycle))
    shuffled = {name: needs[name] for name in data.draw(st.permutations(list(needs)))}
    with pytest.raises(CircularDependencyError) as other:
        graph.make_sorter(shuffled)
    assert other.value.cycle == cycle


def test_missing_dependency_names_both() -> None:
    """The error names the alphabetically first migration, what it needs, and what may have been meant."""
    with pytest.raises(MissingDependencyError) as caught:
        graph.make_sorter({"users": [], "z": ["nowhere"], "orders": ["user"]})

    error = caught.value
    assert (error.migration, error.dependency, error.suggestion) == ("orders", "user", "users")
    assert all(name in str(error) for name in ("'orders'", "'user'", "'users'"))
    with pytest.raises(MissingDependencyError) as caught:
        graph.make_sorter({"users_2": ["users_1"]})
    assert caught.value.suggestion is None, "it isn't itself what was meant"


def test_long_chain() -> None:
    """Depth is no limit."""
    length = 5_000
    chain = {f"{number:05}": [f"{number - 1:05}"] if number else [] for number in range(length)}

    assert graph.order(graph.make_sorter(chain)) == sorted(chain)
