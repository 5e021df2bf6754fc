"""Rolling back the last migrations, or everything after one."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core import plan
from quaestor._core.catalog import Catalog
from quaestor._core.undo import Undo
from quaestor.errors import (
    DependencyConflictError,
    InvalidOptionError,
    IrreversibleMigrationError,
    MigrationReplacedError,
    UnknownRecordsError,
)
from tests.functions import definitions, nothing
from tests.test_graph import Needs, acyclic, smallest_order
from tests.test_phases import catalog, migration, recorded


def undone(known: Catalog, days: Mapping[str, int | None], **options: Any) -> list[str]:
    records = recorded(days)
    view = known.view(records.applied.keys())
    return [change.name for change in plan.plan_rollback(known, view, records, {}, Undo(**options))]


def reaches(needs: Needs, name: str, other: str) -> bool:
    """Say whether a migration needs another, directly or not, or is that one."""
    return name == other or any(reaches(needs, needed, other) for needed in needs[name])


histories = st.dictionaries(st.integers(0, 11), st.none() | st.integers(0, 4))


def applied_of(needs: Needs, history: Mapping[int, int | None]) -> dict[str, int | None]:
    """When some of the migrations were applied; None: nobody knows."""
    names = sorted(needs)
    return {names[number]: when for number, when in history.items() if number < len(names)}


@given(acyclic(), histories, st.integers(1, 13))
def test_last(needs: Needs, history: Mapping[int, int | None], count: int) -> None:
    """Again and again the newest migration that no other applied one needs."""
    days, places = applied_of(needs, history), smallest_order(needs)
    left, expected = set(days), set[str]()
    while left and len(expected) < count:
        free = [one for one in left if not any(reaches(needs, other, one) for other in left - {one})]
        newest = max(free, key=lambda name: (-1 if days[name] is None else days[name], places.index(name)))
        left.remove(newest)
        expected.add(newest)

    assert undone(Catalog(definitions(needs)), days, last=count) == [
        name for name in reversed(places) if name in expected
    ]


@given(acyclic(), histories, st.data())
def test_to(needs: Needs, history: Mapping[int, int | None], data: st.DataObject) -> None:
    """What was recorded later, except for what it needs, and all that depends on that."""
    days, places = applied_of(needs, history), smallest_order(needs)
    if not days:
        return
    to = data.draw(st.sampled_from(sorted(days)))

    def when(name: str) -> tuple[int, int]:
        found = days[name]
        return -1 if found is None else found, places.index(name)

    later = {name for name in days if when(name) > when(to) and not reaches(needs, to, name)}
    expected = {name for name in days if any(reaches(needs, name, one) for one in later)}

    assert undone(Catalog(definitions(needs)), days, to=to) == [name for name in reversed(places) if name in expected]
    assert to not in expected


KNOWN = catalog(migration("a"), migration("b", ["a"]), migration("c"), migration("d", ["c"]))


def test_by_the_dates() -> None:
    """The records decide, not the order of a plan; of equal dates, what comes later in it is the newest."""
    days = {"c": 1, "a": 2, "d": 3, "b": 4}
    assert undone(KNOWN, days, last=1) == ["b"]
    assert undone(KNOWN, days, last=2) == ["d", "b"]
    assert undone(KNOWN, days, last=3) == ["d", "b", "a"]
    assert undone(KNOWN, days, last=9) == ["d", "c", "b", "a"]
    assert undone(KNOWN, days, to="a") == ["d", "b"]
    assert undone(KNOWN, days, to="d") == ["b"]
    assert undone(KNOWN, days, to="b") == []
    assert undone(KNOWN, dict.fromkeys("abcd", 1), last=1) == ["d"]
    assert undone(KNOWN, dict.fromkeys("abcd", 1), to="b") == ["d", "c"]
    assert undone(KNOWN, {}, last=1) == []


def test_unknown_records() -> None:
    """They are refused if they are among those to undo. An equal date is enough, because their place isn't known."""
    days = {"a": 1, "c": 1, "of tomorrow": 2, "b": 3}
    assert undone(KNOWN, days, last=1) == ["b"]
    assert undone(KNOWN, days, to="b") == []
    for options in ({"last": 2}, {"last": 9}, {"to": "a"}):
        with pytest.raises(UnknownRecordsError, match="some that this release can't undo: of tomorrow") as caught:
            undone(KNOWN, days, **options)
        assert (caught.value.names, caught.value.undo) == (["of tomorrow"], True)
    with pytest.raises(UnknownRecordsError):
        undone(KNOWN, {"a": 2, "of tomorrow": 2}, last=1)
    assert undone(KNOWN, {"a": 2, "of yesterday": None}, last=1) == ["a"]


def test_replaced_and_retired_records_do_not_count() -> None:
    """Only the replacement counts, by its own date; a retired migration is gone."""
    known = Catalog(
        catalog(migration("ab", replaces=("a", "b")), migration("c")).definitions, retired=frozenset({"old"})
    )
    days = {"c": 1, "a": 2, "b": 3, "ab": 3, "old": 4}
    assert undone(known, days, last=1) == ["ab"]
    assert undone(known, days, to="c") == ["ab"]
    del days["ab"]  # it counts as applied
    assert undone(known, days, last=1) == ["ab"]
    with pytest.raises(MigrationReplacedError, match="'b' is replaced by 'ab'"):
        undone(known, days, to="b")


def test_the_one_that_stays_must_be_applied() -> None:
    """Otherwise nobody knows what came after it."""
    with pytest.raises(InvalidOptionError, match="'b' isn't applied, or its code is gone"):
        undone(KNOWN, {"a": 1}, to="b")


@pytest.mark.parametrize("left", [["b"], []], ids=["the rest is registered", "the rest is gone"])
def test_replaced_targets_that_are_gone(left: list[str]) -> None:
    """What is applied, and only has a pending replacement, is refused. It isn't passed over."""
    known = catalog(migration("ab", replaces=("a", "b")), *map(migration, left), migration("c", ["a"]))
    with pytest.raises(UnknownRecordsError, match="this release can't undo: a") as caught:
        undone(known, {"a": 1, "c": 2}, targets=["a", "b"])
    assert (caught.value.names, caught.value.undo) == (["a"], True)
    with pytest.raises(InvalidOptionError, match="'a' isn't applied, or its code is gone"):
        undone(known, {"a": 1}, to="a")


@pytest.mark.parametrize("left", [["b"], []], ids=["the rest is registered", "the rest is gone"])
def test_what_a_part_that_is_gone_needs(left: list[str]) -> None:
    """It isn't undone under what is applied, and only has a pending replacement."""
    known = catalog(
        migration("x"), migration("ab", ["x"], replaces=("a", "b")), *map(migration, left), migration("y", ["x"])
    )
    days = {"x": 1, "a": 2, "y": 3}
    assert undone(known, days, last=1) == ["y"]
    for undo in ({"targets": ["x"]}, {"last": 2}):
        with pytest.raises(UnknownRecordsError, match="this release can't undo: a"):
            undone(known, days, **undo)
    assert undone(known, {"x": 1, "y": 3}, targets=["x"]) == ["y", "x"]


def test_no_rollback() -> None:
    """A migration without a rollback is refused, also as one of the last."""
    known = catalog(migration("a"), *(one for one in KNOWN.definitions.values() if one.name != "a"))
    known = Catalog({**known.definitions, "b": type(known.definitions["b"])("b", nothing, ["a"])})
    with pytest.raises(IrreversibleMigrationError):
        undone(known, {"a": 1, "b": 2}, last=2)


def test_without_dependents() -> None:
    """Applied migrations that depend on the targets are an error; pending ones don't count."""
    known = catalog(migration("a"), migration("b", ["a"]), migration("c", ["b"]), migration("d"))
    assert undone(known, {"a": 1, "d": 2}, targets=["a"], with_dependents=False) == ["a"]
    assert undone(known, {"a": 1, "b": 2}, targets=["a", "b"], with_dependents=False) == ["b", "a"]
    with pytest.raises(DependencyConflictError) as caught:
        undone(known, {"a": 1, "b": 2, "c": 3}, targets=["a"], with_dependents=False)
    assert (caught.value.conflicts, caught.value.undo) == ({"b": ["a"], "c": ["b"]}, True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of targets, last and to"),
        ({"targets": ["a"], "last": 1}, "exactly one"),
        ({"last": 1, "to": "a"}, "exactly one"),
        ({"last": 0}, "last must be a whole number, at least 1, not 0"),
        ({"last": "2"}, "last must be"),
        ({"to": 7}, "to must be a str"),
        ({"to": ["a"]}, "to must be a str"),
        ({"targets": "a"}, "targets must be a list"),
    ],
)
def test_invalid(options: Any, message: str) -> None:
    """There must be exactly one of the three, and it must be valid."""
    with pytest.raises(InvalidOptionError, match=message):
        Undo(**options)
