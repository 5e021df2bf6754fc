"""The history on a server in memory: what is written, when, and what happens if it can't be."""

import contextlib
from datetime import timedelta
from typing import Any

import pytest
from pymongo.errors import DuplicateKeyError

from quaestor._core import engine
from quaestor._core.checkpoint import Checkpoint
from quaestor._core.definition import MigrationDefinition
from quaestor._core.history import describe_error, merge
from quaestor._core.plan import Records
from quaestor.errors import InvalidOptionError, UnknownMigrationError
from quaestor.events import HistoryNotWritten, LeaseNotReleased, MigrationFailed
from quaestor.status import Happening, HistoryEntry, MigrationRecord, RecordedError
from tests.fake_store import Key, Process, Server, Stored, read_status
from tests.functions import nothing
from tests.world import LONG_AGO

each_kind = pytest.mark.parametrize("kind", ["run", "rollback", "mark applied", "mark pending", "restart"])


class Broken(Exception):
    """The error of a function."""


def fail(_: object) -> None:
    raise Broken("no more room")


def migrations(**functions: Any) -> dict[str, MigrationDefinition]:
    """Independent migrations, some with a function of their own, which is their rollback too."""
    chosen = {"a": nothing, "b": nothing, "c": nothing} | functions
    return {name: MigrationDefinition(name, one, rollback=one) for name, one in chosen.items()}


def apply_all() -> Server:
    """A server with all of them applied, and a checkpoint of `a`."""
    server = Server()
    Process(server, migrations()).run().finish()
    server.checkpoints[Key("a", undo=False, backfill="orders")] = Stored(Checkpoint(), 1)
    return server


def start(kind: str, server: Server, **options: Any) -> Process:
    """A process that does this with two migrations; a run fails in the second one."""
    process = Process(server, migrations(b=fail) if kind == "run" else migrations(), **options)
    match kind:
        case "run":
            return process.run(["a", "b"])
        case "rollback":
            return process.roll_back("a", "b")
        case "mark applied":
            return process.perform(engine.mark_applied(process.scope, ["a", "b"]))
        case "mark pending":
            return process.perform(engine.mark_pending(process.scope, ["a", "b"]))
        case _:
            return process.start(process.engine.restart_backfill("a", None))


def make_server(kind: str) -> Server:
    return Server() if kind in {"run", "mark applied"} else apply_all()


def end(process: Process) -> None:
    """Let it come to its end, however that is."""
    with contextlib.suppress(Broken, KeyboardInterrupt):
        process.finish()


def list_facts(server: Server) -> list[tuple[Happening, str | None]]:
    return [(entry.what, entry.name) for entry in server.history]


EXPECTED: dict[str, list[tuple[str, str]]] = {
    "run": [("failed", "b")],
    "rollback": [("rolled_back", "b"), ("rolled_back", "a")],
    "mark applied": [("marked_applied", "a"), ("marked_applied", "b")],
    "mark pending": [("marked_pending", "b"), ("marked_pending", "a")],
    "restart": [("restarted", "a")],
}


@each_kind
def test_each_is_written_once(kind: str) -> None:
    """Each failure, rollback, mark and restarted backfill is one entry, by the run that did it."""
    server = make_server(kind)
    end(start(kind, server))

    assert list_facts(server) == EXPECTED[kind]
    assert {entry.run for entry in server.history} == {"me"}


def test_failure() -> None:
    """A failure says how long the attempt took, and the error; the next one is another entry."""
    server = Server()
    for _ in range(2):
        process = Process(server, migrations(b=fail), durations={"b": 3.0})
        with pytest.raises(Broken):
            process.run().finish()

    first, second = server.history
    assert (first.what, first.duration_ms, first.error) == ("failed", 3000, RecordedError("Broken", "no more room"))
    assert second.at is not None
    assert first.at is not None
    assert second.at > first.at


def test_removed_records() -> None:
    """What was rolled back or marked pending has the record that is gone."""
    for kind in ("rollback", "mark pending"):
        server = apply_all()
        records = {name: server.recorded[name] for name in "ab"}
        end(start(kind, server))
        assert {entry.name: entry.record and entry.record.applied_at for entry in server.history} == records
        assert all(entry.record is not None and entry.record.checksum is not None for entry in server.history)


def test_nothing_to_do_writes_nothing() -> None:
    """A run without anything to do, and one without a failure, write no history."""
    server = Server()
    Process(server, migrations()).run().finish()
    process = Process(server, migrations()).run()
    process.finish()

    assert server.history == []
    assert [call.name for call in process.log] == ["read_records"]


def test_failed_rollback() -> None:
    """A rollback that fails is a failure of the rollback. The status shows it until the migration is rolled back."""
    server = apply_all()
    process = Process(server, migrations(b=fail))
    with pytest.raises(Broken):
        process.roll_back("b").finish()

    (entry,) = server.history
    assert (entry.what, entry.name, entry.undo) == ("failed", "b", True)
    assert {one.name: one.last_failure for one in read_status(server, migrations()).migrations} == {
        "a": None,
        "b": entry,
        "c": None,
    }
    Process(server, migrations()).roll_back("b").finish()
    assert [one.last_failure for one in read_status(server, migrations()).migrations] == [None] * 3


def test_status_shows_failures_until_applied() -> None:
    """The last failure counts until the migration is applied; it doesn't count again when that is rolled back."""
    server = Server()
    for _ in range(2):
        end(Process(server, migrations(b=fail)).run(["b"]))
    (before,) = (one for one in read_status(server, migrations()).migrations if one.name == "b")
    assert before.last_failure == server.history[-1]
    for act in (lambda one: one.run(), lambda one: one.roll_back("b")):
        act(Process(server, migrations())).finish()
        (after,) = (one for one in read_status(server, migrations()).migrations if one.name == "b")
        assert after.last_failure is None


def test_several_failures() -> None:
    """Of concurrent migrations each failure is an entry. What was applied beside them is none."""
    server = Server()
    process = Process(server, migrations(a=fail, c=fail)).run(concurrency=3)
    with pytest.raises(ExceptionGroup):
        process.finish()

    assert sorted(list_facts(server)) == [("failed", "a"), ("failed", "c")]
    assert server.records == {"b"}


def test_unlock() -> None:
    """An unlock is an entry, if somebody held the lease."""
    server = Server()
    server.acquire(Process(server, {}, "other").terms, "run", ("a",), ())
    for _ in range(2):
        process = Process(server, {})
        process.start(process.engine.unlock()).finish()

    assert list_facts(server) == [("unlocked", None)]


# What goes wrong


@each_kind
@pytest.mark.parametrize("fault", ["request lost", "answer lost", "no majority"])
def test_history_is_away(kind: str, fault: str) -> None:
    """An entry that can't be written is an event. It's sent once, and nothing else changes."""
    server = make_server(kind)
    process = start(kind, server)
    try:
        process.finish_without(lambda call: call.name == "add_history", fault)
    except Broken:
        assert kind == "run"
    expected = EXPECTED[kind]
    events = [event for event in process.events if isinstance(event, HistoryNotWritten)]

    assert [(event.what, event.name) for event in events] == expected
    assert len(process.find("add_history")) == len(expected)
    assert list_facts(server) == (expected if fault == "answer lost" else [])
    assert not any(isinstance(event, LeaseNotReleased) for event in process.events)
    whole = make_server(kind)
    end(start(kind, whole))
    assert (server.records, server.checkpoints, server.holder) == (whole.records, whole.checkpoints, None)


@each_kind
def test_history_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to write the history everything else ends as it would have."""
    server = make_server(kind)
    process = start(kind, server)

    def refuse(*_: object) -> None:
        raise PermissionError("not authorized")

    monkeypatch.setattr(server, "add_history", refuse)
    end(process)

    events = [event for event in process.events if isinstance(event, HistoryNotWritten)]
    assert [(event.what, event.name) for event in events] == EXPECTED[kind]
    assert "not authorized" in str(events[0])
    assert str(process.main.error) == ("no more room" if kind == "run" else "None")


@each_kind
@pytest.mark.parametrize("after", [False, True])
def test_crash_at_every_call(kind: str, after: bool) -> None:
    """A killed process writes no entry about what hasn't happened, and none twice; the next one goes on."""
    whole = start(kind, make_server(kind))
    end(whole)
    for at in range(len(whole.log)):
        server = make_server(kind)
        end(start(kind, server, strike_at=at, strike_after=after))
        happened = {name for what, name in list_facts(server)}
        if kind in {"rollback", "mark pending"}:
            assert happened <= {"a", "b"} - server.records
        if kind == "mark applied":
            assert happened <= server.records
        assert list_facts(server) == EXPECTED[kind][: len(server.history)]
        end(start(kind, server, owner="next"))
        assert len(server.history) == len(set(list_facts(server))) or kind == "run"
        if kind == "run":
            assert list_facts(server)[-1:] == EXPECTED[kind]


@each_kind
def test_interrupted_at_every_call(kind: str) -> None:
    """Ctrl-C loses no entry: what has happened is written, or an event says that it may not be."""
    whole = start(kind, make_server(kind))
    end(whole)
    for at in range(len(whole.log)):
        server = make_server(kind)
        process = start(kind, server, strike_at=at, is_undisturbed=False)
        process.strike = process.interrupt
        end(process)
        missing = {event.name for event in process.events if isinstance(event, HistoryNotWritten)}
        failed = set(process.names(MigrationFailed))
        assert {name for what, name in list_facts(server) if what == "failed"} | missing >= failed
        if kind == "rollback":
            assert {"a", "b"} - server.records - failed <= {name for _, name in list_facts(server)} | missing
        assert len(server.history) == len(set(list_facts(server)))


def test_server_is_away() -> None:
    """If the lease couldn't be released, the history isn't tried: the server is away, and others wait."""
    process = start("run", Server())
    process.reach("function b")
    with pytest.raises(Broken):
        process.finish_without(lambda call: call.name == "release_lease")

    assert process.find("add_history") == []
    (event,) = (event for event in process.events if isinstance(event, HistoryNotWritten))
    assert "request lost" in str(event.error)


def test_signal_of_a_limit_in_the_history() -> None:
    """A soft time limit that meets the write is raised, and the run's end writes what is left."""
    process = start("rollback", apply_all())
    process.reach("add_history")
    process.main.go_on(error=InterruptedError())
    with pytest.raises(InterruptedError):
        process.finish()

    (event,) = (event for event in process.events if isinstance(event, HistoryNotWritten))
    assert (event.what, event.name) == ("rolled_back", "b")


# Reading


def read(server: Server, names: Any = None, limit: Any = None) -> list[HistoryEntry]:
    process = Process(server, migrations())
    found: list[HistoryEntry] = process.start(process.engine.read_history(names, limit)).finish()
    return found


def test_records_and_history_are_one_list() -> None:
    """The newest comes first. A migration that was marked is there once."""
    server = Server()
    end(Process(server, migrations(b=fail)).run())
    server.now += 60
    process = Process(server, migrations(), owner="r2")
    process.perform(engine.mark_applied(process.scope, ["b"])).finish()

    assert [(entry.what, entry.name) for entry in read(server)] == [
        ("marked_applied", "b"),
        ("failed", "b"),
        ("applied", "a"),
    ]
    assert [entry.what for entry in read(server, ["b"])] == ["marked_applied", "failed"]
    assert [entry.what for entry in read(server, limit=2)] == ["marked_applied", "failed"]
    assert read(server, []) == []


def test_unknown_and_invalid_arguments() -> None:
    """A name that nobody knows is an error, with a similar one. Other wrong arguments send nothing."""
    server = apply_all()
    server.history.append(HistoryEntry("failed", "old", LONG_AGO))
    assert [entry.name for entry in read(server, ["old", "a"])] == ["a", "old"]
    with pytest.raises(UnknownMigrationError, match="odl"):
        read(server, ["odl"])
    for wrong in (0, -1, True, 1.5, "1"):
        process = Process(server, migrations())
        with pytest.raises(InvalidOptionError, match="limit"):
            process.start(process.engine.read_history(None, wrong)).finish()
        assert process.log == []


def test_merge_of_old_records() -> None:
    """Records without dates come last."""
    newest = {"a": MigrationRecord(), "b": MigrationRecord(LONG_AGO, run="r1")}
    entry = HistoryEntry("failed", "b", LONG_AGO - timedelta(days=1))

    assert [one.name for one in merge(Records({}, newest=newest), [entry], None, None)] == ["b", "b", "a"]


# Errors


def make_error(message: str, cause: Exception) -> Exception:
    error = ValueError(message)
    error.__cause__ = cause
    return error


DUPLICATE = DuplicateKeyError(
    'E11000 duplicate key error collection: shop.users index: email_1 dup key: { email: "ada@example.com" }', 11000
)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("no room\nin the second line"), "no room"),
        (ValueError(), ""),
        (make_error("empty", ValueError()), "empty"),
        (DUPLICATE, "E11000 duplicate key error collection: shop.users index: email_1"),
        (make_error(f"import: {DUPLICATE}", DUPLICATE), "import: E11000 duplicate key error collection: shop.users "),
        (ValueError(f"import: {DUPLICATE}"), "import: E11000 duplicate key error collection: shop.users "),
        (ValueError("bad order {'_id': 7, 'email': 'ada@example.com'}"), "bad order…"),
        (ValueError("can't reach mongodb://ada:s3cret@db.example.com"), "can't reach mongodb://***@db.example.com"),
        (ValueError("login with password=s3cret failed"), "login with password=*** failed"),
        (ValueError("login with password: 'a long s3cret' failed"), "login with password: *** failed"),
        (ValueError('config has "api_token": "a s3cret"'), 'config has "api_token": ***'),
        (ValueError("401 for Authorization: Bearer s3cret"), "401 for Authorization: ***"),
        (ValueError("bad: 1 validation error for User age [type=int, input_value='ada@', x]"), "bad: 1 validation "),
        (ValueError("x" * 600), "x" * 500 + "…"),
    ],
)
def test_description_of_errors(error: Exception, expected: str) -> None:
    """The history keeps the class and the first line, and nothing of a document or a password."""
    described = describe_error(error)

    assert described.type == type(error).__name__
    assert described.message.startswith(expected)
    assert 'example.com"' not in described.message
    assert "s3cret" not in str(described)
    assert "ada@" not in str(described)
