"""FastAPI, Starlette and Litestar: applications that migrate when they start, and say when they are ready."""

import inspect
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import fastapi
import litestar
import pytest
from litestar.testing import TestClient as LitestarClient
from pymongo import AsyncMongoClient, MongoClient
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

import quaestor.contrib.fastapi
import quaestor.contrib.litestar
import quaestor.contrib.starlette
from quaestor import InvalidDatabaseError, InvalidPrefixError, MigrationRegistry, SyncRunner
from quaestor.contrib.starlette import migrate
from tests.leases import HELD


def add_index(db: Any) -> None:
    db.users.create_index("email")


async def add_index_async(db: Any) -> None:
    await db.users.create_index("email")


def make_registry(client_type: type, *names: str) -> MigrationRegistry:
    registry = MigrationRegistry()
    for name in names:
        registry.register(name)(add_index if client_type is MongoClient else add_index_async)
    return registry


def closing(client: Any, inner: Any = None) -> Any:
    """A lifespan that closes the client after the inner one has ended, also where that fails to start."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        try:
            async with nullcontext() if inner is None else inner(app) as state:
                yield state
        finally:
            closed = client.close()
            if inspect.isawaitable(closed):
                await closed

    return lifespan


@contextmanager
def serve_fastapi(*arguments: Any, lifespan: Any = None) -> Iterator[Any]:
    app = fastapi.FastAPI(lifespan=closing(arguments[1], lifespan))
    app.get("/ready")(quaestor.contrib.fastapi.ready(*arguments))
    with TestClient(app) as client:
        yield client


@contextmanager
def serve_fastapi_dependency(*arguments: Any, lifespan: Any = None) -> Iterator[Any]:
    app = fastapi.FastAPI(lifespan=closing(arguments[1], lifespan))
    is_ready = fastapi.Depends(quaestor.contrib.fastapi.ready(*arguments))
    app.get("/ready", dependencies=[is_ready])(lambda: "all is well")
    with TestClient(app) as client:
        yield client


@contextmanager
def serve_starlette(*arguments: Any, lifespan: Any = None) -> Iterator[Any]:
    route = Route("/ready", quaestor.contrib.starlette.ready(*arguments))
    app = Starlette(routes=[route], lifespan=closing(arguments[1], lifespan))
    with TestClient(app) as client:
        yield client


@contextmanager
def serve_litestar(*arguments: Any, lifespan: Any = None) -> Iterator[Any]:
    handler = litestar.get("/ready")(quaestor.contrib.litestar.ready(*arguments))
    app = litestar.Litestar([handler], lifespan=[closing(arguments[1], lifespan)])
    with LitestarClient(app) as client:
        yield client


Serve = Callable[..., Any]
every_framework = pytest.mark.parametrize(
    "serve", [serve_fastapi, serve_fastapi_dependency, serve_starlette, serve_litestar]
)
every_client = pytest.mark.parametrize("client_type", [MongoClient, AsyncMongoClient])


@every_framework
@every_client
def test_application_is_migrated_when_it_has_started(uri: str, name: str, serve: Serve, client_type: type) -> None:
    """The application starts with everything applied under the default prefix, and is ready."""
    registry = make_registry(client_type, "first", "second")
    arguments = (registry, client_type(uri), name)

    with serve(*arguments, lifespan=migrate(*arguments)) as app, MongoClient[Any](uri) as client:
        assert {record["name"] for record in client[name].app_migrations.find()} == {"first", "second"}
        assert app.get("/ready").status_code == 200


@every_client
def test_own_lifespan_is_entered_after_the_run(uri: str, name: str, client_type: type) -> None:
    """The application's own lifespan finds a migrated database, is left in the end, and its state reaches requests."""
    seen: list[object] = []
    registry, client = make_registry(client_type, "first"), client_type(uri)

    @asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[dict[str, str]]:
        with MongoClient[Any](uri) as own_client:
            seen.extend([app, *(record["name"] for record in own_client[name].app_migrations.find())])
        yield {"greeting": "hello"}
        seen.append("left")

    app = fastapi.FastAPI(lifespan=closing(client, migrate(registry, client, name, lifespan=lifespan)))

    @app.get("/")
    def greet(request: fastapi.Request) -> str:
        return request.state.greeting

    with TestClient(app) as test_client:
        assert test_client.get("/").json() == "hello"
    assert seen == [app, "first", "left"]


@every_client
def test_failed_run_stops_the_start(uri: str, name: str, client_type: type) -> None:
    """If a migration fails, the application's own lifespan is never entered, and the error says what failed."""
    registry = MigrationRegistry()
    entered = []

    def fail(db: Any) -> None:
        raise ValueError("no such field")

    async def fail_async(db: Any) -> None:
        fail(db)

    registry.register("broken")(fail if client_type is MongoClient else fail_async)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        entered.append(1)
        yield

    client = client_type(uri)
    app = Starlette(lifespan=closing(client, migrate(registry, client, name, lifespan=lifespan)))
    with pytest.raises(ValueError, match="no such field") as raised, TestClient(app):
        pass
    assert "broken" in raised.value.__notes__[0]
    assert not entered


@every_framework
@every_client
def test_ready_once_nothing_is_pending(uri: str, name: str, serve: Serve, client_type: type) -> None:
    """Not ready while something is pending; ready with unknown records, of a newer release; then it stays ready."""
    registry = make_registry(client_type, "first", "second")
    with serve(registry, client_type(uri), name) as app, MongoClient[Any](uri) as client:
        runner = SyncRunner(make_registry(MongoClient, "first", "second", "newer"), client[name], "app")
        runner.run(["first", "newer"])
        answer = app.get("/ready")
        assert answer.status_code == 503
        assert "Pending migrations: 1" in answer.text

        runner.run()
        assert app.get("/ready").status_code == 200

        runner.mark_pending(["second"])
        assert app.get("/ready").status_code == 200


@every_framework
def test_ready_before_the_rollout_is_over(uri: str, name: str, serve: Serve) -> None:
    """What may only run after the rollout doesn't delay it."""
    registry = make_registry(MongoClient, "first", "second")
    registry.register("third", phase="post_deploy")(lambda _: None)
    with serve(registry, MongoClient(uri), name) as app, MongoClient[Any](uri) as client:
        assert "Pending migrations: 2" in app.get("/ready").text
        registry.run_sync(client[name], "app", phase="deploy")
        assert app.get("/ready").status_code == 200


@every_framework
def test_never_ready_without_migrations(uri: str, name: str, serve: Serve) -> None:
    """An empty registry is a forgotten import, not an up-to-date database."""
    with serve(MigrationRegistry(), MongoClient(uri), name) as app:
        answer = app.get("/ready")
        assert answer.status_code == 503
        assert "No migrations are registered" in answer.text


@every_framework
@every_client
def test_not_ready_without_a_server(serve: Serve, client_type: type) -> None:
    """If the server can't be reached, the answer is 503 within the time of a probe, without the address."""
    client = client_type("mongodb://ada:secret@127.0.0.1:1")
    with serve(make_registry(client_type, "first"), client, "shop") as app:
        answer = app.get("/ready")
        assert answer.status_code == 503
        assert "Can't read" in answer.text
        assert "127.0.0.1" not in answer.text


def test_arguments_are_checked_at_once(uri: str) -> None:
    """What can't be a client, a database or a prefix is refused when the application is made."""
    registry = MigrationRegistry()
    with MongoClient[Any](uri) as client:
        for wrong, db in (
            ("mongodb://127.0.0.1", "shop"),
            (None, "shop"),
            (client, client["shop"]),
            (client.shop, "x"),
        ):
            with pytest.raises(InvalidDatabaseError):
                migrate(registry, wrong, db)
        with pytest.raises(InvalidPrefixError):
            migrate(registry, client, "shop", prefix="$")


APP = """
import asyncio, contextlib, logging, os, signal, time
from pymongo import AsyncMongoClient, MongoClient
from starlette.applications import Starlette
from quaestor import MigrationRegistry, log_event
from quaestor.contrib.starlette import migrate

logging.basicConfig(level=logging.INFO)
registry = MigrationRegistry()

async def wait_async(db):
    print("in the migration", flush=True)
    await asyncio.sleep(3_600)

def wait(db):
    print("in the migration", flush=True)
    time.sleep(3_600)

def end(event):
    log_event(event)
    if kind == "finished" and type(event).__name__ == "RunFinished":
        signal.raise_signal(signal.SIGTERM)

@contextlib.asynccontextmanager
async def lifespan(app):
    print("in the application", flush=True)
    yield
kind = os.environ["KIND"]
if kind == "imported":
    signal.raise_signal(signal.SIGTERM)
if kind != "finished":
    registry.register("endless")(wait if kind == "sync" else wait_async)
client = (MongoClient if kind == "sync" else AsyncMongoClient)(os.environ["URI"])
app = Starlette(lifespan=migrate(registry, client, os.environ["DB"], lifespan=lifespan, on_event=end))
"""
SERVE = "import uvicorn; uvicorn.Server(uvicorn.Config('endless:app', port=0)).run()"  # as a worker of uvicorn does


@contextmanager
def starting(folder: Path, uri: str, name: str, kind: str, line: str) -> Iterator["subprocess.Popen[str]"]:
    """Start the application, and wait until it says this."""
    (folder / "endless.py").write_text(APP)
    environment = os.environ | {"URI": uri, "DB": name, "KIND": kind}
    with subprocess.Popen(
        [sys.executable, "-c", SERVE],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert any(line in said for said in process.stdout)
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_signal_ends_a_wait_for_the_lease(
    uri: str, name: str, tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    """While another instance holds the lease, a signal ends the server, and the lease stays with its holder."""
    with MongoClient[Any](uri) as client:
        client[name].app_migrations_lock.insert_one(HELD)
        with starting(tmp_path, uri, name, kind, "held by") as process:
            process.send_signal(number)
            said, _ = process.communicate()
        assert process.returncode in {-number, 3}  # uvicorn's, for a start-up that failed
        assert "Application startup complete" not in said
        assert client[name].app_migrations_lock.find_one()["owner"] == HELD["owner"]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_signal_ends_a_migration(uri: str, name: str, tmp_path: Path, kind: str) -> None:
    """SIGTERM interrupts a migration: it isn't recorded, the lease is released, and the server ends."""
    with MongoClient[Any](uri) as client:
        with starting(tmp_path, uri, name, kind, "in the migration") as process:
            process.terminate()
            said, _ = process.communicate()
        assert process.returncode in {-signal.SIGTERM, 3}
        assert "in the application" not in said
        assert "engine.py" not in said  # in the traceback that Starlette writes
        status = SyncRunner(MigrationRegistry(), client[name], "app").status()
        assert status.lease is None
        assert status.migrations == ()


@pytest.mark.parametrize("kind", ["imported", "finished"])
def test_signal_before_or_after_the_run(uri: str, name: str, tmp_path: Path, kind: str) -> None:
    """After SIGTERM while a worker imports the application, or as the run ends, the application doesn't start."""
    with starting(tmp_path, uri, name, kind, "Waiting for application startup") as process:
        said, _ = process.communicate()
    assert process.returncode in {-signal.SIGTERM, 3}
    assert "SIGTERM came" in said or "A signal came" in said
    assert not any(f"in the {place}" in said for place in ("migration", "application"))
