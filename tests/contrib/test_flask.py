"""Flask: `flask quaestor ...`, through Flask's own runner of commands."""

import logging
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mongomock
import pytest
from flask import Flask, current_app
from pymongo import MongoClient

from quaestor import InvalidDatabaseError, MigrationRegistry
from quaestor.contrib.flask import Quaestor

registry = MigrationRegistry()


@registry.register("emails")
def emails(db: Any) -> None:
    """Index the addresses."""
    db.users.create_index("email")
    db.apps.insert_one({"_id": current_app.name})


@registry.register_rollback("emails")
def drop_emails(db: Any) -> None:
    db.users.drop_index("email_1")


@pytest.fixture
def client(uri: str) -> Iterator[MongoClient[Any]]:
    with MongoClient(uri) as opened:
        yield opened


def test_commands_work_on_the_database_of_the_application(client: MongoClient[Any], name: str) -> None:
    """The commands need no settings, run in the application's context, and leave its client open."""
    app = Flask("shop")
    Quaestor(app, registry, client[name], prefix="users", release="1.4.2")
    invoke = app.test_cli_runner().invoke

    assert "1 pending" in invoke(args=["quaestor", "status"]).stdout
    assert "emails" in invoke(args=["quaestor", "plan"]).stdout
    assert invoke(args=["quaestor", "check"]).exit_code == 1
    assert "Applied 1 migration" in invoke(args=["quaestor", "run", "emails"]).stdout
    assert [record["release"] for record in client[name].users_migrations.find()] == ["1.4.2"]
    assert client[name].apps.find_one() == {"_id": "shop"}
    assert invoke(args=["quaestor", "check"]).exit_code == 0
    assert invoke(args=["quaestor", "protect", "--as", "production"]).exit_code == 0
    assert invoke(args=["quaestor", "rollback", "emails", "--yes"]).exit_code == 2
    assert client[name].users_migrations.count_documents({}) == 1
    assert invoke(args=["quaestor", "rollback", "emails", "--confirm", name]).exit_code == 0
    assert client[name].users_migrations.count_documents({}) == 0


def test_database_is_looked_up_in_the_application_context(client: MongoClient[Any], name: str) -> None:
    """With `init_app`, each application has its own database, found when a command needs it."""
    extension = Quaestor(None, registry, lambda: client[current_app.config["DATABASE"]])
    apps = []
    for number in range(2):
        app = Flask(f"shop_{number}")
        app.config["DATABASE"] = f"{name}_{number}"
        extension.init_app(app)
        apps.append(app)
    try:
        outputs = [app.test_cli_runner().invoke(args=["quaestor", "run"]).stdout for app in apps]
        assert all("Applied 1 migration" in output for output in outputs)
        assert [client[f"{name}_{number}"].apps.find_one() for number in range(2)] == [
            {"_id": "shop_0"},
            {"_id": "shop_1"},
        ]
    finally:
        for number in range(2):
            client.drop_database(f"{name}_{number}")


def test_help_has_the_name_of_the_command() -> None:
    """`flask quaestor --help` lists the commands under the name that was typed."""
    app = Flask("shop")
    Quaestor(app, registry, mongomock.MongoClient()["shop"])
    output = app.test_cli_runner().invoke(args=["quaestor", "--help"]).stdout
    assert "flask quaestor" in output
    assert "rollback" in output


def test_new_takes_the_registry_from_the_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`init` and `new` write code that imports the project's registry, wherever the commands take it from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    app = Flask("shop")
    Quaestor(app, registry, mongomock.MongoClient()["shop"])
    invoke = app.test_cli_runner().invoke

    assert invoke(args=["quaestor", "init", "flask_migrations"]).exit_code == 0
    assert invoke(args=["quaestor", "new", "first"]).exit_code == 0
    assert "from flask_migrations import registry" in (tmp_path / "flask_migrations" / "first.py").read_text()


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_process_stays_as_it_was(log_format: str) -> None:
    """A command changes neither the handlers of signals nor the logs of its process, and works in any thread."""
    app = Flask("shop")
    Quaestor(app, registry, mongomock.MongoClient()["shop"])

    def read() -> tuple[object, ...]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
        return handlers, logging.getLogger().handlers[:], logging.getLogger("quaestor").level

    def run() -> int:
        return app.test_cli_runner().invoke(args=["quaestor", "run", "--log-format", log_format]).exit_code

    before = read()
    assert run() == 0
    assert read() == before
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(run).result() == 0


@pytest.mark.parametrize("wrong", [lambda: None, lambda: mongomock.MongoClient()])
def test_what_is_no_database_is_refused(wrong: Any) -> None:
    """A function that returns no database is reported as such."""
    app = Flask("shop")
    Quaestor(app, registry, wrong)
    result = app.test_cli_runner().invoke(args=["quaestor", "status"])
    assert isinstance(result.exception, InvalidDatabaseError)
