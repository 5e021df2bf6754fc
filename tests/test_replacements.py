"""Replacements on a server in memory: runs, rollbacks and marks, and what can go wrong at each call."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core import engine
from quaestor._core.checkpoint import Checkpoint
from quaestor._core.definition import MigrationDefinition
from quaestor._core.engine import Operation, Scope
from quaestor._core.plan import RecordEntry, StartMark
from quaestor._core.store import OutcomeUnknown
from quaestor._core.undo import Undo
from quaestor.errors import (
    InterruptedMigrationError,
    LeaseLostError,
    MigrationReplacedError,
    PartlyReplacedError,
    RecordConflictError,
    UnknownRecordsError,
)
from quaestor.events import (
    MigrationApplied,
    MigrationStarted,
    RecordsUnknown,
    ReplacementRecorded,
    RunFinished,
    RunStarted,
)
from quaestor.status import MigrationRecord
from tests.fake_store import TTL, WHERE, Key, Process, Server, Stored, next_task, read_status
from tests.functions import definitions, nothing
from tests.world import LONG_AGO

Definitions = Mapping[str, MigrationDefinition]

NEEDS = {"first": [], "old_a": ["first"], "old_b": ["old_a"], "last": ["old_b"]}
RENAMED = {"old_a": "mid"}
"""`mid` replaces `old_a`, and `new` replaces `mid` and `old_b`."""
each_transactional = pytest.mark.parametrize("transactional", [False, True])


def older(*, transactional: bool = False) -> Definitions:
    """The release before the replacement."""
    return definitions(NEEDS, transactional=transactional)


def newer(*kept: str, transactional: bool = False, **changes: Any) -> Definitions:
    """The release with the replacement, in which these of the replaced migrations are still registered."""
    known = definitions({"first": [], "new": ["first"], "last": ["old_b"]}, transactional=transactional)
    new = replace(known["new"], replaces=("old_a", "old_b"), **changes)
    return {**known, "new": new, **{name: older(transactional=transactional)[name] for name in kept}}


def chained(*kept: str) -> Definitions:
    """A release in which a replacement is replaced: `mid` is registered, or gone."""
    known = {**newer(*kept), **definitions({"mid": ["first"]})}
    known["mid"] = replace(known["mid"], replaces=("old_a",))
    known["new"] = replace(known["new"], replaces=("mid", "old_b"))
    return known


def recorded(*names: str) -> Server:
    """A server where these are applied, one a minute."""
    return Server(recorded={name: LONG_AGO + timedelta(minutes=minute) for minute, name in enumerate(names)})


def perform(make: Callable[[Scope], Operation], server: Server, known: Definitions, **options: Any) -> Process:
    process = Process(server, known, **options)
    return process.perform(make(process.scope))


@dataclass(frozen=True)
class Case:
    """A release, the records that it finds, and what its run does."""

    title: str
    known: Definitions
    recorded: Sequence[str]
    run: Sequence[str]
    adopted: Sequence[str] = ()
    sources: Mapping[str, str] = ()  # type: ignore[assignment]

    def __str__(self) -> str:
        return self.title.replace(" ", "-")


BY_RUN = {"new": "run", "old_a": "replaces", "old_b": "replaces"}
ADOPTED = {"new": "replaces"}
CASES = [
    Case("none", newer(), [], ["first", "new", "last"], [], BY_RUN),
    Case("none, all registered", newer("old_a", "old_b"), [], ["first", "new", "last"], [], BY_RUN),
    Case("all", newer(), ["first", "old_a", "old_b"], ["last"], ["new"], ADOPTED),
    Case("all, all registered", newer("old_a", "old_b"), ["first", "old_a", "old_b"], ["last"], ["new"], ADOPTED),
    Case("all, nothing to run", newer(), list(NEEDS), [], ["new"], ADOPTED),
    Case("some, the rest is registered", newer("old_b"), ["first", "old_a"], ["old_b", "last"], ["new"], ADOPTED),
    Case("recorded, a part is missing", newer(), ["first", "old_a", "new"], ["last"], ["new"], {"old_b": "replaces"}),
    Case("chain, none", chained(), [], ["first", "new", "last"], [], BY_RUN | {"mid": "replaces"}),
    Case("chain, all", chained(), list(NEEDS), [], ["new"], {"new": "replaces", "mid": "replaces"}),
    Case(
        "chain, some", chained("old_b"), ["first", "old_a"], ["old_b", "last"], ["mid", "new"],
        {"mid": "replaces", "new": "replaces"},
    ),
]  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES, ids=str)


def transactional_too(case: Case) -> list[Definitions]:
    return [case.known, {name: replace(one, transaction=True) for name, one in case.known.items()}]


@each_case
@pytest.mark.parametrize("concurrency", [1, 3])
def test_run(case: Case, concurrency: int) -> None:
    """A run applies what is pending, and records what counts as applied, without calling it."""
    for known in transactional_too(case):
        server = recorded(*case.recorded)
        process = Process(server, known).run(concurrency=concurrency)

        assert process.finish() == case.run
        assert server.work == case.run
        assert server.records == {*case.known, "old_a", "old_b"}
        assert {name: one.source for name, one in server.details.items() if one.source != "run" or name == "new"} == (
            dict(case.sources)
        )
        found = [event for event in process.events if isinstance(event, ReplacementRecorded)]
        assert [event.name for event in found] == list(case.adopted)
        assert process.events[-1] == RunFinished(*WHERE, tuple(case.run))
        assert RunStarted(*WHERE, tuple(case.run)) in process.events
        places = [(one.position, one.count) for one in process.events if isinstance(one, MigrationStarted)]
        assert places == [(place, len(case.run)) for place in range(1, len(case.run) + 1)]
        assert Process(server, known).run().finish() == []
        assert read_status(server, known).order_conflicts == ()


@each_case
@pytest.mark.parametrize("after", [False, True])
def test_crash_at_every_call(case: Case, after: bool) -> None:
    """Wherever a process dies, the next one gets to the same state, and only the function in progress ran twice. An
    older release never has anything left to run that is part of a replacement that was applied.
    """
    for known in transactional_too(case):
        whole = Process(recorded(*case.recorded), known).run()
        whole.finish()
        is_transactional = known["first"].transaction
        for at in range(len(whole.log)):
            server = recorded(*case.recorded)
            Process(server, known, strike_at=at, strike_after=after).run().finish()
            if "new" in server.records and "new" in case.run:
                assert server.records >= {"old_a", "old_b"}
            interrupted = read_status(replace(server, now=server.now + TTL + 1), known).migrations
            assert {one.name for one in interrupted if one.interrupted} <= {*case.run} - server.records
            Process(server, known, "next").run().finish()

            assert server.records == {*case.known, "old_a", "old_b"}
            assert list(dict.fromkeys(server.work)) == case.run
            assert len(server.work) <= len(case.run) + (not is_transactional)


@each_case
@pytest.mark.parametrize("fault", ["request lost", "answer lost", "no majority"])
def test_answer_lost_at_every_call(case: Case, fault: str) -> None:
    """Each command can be repeated: everything is recorded once."""
    for known in transactional_too(case):
        whole = Process(recorded(*case.recorded), known).run()
        whole.finish()
        for at in range(len(whole.log)):
            server = recorded(*case.recorded)
            assert Process(server, known, faults={at: fault}).run().finish() == case.run
            assert server.records == {*case.known, "old_a", "old_b"}


@pytest.mark.parametrize("count", [1, 2])
def test_insert_stops_halfway(count: int) -> None:
    """If the server dies in the middle of the command, the run writes the rest; if it is killed too, the next one."""
    for is_killed in (False, True):
        server = recorded("first")
        process = Process(server, newer())
        insert = process.insert_records

        def insert_some(entries: Mapping[str, RecordEntry]) -> bool:
            process.insert_records = insert  # type: ignore[method-assign] # noqa: B023 - called in this loop
            insert(dict(list(entries.items())[:count]))  # noqa: B023
            raise OutcomeUnknown(ConnectionError())

        process.insert_records = insert_some  # type: ignore[method-assign]
        process.run()
        if is_killed:
            while len(server.records) == 1:
                process.step(process.ready[0])
            process.kill()
            assert server.records == {"first", "new", *["old_a", "old_b"][: count - 1]}
            process = Process(server, newer(), "next").run()
        assert process.finish() == (["last"] if is_killed else ["new", "last"])
        assert server.records == {"new", *NEEDS}
        assert server.work == ["new", "last"]


def test_adopted_record() -> None:
    """What counts as applied gets the date when the last of what it replaces was applied, and the checksum of now."""
    server = recorded("first", "old_b", "old_a")
    process = Process(server, newer()).run()
    process.finish()

    date = LONG_AGO + timedelta(minutes=2)
    checksum = process.functions.compute_checksum(nothing)
    assert server.details["new"] == MigrationRecord(date, run="me", checksum=checksum, source="replaces")
    assert ReplacementRecorded(*WHERE, "new", ("old_a", "old_b")) in process.events
    server = recorded("first", "old_a", "new")
    Process(server, newer()).run().finish()
    assert server.details["old_b"] == MigrationRecord(date, run="me", source="replaces")
    assert "new" not in server.details, "its own record stays"


def test_targets() -> None:
    """A replaced name means its replacement; one that was applied, nothing. What counts is recorded all the same, also
    what counts because of this run.
    """
    assert Process(Server(), newer("old_a")).run(["old_a"]).finish() == ["first", "new"]
    server = recorded("first", "old_a")
    assert Process(server, newer("old_b")).run(["old_a"]).finish() == []
    assert Process(server, newer("old_b")).run(["old_b"]).finish() == ["old_b"]
    assert "new" in server.records
    server = recorded("first", "old_a", "old_b")
    assert Process(server, newer("old_b")).run(["first"]).finish() == []
    assert "new" in server.records


# Only some are applied


def test_partly_replaced() -> None:
    """If the rest is gone, the error names both parts, under the lease. `plan` refuses too; the status shows it."""
    server = recorded("first", "old_a")
    process = Process(server, newer()).run()
    with pytest.raises(PartlyReplacedError) as caught:
        process.finish()
    assert (caught.value.name, caught.value.recorded, caught.value.missing) == ("new", ["old_a"], ["old_b"])
    assert process.find("acquire_lease")
    assert process.find("release_lease")
    assert process.names(MigrationStarted) == []

    reader = Process(server, newer())
    with pytest.raises(PartlyReplacedError):
        reader.start(reader.engine.explain(engine.run(reader.scope))).finish()
    states = {one.name: one.state for one in read_status(server, newer()).migrations}
    assert states == {"first": "applied", "new": "pending", "last": "pending", "old_a": "replaced"}
    assert Process(server, newer()).run(["first"]).finish() == []


def test_older_release_is_between_two() -> None:
    """An older release that holds the lease is waited for, and what it applies counts."""
    server = recorded("first")
    old = Process(server, older(), "old").run()
    while "old_a" not in server.records:
        old.step(old.ready[0])
    new = Process(server, newer(), "new").run()
    for _ in range(5):
        new.step(new.ready[0]) if new.ready else new.wait()
    old.finish()
    assert new.finish() == []
    assert server.work == ["old_a", "old_b", "last"]
    assert server.records == {"new", *NEEDS}


@pytest.mark.parametrize("way", ["mark the rest applied", "mark the others pending"])
def test_remedies(way: str) -> None:
    """Both ways that the error names end it."""
    server = recorded("first", "old_a")
    if way == "mark the rest applied":
        perform(lambda scope: engine.mark_applied(scope, ["old_b"]), server, newer()).finish()
    else:
        perform(lambda scope: engine.mark_pending(scope, ["old_a"]), server, newer()).finish()
    assert Process(server, newer()).run().finish() == (["last"] if "rest" in way else ["new", "last"])
    assert server.records == {"new", *NEEDS}


@each_transactional
def test_older_release_wakes(transactional: bool) -> None:
    """A process of an older release that was frozen right before a record makes the newer one stop, or comes too late.

    A transaction of the newer one is aborted then, and the next run sees what is there.
    """
    server = recorded("first")
    old = Process(server, older(), "old", is_undisturbed=False).run()
    old.reach("insert_records")
    server.now += TTL + 1
    new = Process(server, newer("old_b", transactional=transactional), "new").run()
    new.reach("function new")
    old.step(old.ready[0])
    assert server.records == {"first", "old_a"}
    if transactional:
        with pytest.raises(LeaseLostError):
            new.finish()
        assert "new" not in server.work
        assert Process(server, newer("old_b"), "next").run().finish() == ["old_b", "last"]
    else:
        assert new.finish() == ["new", "last"]
    assert server.records == {"new", *NEEDS}


@given(st.lists(st.sampled_from(["old", "new"]), max_size=80), st.sets(st.sampled_from(list(NEEDS))), st.booleans())
def test_two_releases_at_once(steps: list[str], found: set[str], transactional: bool) -> None:
    """An older release and this one at once: each part is done by one of them, once, and the records are complete."""
    server = recorded(*[name for name in NEEDS if name in found])
    releases = {
        "old": older(transactional=transactional),
        "new": newer("old_a", "old_b", transactional=transactional),
    }
    processes = {owner: Process(server, known, owner).run() for owner, known in releases.items()}
    for owner in steps:
        process = processes[owner]
        if not process.is_ended and process.ready:
            process.step(next_task(process.ready))
    ahead = [processes[owner] for owner in dict.fromkeys(reversed(steps))]
    for process in [*ahead, *processes.values()]:
        while not process.is_ended:
            other = processes["old" if process is processes["new"] else "new"]
            if process.ready:
                process.step(next_task(process.ready))
            elif other.ready and not other.is_ended:
                other.step(next_task(other.ready))
            else:
                process.wait()
        process.finish()
    assert len(server.work) == len(set(server.work))
    assert "new" not in server.work or {"old_a", "old_b"}.isdisjoint(server.work)
    Process(server, releases["new"], "last").run().finish()
    assert server.records == {"new", *NEEDS}
    assert set(server.work) | found >= {"first", "last"}


# Undoing


UNDO_FROM = {"all recorded": ["new", *NEEDS], "only what it replaces": list(NEEDS)}


@each_transactional
@pytest.mark.parametrize("found", UNDO_FROM.values(), ids=list(UNDO_FROM))
@pytest.mark.parametrize("after", [False, True])
def test_rollback_crash_at_every_call(transactional: bool, found: list[str], after: bool) -> None:
    """A rollback removes all records of a replacement, its own last. Wherever it dies, the next one finishes it."""
    known = newer(transactional=transactional)
    whole = Process(recorded(*found), known).roll_back("new")
    assert whole.finish() == ["last", "new"]
    assert whole.server.records == {"first"}
    for at in range(len(whole.log)):
        server = recorded(*found)
        Process(server, known, strike_at=at, strike_after=after).roll_back("new").finish()
        assert "new" in server.records or "new" not in found or server.records <= {"first"}
        Process(server, known, "next").roll_back("new").finish()
        assert server.records == {"first"}
        assert list(dict.fromkeys(server.undone)) == ["last", "new"]
        assert len(server.undone) <= 2 + (not transactional)


@each_transactional
@pytest.mark.parametrize("found", UNDO_FROM.values(), ids=list(UNDO_FROM))
@pytest.mark.parametrize("fault", ["request lost", "answer lost", "no majority"])
def test_rollback_answer_lost_at_every_call(transactional: bool, found: list[str], fault: str) -> None:
    known = newer(transactional=transactional)
    whole = Process(recorded(*found), known).roll_back("new")
    whole.finish()
    for at in range(len(whole.log)):
        server = recorded(*found)
        assert Process(server, known, faults={at: fault}).roll_back("new").finish() == ["last", "new"]
        assert server.records == {"first"}


def test_undo_a_replaced_migration() -> None:
    """What is part of an applied replacement can't be undone by itself. A pending one's can."""
    for found in UNDO_FROM.values():
        for make in (
            lambda scope: engine.roll_back(scope, Undo(["old_a"])),
            lambda scope: engine.roll_back(scope, Undo(to="old_a")),
            lambda scope: engine.mark_pending(scope, ["old_a"]),
        ):
            process = Process(recorded(*found), newer("old_a"))
            with pytest.raises(MigrationReplacedError) as caught:
                process.perform(make(process.scope)).finish()
            assert caught.value.replacements == {"old_a": "new"}
    server = recorded("first", "old_a")
    assert Process(server, newer("old_a", "old_b")).roll_back("old_a").finish() == ["old_a"]
    assert server.records == {"first"}


def test_mark_pending() -> None:
    """The records of what it replaces are removed, too; it can be named together with these."""
    for names in (["new"], ["old_b", "new"]):
        for found in UNDO_FROM.values():
            server = recorded(*found)
            marked = ["last", *names]
            assert perform(lambda scope: engine.mark_pending(scope, marked), server, newer()).finish() == [  # noqa: B023
                "last",
                "new",
            ]
            assert server.records == {"first"}


def test_mark_applied() -> None:
    """The records of what it replaces are written, too; it can be named together with these."""
    for names in (["new"], ["old_b", "new", "old_a"]):
        server = recorded("first")
        assert perform(lambda scope: engine.mark_applied(scope, names), server, newer()).finish() == ["new"]  # noqa: B023
        assert {name: one.source for name, one in server.details.items()} == {
            "new": "mark",
            "old_a": "replaces",
            "old_b": "replaces",
        }
    server = recorded("first")
    assert perform(lambda scope: engine.mark_applied(scope, ["old_b", "old_a"]), server, newer()).finish() == [
        "old_a",
        "old_b",
    ]
    assert Process(server, newer()).run().finish() == ["last"]


# Start marks and checkpoints


def interrupted_in_old() -> Server:
    """A server where an older release was killed in a replaced migration that mustn't be repeated unasked."""
    server = recorded("first")
    known = {name: replace(one, after_crash="stop") if name == "old_a" else one for name, one in older().items()}
    old = Process(server, known, "old").run()
    old.reach("function old_a")
    old.kill()
    server.now += TTL + 1
    return server


def test_start_mark_of_a_replaced_migration() -> None:
    """A run stops for it, and names it; the status shows it. It can be retried, undone, or marked."""
    server = interrupted_in_old()
    since = server.marks["old_a"].since
    with pytest.raises(InterruptedMigrationError) as caught:
        Process(server, newer()).run().finish()
    assert caught.value.interrupted == {"old_a": since}
    shown = {one.name: one.interrupted_since for one in read_status(server, newer()).migrations if one.interrupted}
    assert shown == {"new": since}
    assert Process(server, newer()).run(retry=["old_a"]).finish() == ["new", "last"]
    assert server.marks == {}

    server = interrupted_in_old()
    perform(lambda scope: engine.mark_pending(scope, ["old_a"]), server, newer()).finish()
    assert server.marks == {}
    assert Process(server, newer()).run().finish() == ["new", "last"]

    server = interrupted_in_old()
    process = Process(server, newer("old_a"))
    rollback = engine.roll_back(process.scope, Undo(["old_a"]))
    (planned,) = process.start(process.engine.explain(rollback)).finish()
    assert (planned.name, planned.reason) == ("old_a", "asked for")
    assert Process(server, newer("old_a")).roll_back("old_a").finish() == ["old_a"]
    assert (server.undone, server.marks) == (["old_a"], {})
    with pytest.raises(UnknownRecordsError, match="can't undo: old_a"):  # its code is gone
        Process(interrupted_in_old(), newer()).roll_back("old_a").finish()

    server = interrupted_in_old()
    perform(lambda scope: engine.mark_applied(scope, ["old_a"]), server, newer("old_b")).finish()
    assert server.marks == {}
    assert Process(server, newer("old_b")).run().finish() == ["old_b", "last"]


def test_start_mark_beside_a_record() -> None:
    """It is void, and goes when the replacement's record does: otherwise it would count then."""
    server = recorded("first", "old_a")
    server.marks["old_a"] = StartMark("old", LONG_AGO)
    assert Process(server, newer("old_b")).run().finish() == ["old_b", "last"]
    server.marks["old_a"] = StartMark("old", LONG_AGO)
    assert Process(server, newer("old_b")).roll_back("new").finish() == ["last", "new"]
    assert server.marks == {}


def test_start_mark_of_its_own() -> None:
    """A replacement that stops a run does so too where an older release has applied some since it was started."""
    server = recorded("first", "old_a")
    server.marks["new"] = StartMark("dead", LONG_AGO)
    known = newer("old_b", after_crash="stop")
    with pytest.raises(InterruptedMigrationError) as caught:
        Process(server, known).run().finish()
    assert caught.value.names == ["new"]
    assert Process(server, known).run(retry=["new"]).finish() == ["old_b", "last"]
    assert server.marks == {}


def test_start_mark_of_its_own_beside_its_records() -> None:
    """It goes when the replacement is recorded because all that it replaces is applied."""
    server = recorded("first", "old_a", "old_b")
    server.marks["new"] = StartMark("dead", LONG_AGO)
    assert Process(server, newer(after_crash="stop")).run().finish() == ["last"]
    assert server.marks == {}


def test_start_marks_for_an_older_release() -> None:
    """A replacement that stops a run marks what it replaces as well, so an older release stops for it, too.

    Its own mark is enough to say what was interrupted, and to retry, undo or mark it.
    """
    known = newer(after_crash="stop")

    def interrupt() -> Server:
        server = recorded("first")
        process = Process(server, known, "killed").run()
        process.reach("function new")
        process.kill()
        server.now += TTL + 1
        return server

    server = interrupt()
    assert [*server.marks] == ["new", "old_a", "old_b"]
    stopping = {name: replace(one, after_crash="stop") for name, one in older().items()}
    with pytest.raises(InterruptedMigrationError) as caught:
        Process(server, stopping, "old").run().finish()
    assert caught.value.names == ["old_a", "old_b"]
    with pytest.raises(InterruptedMigrationError) as caught:
        Process(server, known).run().finish()
    assert caught.value.names == ["new"]
    assert Process(server, known).run(retry=["new"]).finish() == ["new", "last"]
    assert server.marks == {}

    server = interrupt()
    assert Process(server, known).roll_back("new").finish() == ["new"]
    assert server.marks == {}

    for mark in (engine.mark_applied, engine.mark_pending):
        server = interrupt()
        perform(lambda scope, mark=mark: mark(scope, ["new"]), server, known).finish()
        assert server.marks == {}

    server = interrupt()
    assert Process(server, stopping, "old").run(retry=["old_a", "old_b"]).finish() == ["old_a", "old_b", "last"]
    assert [*server.marks] == ["new"]
    assert Process(server, known).run().finish() == []
    assert server.marks == {}


def test_checkpoints_of_replaced_migrations() -> None:
    """They go when the replacement is applied or undone: an older release would resume in the middle."""
    for is_undo in (False, True):
        server = recorded(*(["new", *NEEDS] if is_undo else ["first"]))
        key = Key("old_a", is_undo, "orders")
        server.checkpoints = {key: Stored(Checkpoint(), 0), key._replace(migration="first"): Stored(Checkpoint(), 0)}
        process = Process(server, newer())
        (process.roll_back("new") if is_undo else process.run()).finish()
        assert [one.migration for one in server.checkpoints] == ["first"]


# Seen from outside


def test_known_names() -> None:
    """Replaced and retired names aren't unknown, also in a strict run."""
    server = recorded("first", "old_a", "old_b", "retired", "unknown")
    process = Process(server, newer(), retired=frozenset({"retired"})).run()
    process.finish()
    assert [event.names for event in process.events if isinstance(event, RecordsUnknown)] == [("unknown",)]
    del server.recorded["unknown"]
    Process(server, newer(), retired=frozenset({"retired"})).run(strict=True).finish()
    with pytest.raises(UnknownRecordsError) as caught:
        Process(server, older()).run(strict=True).finish()
    assert caught.value.names == ["new", "retired"]


def test_status() -> None:
    """A replacement without a record has a date. Replaced, retired and unknown ones come last, each alphabetically."""
    server = recorded("first", "old_b", "old_a", "retired", "unknown")
    process = Process(server, newer("old_a"), retired=frozenset({"retired", "never"}))
    status = process.start(process.engine.read_status()).finish()
    found = {one.name: (one.state, one.applied_at, one.replaces, one.replaced_by) for one in status.migrations}
    dates = {name: LONG_AGO + timedelta(minutes=minute) for minute, name in enumerate(server.recorded)}
    assert found == {
        "first": ("applied", dates["first"], (), None),
        "new": ("applied", dates["old_a"], ("old_a", "old_b"), None),
        "last": ("pending", None, (), None),
        "old_a": ("replaced", dates["old_a"], (), "new"),
        "old_b": ("replaced", dates["old_b"], (), "new"),
        "retired": ("retired", dates["retired"], (), None),
        "unknown": ("unknown", dates["unknown"], (), None),
    }
    assert next(one.depends_on for one in status.migrations if one.name == "last") == ("new",)
    before = read_status(recorded("first", "old_a"), newer("old_a", "old_b"))
    assert {one.name: (one.state, one.replaced_by) for one in before.migrations} == {
        "first": ("applied", None),
        "old_a": ("applied", "new"),
        "old_b": ("pending", "new"),
        "new": ("pending", None),
        "last": ("pending", None),
    }


def test_verify() -> None:
    """The verifications of a replacement that counts as applied are called, by a replaced name, too."""

    def refuse(_: object) -> bool:
        return False

    known = newer("old_a", verifications=(refuse,))
    for names in (None, ["new"], ["old_a"]):
        for found in UNDO_FROM.values():
            process = Process(recorded(*found), known)
            assert list(process.start(process.engine.verify(names)).finish()) == ["new"]
    process = Process(recorded("first"), known)
    assert process.start(process.engine.verify(None)).finish() == {}


def test_taken_id() -> None:
    """A document with the name of a replaced migration as its `_id` is in the way before anything has run."""
    process = Process(Server(), newer())
    todo = engine.run(process.scope)
    records = engine.Records({}, taken=frozenset({"old_b"}))
    with pytest.raises(RecordConflictError) as caught:
        engine.plan.check_records(todo.make_plan(records, {}), records)
    assert caught.value.migrations == ["old_b"]


def test_failure_of_a_replacement() -> None:
    """Nothing of it is recorded if its function fails. What counts was recorded before."""

    def fail(_: object) -> None:
        raise ValueError

    known = {**newer(), **definitions({"more": []})}
    known["more"] = replace(known["more"], execute=fail, replaces=("x",))
    server = recorded("first", "old_a", "old_b", "last")
    process = Process(server, known).run()
    with pytest.raises(ValueError):  # noqa: PT011 - it's the function's own
        process.finish()
    assert server.records == {"new", *NEEDS}
    assert process.names(MigrationApplied) == []


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("is_applied", [False, True])
def test_mark_crash_at_every_call(is_applied: bool, after: bool) -> None:
    """Wherever a mark dies, the next one finishes it."""
    make = engine.mark_applied if is_applied else engine.mark_pending
    names, before, expected = ["new"], ["first"], {"first", "new", "old_a", "old_b"}
    if not is_applied:
        before, expected = sorted(expected), set(before)

    def start(server: Server, **options: Any) -> Process:
        return perform(lambda scope: make(scope, names), server, newer(), **options)

    whole = start(recorded(*before))
    assert whole.finish() == ["new"]
    for at in range(len(whole.log)):
        server = recorded(*before)
        start(server, strike_at=at, strike_after=after).finish()
        start(server, owner="next").finish()
        assert server.records == expected
