"""Plans: what to do, in order, and why; and whether it can be carried out."""

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core import plan
from quaestor._core.definition import MigrationDefinition
from quaestor._core.plan import Change, RecordChange, Records
from quaestor.errors import (
    DependencyConflictError,
    InvalidOptionError,
    IrreversibleMigrationError,
    MissingDatabaseError,
    RecordConflictError,
    UnknownMigrationError,
    UnknownRecordsError,
)
from quaestor.status import PlannedMigration
from tests.functions import definitions, nothing, nothing_async
from tests.test_graph import Needs, acyclic, smallest_order
from tests.world import LONG_AGO

DIAMOND = {"end": ["left", "right"], "left": ["top"], "right": ["top"], "top": [], "aside": []}


def names(todo: plan.Plan) -> list[str]:
    return [change.name for change in todo]


def recorded(*applied: str) -> Records:
    return Records(dict.fromkeys(applied, (LONG_AGO,)))


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
    known = definitions(needs)

    todo = plan.plan_run(known, plan.check_graph(known), recorded(*applied))

    left = {name: [needed for needed in needs[name] if needed not in applied] for name in needs if name not in applied}
    assert names(todo) == smallest_order(left)


@given(acyclic(), st.data())
def test_targets(needs: Needs, data: st.DataObject) -> None:
    """A run of targets applies these and what they need, in the smallest order; each has its reason."""
    some = st.sets(st.sampled_from(sorted(needs))) if needs else st.just(set())
    applied, targets = data.draw(some), data.draw(some)
    known = definitions(needs)

    todo = plan.plan_run(known, plan.check_graph(known), recorded(*applied), targets)

    wanted = needed_by(needs, targets, applied)
    left = {name: [needed for needed in needs[name] if needed in wanted] for name in wanted}
    assert names(todo) == smallest_order(left)
    for planned in plan.explain(known, names(todo), targets):
        assert planned.asked_for is (planned.name in targets)
        assert set(planned.because_of) == (
            set() if planned.asked_for else {name for name in wanted if planned.name in needs[name]}
        )


@given(acyclic(), st.data())
def test_rollback(needs: Needs, data: st.DataObject) -> None:
    """A rollback undoes the recorded targets and all that need them, dependents first."""
    some = st.sets(st.sampled_from(sorted(needs))) if needs else st.just(set())
    applied, targets = data.draw(some), data.draw(some)
    known = definitions(needs)

    todo = plan.plan_rollback(known, recorded(*applied), targets)

    def needs_one_of(name: str) -> bool:
        return name in targets or any(map(needs_one_of, needs[name]))

    assert set(names(todo)) == {name for name in applied if needs_one_of(name)}
    assert names(todo) == [name for name in reversed(smallest_order(needs)) if name in names(todo)]
    assert all(not change.applies and change.recorded_at == (LONG_AGO,) for change in todo)


def test_reasons() -> None:
    """Reasons in words: asked for, needed by, needs. They may name a migration between that isn't applied."""
    known = definitions(DIAMOND)

    run = plan.explain(known, ["top", "left", "right", "end"], ["end"])
    assert {planned.name: planned.reason for planned in run} == {
        "top": "needed by left, right",
        "left": "needed by end",
        "right": "needed by end",
        "end": "asked for",
    }
    assert plan.explain(known, ["aside"], None) == [PlannedMigration("aside", asked_for=True)]
    back = plan.explain(known, ["end", "top"], ["top"], undo=True)
    assert {planned.name: planned.reason for planned in back} == {"end": "needs left, right", "top": "asked for"}


def test_irreversible() -> None:
    """The error names all recorded migrations of the plan without a rollback, in order."""
    known = definitions(DIAMOND) | {
        name: MigrationDefinition(name, nothing, DIAMOND[name]) for name in ("top", "end", "aside")
    }

    with pytest.raises(IrreversibleMigrationError) as caught:
        plan.plan_rollback(known, recorded("top", "left", "right", "end", "aside"), ["top"])
    assert caught.value.names == ["end", "top"]
    assert names(plan.plan_rollback(known, recorded("top", "left"), ["left"])) == ["left"]


def test_rollback_of_the_other_kind() -> None:
    """A change has the function that it calls, and says whether that is async."""
    known = {"a": MigrationDefinition("a", nothing, transaction=True, rollback=nothing_async)}

    assert plan.plan_run(known, plan.check_graph(known), Records({})) == [Change("a", True, nothing, False, True)]
    assert plan.plan_rollback(known, recorded("a"), ["a"]) == [
        Change("a", False, nothing_async, True, True, recorded_at=(LONG_AGO,))
    ]


@given(acyclic(), st.data())
def test_mark_applied(needs: Needs, data: st.DataObject) -> None:
    """A mark writes missing records, dependencies first, and is refused if a dependency stays pending."""
    some = st.sets(st.sampled_from(sorted(needs))) if needs else st.just(set())
    applied, marked = data.draw(some), sorted(data.draw(some))
    known = definitions(needs)
    missing = {name: [one for one in needs[name] if one not in applied and one not in marked] for name in marked}

    if any(missing.values()):
        with pytest.raises(DependencyConflictError) as caught:
            plan.plan_mark_applied(known, recorded(*applied), marked)
        assert caught.value.conflicts == {name: lacking for name, lacking in missing.items() if lacking}
    else:
        expected = [name for name in smallest_order(needs) if name in marked and name not in applied]
        assert plan.plan_mark_applied(known, recorded(*applied), marked) == [
            RecordChange(name, applies=True) for name in expected
        ]


@given(acyclic(), st.data())
def test_mark_pending(needs: Needs, data: st.DataObject) -> None:
    """A mark removes records, dependents first, and is refused if a dependent stays applied."""
    some = st.sets(st.sampled_from([*needs, "of another release"]))
    applied, marked = data.draw(some), sorted(data.draw(some))
    known = definitions(needs)
    stays = {name: [one for one in needs[name] if one in marked] for name in needs if name in applied - set(marked)}

    if any(stays.values()):
        with pytest.raises(DependencyConflictError) as caught:
            plan.plan_mark_pending(known, recorded(*applied), marked)
        assert caught.value.conflicts == {name: needed for name, needed in stays.items() if needed}
    else:
        order = ["of another release", *reversed(smallest_order(needs))]
        assert plan.plan_mark_pending(known, recorded(*applied), marked) == [
            RecordChange(name, applies=False, recorded_at=(LONG_AGO,))
            for name in order
            if name in applied and name in marked
        ]


def test_conflicts_of_others() -> None:
    """A record from before its dependency was added doesn't stop marks of others."""
    known = definitions({"a": ["z"], "b": [], "z": []})

    assert names(plan.plan_mark_applied(known, recorded("a"), ["b"])) == ["b"]
    assert names(plan.plan_mark_pending(known, recorded("a", "b"), ["b"])) == ["b"]


@pytest.mark.parametrize("given", [None, 7, "a", ["a", 7], [None], b"a"])
def test_names(given: object) -> None:
    """Names must be a list of str."""
    with pytest.raises(InvalidOptionError, match="targets"):
        plan.check_names("targets", given)


def test_names_of_any_collection() -> None:
    """Any collection of names works; each name counts once. For a str, the error shows the list that was meant."""
    assert plan.check_names("targets", iter(["b", "a", "b"])) == ["b", "a"]
    assert plan.check_names("targets", {"a": 1}) == ["a"]
    with pytest.raises(InvalidOptionError, match=r"\['a'\]"):
        plan.check_names("targets", "a")


def test_unknown_names() -> None:
    """The error names all unknown names, each with the closest known one."""
    plan.check_known(["a"], {"a"})
    with pytest.raises(UnknownMigrationError) as caught:
        plan.check_known(["lowercase_email", "a", "zzz"], {"a", "lowercase_emails"})
    assert caught.value.suggestions == {"lowercase_email": "lowercase_emails", "zzz": None}
    assert caught.value.names == ["lowercase_email", "zzz"]


def test_unknown_records() -> None:
    """The error names all records that aren't registered."""
    known = definitions({"a": []})

    plan.check_unknown(known, recorded("a"))
    with pytest.raises(UnknownRecordsError) as caught:
        plan.check_unknown(known, recorded("c", "a", "b"))
    assert caught.value.names == ["b", "c"]


def test_databases() -> None:
    """Each kind of function in the plan must have a database. The error names the migrations and the argument."""
    todo = [
        Change("a", True, nothing, False),
        Change("b", True, nothing_async, True),
        RecordChange("c", applies=True),
    ]

    plan.check_databases(todo, {False, True})
    plan.check_databases(todo[:1], {False})
    plan.check_databases(todo[2:], {True})
    with pytest.raises(MissingDatabaseError) as caught:
        plan.check_databases(todo, {False})
    assert (caught.value.migrations, caught.value.argument) == (["b"], "async_db")
    with pytest.raises(MissingDatabaseError) as caught:
        plan.check_databases(todo, {True})
    assert (caught.value.migrations, caught.value.argument) == (["a"], "sync_db")


def test_records() -> None:
    """A migration whose `_id` belongs to something else can't be recorded; a record can still be removed."""
    todo = [RecordChange("a", applies=True), Change("b", True, nothing, False)]

    plan.check_records(todo, Records({}, (), frozenset({"c"})))
    with pytest.raises(RecordConflictError) as caught:
        plan.check_records(todo, Records({}, (), frozenset({"b", "c"})))
    assert caught.value.migrations == ["b"]
    plan.check_records([RecordChange("b", applies=False)], Records({}, (), frozenset({"b"})))


def test_sorter_is_used_up() -> None:
    """A sorter makes one plan; a second would be empty, so it is an error."""
    known = definitions({"a": [], "b": ["a"]})
    sorter = plan.check_graph(known)
    plan.plan_run(known, sorter, Records({}))

    with pytest.raises(RuntimeError, match="sorter"):
        plan.plan_run(known, sorter, Records({}))
