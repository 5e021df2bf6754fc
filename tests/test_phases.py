"""Phases, delays and steps: what a run applies, what waits, and for what."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from quaestor._core import plan
from quaestor._core.catalog import Catalog
from quaestor._core.definition import MigrationDefinition
from quaestor._core.phases import NOTHING_WAITS, Selection, Waiting
from quaestor._core.plan import Adoption, Change, Records
from quaestor._core.store import RecordEntry
from quaestor.errors import InvalidMigrationError, InvalidOptionError, MigrationDelayedError, UnknownMigrationError
from quaestor.events import MigrationsWaiting, RunFinished, RunStarted
from quaestor.status import Phase
from tests.fake_store import Process, Server
from tests.functions import nothing
from tests.releases import Model, make_catalog, units
from tests.test_graph import Needs, acyclic, smallest_order
from tests.world import LONG_AGO

DAY = timedelta(days=1)


def day(number: int) -> datetime:
    return LONG_AGO + number * DAY


def migration(name: str, depends_on: Collection[str] = (), **options: Any) -> MigrationDefinition:
    return MigrationDefinition(name, nothing, list(depends_on), rollback=nothing, **options)


def catalog(*migrations: MigrationDefinition) -> Catalog:
    return Catalog({one.name: one for one in migrations})


def recorded(days: Mapping[str, int | None]) -> Records:
    return Records({name: (None if number is None else day(number),) for name, number in days.items()})


def planned(
    known: Catalog, days: Mapping[str, int | None], today: int | None = None, **options: Any
) -> tuple[list[str], Waiting]:
    """The names that a run applies, and what waits. Without today, delays don't count."""
    found = plan_of(known, days, today, Selection(**options))
    return [change.name for change in found], found.waiting


def plan_of(
    known: Catalog, days: Mapping[str, int | None], today: int | None = None, selection: Selection | None = None
) -> plan.Plan:
    records, now = recorded(days), None if today is None else day(today)
    view = known.view(records.applied.keys())
    return plan.plan_run(known, known.check(), view, records, selection or Selection(), now=now)


def explained(known: Catalog, days: Mapping[str, int | None], today: int | None = None, **options: Any) -> list[str]:
    todo = plan_of(known, days, today, Selection(**options))
    found = plan.explain(known, known.view(days.keys()), todo)
    return [f"{one.name}: {one.reason}{' [waits]' if one.is_waiting else ''}" for one in found]


LATER = catalog(migration("a"), migration("drop", ["a"], delay=7 * DAY), migration("z")).definitions
WHERE = ("shop", "app", "r1")


def at(number: int, **dates: int) -> Server:
    """A server on this day, with records of these."""
    server = Server(now=timedelta(days=number).total_seconds())
    server.recorded.update({name: day(when) for name, when in dates.items()})
    return server


@dataclass(frozen=True)
class World:
    """Migrations with phases and delays, when the applied ones were, and what a run is asked to do."""

    known: Catalog
    days: Mapping[str, int]
    today: int
    selection: Selection

    def closure(self, names: Collection[str]) -> set[str]:
        """These migrations and what they need, without what is applied; found the slow way."""
        found = set(names) - self.days.keys()
        while (
            more := {needed for name in found for needed in self.known.definitions[name].depends_on}
            - found
            - self.days.keys()
        ):
            found |= more
        return found


@st.composite
def worlds(draw: st.DrawFn) -> World:
    needs: Needs = draw(acyclic())
    known = catalog(
        *(
            migration(
                name,
                needed,
                phase=draw(st.sampled_from(["deploy", "post_deploy"])),
                delay=draw(st.none() | st.integers(1, 4).map(timedelta)) if needed else None,
            )
            for name, needed in needs.items()
        )
    )
    days = draw(st.dictionaries(st.sampled_from([*needs, "of another release"]), st.integers(0, 5)))
    phases: list[Phase | None] = [None, "deploy", "post_deploy"]
    phase = draw(st.sampled_from(phases))
    possible = [name for name in needs if phase != "deploy" or known.definitions[name].phase == "deploy"]
    targets = draw(st.none() | st.lists(st.sampled_from(possible), max_size=3)) if possible else None
    selection = Selection(targets, phase=phase, steps=draw(st.none() | st.integers(1, 4)))
    return World(known, days, draw(st.integers(0, 9)), selection)


@given(worlds())
def test_every_selection(world: World) -> None:
    """What is applied, what waits and for what, and what is refused follow the rules, in the order of the plan."""
    known, days, selection = world.known, world.days, world.selection
    pending = known.definitions.keys() - days.keys()
    wanted = pending
    if selection.targets is not None:
        wanted = world.closure(selection.targets)
    elif selection.phase == "deploy":
        wanted = world.closure([name for name in pending if known.definitions[name].phase == "deploy"])
    delayed: dict[str, datetime | None] = {}
    for name in wanted:
        one = known.definitions[name]
        if one.delay is not None:
            if any(needed in pending for needed in one.depends_on):
                delayed[name] = None
            elif (until := max(day(days[needed]) for needed in one.depends_on) + one.delay) > day(world.today):
                delayed[name] = until
    if delayed and selection.targets is not None:
        with pytest.raises(MigrationDelayedError) as caught:
            plan_of(known, days, world.today, selection)
        assert caught.value.delayed == delayed
        return
    todo = plan_of(known, days, world.today, selection)
    chosen = {name for name in wanted if not world.closure([name]) & delayed.keys()}
    if selection.phase == "deploy" and selection.targets is None:
        chosen = world.closure([name for name in chosen if known.definitions[name].phase == "deploy"])
    graph = {name: list(one.depends_on) for name, one in known.definitions.items()}
    expected = smallest_order({name: [needed for needed in graph[name] if needed in chosen] for name in chosen})
    assert [change.name for change in todo] == expected[: selection.steps]

    left = set() if selection.targets is not None else pending - chosen
    ordered = smallest_order({name: [needed for needed in graph[name] if needed in left] for name in left})
    assert list(todo.waiting.delayed.items()) == [(name, delayed[name]) for name in ordered if name in delayed]
    dependents = [name for name in ordered if name in wanted and world.closure([name]) & (delayed.keys() - {name})]
    assert todo.waiting.dependents == tuple(name for name in dependents if name not in delayed)
    assert set(todo.waiting.post_deploy) == left - delayed.keys() - set(dependents)
    assert all(known.definitions[name].phase == "post_deploy" for name in todo.waiting.post_deploy)
    explained = plan.explain(known, known.view(days.keys()), todo)[len(todo) :]
    assert [one.name for one in explained] == [
        *todo.waiting.delayed,
        *todo.waiting.dependents,
        *todo.waiting.post_deploy,
    ]
    assert all(one.is_waiting for one in explained)
    assert all(set(one.waits_for) <= world.closure([one.name]) for one in explained)


@st.composite
def releases(draw: st.DrawFn) -> tuple[Catalog, dict[str, int], Model]:
    """Migrations that replace others, with phases and delays, in a database of any release where none is stuck."""
    found = draw(units())
    names = sorted(name for one in found for name in one.names())
    days = draw(st.dictionaries(st.sampled_from([*names, "of another release"]), st.integers(0, 5)))
    model = Model(found, days)
    model.run()
    assume(not model.stuck)
    known = {
        name: replace(
            one,
            phase=draw(st.sampled_from(["deploy", "post_deploy"])),
            delay=draw(st.none() | st.integers(1, 4).map(timedelta)) if one.depends_on else None,
        )
        for name, one in make_catalog(found).definitions.items()
    }
    return Catalog(known, frozenset({"retired"})), days, model


@given(releases(), st.sampled_from([None, "deploy"]), st.none() | st.integers(1, 2))
def test_replacements(release: tuple[Catalog, dict[str, int], Model], phase: Phase | None, steps: int | None) -> None:
    """Whatever waits, each run calls only functions whose dependencies are applied, and leaves no replacement that
    counts without a record. In the end, everything is as after one run without phases and delays.
    """
    known, given, model = release
    days, ran, final = dict(given), list[str](), model.recorded
    for today in range(6, 400, 2):
        selection = Selection(phase=phase if today < 20 else None, steps=steps)
        todo = plan_of(known, days, today, selection)
        functions = [change.name for change in todo if isinstance(change, Change)]
        assert steps is None or len(functions) <= steps
        ran += functions
        for change in todo:
            assert not isinstance(change, Change) or all(
                needed in known.view(days.keys()).applied for needed in known.view(days.keys()).graph[change.name]
            )
            days |= dict.fromkeys(plan.make_entries(change, RecordEntry("run")), today)
        assert not known.view(days.keys()).unrecorded
        if selection.phase is None and not todo and not todo.waiting:
            break
    assert days.keys() == final
    assert sorted(ran) == sorted(model.ran)


def test_deploy_takes_what_it_needs() -> None:
    """A deploy migration may need a post-deploy one, which comes along; the others of that phase wait."""
    known = catalog(
        migration("clean", phase="post_deploy"),
        migration("next", ["clean"]),
        migration("last", ["next"], phase="post_deploy"),
    )
    assert planned(known, {}, phase="deploy") == (["clean", "next"], Waiting(post_deploy=("last",)))
    assert planned(known, {}, phase="post_deploy") == planned(known, {}) == (["clean", "next", "last"], NOTHING_WAITS)
    assert planned(known, {"clean": 0, "next": 0}, phase="deploy") == ([], Waiting(post_deploy=("last",)))
    assert planned(known, {}, phase="deploy", targets=["next"]) == (["clean", "next"], NOTHING_WAITS)


def test_nothing_comes_along_for_a_delayed_migration() -> None:
    """A post-deploy migration that only a waiting one needs waits for its phase."""
    known = catalog(
        migration("a"),
        migration("clean", phase="post_deploy"),
        migration("drop", ["a"], delay=7 * DAY),
        migration("next", ["clean", "drop"]),
    )
    waiting = Waiting({"drop": day(8)}, ("next",), ("clean",))
    assert planned(known, {"a": 1}, 2, phase="deploy") == ([], waiting)
    assert planned(known, {"a": 1}, 2) == (["clean"], Waiting({"drop": day(8)}, ("next",)))
    assert planned(known, {"a": 1}, 9, phase="deploy") == (["clean", "drop", "next"], NOTHING_WAITS)


def test_delay() -> None:
    """It counts from the last of the dependencies; what needs the migration waits as well."""
    known = catalog(
        migration("a"),
        migration("b"),
        migration("drop", ["a", "b"], delay=7 * DAY),
        migration("after", ["drop"]),
        migration("other", ["a"]),
    )
    until = Waiting({"drop": day(9)}, ("after",))
    assert planned(known, {"a": 1, "b": 2}, 8) == (["other"], until)
    assert planned(known, {"a": 1, "b": 2}, 9) == (["drop", "after", "other"], NOTHING_WAITS)
    assert planned(known, {"a": 1, "b": 2}) == (["drop", "after", "other"], NOTHING_WAITS)
    # What is applied in this run wasn't applied for long; what has no date was.
    assert planned(known, {"a": 1}, 99) == (["b", "other"], Waiting({"drop": None}, ("after",)))
    assert planned(known, {"a": None, "b": None}, 0) == (["drop", "after", "other"], NOTHING_WAITS)
    assert planned(known, {"a": None, "b": 2}, 8) == (["other"], until)


def test_delay_that_never_ends() -> None:
    """A record may have a date after which there is no other."""
    known = catalog(migration("a"), migration("drop", ["a"], delay=7 * DAY))
    records = Records({"a": (datetime.max.replace(tzinfo=UTC),)})
    todo = plan.plan_run(known, known.check(), known.view(["a"]), records, now=day(0))

    assert todo.waiting == Waiting({"drop": datetime.max.replace(tzinfo=UTC)})


def test_delayed_targets() -> None:
    """A delayed target is refused with its date, and so is one that needs a delayed migration."""
    known = catalog(migration("a"), migration("drop", ["a"], delay=7 * DAY), migration("after", ["drop"]))
    for target in ("drop", "after"):
        with pytest.raises(MigrationDelayedError, match=r"'drop' \(until 2026-01-09 00:00 UTC\)") as caught:
            planned(known, {"a": 1}, 7, targets=[target])
        assert caught.value.delayed == {"drop": day(8)}
        with pytest.raises(MigrationDelayedError, match="its dependencies are pending"):
            planned(known, {"x": 0}, 7, targets=[target])
        assert planned(known, {"a": 1}, 8, targets=[target])[0] == ["drop", "after"][: 1 + (target == "after")]
    assert planned(known, {"x": 0}, 7, targets=["a"]) == (["a"], NOTHING_WAITS)


def test_steps() -> None:
    """Only the first functions of the plan are called; what is only recorded doesn't count."""
    known = catalog(migration("a"), migration("b", ["a"]), migration("ab", replaces=("a", "b")), migration("z"))
    assert planned(known, {}, steps=1)[0] == ["ab"]
    assert planned(known, {"a": 0}, steps=1)[0] == ["b", "ab"]
    assert planned(known, {"a": 0}, steps=2)[0] == ["b", "ab", "z"]
    assert planned(known, {"a": 0, "b": 0}, steps=1)[0] == ["ab", "z"]


def test_a_replacement_is_recorded_by_the_run_that_completes_it() -> None:
    """Where the rest of what it replaces runs, its record follows, whatever its phase, its delay and the targets."""
    known = catalog(
        migration("a"),
        migration("b", ["a"]),
        migration("early"),
        migration("ab", ["early"], replaces=("a", "b"), phase="post_deploy", delay=DAY),
        migration("needs", ["ab"], phase="post_deploy"),
    )
    for options in ({"phase": "deploy"}, {"targets": ["b"]}):
        todo = plan_of(known, {"a": 0, "early": 9}, 9, Selection(**options))
        assert [change.name for change in todo] == ["b", "ab"]
        assert isinstance(list(todo)[-1], Adoption)
    assert planned(known, {"a": 0, "early": 9}, 9) == (["b", "ab", "needs"], NOTHING_WAITS)
    # But where none of them is applied, it is a migration like any other.
    assert planned(known, {"early": 9}, 9) == ([], Waiting({"ab": day(10)}, ("needs",)))
    assert planned(known, {"early": 9}, 9, phase="deploy") == ([], Waiting(post_deploy=("ab", "needs")))


def test_delay_after_a_replaced_dependency() -> None:
    """It counts from when what replaces the dependency was applied; before its record, from the last of those."""
    known = catalog(
        migration("ab", replaces=("a", "b")),
        migration("drop", ["a"], delay=7 * DAY),
    )
    assert planned(known, {"a": 1, "b": 3}, 9)[1] == Waiting({"drop": day(10)})
    assert planned(known, {"ab": 4, "a": 1, "b": 3}, 9)[1] == Waiting({"drop": day(11)})
    assert planned(known, {"a": 1, "b": 3}, 10)[0] == ["ab", "drop"]


def test_reasons() -> None:
    """Each migration has its reason, and then come those that wait, each with what it waits for."""
    known = catalog(
        migration("a"),
        migration("b"),
        migration("drop", ["a"], delay=7 * DAY),
        migration("fresh", ["b"], delay=7 * DAY),
        migration("after", ["drop", "fresh"]),
        migration("later", phase="post_deploy"),
        migration("cd", ["b"], replaces=("c", "d")),
        migration("ef", replaces=("e", "f")),
    )
    assert explained(known, {"a": 1, "e": 1, "f": 1}, 2, phase="deploy") == [
        "ef: only recorded: replaces e, f",
        "b: asked for",
        "cd: replaces c, d",
        "drop: delayed until 2026-01-09 00:00 UTC [waits]",
        "fresh: waits for b, and then for its delay [waits]",
        "after: waits for drop, fresh [waits]",
        "later: waits for phase post_deploy [waits]",
    ]
    assert explained(known, {"a": 1}, 2, targets=["cd"]) == ["b: needed by cd", "cd: replaces c, d"]
    needing = catalog(*known.definitions.values(), migration("x", ["c"]))
    assert explained(needing, {"b": 1}, 2, targets=["x"]) == ["cd: needed by x; replaces c, d", "x: asked for"]
    half = catalog(migration("c"), migration("d"), migration("cd", replaces=("c", "d")), migration("x", ["d"]))
    recorded_only = "cd: only recorded: replaces c, d"
    for targets, others in ((None, ["x: asked for"]), (["cd"], []), (["d"], [])):
        assert explained(half, {"c": 1}, 2, targets=targets) == ["d: completes cd", recorded_only, *others]
    with_x = ["d: needed by x; completes cd", recorded_only, "x: asked for"]
    assert explained(half, {"c": 1}, 2, targets=["x"]) == with_x


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"phase": "predeploy"}, "phase must be 'deploy', 'post_deploy' or None, not 'predeploy'"),
        ({"phase": ["deploy"]}, "phase must be"),
        ({"steps": 0}, "steps must be a whole number, at least 1, not 0"),
        ({"steps": True}, "steps must be"),
        ({"steps": 1.0}, "steps must be"),
        ({"targets": "a"}, r"targets must be a list of names, not a str: write \['a'\]"),
        ({"retry": "a"}, "retry must be a list"),
    ],
)
def test_invalid_selection(options: Any, message: str) -> None:
    """Bad arguments are refused when the selection is made."""
    with pytest.raises(InvalidOptionError, match=message):
        Selection(**options)


def test_checks_of_names() -> None:
    """Names must be known; a target of the other phase, also by a name that it replaces, is refused."""
    known = catalog(migration("a", phase="post_deploy", replaces=("old",)), migration("b"))
    Selection(["b"], phase="deploy").check(known)
    Selection(["a", "old"], phase="post_deploy").check(known)
    for name in ("a", "old"):
        with pytest.raises(InvalidOptionError, match=f"'{name}' are of phase 'post_deploy'"):
            Selection([name], phase="deploy").check(known)
    for unknown in (Selection(["x"]), Selection(retry=["x"])):
        with pytest.raises(UnknownMigrationError):
            unknown.check(known)


def test_names_of_a_phase() -> None:
    """The pending migrations of a deploy are those that such a run applies."""
    known = catalog(
        migration("early", phase="post_deploy"),
        migration("needed", ["early"], phase="post_deploy"),
        migration("next", ["needed"]),
        migration("late", ["next"], phase="post_deploy"),
    )
    process = Process(at(0, early=0), known.definitions)
    status = process.start(process.engine.read_status()).finish()
    assert status.names("pending") == status.names("pending", phase="post_deploy") == ["needed", "next", "late"]
    assert status.names("pending", phase="deploy") == ["needed", "next"]
    assert status.names("applied", phase="deploy") == ["early"]


@pytest.mark.parametrize("delay", [timedelta(), -DAY, 7, "7d", 4000 * DAY])
def test_invalid_delay(delay: Any) -> None:
    """A delay is a timedelta above zero, and not absurd."""
    with pytest.raises(InvalidMigrationError, match="delay of migration 'a' must be a timedelta above zero"):
        migration("a", ["b"], delay=delay)


# With the engine


def test_waiting_is_an_event() -> None:
    """A run that leaves something says so once, after its plan under the lease, or where there is nothing to do."""
    waiting = MigrationsWaiting(*WHERE, {"drop": day(8)}, (), ())
    server = at(2, a=1)
    process = Process(server, LATER).run()
    assert process.finish() == ["z"]
    assert process.events[:2] == [RunStarted(*WHERE, ("z",)), waiting]
    assert process.events.count(waiting) == 1
    process = Process(server, LATER).run()
    assert process.finish() == []
    assert process.events == [RunStarted(*WHERE, ()), waiting, RunFinished(*WHERE, ())]
    assert [call.name for call in process.log] == ["read_records"]
    server.now = timedelta(days=8).total_seconds()
    process = Process(server, LATER).run()
    assert process.finish() == ["drop"]
    assert process.names(MigrationsWaiting) == []


def test_delays_do_not_count_in_a_new_database() -> None:
    """The first read decides, not the records that others, or the run itself, write afterwards."""
    server = at(2)
    assert Process(server, LATER).run().finish() == ["a", "drop", "z"]

    server = at(2)
    first = Process(server, LATER).run()
    first.reach("acquire_lease")
    server.recorded["a"] = day(1)
    assert first.finish() == ["drop", "z"]

    server = at(2)  # but a run that begins after another has died finds records
    first = Process(server, LATER).run()
    first.reach("insert_records")
    first.answer(first.reach("insert_records"))
    first.kill()
    server.now += 60
    second = Process(server, LATER, "next").run()
    assert second.finish() == ["z"]
    assert [event.delayed for event in second.events if isinstance(event, MigrationsWaiting)] == [
        {"drop": server.recorded["a"] + 7 * DAY}
    ]


def test_the_clock_is_read_for_each_plan() -> None:
    """A delay may end while the run waits for the lease."""
    server = at(2, a=1)
    process = Process(server, LATER).run()
    process.reach("acquire_lease")
    server.now, server.recorded["other"] = timedelta(days=9).total_seconds(), day(2)
    assert process.finish() == ["drop", "z"]


def test_status() -> None:
    """The status says what waits, and until when; nothing does in a new database."""

    def states(server: Server) -> dict[str, tuple[str, datetime | None]]:
        process = Process(server, LATER)
        status = process.start(process.engine.read_status()).finish()
        return {one.name: (one.state, one.delayed_until) for one in status.migrations}

    assert states(at(2)) == dict.fromkeys(("a", "drop", "z"), ("pending", None))
    assert states(at(2, z=1)) == {"a": ("pending", None), "drop": ("waiting", None), "z": ("applied", None)}
    assert states(at(2, a=1)) == {"a": ("applied", None), "drop": ("waiting", day(8)), "z": ("pending", None)}
    assert states(at(8, a=1)) == {"a": ("applied", None), "drop": ("pending", None), "z": ("pending", None)}
