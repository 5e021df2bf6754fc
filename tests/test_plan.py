"""Plans: what to do, in order, and why; and whether it can be carried out."""

from collections.abc import Collection, Mapping
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core import corrections, overview, plan
from quaestor._core.catalog import Catalog
from quaestor._core.definition import MigrationDefinition, check_names
from quaestor._core.phases import Selection
from quaestor._core.plan import Change, RecordChange, Records
from quaestor._core.undo import Undo
from quaestor.errors import (
    DependencyConflictError,
    InvalidOptionError,
    IrreversibleMigrationError,
    UnknownMigrationError,
)
from tests.functions import definitions, nothing, nothing_async
from tests.test_graph import Needs, acyclic, smallest_order
from tests.world import LONG_AGO

DIAMOND = {"end": ["left", "right"], "left": ["top"], "right": ["top"], "top": [], "aside": []}


def names(todo: plan.Plan) -> list[str]:
    return [change.name for change in todo]


def recorded(*applied: str) -> Records:
    return Records(dict.fromkeys(applied, (LONG_AGO,)))


def plan_run(known: Catalog, records: Records, targets: Collection[str] | None = None) -> plan.Plan:
    return plan.plan_run(known, known.check(), known.view(records.applied), records, Selection(targets))


def plan_rollback(known: Catalog, records: Records, targets: Collection[str]) -> plan.Plan:
    return plan.plan_rollback(known, known.view(records.applied), records, {}, Undo(targets))


def needed_by(needs: Needs, targets: Collection[str], applied: Collection[str]) -> set[str]:
    """What to apply for the targets, found the slow way."""
    found = set(targets) - set(applied)
    while more := {needed for name in found for needed in needs[name]} - found - set(applied):
        found |= more
    return found


@given(acyclic(), st.data())
def test_pending(needs: Needs, data: st.DataObject) -> None:
    """A run applies what isn't recorded, in the smallest order; a recorded dependency counts as met."""
    applied = data.draw(st.sets(st.sampled_from([*needs, "from another release"])))
    known = Catalog(definitions(needs))

    todo = plan_run(known, recorded(*applied))

    left = {name: [needed for needed in needs[name] if needed not in applied] for name in needs if name not in applied}
    assert names(todo) == smallest_order(left)


@given(acyclic(), st.data())
def test_targets(needs: Needs, data: st.DataObject) -> None:
    """A run of targets applies these and what they need, in the smallest order; each has its reason."""
    some = st.sets(st.sampled_from(sorted(needs))) if needs else st.just(set())
    applied, targets = data.draw(some), data.draw(some)
    known = Catalog(definitions(needs))

    todo = plan_run(known, recorded(*applied), targets)

    wanted = needed_by(needs, targets, applied)
    left = {name: [needed for needed in needs[name] if needed in wanted] for name in wanted}
    assert names(todo) == smallest_order(left)
    for planned in plan.explain(known, known.view(applied), todo):
        assert planned.asked_for is (planned.name in targets)
        assert set(planned.because_of) == (
            set() if planned.asked_for else {name for name in wanted if planned.name in needs[name]}
        )


@given(acyclic(), st.data())
def test_rollback(needs: Needs, data: st.DataObject) -> None:
    """A rollback undoes the recorded targets and all that need them, dependents first."""
    some = st.sets(st.sampled_from(sorted(needs))) if needs else st.just(set())
    applied, targets = data.draw(some), data.draw(some)
    known = Catalog(definitions(needs))

    todo = plan_rollback(known, recorded(*applied), targets)

    def needs_one_of(name: str) -> bool:
        return name in targets or any(map(needs_one_of, needs[name]))

    assert set(names(todo)) == {name for name in applied if needs_one_of(name)}
    assert names(todo) == [name for name in reversed(smallest_order(needs)) if name in names(todo)]
    assert all(not change.applies and change.recorded_at == (LONG_AGO,) for change in todo)


def test_irreversible() -> None:
    """The error names all recorded migrations of the plan without a rollback, in order."""
    one_way = {name: MigrationDefinition(name, nothing, DIAMOND[name]) for name in ("top", "end", "aside")}
    known = Catalog(definitions(DIAMOND) | one_way)

    with pytest.raises(IrreversibleMigrationError) as caught:
        plan_rollback(known, recorded("top", "left", "right", "end", "aside"), ["top"])
    assert caught.value.names == ["end", "top"]
    assert names(plan_rollback(known, recorded("top", "left"), ["left"])) == ["left"]


def test_rollback_of_the_other_kind() -> None:
    """A change has the function that it calls, and says whether that is async."""
    known = Catalog({"a": MigrationDefinition("a", nothing, transaction=True, rollback=nothing_async)})

    assert list(plan_run(known, Records({}))) == [Change("a", True, nothing, False, True)]
    assert list(plan_rollback(known, recorded("a"), ["a"])) == [
        Change("a", False, nothing_async, True, True, recorded_at=(LONG_AGO,))
    ]


@given(acyclic(), st.data())
def test_mark_applied(needs: Needs, data: st.DataObject) -> None:
    """A mark writes missing records, dependencies first, and is refused if a dependency stays pending."""
    some = st.sets(st.sampled_from(sorted(needs))) if needs else st.just(set())
    applied, marked = data.draw(some), sorted(data.draw(some))
    known = Catalog(definitions(needs))
    missing = {name: [one for one in needs[name] if one not in applied and one not in marked] for name in marked}

    if any(missing.values()):
        with pytest.raises(DependencyConflictError) as caught:
            corrections.plan_mark_applied(known, recorded(*applied), {}, marked)
        assert caught.value.conflicts == {name: lacking for name, lacking in missing.items() if lacking}
    else:
        expected = [name for name in smallest_order(needs) if name in marked and name not in applied]
        assert list(corrections.plan_mark_applied(known, recorded(*applied), {}, marked)) == [
            RecordChange(name, applies=True) for name in expected
        ]


@given(acyclic(), st.data())
def test_mark_pending(needs: Needs, data: st.DataObject) -> None:
    """A mark removes records, dependents first, and is refused if a dependent stays applied."""
    some = st.sets(st.sampled_from([*needs, "of another release"]))
    applied, marked = data.draw(some), sorted(data.draw(some))
    known = Catalog(definitions(needs))
    stays = {name: [one for one in needs[name] if one in marked] for name in needs if name in applied - set(marked)}

    if any(stays.values()):
        with pytest.raises(DependencyConflictError) as caught:
            corrections.plan_mark_pending(known, recorded(*applied), {}, marked)
        assert caught.value.conflicts == {name: needed for name, needed in stays.items() if needed}
    else:
        order = ["of another release", *reversed(smallest_order(needs))]
        assert list(corrections.plan_mark_pending(known, recorded(*applied), {}, marked)) == [
            RecordChange(name, applies=False, recorded_at=(LONG_AGO,))
            for name in order
            if name in applied and name in marked
        ]


@pytest.mark.parametrize("given", [None, 7, "a", ["a", 7], [None], b"a"])
def test_names(given: object) -> None:
    """Names must be a collection of str. For a str, the error shows the list that was meant. Each name counts once."""
    with pytest.raises(InvalidOptionError, match=r"\['a'\]" if given == "a" else "targets"):
        check_names("targets", given)
    assert check_names("targets", iter(["b", "a", "b"])) == ["b", "a"]


def test_unknown_names() -> None:
    """The error names all unknown names, each with the closest known one."""
    known = Catalog(definitions({"a": []}))
    known.check_known(["a"])
    with pytest.raises(UnknownMigrationError) as caught:
        known.check_known(["lowercase_email", "a", "zzz"], {"lowercase_emails"})
    assert caught.value.suggestions == {"lowercase_email": "lowercase_emails", "zzz": None}
    assert caught.value.names == ["lowercase_email", "zzz"]


def test_sorter_is_used_up() -> None:
    """A sorter makes one plan; a second would be empty, so it is an error."""
    known = Catalog(definitions({"a": [], "b": ["a"]}))
    sorter = known.check()
    plan.plan_run(known, sorter, known.view(()), Records({}))

    with pytest.raises(RuntimeError, match="sorter"):
        plan.plan_run(known, sorter, known.view(()), Records({}))


def order_conflicts(days: Mapping[str, int | None], runs: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """The conflicts of migrations in alphabetical order, which were recorded on these days."""
    dates = {name: LONG_AGO + timedelta(days=day) for name, day in days.items() if day is not None}
    found = overview.find_order_conflicts(sorted([*days, "0", "pending"]), dates, runs or {})
    return [(one.first, one.second) for one in found]


@pytest.mark.parametrize(
    ("days", "runs", "conflicts"),
    [
        ({"a": 1, "b": 2, "c": 3}, {}, []),
        ({"a": 2, "b": 1}, {}, [("b", "a")]),
        ({"a": 1, "b": 1}, {}, []),  # at the same time
        ({"a": 3, "b": 1, "c": 2}, {}, [("c", "a")]),  # the last in the plan of those before it
        ({"a": 2, "b": 3, "c": 1}, {}, [("c", "a"), ("c", "b")]),
        ({"a": None, "b": 1}, {}, []),
        ({"a": 2, "b": 1}, {"a": "one", "b": "one"}, []),  # in progress at the same time
        ({"a": 2, "b": 1}, {"a": "one", "b": "two"}, [("b", "a")]),
        ({"a": 2, "b": 1}, {"a": "one"}, [("b", "a")]),
        ({"a": 3, "b": 4, "c": 2, "d": 1}, {"a": "one", "c": "one"}, [("d", "a"), ("d", "c"), ("d", "b")]),
    ],
)
def test_order_conflicts(days: dict[str, int | None], runs: dict[str, str], conflicts: list[tuple[str, str]]) -> None:
    """Each migration that was recorded after one that comes later in the plan."""
    assert order_conflicts(days, runs) == conflicts
    assert order_conflicts(dict(reversed(days.items())), runs) == conflicts


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 5)))
def test_every_order_conflict(days: dict[str, int]) -> None:
    """A migration is named if and only if it was recorded after a later one."""
    late = {name for name, day in days.items() if any(name < other and days[other] < day for other in days)}
    found = order_conflicts(days)
    assert {second for _, second in found} == late
    assert all(first > second and days[first] < days[second] for first, second in found)
