"""Replaced and retired migrations: what they mean in a database, for any history and any order of registration."""

from collections.abc import Collection, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core import plan
from quaestor._core.catalog import Catalog, Standing
from quaestor._core.graph import make_sorter
from quaestor._core.phases import Selection
from quaestor._core.plan import Adoption, Change, RecordChange, Records, Undecided
from quaestor._core.undo import Undo
from quaestor.errors import MigrationReplacedError, PartlyReplacedError
from tests.releases import Model, Unit, make_catalog, units
from tests.world import LONG_AGO


def records(names: Collection[str]) -> Records:
    return Records(dict.fromkeys(names, (LONG_AGO,)))


def plan_run(catalog: Catalog, recorded: Collection[str], targets: Collection[str] | None = None) -> plan.Plan:
    return plan.plan_run(catalog, catalog.check(), catalog.view(recorded), records(recorded), Selection(targets))


def list_written(change: RecordChange) -> list[str]:
    """The names in the records of a change, in order."""
    return list(plan.make_entries(change, plan.RecordEntry("run")))


def find_states(todo: plan.Plan, recorded: Collection[str]) -> Iterator[set[str]]:
    """The names that are recorded at each moment at which a process may be killed."""
    found = set(recorded)
    for change in todo:
        for name in list_written(change):
            found.add(name)
            yield set(found)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Unit], set[str]]:
    """Migrations, and the names that are recorded in a database of any release."""
    found = draw(units())
    names = sorted(name for one in found for name in one.names())
    return found, draw(st.sets(st.sampled_from([*names, "retired", "of another release"])))


@given(histories(), st.data())
def test_run(history: tuple[list[Unit], set[str]], data: st.DataObject) -> None:
    """A run applies what isn't, once; records all that is replaced; or is refused and says what is half there. Wherever
    a process is killed, the next run ends in the same state. The order of registration makes no difference.
    """
    found, recorded = history
    catalog = make_catalog(found)
    model = Model(found, recorded)
    model.run()

    todo = plan_run(catalog, recorded)

    shuffled = make_catalog(found, data.draw(st.permutations(list(catalog.definitions))))
    assert plan_run(shuffled, recorded) == todo
    assert catalog.find_unknown(recorded) == sorted(recorded & {"of another release"})
    assert {change.name for change in todo if isinstance(change, Undecided)} == model.stuck
    if model.stuck:
        with pytest.raises(PartlyReplacedError) as caught:
            plan.check_decided(todo)
        check_parts(found, recorded, caught.value)
        return
    assert sorted(change.name for change in todo if isinstance(change, Change)) == sorted(model.ran)
    done = set(recorded)
    for change in todo:
        if isinstance(change, Change):
            assert done.issuperset(catalog.definitions[change.name].depends_on), "what it needs is recorded"
        written = list_written(change)
        assert done.isdisjoint(written), "no record is written twice"
        assert change.name == written[0] or change.name in done, "if it is killed, the rest can be found out"
        done |= set(written)
    assert done == model.recorded == recorded.union(*(one.names() for one in found))
    assert not plan_run(catalog, done)
    for state in find_states(todo, recorded):
        rest = plan_run(catalog, state)
        assert state.union(*map(list_written, rest)) == done
        again = {change.name for change in rest if isinstance(change, Change)}
        assert again == {change.name for change in todo if isinstance(change, Change)} - state


def check_parts(found: list[Unit], recorded: Collection[str], error: PartlyReplacedError) -> None:
    """The error names what is recorded and what is missing of the first migration in the plan."""
    model = Model(found, recorded)
    unit = model.units[error.name]
    inside = unit.names() - {unit.name}
    assert set(error.recorded) == inside & set(recorded) != set()
    assert set(error.missing) <= inside - set(recorded)
    assert error.missing
    assert not any(model.units[name].is_registered for name in error.missing)


@given(histories(), st.data())
def test_targets(history: tuple[list[Unit], set[str]], data: st.DataObject) -> None:
    """Targets, which may be replaced, and what they need are applied, and nothing else. What counts is recorded, also
    what counts only because of these.
    """
    found, recorded = history
    catalog, model = make_catalog(found), Model(found, recorded)
    targets = data.draw(st.sets(st.sampled_from(sorted(model.units))))

    todo = plan_run(catalog, recorded, targets)

    counting = set(catalog.view(recorded).unrecorded)
    needed = model.find_needed(targets)
    assert {change.name for change in todo} - counting == needed | model.find_completed(needed)
    whole = [change for change in plan_run(catalog, recorded) if change in todo]
    if targets == {one.name for one in found}:
        assert whole == list(todo)


@given(histories())
def test_standings(history: tuple[list[Unit], set[str]]) -> None:
    """Every replacement in the graph has its standing, and each name one meaning."""
    found, recorded = history
    catalog, model = make_catalog(found), Model(found, recorded)
    view = catalog.view(recorded)

    make_sorter(view.graph)
    assert set(view.graph) == {name for name, unit in model.units.items() if model.is_current(unit)}
    assert set(view.applied) - recorded == {
        name for name in view.graph if model.counts(model.units[name]) and name not in recorded
    }
    for name, standing in view.standings.items():
        unit = model.units[name]
        expected = {
            Standing.APPLIED: name in recorded,
            Standing.COUNTS: name not in recorded and model.counts(unit),
            Standing.PENDING: model.is_new(unit),
            Standing.COMPLETED: model.is_completed(unit),
        }
        assert [one for one, holds in expected.items() if holds] in ([standing], [])
        assert (standing is Standing.PARTLY) is not any(expected.values())
    for name in model.units:
        unit_meant = model.find(name)
        assert view.find([name]) == ([] if unit_meant is None else [unit_meant.name])


@given(histories(), st.data())
def test_rollback_then_run(history: tuple[list[Unit], set[str]], data: st.DataObject) -> None:
    """A rollback removes the records of what is replaced, too; those of a replaced migration go with its replacement.
    Then a run ends in the state of before.
    """
    found, recorded = history
    catalog, model = make_catalog(found), Model(found, recorded)
    model.run()
    if model.stuck:
        return
    everything = model.recorded
    view = catalog.view(everything)
    target = data.draw(st.sampled_from(sorted(model.units)))
    unit = model.units[target]
    if unit.parent is not None:
        with pytest.raises(MigrationReplacedError) as caught:
            plan.check_not_replaced(catalog, view.applied, [target])
        assert caught.value.replacements == {target: unit.parent.name}
        return
    plan.check_not_replaced(catalog, view.applied, [target])

    undone = plan.plan_rollback(catalog, view, records(everything), {}, Undo([target]))

    removed = {name for change in undone for name in (change.name, *change.replaces)}
    assert removed == set().union(*(model.units[change.name].names() for change in undone))
    assert unit.names() <= removed
    left = everything - removed
    for name in left & catalog.definitions.keys():
        assert model.units[name].parent is not None or removed.isdisjoint(catalog.definitions[name].depends_on)
    assert left.union(*map(list_written, plan_run(catalog, left))) == everything


@given(histories(), st.data())
def test_adopted_dates(history: tuple[list[Unit], set[str]], data: st.DataObject) -> None:
    """What counts as applied is recorded with the latest date of what it replaces, first in the plan."""
    found, recorded = history
    catalog, model = make_catalog(found), Model(found, recorded)
    days = {name: data.draw(st.integers(0, 9)) for name in sorted(recorded)}
    dated = Records({name: (LONG_AGO.replace(day=day + 1),) for name, day in days.items()})
    view = catalog.view(recorded)

    todo = list(plan.plan_run(catalog, catalog.check(), view, dated))

    early = [change for change in todo if change.name in view.unrecorded]
    assert todo[: len(early)] == early
    for change in early:
        assert isinstance(change, Adoption)
        inside = model.units[change.name].names()
        newest = days.get(change.name, max(days[name] for name in inside & recorded))
        assert change.applied_at == LONG_AGO.replace(day=newest + 1)
        assert change.has_record is (change.name in recorded)
        assert {*change.replaces} == inside - {change.name} - recorded
