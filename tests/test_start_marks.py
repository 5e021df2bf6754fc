"""Migrations with after_crash="stop" on a server in memory: their start marks, and what can go wrong at each call."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from quaestor._core import engine
from quaestor._core.checkpoint import Checkpoint
from quaestor._core.definition import MigrationDefinition
from quaestor._core.engine import Operation, Scope
from quaestor._core.phases import Selection
from quaestor._core.plan import StartMark
from quaestor._core.undo import Undo
from quaestor.errors import (
    InterruptedMigrationError,
    InvalidMigrationError,
    IrreversibleMigrationError,
    LeaseLostError,
    OutageError,
    UnknownMigrationError,
)
from quaestor.events import MigrationStarted, RecordsMarked, RunFailed, RunStarted
from tests.fake_store import WHERE, Key, Process, Server, Stored, read_status
from tests.functions import Broken, definitions, nothing, take_context
from tests.world import LONG_AGO, TTL

NEEDS = {"a": [], "b": ["a"], "c": ["b"]}
ORDER = ["a", "b", "c"]
Definitions = Mapping[str, MigrationDefinition]


def broken(_: object) -> None:
    raise Broken


def stopping(*names: str, **changes: Any) -> Definitions:
    """Migrations that depend on each other, of which these stop a run after they were interrupted."""
    return {
        name: replace(one, after_crash="stop", **changes) if name in names else one
        for name, one in definitions(NEEDS).items()
    }


def interrupted(*recorded: str, at: str = "b") -> Server:
    """A server on which a run was killed in a function. Its lease has expired."""
    server = Server(recorded=dict.fromkeys(recorded, LONG_AGO))
    process = Process(server, stopping(at), "dead").run()
    process.reach(f"function {at}")
    process.kill()
    assert list(server.marks) == [at]
    server.now += TTL + 1
    return server


def count(process: Process, *names: str) -> int:
    return sum(len(process.find(name)) for name in names)


def call(make: Callable[[Scope], Operation], server: Server, known: Definitions, **options: Any) -> Process:
    process = Process(server, known, **options)
    return process.perform(make(process.scope))


# Whatever goes wrong


@pytest.mark.parametrize("after", [False, True])
def test_crash_at_every_call(after: bool) -> None:
    """Wherever a process dies, a function that may have begun isn't called again until a run is told to. One that
    hasn't, and one that is recorded, doesn't stop the next run. The status says the same before.
    """
    known = stopping("b")
    whole = Process(Server(), known).run()
    assert whole.finish() == ORDER
    for at in range(len(whole.log)):
        server = Server()
        Process(server, known, strike_at=at, strike_after=after).run().finish()
        is_stopped = list(server.marks) == ["b"] and "b" not in server.records
        later = replace(server, now=server.now + TTL + 1)
        shown = {one.name: one.interrupted_since for one in read_status(later, known).migrations if one.interrupted}
        assert shown.get("b") == (server.marks["b"].since if is_stopped else None)
        done = server.work.count("b")

        successor = Process(server, known, "next").run()
        if is_stopped:
            with pytest.raises(InterruptedMigrationError) as caught:
                successor.finish()
            assert caught.value.interrupted == {"b": server.marks["b"].since}
            assert (server.work.count("b"), server.holder) == (done, None)
            assert successor.names(MigrationStarted) == []
            Process(server, known, "third").run(retry=["b"]).finish()
        else:
            successor.finish()
        assert server.records == set(ORDER)
        assert server.work.count("b") == done + (is_stopped or not done)
        assert set(server.marks) <= server.records, "a mark beside a record is void"
        assert Process(server, known, "last").run().finish() == []


@pytest.mark.parametrize("fault", ["request lost", "answer lost", "no majority"])
@pytest.mark.parametrize("retry", [False, True])
def test_answer_lost_at_every_call(fault: str, retry: bool) -> None:
    """A lost request or answer changes nothing: the function is called once, and no mark is left."""
    known = stopping("b")

    def prepare() -> tuple[Server, list[str]]:
        return (interrupted("a"), ["b"]) if retry else (Server(), [])

    server, retried = prepare()
    whole = Process(server, known).run(retry=retried)
    whole.finish()
    for at in range(len(whole.log)):
        server, retried = prepare()
        done = len(server.work)
        names = Process(server, known, faults={at: fault}).run(retry=retried).finish()
        assert names == (ORDER if not retry else ["b", "c"])
        assert server.work[done:] == names
        assert (server.marks, server.records) == ({}, set(ORDER))


@pytest.mark.parametrize("after", [False, True])
def test_frozen_at_every_call(after: bool) -> None:
    """A process that is frozen while another takes over changes no mark of the other when it wakes. If it was in the
    function, or about to start it, the other one stops.
    """
    known = stopping("b")
    whole = Process(Server(), known).run()
    whole.finish()
    stops = 0
    for at in range(len(whole.log)):
        server = Server()
        seen: list[dict[str, StartMark]] = []

        def take_over(server: Server = server, seen: list[dict[str, StartMark]] = seen) -> None:
            server.now += TTL + 1
            other = Process(server, known, "other").run()
            try:
                other.finish()
            except InterruptedMigrationError:
                # The third dies in the function, after it was told to repeat it.
                third = Process(server, known, "third").run(retry=["b"])
                third.reach("function b")
                third.kill()
                server.now += TTL + 1
                seen.append(dict(server.marks))

        process = Process(server, known, strike_at=at, strike_after=after, strike=take_over)
        process.is_undisturbed = False
        with suppress(LeaseLostError, InterruptedMigrationError):
            process.run().finish()
        stops += len(seen)
        if seen:
            assert server.marks == seen[0]
            # What no lease can give: a record that was on its way.
            assert "b" not in server.records or whole.log[at].name == "insert_records"
        else:
            assert set(server.marks) <= server.records
    assert stops >= 2


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("kind", ["rollback", "mark applied", "mark pending"])
def test_crash_while_it_is_settled(kind: str, after: bool) -> None:
    """Rollback and marks of an interrupted migration can be repeated wherever they die."""
    known = stopping("b")
    calls: dict[str, Callable[[Scope], Operation]] = {
        "rollback": lambda scope: engine.roll_back(scope, Undo(["b"])),
        "mark applied": lambda scope: engine.mark_applied(scope, ["b"]),
        "mark pending": lambda scope: engine.mark_pending(scope, ["b"]),
    }
    whole = call(calls[kind], interrupted("a"), known)
    assert whole.finish() == ["b"]
    for at in range(len(whole.log)):
        server = interrupted("a")
        call(calls[kind], server, known, strike_at=at, strike_after=after).finish()
        is_settled = "b" in server.records or not server.marks
        again = call(calls[kind], server, known, owner="next").finish()
        assert again == ([] if is_settled else ["b"])
        assert server.records == ({"a", "b"} if kind == "mark applied" else {"a"})
        assert set(server.marks) <= server.records
        rest = Process(server, known, "last").run().finish()
        assert rest == (["c"] if kind == "mark applied" else ["b", "c"])


# What a run does


def test_commands() -> None:
    """The marks are read once, if the plan has such a migration. Each one takes two commands more, the others none."""
    plain = Process(Server(), definitions(NEEDS)).run()
    plain.finish()
    marked = Process(Server(), stopping("b", "c")).run()
    marked.finish()
    more = [call.name for call in marked.log if call.name not in {"heartbeat", "join"}]
    assert len(marked.log) == len(plain.log) + 1 + 2 * 2
    assert count(plain, "read_lease", "write_start_mark", "remove_start_mark") == 0
    assert [name for name in more if name.endswith("mark")] == ["write_start_mark", "remove_start_mark"] * 2
    assert more[more.index("write_start_mark") + 1] == "function b"
    assert more[more.index("remove_start_mark") - 1] == "insert_records"
    again = Process(marked.server, stopping("b", "c")).run()
    again.finish()
    assert [call.name for call in again.log] == ["read_records"]


def test_other_targets() -> None:
    """A run whose targets don't need the interrupted migration reads no marks, and runs."""
    known = dict(stopping("b")) | definitions({"aside": []})
    server = interrupted("a")
    server.release("dead", ())
    process = Process(server, known).run(["aside"])
    assert process.finish() == ["aside"]
    assert process.find("read_lease") == []
    with pytest.raises(InterruptedMigrationError):
        Process(server, known).run(["c"]).finish()


@pytest.mark.parametrize("concurrency", [1, 3])
def test_nothing_runs_beside_it(concurrency: int) -> None:
    """An interrupted migration stops the run before anything starts, also what doesn't depend on it."""
    known = dict(stopping("b")) | definitions({"aside": []})
    server = interrupted("a")
    process = Process(server, known).run(concurrency=concurrency)
    with pytest.raises(InterruptedMigrationError) as caught:
        process.finish()
    assert caught.value.names == ["b"]
    assert server.records == {"a"}
    assert [type(event) for event in process.events][-1] is RunFailed
    assert RunStarted not in map(type, process.events)
    retried = Process(server, known, "next").run(concurrency=concurrency, retry=["b"])
    assert set(retried.finish()) == {"aside", "b", "c"}
    assert server.marks == {}


def test_function_that_fails() -> None:
    """A failed function leaves its mark, and is called again only by a run that is told to."""
    known = stopping("b", execute=broken)
    server = Server()
    with pytest.raises(Broken):
        Process(server, known).run().finish()
    assert (list(server.marks), server.holder) == (["b"], None)
    assert [one.interrupted_since for one in read_status(server, known).migrations if one.interrupted] == [
        server.marks["b"].since
    ]
    with pytest.raises(InterruptedMigrationError):
        Process(server, known).run().finish()
    with pytest.raises(Broken):
        Process(server, known).run(retry=["b", "a"]).finish()
    assert server.work.count("a") == 1, "what is applied isn't repeated"
    assert Process(server, stopping("b")).run(retry=["b"]).finish() == ["b", "c"]
    assert server.marks == {}


def test_holder_in_the_function() -> None:
    """While the holder is in the function, others wait for it, and plan and status show no interruption. A rollback
    waits as well, and undoes what was applied meanwhile.
    """
    known = stopping("b")
    server = Server()
    holder = Process(server, known, "holder", durations={"b": 5.0}).run()
    holder.reach("function b")
    assert not any(one.interrupted for one in read_status(server, known).migrations)
    reader = Process(server, known, "reader")
    planned = reader.start(reader.engine.explain(engine.run(reader.scope))).finish()
    assert [one.name for one in planned] == ["b", "c"]
    waiting = Process(server, known, "waiting").run()
    undoing = Process(server, known, "undoing").roll_back("b")
    for process in (waiting, undoing):
        process.reach("sleep")
    holder.finish()
    assert waiting.finish() == []
    assert undoing.finish() == ["c", "b"]
    assert (server.records, server.marks) == ({"a"}, {})


def test_plan_raises_what_the_run_would() -> None:
    """The plan is refused like the run, also while the dead holder's lease isn't taken over, and accepts a retry."""
    server, known = interrupted("a"), stopping("b")
    reader = Process(server, known, "reader")
    assert server.holder is not None
    with pytest.raises(InterruptedMigrationError) as caught:
        reader.start(reader.engine.explain(engine.run(reader.scope))).finish()
    assert caught.value.interrupted == {"b": server.marks["b"].since}
    assert [one.name for one in reader.log] == ["read_records", "read_lease_and_clock"]
    planned = reader.start(reader.engine.explain(engine.run(reader.scope, Selection(retry=["b"])))).finish()
    assert [one.name for one in planned] == ["b", "c"]
    undone = reader.start(reader.engine.explain(engine.roll_back(reader.scope, Undo(["a"])))).finish()
    assert [one.name for one in undone] == ["b", "a"]


def test_status() -> None:
    """The marks cost the status no read. They say more than the lease: what was next isn't interrupted."""
    known = stopping("b", "c")
    server = interrupted("a")
    reader = Process(server, known, "reader")
    status = reader.start(reader.engine.read_status()).finish()
    reads = ["read_lease_and_clock", "read_records", "read_checkpoints", "read_last_failures"]
    assert [one.name for one in reader.log] == reads
    assert [one.name for one in status.migrations if one.interrupted] == ["b"]
    assert server.holder is not None
    server.holder = replace(server.holder, migrations=("c",))
    assert [one.name for one in read_status(server, known).migrations if one.interrupted] == ["b"]
    # Without after_crash="stop", the mark no longer counts: a run repeats the migration.
    assert [one.name for one in read_status(server, definitions(NEEDS)).migrations if one.interrupted] == ["c"]
    assert Process(server, definitions(NEEDS)).run().finish() == ["b", "c"]


# Continuing


def test_rollback() -> None:
    """The rollback of an interrupted migration runs, although it isn't recorded, and so does that of one that needs a
    target. Then both count as never started.
    """
    server, known = interrupted("a"), stopping("b")
    process = Process(server, known).roll_back("a")
    assert process.finish() == ["b", "a"]
    assert (server.undone, server.records, server.marks) == (["b", "a"], set(), {})
    assert count(process, "delete_records") == 1
    with pytest.raises(IrreversibleMigrationError) as caught:
        Process(interrupted("a"), stopping("b", rollback=None)).roll_back("a").finish()
    assert caught.value.names == ["b"]


def test_rollback_that_fails() -> None:
    """The mark stays: the migration is neither applied nor undone."""
    server = interrupted("a")
    with pytest.raises(Broken):
        Process(server, stopping("b", rollback=broken)).roll_back("b").finish()
    with pytest.raises(InterruptedMigrationError):
        Process(server, stopping("b")).run().finish()


def test_mark_pending_starts_over() -> None:
    """A migration that is marked as pending was never started: its backfill starts over, which a retry resumes."""
    key = Key("b", undo=False, backfill="o")
    known = stopping("b", execute=take_context)
    server = interrupted("a")
    server.checkpoints[key] = Stored(Checkpoint(), 1)
    process = Process(server, known)
    assert process.perform(engine.mark_pending(process.scope, ["b"])).finish() == ["b"]
    assert process.events[-1] == RecordsMarked(*WHERE, ("b",), applied=False)
    assert (server.checkpoints, server.marks, server.undone) == ({}, {}, [])
    assert call(lambda scope: engine.mark_pending(scope, ["b"]), server, known).finish() == []


def test_void_mark() -> None:
    """A mark beside a record, of a holder that was killed between the two, is ignored, and goes with the record."""
    known = stopping("b")
    for undo in (lambda scope: engine.roll_back(scope, Undo(["b"])), lambda scope: engine.mark_pending(scope, ["b"])):
        server = Server(recorded=dict.fromkeys(ORDER[:2], LONG_AGO), marks={"b": StartMark("dead", LONG_AGO)})
        assert not any(one.interrupted for one in read_status(server, known).migrations)
        assert Process(server, known).run(["b"]).finish() == []
        process = call(undo, server, known)
        assert process.finish() == ["b"]
        names = [one.name for one in process.log]
        assert names.index("remove_start_mark") < names.index("delete_records")
        assert (server.marks, server.records) == ({}, {"a"})


def test_mark_of_another_run() -> None:
    """A mark that was written since the marks were read isn't overwritten: the lease must be lost."""
    server = Server()
    process = Process(server, stopping("b")).run(["b"])
    process.reach("write_start_mark")
    server.marks["b"] = mark = StartMark("other", LONG_AGO)
    with pytest.raises(LeaseLostError):
        process.finish()
    assert (server.marks, server.work) == ({"b": mark}, ["a"])


def test_mark_that_takes_too_long() -> None:
    """If the lease isn't confirmed any more when the mark is written at last, the function doesn't start without it."""
    server = Server()
    process = Process(server, stopping("b")).run(["b"])
    process.reach("write_start_mark")
    assert process.main.call is not None
    process.answer(process.main.call)
    server.expire()
    server.now += TTL
    process.is_undisturbed = False
    with pytest.raises(LeaseLostError):
        process.finish()
    assert server.work == ["a"]


@pytest.mark.parametrize(("name", "what"), [("write_start_mark", "start of 'b'"), ("remove_start_mark", "start mark")])
def test_patience(name: str, what: str) -> None:
    """A mark that can't be written ends the run before the function starts; one that can't be removed is void."""
    server = Server()
    process = Process(server, stopping("b")).run(["b"])
    with pytest.raises(OutageError, match=what):
        process.finish_without(lambda call: call.name == name)
    is_removal = name == "remove_start_mark"
    assert server.work == (["a", "b"] if is_removal else ["a"])
    assert Process(server, stopping("b"), "next").run().finish() == (["c"] if is_removal else ["b", "c"])


def test_refused_before_the_first_command() -> None:
    """An unknown name to retry, and a migration that can't be registered like that."""
    process = Process(Server(), stopping("b"))
    with pytest.raises(UnknownMigrationError):
        engine.run(process.scope, Selection(retry=["z"]))
    with pytest.raises(InvalidMigrationError, match="must be 'rerun' or 'stop', not str \\('halt'\\)"):
        MigrationDefinition("a", nothing, after_crash="halt")  # type: ignore[arg-type]  # the mistake
    with pytest.raises(InvalidMigrationError, match="transaction=True and after_crash='stop'"):
        MigrationDefinition("a", nothing, transaction=True, after_crash="stop")
