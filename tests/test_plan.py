"""The plan: what is pending, in order, and whether it can be carried out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor.core import plan
from quaestor.core.migration import MigrationDefinition
from quaestor.core.records import Records
from quaestor.errors import MissingDatabaseError, RecordConflictError
from tests.functions import definitions, nothing, nothing_async
from tests.test_graph import Needs, acyclic, smallest_order


def names(todo: plan.Plan) -> list[str]:
    return [migration.name for migration in todo]


@given(acyclic(), st.data())
def test_pending(needs: Needs, data: st.DataObject) -> None:
    """What is not recorded, in the smallest order, whatever is recorded: what is recorded counts as met."""
    applied = data.draw(st.sets(st.sampled_from([*needs, "from another release"])))
    known = definitions(needs)

    todo = plan.pending(known, plan.validated(known), Records(frozenset(applied)))

    left = {name: [needed for needed in needs[name] if needed not in applied] for name in needs if name not in applied}
    assert names(todo) == smallest_order(left)


def test_databases() -> None:
    """Every colour in the plan must have a database; the error names the migrations and the argument."""
    todo = [MigrationDefinition("a", nothing), MigrationDefinition("b", nothing_async)]

    plan.check_databases(todo, {"sync", "async"})
    plan.check_databases(todo[:1], {"sync"})
    with pytest.raises(MissingDatabaseError) as caught:
        plan.check_databases(todo, {"sync"})
    assert (caught.value.migrations, caught.value.argument) == (["b"], "async_db")
    with pytest.raises(MissingDatabaseError) as caught:
        plan.check_databases(todo, {"async"})
    assert (caught.value.migrations, caught.value.argument) == (["a"], "sync_db")


def test_records() -> None:
    """A migration whose `_id` belongs to something else could never be recorded."""
    todo = [MigrationDefinition("a", nothing), MigrationDefinition("b", nothing)]

    plan.check_records(todo, Records(frozenset(), (), frozenset({"c"})))
    with pytest.raises(RecordConflictError) as caught:
        plan.check_records(todo, Records(frozenset(), (), frozenset({"b", "c"})))
    assert caught.value.migrations == ["b"]


def test_sorter_is_used_up() -> None:
    """A sorter makes one plan; a second one would be empty, and is an error instead."""
    known = definitions({"a": [], "b": ["a"]})
    sorter = plan.validated(known)
    plan.pending(known, sorter, Records(frozenset()))

    with pytest.raises(RuntimeError, match="validate again"):
        plan.pending(known, sorter, Records(frozenset()))
