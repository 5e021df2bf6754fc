"""The rights that a run needs, and what happens where one is missing."""

import contextlib
import json
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from quaestor import HistoryNotWritten, LeaseAwaited, MigrationRetried, SessionsNotEnded
from tests.faults.applications import Application, State, application, hold, lsid, state, transactions_live

PAGE = Path(__file__).parents[2] / "docs" / "deploy" / "privileges.md"

RIGHTS: dict[str, list[str]] = {
    "app_migrations": ["find", "insert"],
    "app_migrations_lock": ["find", "insert", "update"],
}
"""All that a run needs by itself, by collection; what its migrations do comes to that."""

HISTORY = {"app_migrations_history": ["find", "insert", "update", "remove"]}
"""What keeping the history needs, without which everything works."""

TO_CORRECT = {"app_migrations": [*RIGHTS["app_migrations"], "remove"], "app_migrations_progress": ["remove"]}
"""What a rollback, or the removal of a record, needs beside that."""

EFFECTS = {"effects": ["find", "insert", "update"]}

NOT_AUTHORIZED = 13

NewUser: TypeAlias = Callable[[dict[str, list[str]]], str]
"""Makes a user with these rights in the database of the test, and gives the URI of that one."""


@pytest.fixture
def uri(guarded: str) -> str:
    """The URI of a server that wants a password."""
    return guarded


@pytest.fixture
def new_user(uri: str, name: str, db: Any) -> NewUser:
    def make(rights: dict[str, list[str]]) -> str:
        user = f"user{len(db.command('usersInfo')['users'])}"
        privileges = [
            {"resource": {"db": name, "collection": collection}, "actions": actions}
            for collection, actions in rights.items()
        ]
        db.command("createRole", user, privileges=privileges, roles=[])
        db.command("createUser", user, pwd="1234", roles=[user])  # noqa: S106 - a user of one test
        return re.sub("root:.*@", f"{user}:1234@", uri) + f"&authSource={name}"

    return make


@pytest.fixture
def app(driver: str, name: str, new_user: NewUser) -> Application:
    """An application that may do what it needs, and nothing else."""
    return application(driver, new_user(RIGHTS | EFFECTS), name)


def test_enough(app: Application, db: Any) -> None:
    """With these rights a run waits, takes over, applies migrations of all kinds, and a lease is freed."""
    app.leaves_effects("a")
    app.leaves_effects("b", transaction=True)
    hold(db, seconds=0.3)

    assert app.run() == ["a", "b"]
    assert app.run() == []

    assert len(app.list_events(LeaseAwaited)) == 1
    assert state(db) == State(["a", "b"], ["a", "b"])
    hold(db, seconds=60)
    assert app.unlock() is not None
    app.leaves_effects("c")
    assert app.run(lease_timeout=0) == ["c"]


@pytest.mark.parametrize(
    ("collection", "right"), [(collection, right) for collection, rights in RIGHTS.items() for right in rights]
)
def test_each_right_is_required(
    driver: str, name: str, db: Any, new_user: NewUser, collection: str, right: str
) -> None:
    """Without any one of them a run fails, by the server's own word, and records nothing."""
    fewer = RIGHTS | EFFECTS | {collection: [one for one in RIGHTS[collection] if one != right]}
    app = application(driver, new_user(fewer), name)
    app.leaves_effects("a")

    with pytest.raises(OperationFailure, match=collection) as caught:
        app.run()

    assert caught.value.code == NOT_AUTHORIZED
    assert state(db).records == []
    assert state(db).holder is None


def test_role_of_the_page(driver: str, name: str, uri: str, db: Any) -> None:
    """The role on the page about privileges is enough for runs, backfills, rollbacks, marks and a status."""
    (text,) = re.findall(r"createRole\(({.+?})\)", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    role = json.loads(text.replace('"shop"', f'"{name}"'))
    of_functions = [
        {"resource": {"db": name, "collection": collection}, "actions": EFFECTS["effects"]}
        for collection in ("effects", "things", "log")
    ]
    db.command("createRole", role["role"], privileges=role["privileges"] + of_functions, roles=role["roles"])
    db.command("createUser", "migrate", pwd="1234", roles=[role["role"]])  # noqa: S106 - a user of one test
    app = application(driver, re.sub("root:.*@", "migrate:1234@", uri) + f"&authSource={name}", name)
    app.leaves_effects("a")
    app.goes_over("transaction", name="b")
    db.things.insert_many([{"_id": number} for number in range(3)])

    assert app.run() == ["a", "b"]
    assert app.call("rollback", ["a"]) == ["a"]
    assert app.call("mark_applied", ["a"]) == ["a"]
    assert app.call("mark_pending", ["b"]) == ["b"]
    assert app.call("mark_accepted", ["a"]) == []
    db.app_migrations.update_one({}, {"$unset": {"checksum": ""}})
    assert app.call("mark_accepted", ["a"]) == ["a"]
    assert app.call("status").names("pending") == ["b"]
    assert [entry.what for entry in app.call("history")] == [
        *("accepted", "marked_pending", "marked_applied", "rolled_back"),
    ]
    assert app.list_events(HistoryNotWritten) == []


@pytest.mark.parametrize("right", ["find", "insert", "update", "remove", None])
def test_history_is_no_condition(driver: str, name: str, db: Any, new_user: NewUser, right: str | None) -> None:
    """Without a right to the history a run, a rollback and a status end as they would; an event says what is missing.
    Without the right to remove only the oldest failures stay.
    """
    rights = [one for one in HISTORY["app_migrations_history"] if right is not None and one != right]
    more = RIGHTS | EFFECTS | TO_CORRECT | ({"app_migrations_history": rights} if rights else {})
    more |= {"app_migrations_progress": ["find", "remove"]}
    app = application(driver, new_user(more), name)
    app.leaves_effects("a")

    @app.migration("b")
    def b(db: Any) -> Generator[Any, Any, None]:
        yield db.effects.find_one()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        app.run()
    assert app.call("rollback", ["a"]) == ["a"]
    status = app.call("status")

    is_written = right in {"find", "remove"}
    assert db.app_migrations_history.count_documents({}) == (2 if is_written else 0)
    assert len(app.list_events(HistoryNotWritten)) == (0 if is_written else 2)
    assert status.names("pending") == ["a", "b"]
    assert [one.last_failure is not None for one in status.migrations] == [False, right == "remove"]
    assert state(db).holder is None


def test_nothing_to_do(app: Application, driver: str, name: str, new_user: NewUser) -> None:
    """Where nothing is to do, to read the records is enough."""
    reader = application(driver, new_user({"app_migrations": ["find"]}), name)
    for one in (app, reader):
        one.leaves_effects("a")
    assert app.run() == ["a"]

    assert reader.run() == []


def test_enough_to_correct(driver: str, name: str, db: Any, new_user: NewUser) -> None:
    """With these rights migrations of all kinds are undone, and records corrected."""
    app = application(driver, new_user(RIGHTS | EFFECTS | TO_CORRECT), name)
    app.leaves_effects("a")
    app.leaves_effects("b", transaction=True)
    assert app.run() == ["a", "b"]

    assert app.call("rollback", ["a", "b"]) == ["b", "a"]
    assert app.call("mark_applied", ["a", "b"]) == ["a", "b"]
    assert app.call("mark_pending", ["a"]) == ["a"]

    assert state(db) == State(["b"], ["a", "b", "undo a", "undo b"])


@pytest.mark.parametrize(
    ("call", "transaction", "effects"),
    [
        pytest.param("rollback", True, ["a", "b"], id="rollback in a transaction"),
        pytest.param("rollback", False, ["a", "b", "undo b"], id="rollback"),
        pytest.param("mark_pending", False, ["a", "b"], id="mark"),
    ],
)
def test_no_right_to_remove(app: Application, db: Any, call: str, effects: list[str], *, transaction: bool) -> None:
    """Without the right to remove a record it stays, by the server's own word, and so does what a transaction undid."""
    app.leaves_effects("a", "b", transaction=transaction)
    assert app.run() == ["a", "b"]

    with pytest.raises(OperationFailure, match="app_migrations") as caught:
        app.call(call, ["a", "b"])

    assert caught.value.code == NOT_AUTHORIZED
    assert state(db) == State(["a", "b"], effects)


def test_reader(driver: str, name: str, db: Any, app: Application, new_user: NewUser) -> None:
    """To read the collections is enough for a status, to read the records for a plan; nothing else is done then."""
    app.leaves_effects("a")
    assert app.run() == ["a"]
    lock = db.app_migrations_lock.find_one()
    collections = ("app_migrations", "app_migrations_lock", "app_migrations_progress")
    reader = application(driver, new_user({collection: ["find"] for collection in collections}), name)
    of_records = application(driver, new_user({"app_migrations": ["find"]}), name)
    for one in (reader, of_records):
        one.leaves_effects("a", "b")

    assert reader.call("status").names("pending") == ["b"]
    with pytest.raises(OperationFailure, match="app_migrations_history"):  # a list with gaps would be no history
        reader.call("history")
    for one in (reader, of_records):
        assert [planned.name for planned in one.call("plan")] == ["b"]
        assert [planned.name for planned in one.call("plan_rollback", ["a"])] == ["a"]
    with pytest.raises(OperationFailure, match="app_migrations_lock") as caught:
        of_records.call("status")
    assert caught.value.code == NOT_AUTHORIZED
    for call in ("rollback", "mark_pending"):
        with pytest.raises(OperationFailure, match="app_migrations_lock") as caught:
            reader.call(call, ["a"])
        assert caught.value.code == NOT_AUTHORIZED
    assert reader.bodies == []
    assert db.app_migrations_lock.find_one() == lock
    assert state(db) == State(["a"], ["a"])


@contextlib.contextmanager
def killed_in_a_transaction(user: str, db: Any) -> Iterator[None]:
    """The holder of the lease, a user of this URI, is gone and has a write open. In the end it was never committed."""
    db.effects.insert_one({"_id": 1, "migration": "x"})
    with MongoClient(user) as killed, killed.start_session() as session:
        session.start_transaction()
        killed[db.name].effects.update_one({"_id": 1}, {"$set": {"migration": "lost"}}, session=session)
        hold(db, seconds=0.3, sessions=[lsid(killed, session.session_id["id"])])
        yield
        with pytest.raises(OperationFailure) as caught:
            session.commit_transaction()
    assert caught.value.has_error_label("TransientTransactionError")


@pytest.mark.parametrize("transaction", [False, True])
def test_own_session(name: str, db: Any, new_user: NewUser, driver: str, *, transaction: bool) -> None:
    """What a killed holder of the same user has open is ended, without any right to do that, and not waited for."""
    user = new_user(RIGHTS | EFFECTS)
    app = application(driver, user, name)
    left_behind(app, transaction=transaction)

    with killed_in_a_transaction(user, db):
        assert app.run() == ["a"]

    assert app.list_events(MigrationRetried) == []
    assert state(db) == State(["a"], ["a"])


@pytest.mark.parametrize("transaction", [False, True])
def test_session_of_another_user(app: Application, db: Any, uri: str, new_user: NewUser, transaction: bool) -> None:
    """A transaction of another user may not be ended, which is an event: the run waits until the server does it."""
    left_behind(app, transaction=transaction)

    with transactions_live(uri, 2), killed_in_a_transaction(new_user(EFFECTS), db):
        assert app.run() == ["a"]

    assert [event.error.code for event in app.list_events(SessionsNotEnded)] == [NOT_AUTHORIZED]
    assert bool(app.list_events(MigrationRetried)) is transaction
    assert state(db) == State(["a"], ["a"])


def test_session_of_another_user_with_the_right(driver: str, name: str, uri: str, db: Any, new_user: NewUser) -> None:
    """With the right to end any session (killAnySession) that of another user is ended as well."""
    app = application(driver, uri, name)
    left_behind(app, transaction=True)

    with killed_in_a_transaction(new_user(EFFECTS), db):
        assert app.run() == ["a"]

    assert app.list_events(MigrationRetried) == []
    assert app.list_events(SessionsNotEnded) == []
    assert state(db) == State(["a"], ["a"])


def left_behind(app: Application, *, transaction: bool) -> None:
    """Register a migration that writes what the killed holder of the lease had in hand."""

    @app.migration("a", transaction=transaction)
    def writes_the_same(db: Any) -> Generator[Any, Any, None]:
        yield db.effects.update_one({"_id": 1}, {"$set": {"migration": "a"}})
