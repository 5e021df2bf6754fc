"""The application's own client (--client), of every kind, and ODMs on it, on the real server."""

import signal
from typing import Any

import pytest

from tests.cli.conftest import Project
from tests.cli.tenants import tenants
from tests.cli.test_commands import CLEANING

CLIENTS = """
import os, sys
from pymongo import AsyncMongoClient, MongoClient

URI = os.environ["SHOP_URI"]

class Sync(MongoClient):
    def close(self):
        print("closed")
        super().close()

class Async(AsyncMongoClient):
    async def close(self):
        print("closed")
        await super().close()

def plain():
    print("made")
    return Sync(URI, tz_aware=True)

def pymongo_async():
    return Async(URI, tz_aware=True)

async def made_in_the_loop():
    client = Async(URI, tz_aware=True)
    await client.admin.command("ping")
    return client

def both():
    return plain(), pymongo_async()

def motor():
    from motor.motor_asyncio import AsyncIOMotorClient
    return AsyncIOMotorClient(URI, tz_aware=True)

def mock():
    import mongomock
    return mongomock.MongoClient()

def async_mock():
    import mongomock_motor
    return mongomock_motor.AsyncMongoMockClient()

def twice():
    return plain(), plain()

def nothing():
    pass

def database():
    return plain()["shop"]

def leaves():
    sys.exit(0)

def shows():
    raise ValueError(URI)

async def with_beanie():
    from beanie import init_beanie
    from shop.documents import User
    client = pymongo_async()
    await init_beanie(database=client[os.environ["QUAESTOR_DB"]], document_models=[User])
    return client
"""
OWN = """
from shop.migrations import registry

@registry.register("first")
def first(db):
    db.effects.insert_one({"_id": f"tz_aware {db.codec_options.tz_aware}"})
"""
BOTH = "Let the function of --client return a tuple that also has"


@pytest.fixture(autouse=True)
def _clients(project: Project) -> None:
    project.write("shop/clients.py", CLIENTS)
    project.write("shop/migrations/first.py", OWN)
    project.environ["SHOP_URI"] = project.environ.pop("QUAESTOR_URI")


def use(project: Project, function: str) -> None:
    project.environ["QUAESTOR_CLIENT"] = f"shop.clients:{function}"


@pytest.mark.parametrize("function", ["both", "motor"])
def test_both_kinds(project: Project, function: str) -> None:
    """A sync and an async client, or Motor, run migrations of both kinds, and are closed; no URI is needed."""
    use(project, function)
    output, _ = project.quaestor("run")
    assert output.count("closed") == (2 if function == "both" else 0)
    assert project.recorded() == {"aside", "first", "second"}
    assert project.effects() == {"aside", "tz_aware True", "second"}
    project.quaestor("rollback", "second", "--yes")
    assert project.effects() == {"aside", "tz_aware True"}
    assert "✓ first" in project.quaestor("graph")[0]
    assert "Nobody" in project.quaestor("unlock")[0]


@pytest.mark.parametrize(
    ("function", "said", "targets"),
    [
        ("plain", f"`async def` functions: second. {BOTH} an async client.", ["first", "aside"]),
        ("pymongo_async", f"`def` functions: aside, first. {BOTH} PyMongo's sync client.", ["second"]),
        ("made_in_the_loop", f"`def` functions: aside, first. {BOTH} PyMongo's sync client.", ["second"]),
    ],
)
def test_one_kind(project: Project, function: str, said: str, targets: list[str]) -> None:
    """One client runs the functions of its kind. For others, the sentence says how to give both."""
    use(project, function)
    assert said in project.quaestor("run", code=2)[1]
    assert project.recorded() == set()
    if targets == ["second"]:
        project.quaestor("mark", "applied", "first")
    output, errors = project.quaestor("run", *targets)
    assert project.recorded() == {"first", *targets}
    assert "closed" in output
    assert ("made" in errors) is (function == "plain")  # what it prints isn't mixed with the answer
    assert "1 pending" in project.quaestor("check", code=1)[0]


@pytest.mark.parametrize("function", ["mock", "async_mock"])
def test_mocks(project: Project, function: str) -> None:
    """Mocks are clients, too."""
    use(project, function)
    assert "Applied 2 migrations" in project.quaestor("run", "first", "aside")[0]


@pytest.mark.parametrize("function", ["both", "plain"])
def test_many_databases(project: Project, function: str) -> None:
    """A pattern works on the application's own clients, sync and async."""
    project.environ["QUAESTOR_URI"] = project.environ["SHOP_URI"]  # for the clean-up; it may be there
    with tenants(project, 3) as databases:
        databases.open_the_gate()
        use(project, function)
        output, _ = project.quaestor("run", *([] if function == "both" else ["first", "third"]))
        applied, total = (3, 9) if function == "both" else (2, 6)
        assert f"Applied {total} migrations in 3 of 3 databases" in output
        assert all(len(databases.recorded(number)) == applied for number in range(3))
        assert "3 databases" in project.quaestor("status")[0]
        output, _ = project.quaestor("check", "--verify", code=0 if function == "both" else 1)
        assert "Verified: 0 migrations." in output
        assert "Marked 3 migrations in 3 of 3 databases" in project.quaestor("mark", "pending", "third", "--yes")[0]
        assert "Marked 3 migrations in 3 of 3 databases" in project.quaestor("mark", "applied", "third")[0]
        assert project.quaestor("history", "third")[0].count("marked applied") == 3
        assert "Nobody holds the lease of 3 databases.\n" in project.quaestor("unlock", "--yes")[0]
        if function == "both":
            output, _ = project.quaestor("rollback", "first", "--yes")
            assert "Rolled back 6 migrations in 3 of 3 databases" in output
            assert databases.recorded(0) == {"third"}


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("shop.clients:twice", "must give one client, or a sync and an async one, not 2."),
        ("shop.clients:nothing", "must be a client of PyMongo, Motor or a mock, or a function without arguments that"),
        ("shop.clients:database", "not of type Database."),
        ("shop.clients:Sync", "not the class Sync."),
        ("shop.clients:leaves", "failed: SystemExit: 0 ("),
        ("shop.clients:plane", "Did you mean 'plain'?"),
        ("shop.clients", "has no 'client'."),
    ],
)
def test_no_client(project: Project, reference: str, said: str) -> None:
    """What is no client is refused before anything is asked."""
    run = project.process if reference.endswith(("twice", "database")) else project.quaestor  # they leave clients open
    assert said in run("run", "--client", reference, code=2)[1]


def test_password_of_the_application(project: Project) -> None:
    """A password that the application takes from the environment isn't shown."""
    project.environ["SHOP_URI"] = "mongodb://ada:geheim@127.0.0.1:1/"
    _, errors = project.quaestor("status", "--client", "shop.clients:shows", "--traceback", code=2)
    assert "ValueError: mongodb://ada:***@127.0.0.1:1/" in errors
    assert "geheim" not in errors


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_signals(project: Project, number: signal.Signals) -> None:
    """A signal cancels the migration in the loop of an async client; a second one waits for its end, too."""
    project.write("shop/migrations/aside.py", CLEANING)
    use(project, "pymongo_async")
    process = project.start("run", "aside")
    assert process.stdout is not None
    assert process.stderr is not None
    for word, stream in (("begun", process.stdout), ("waiting for the migrations", process.stderr)):
        assert any(word in line for line in stream)
        process.send_signal(number)
    project.db.signals.insert_one({"_id": "go on"})
    _, errors = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "Traceback" not in errors
    assert project.effects() == {"cleaned up"}
    assert project.recorded() == set()
    assert "owner" not in project.db.app_migrations_lock.find_one()


BEANIE = """
from beanie import Document

class User(Document):
    name: str

    class Settings:
        name = "effects"
"""
MONGOENGINE = """
import os
import mongoengine

if "CONNECTED" in os.environ:
    mongoengine.connect(os.environ["QUAESTOR_DB"], host=os.environ["SHOP_URI"])

class User(mongoengine.Document):
    name = mongoengine.StringField()
    meta = {"collection": "effects"}
"""
USING = """
import os
import mongoengine
from beanie import init_beanie
from shop.documents import User
from shop.migrations import registry

@registry.register("aside", transaction=BOOL)
FUNCTION
    if "FAILS" in os.environ:
        raise ValueError(os.environ["FAILS"])
"""
SAVE = "def aside(db):\n    User(name='ada').save()"
INSERT = "async def aside(db):\n    await User(name='ada').insert()"
FIND = "async def aside(db):\n    await User.find(User.name == 'ada').to_list()"
INIT = INSERT.replace("\n", "\n    await init_beanie(database=db, document_models=[User])\n")
CONNECT = "def aside(db):\n    mongoengine.connect('other')"
NOTES = {BEANIE: "Beanie's documents use the client that", MONGOENGINE: "MongoEngine's documents use the client of"}


def migrate(project: Project, documents: str, function: str, *, transaction: bool) -> None:
    project.write("shop/documents.py", documents)
    project.write("shop/migrations/aside.py", USING.replace("BOOL", str(transaction)).replace("FUNCTION", function))


@pytest.mark.parametrize(
    ("documents", "function", "transaction", "connected"),
    [
        (BEANIE, INSERT, False, False),  # init_beanie wasn't called
        (BEANIE, FIND, False, False),
        (BEANIE, INIT, True, False),  # it lists collections
        (MONGOENGINE, SAVE, False, False),  # connect() wasn't called
        (MONGOENGINE, SAVE, True, True),  # it made another client
        (MONGOENGINE, CONNECT, False, True),
    ],
)
def test_odm_without_the_client(
    project: Project, documents: str, function: str, *, transaction: bool, connected: bool
) -> None:
    """What works is a note of the error, which is the ODM's, the driver's or the server's own."""
    migrate(project, documents, function, transaction=transaction)
    environ: dict[str, Any] = {"QUAESTOR_URI": project.environ["SHOP_URI"]} | ({"CONNECTED": "1"} if connected else {})
    _, errors = project.process("run", "aside", code=1, **environ)
    assert errors.count(NOTES[documents]) == 1
    assert "--client" in errors
    assert "in migration 'aside', 1 of 1" in errors
    assert "in a migration of its own" not in errors
    assert project.effects() == project.recorded() == set()


@pytest.mark.parametrize(
    ("documents", "function", "transaction", "client"),
    [
        (BEANIE, INSERT, True, "shop.clients:with_beanie"),
        (BEANIE, INIT, False, "shop.clients:pymongo_async"),
        (MONGOENGINE, SAVE, True, "mongoengine:get_connection"),
    ],
)
def test_odm_with_the_client(
    project: Project, documents: str, function: str, client: str, *, transaction: bool
) -> None:
    """On the client of the run an ODM works, and is part of the transaction."""
    migrate(project, documents, function, transaction=transaction)
    project.environ |= {"QUAESTOR_CLIENT": client, "CONNECTED": "1"}
    assert "ValueError: boom" in project.process("run", "aside", FAILS="boom", code=1)[1]
    assert project.db.effects.count_documents({}) == (0 if transaction else 1)
    project.process("run", "aside")
    assert project.db.effects.count_documents({"name": "ada"}) == (1 if transaction else 2)
    assert project.recorded() == {"aside"}
