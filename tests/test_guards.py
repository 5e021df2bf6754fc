"""Preconditions and verifications on a server in memory: when they are called, and what is left if they fail."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from quaestor._core import engine
from quaestor._core.definition import MigrationDefinition
from quaestor._core.store import Ending
from quaestor.errors import (
    InterruptedMigrationError,
    InvalidGuardError,
    LeaseLostError,
    MissingDatabaseError,
    OutageError,
    PreconditionFailedError,
    UnfinishedMigrationError,
    UnknownMigrationError,
    VerificationFailedError,
)
from quaestor.events import MigrationApplied, MigrationFailed, MigrationRetried, MigrationStarted
from tests.fake_store import TTL, Aborted, Process, Server
from tests.functions import Broken, nothing, nothing_async
from tests.world import LONG_AGO

NAMES = ["a", "b", "c"]
each_transactional = pytest.mark.parametrize("transactional", [False, True])


def define(
    before: Callable[[Any], object] | None = None,
    after: Callable[[Any], object] | None = None,
    *,
    transactional: bool = False,
) -> dict[str, MigrationDefinition]:
    """A chain of three migrations; the second one has these guards."""
    known = {
        name: MigrationDefinition(name, nothing, needed, transactional, rollback=nothing)
        for name, needed in {"a": [], "b": ["a"], "c": ["b"]}.items()
    }
    known["b"] = replace(
        known["b"], preconditions=() if before is None else (before,), verifications=() if after is None else (after,)
    )
    return known


def answer(result: object) -> Callable[[Any], object]:
    """A guard that returns this, or raises it."""

    def guard(process: Any) -> object:
        if isinstance(result, BaseException):
            raise result
        return result

    return guard


def look(process: Process) -> None:
    """Called before `b`, and after it but before its record, under the lease."""
    assert process.has_lease
    assert process.server.holder is not None
    assert process.server.holder.migrations == ("b",)
    assert process.server.records == {"a"}


def recorded(*names: str) -> Server:
    return Server(recorded=dict.fromkeys(names, LONG_AGO))


def calls(process: Process) -> list[str]:
    """The calls of functions and guards, and the writes of records."""
    kinds = ("precondition", "function", "verification", "insert_records", "begin", "commit")
    return [call.name for call in process.log if call.name.startswith(kinds)]


@each_transactional
def test_order(transactional: bool) -> None:
    """Preconditions come before the transaction, verifications before the record and in the transaction."""
    process = Process(Server(), define(look, look, transactional=transactional)).run()
    assert process.finish() == NAMES
    start = calls(process).index("precondition b")
    if transactional:
        expected = ["precondition b", "begin", "function b", "verification b", "commit"]
    else:
        expected = ["precondition b", "function b", "verification b", "insert_records"]
    assert calls(process)[start : start + len(expected)] == expected
    assert process.names(MigrationStarted) == process.names(MigrationApplied) == NAMES


def test_several() -> None:
    """All of them are called in the order of registration, up to the first that fails."""
    seen: list[str] = []

    def note(name: str, result: object, process: Any) -> object:
        seen.append(name)
        return result

    known = define()
    guards = tuple(partial(note, name, name != "third") for name in ("first", "second", "third", "fourth"))
    known["b"] = replace(known["b"], preconditions=guards[:2], verifications=guards)
    with pytest.raises(VerificationFailedError):
        Process(Server(), known).run().finish()
    assert seen == ["first", "second", "first", "second", "third"]


@pytest.mark.parametrize("result", [None, True])
def test_holds(result: object) -> None:
    """None and True hold."""
    assert Process(Server(), define(answer(result), answer(result))).run().finish() == NAMES


@each_transactional
@pytest.mark.parametrize("failure", [False, Broken("3 orders")])
def test_failed_precondition(failure: object, transactional: bool) -> None:
    """The migration doesn't begin, nothing of it is recorded, and the next run asks again."""
    server = Server()
    process = Process(server, define(answer(failure), transactional=transactional)).run()
    with pytest.raises(PreconditionFailedError) as caught:
        process.finish()

    error = caught.value
    assert (error.name, error.function) == ("b", "tests.test_guards.answer.<locals>.guard")
    assert error.reason == ("raised Broken: 3 orders" if failure else "returned False")
    assert error.__cause__ is (failure or None)
    assert error.__notes__ == ["quaestor: in migration 'b', 2 of 3"]
    assert server.work == ["a"]
    assert server.records == {"a"}
    assert server.holder is None
    assert process.names(MigrationFailed) == ["b"]
    assert Process(server, define(answer(True), transactional=transactional)).run().finish() == ["b", "c"]


@each_transactional
@pytest.mark.parametrize("failure", [False, Broken("3 orders")])
def test_failed_verification(failure: object, transactional: bool) -> None:
    """The migration isn't recorded. Its transaction is aborted, so nothing of it is applied; otherwise it stays."""
    server = Server()
    process = Process(server, define(after=answer(failure), transactional=transactional)).run()
    with pytest.raises(VerificationFailedError) as caught:
        process.finish()

    error = caught.value
    assert (error.name, error.transaction) == ("b", transactional)
    assert error.reason == ("raised Broken: 3 orders" if failure else "returned False")
    assert error.__cause__ is (failure or None)
    assert ("Nothing of it is applied" in str(error)) is transactional
    assert server.work == (["a"] if transactional else ["a", "b"])
    assert server.records == {"a"}
    assert server.holder is None
    assert server.transactions == {}
    assert process.names(MigrationFailed) == ["b"]
    assert Process(server, define(after=answer(True), transactional=transactional)).run().finish() == ["b", "c"]


@pytest.mark.parametrize("is_after", [False, True])
@each_transactional
def test_other_results(is_after: bool, transactional: bool) -> None:
    """Neither True, False nor None is an error, which names the type and not the value."""
    server, guard = Server(), answer(["a document"])
    known = define(None if is_after else guard, guard if is_after else None, transactional=transactional)
    with pytest.raises(InvalidGuardError, match="a value of type list") as caught:
        Process(server, known).run().finish()
    assert isinstance(caught.value, TypeError)
    assert caught.value.kind == ("verification" if is_after else "precondition")
    assert "document" not in str(caught.value)
    assert server.records == {"a"}


def test_type_of_another_module() -> None:
    """A type that isn't a built-in one is named with its module."""
    with pytest.raises(InvalidGuardError, match=r"a value of type tests\.fake_store\.Server\. Return False"):
        Process(Server(), define(answer(Server()))).run().finish()


def test_unfinished() -> None:
    """A guard that returned before its work was done is no failed one."""
    unfinished = UnfinishedMigrationError("b", "an awaitable")
    with pytest.raises(UnfinishedMigrationError) as caught:
        Process(Server(), define(answer(unfinished))).run().finish()
    assert caught.value is unfinished


@each_transactional
@pytest.mark.parametrize("after", [False, True])
def test_crash_at_every_call(transactional: bool, after: bool) -> None:
    """Wherever a process dies, the next one gets to the same state, and asks again whatever isn't recorded."""
    known = define(look, look, transactional=transactional)
    whole = Process(Server(), known).run()
    whole.finish()
    for at in range(len(whole.log)):
        server = Server()
        Process(server, known, strike_at=at, strike_after=after).run().finish()
        is_recorded = "b" in server.records
        successor = Process(server, known, "successor").run()
        successor.finish()
        assert server.records == set(NAMES)
        assert list(dict.fromkeys(server.work)) == NAMES
        assert len(server.work) <= len(NAMES) + (0 if transactional else 1)
        expected = [] if is_recorded else ["precondition b", "verification b"]
        assert [call for call in calls(successor) if call.endswith("tion b") and "func" not in call] == expected


@each_transactional
@pytest.mark.parametrize("fault", ["request lost", "answer lost", "no majority"])
def test_fault_at_every_call(transactional: bool, fault: str) -> None:
    """Whichever command is lost, the guards are asked and every migration is recorded, or the run fails."""
    known = define(look, look, transactional=transactional)
    whole = Process(Server(), known).run()
    whole.finish()
    for at in range(len(whole.log)):
        process = Process(Server(), known, faults={at: fault}).run()
        process.finish()
        assert process.server.records == set(NAMES)
        assert {"precondition b", "verification b"} <= set(calls(process))


@each_transactional
@pytest.mark.parametrize("error", [KeyboardInterrupt(), InterruptedError("a soft time limit"), SystemExit(3)])
@pytest.mark.parametrize("is_after", [False, True])
def test_interruption(transactional: bool, error: BaseException, is_after: bool) -> None:
    """An interruption in a guard is raised unchanged; so is `sys.exit()`. The lease is released."""
    server, guard = Server(), answer(error)
    known = define(None if is_after else guard, guard if is_after else None, transactional=transactional)
    with pytest.raises(type(error)) as caught:
        Process(server, known).run().finish()
    assert caught.value is error
    assert server.records == {"a"}
    assert server.holder is None


def test_retried_in_a_transaction() -> None:
    """An error after which the server wants the transaction retried is no failure of the verification."""
    errors: list[Exception] = [Aborted(Ending.ABORTED), Aborted(Ending.EXPIRED)]

    def verify(process: Any) -> bool:
        if errors:
            raise errors.pop()
        return True

    process = Process(Server(), define(look, verify, transactional=True)).run()
    assert process.finish() == NAMES
    assert process.names(MigrationRetried) == ["b", "b"]
    assert calls(process).count("precondition b") == 1
    assert process.server.work == NAMES


def test_lease_lost_before() -> None:
    """If another run may have the lease by now, no precondition is called."""
    server = Server()
    process = Process(server, define(look), is_undisturbed=False)

    def freeze() -> None:
        if len(process.names(MigrationStarted)) == 2:
            server.now += TTL
            server.expire()

    process.hooks = {MigrationStarted: freeze}
    process.run()
    with pytest.raises(LeaseLostError):
        process.finish()
    assert "precondition b" not in calls(process)


def test_lease_lost_meanwhile() -> None:
    """If another run may have the lease by now, a function whose precondition holds isn't called."""
    server = Server()

    def freeze(process: Any) -> None:
        server.now += TTL
        server.expire()

    process = Process(server, define(freeze), is_undisturbed=False).run()
    with pytest.raises(LeaseLostError):
        process.finish()
    assert server.work == ["a"]


def test_concurrency() -> None:
    """Each of several at once has its guards asked; one that fails lets the others in progress finish."""
    known = {
        name: MigrationDefinition(name, nothing, preconditions=(look_on,), verifications=(answer(name != "b"),))
        for name in NAMES
    }
    server = Server()
    process = Process(server, known, durations={"a": 5, "c": 5}).run(concurrency=3)
    with pytest.raises(VerificationFailedError):
        process.finish()
    assert server.records == {"a", "c"}
    assert sorted(server.work) == NAMES


def look_on(process: Process) -> bool:
    """A precondition, of which several are called at once."""
    return process.has_lease


@pytest.mark.parametrize("kind", ["rollback", "mark applied", "mark pending"])
def test_not_asked(kind: str) -> None:
    """A rollback and a mark call no guards."""
    known = define(answer(False), answer(False))
    server = Server() if kind == "mark applied" else recorded(*NAMES)
    process = Process(server, known)
    if kind == "rollback":
        process.roll_back("a")
    else:
        mark = engine.mark_applied if kind == "mark applied" else engine.mark_pending
        process.perform(mark(process.scope, NAMES))
    assert sorted(process.finish()) == NAMES


@pytest.mark.parametrize("is_after", [False, True])
def test_missing_database(is_after: bool) -> None:
    """A guard for whose kind there is no database is refused before anything runs."""
    server = Server()
    known = define(None if is_after else nothing_async, nothing_async if is_after else None)
    process = Process(server, known)
    process.engine.scope = process.scope = replace(process.scope, kinds={False})
    with pytest.raises(MissingDatabaseError) as caught:
        process.run().finish()
    assert (caught.value.migrations, caught.value.argument) == (["b"], "async_db")
    assert server.token == 0


# Verifying what is applied


def verify(server: Server, known: dict[str, MigrationDefinition], names: Any = None, **options: Any) -> Process:
    process = Process(server, known, is_undisturbed=False, **options)
    return process.start(process.engine.verify(names))


def test_verify() -> None:
    """The applied migrations whose verification fails are returned, in order, with every reason. Nothing is written,
    and no lease is acquired.
    """
    known = define(answer(False), answer(True))
    failing = (answer(False), answer(None), answer(Broken("3 orders")))
    known["a"] = replace(known["a"], verifications=(answer(False),))
    known["c"] = replace(known["c"], verifications=failing)
    process = verify(recorded(*NAMES), known)
    guard = "tests.test_guards.answer.<locals>.guard"
    found = process.finish()
    assert list(found.items()) == [
        ("a", f"{guard} returned False"),
        ("c", f"{guard} returned False; {guard} raised Broken: 3 orders"),
    ]
    assert {call.name.partition(" ")[0] for call in process.log} == {"read_records", "verification", "find_recorded"}
    assert process.events == []


def test_verify_nothing() -> None:
    """Migrations that are pending, unknown or without verification are skipped."""
    known = define(answer(False), answer(False))
    process = verify(recorded("a", "unknown"), known)
    assert process.finish() == {}
    assert calls(process) == []


def test_verify_names() -> None:
    """Only the migrations that are named are verified; a name that isn't registered is refused at once."""
    known = {name: replace(one, verifications=(answer(False),)) for name, one in define().items()}
    assert list(verify(recorded(*NAMES), known, ["c", "a"]).finish()) == ["a", "c"]
    process = verify(recorded(*NAMES), known, ["d"])
    with pytest.raises(UnknownMigrationError):
        process.finish()
    assert process.log == []


def test_verify_while_another_rolls_back() -> None:
    """A migration that was rolled back meanwhile needn't hold."""
    server = recorded(*NAMES)

    def roll_back(process: Any) -> bool:
        del server.recorded["b"]
        return False

    assert verify(server, define(after=roll_back)).finish() == {}


def test_verify_without_a_server() -> None:
    """If the server is away, the migration isn't said to fail: the error of the server is raised."""
    process = verify(recorded(*NAMES), define(after=answer(ConnectionError())), patience=1.0)
    with pytest.raises(OutageError):
        process.finish_without(lambda call: call.name == "find_recorded")


def test_verify_missing_database() -> None:
    """A verification for whose kind there is no database is refused before any is called; a migration's kind doesn't
    matter.
    """
    known = define(after=nothing_async)
    known["a"] = replace(known["a"], execute=nothing_async, verifications=(answer(False),))
    process = Process(recorded(*NAMES), known)
    process.engine.scope = replace(process.scope, kinds={False})
    with pytest.raises(MissingDatabaseError) as caught:
        process.start(process.engine.verify(None)).finish()
    assert (caught.value.migrations, caught.value.argument) == (["b"], "async_db")
    assert calls(process) == []


@pytest.mark.parametrize("error", [InvalidGuardError("b", "verification", "m.f", "returned"), KeyboardInterrupt()])
def test_verify_raises(error: BaseException) -> None:
    """A verification that can't be used, or is interrupted, is no failed one."""
    with pytest.raises(type(error)) as caught:
        verify(recorded(*NAMES), define(after=answer(error))).finish()
    assert caught.value is error


# With after_crash="stop"


def stopping(**guards: Any) -> dict[str, MigrationDefinition]:
    known = define(**guards)
    known["b"] = replace(known["b"], after_crash="stop")
    return known


def test_precondition_and_after_crash() -> None:
    """A failed precondition isn't halfway: nothing was marked as started, and the next run begins."""
    server = Server()
    with pytest.raises(PreconditionFailedError):
        Process(server, stopping(before=answer(False))).run().finish()
    assert Process(server, stopping(before=look)).run().finish() == ["b", "c"]


def test_verification_and_after_crash() -> None:
    """A failed verification is halfway: the function isn't called again unasked, and then it is verified again."""
    server = Server()
    with pytest.raises(VerificationFailedError):
        Process(server, stopping(after=answer(False))).run().finish()
    with pytest.raises(InterruptedMigrationError):
        Process(server, stopping(after=answer(True))).run().finish()
    assert server.work == ["a", "b"]
    with pytest.raises(VerificationFailedError):
        Process(server, stopping(after=answer(False))).run(retry=["b"]).finish()
    assert Process(server, stopping(after=look)).run(retry=["b"]).finish() == ["b", "c"]
