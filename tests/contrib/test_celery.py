"""Migrations before a Celery worker takes tasks: the example and small apps, each in real workers."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from celery.contrib.testing.worker import start_worker
from pymongo import MongoClient

from quaestor import MigrationRegistry, SyncRunner
from quaestor.contrib.celery import run_before_tasks

ROOT = Path(__file__).parent.parent.parent
APP = """
import os
from celery_app import app, registry
from pymongo import MongoClient

print("imported", flush=True)

@app.task
def add(one, two):
    return one + two
"""
FAILING = f"""{APP}
@registry.register("failing")
def failing(db):
    raise ValueError("out of stock")
"""
LONG = f"""{APP}
@registry.register("long")
def long(db, context):
    for orders in context.batches(db.orders, size=1):
        db.done.insert_many(orders)
        while len(list(db.done.find())) == 2 and not db.go.find_one():
            pass
"""
LONG_ASYNC = f"""{APP}
import asyncio
from pymongo import AsyncMongoClient
from quaestor.contrib.celery import run_before_tasks

@registry.register("long")
async def long(db, context):
    async for orders in context.batches(db.orders, size=1):
        await db.done.insert_many(orders)
        while await db.done.count_documents({{}}) == 2 and not await db.go.find_one():
            pass

async def run():
    uri = os.environ["MONGODB_URI"]
    async with AsyncMongoClient(uri) as client:
        with MongoClient(uri) as sync_client:
            db, sync_db = client.get_default_database(), sync_client.get_default_database()
            await registry.run(db, "products", sync_db=sync_db)

app.steps["worker"].clear()
run_before_tasks(app)(lambda: asyncio.run(run()))
"""
SOFT = f"""{APP}
@app.task(soft_time_limit=2)
def migrate_in_a_task():
    with MongoClient(os.environ["MONGODB_URI"]) as client:
        registry.run_sync(client.get_default_database(), "long")
{LONG.removeprefix(APP)}
del app.steps["worker"]
"""


class Shop:
    """An app in a folder of its own, and its database."""

    def __init__(self, folder: Path, uri: str, name: str) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "MONGODB_URI": urlsplit(uri)._replace(path=f"/{name}").geturl(),
            "BROKER_FOLDER": str(folder / "broker"),
            "PYTHONPATH": str(ROOT / "examples"),
            "PYTHONUNBUFFERED": "1",
        }

    def write(self, text: str) -> None:
        (self.folder / "shop.py").write_text(text, encoding="utf-8")

    @contextlib.contextmanager
    def worker(self, name: str, app: str = "shop") -> Iterator["Worker"]:
        """Start a worker with two processes; kill it in the end."""
        command = [sys.executable, "-m", "celery", "-A", app, "worker", "-l", "INFO", "-c", "2", "-n", name]
        with subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            process_group=0,
        ) as process:
            try:
                yield Worker(process)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # its pool, too

    def call(self, expression: str) -> Any:
        """Evaluate an expression in another process, as a client of the app does."""
        program = f"import json, shop, celery_app; print(json.dumps({expression}))"
        output = subprocess.check_output(
            [sys.executable, "-c", program], cwd=self.folder, env=self.environment, text=True
        )
        return json.loads(output.splitlines()[-1])


class Worker:
    """A process, and what it has printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.output = ""

    def read_until(self, pattern: str) -> None:
        """Read until a line has the pattern."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if re.search(pattern, line):
                return
        pytest.fail(self.output)

    def stop(self) -> int:
        """Send SIGTERM, as an orchestrator does, and wait for the end. Returns the exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        self.output += self._process.communicate(timeout=60)[0]
        return self._process.returncode


@pytest.fixture
def shop(tmp_path: Path, uri: str, name: str) -> Shop:
    """An app with one task."""
    shop = Shop(tmp_path, uri, name)
    shop.write(APP)
    return shop


@pytest.fixture
def client(uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    with MongoClient[dict[str, Any]](uri) as opened:
        yield opened


def is_leased(db: Any, prefix: str) -> bool:
    return SyncRunner(MigrationRegistry(), db, prefix).status().lease is not None


def test_example(shop: Shop) -> None:
    """Of two workers that start together one migrates, both take tasks, and both end as Celery's do."""
    with shop.worker("one", "celery_app") as one, shop.worker("two", "celery_app") as two:
        for worker in (one, two):
            worker.read_until(r"celery@\w+ ready|\w+ ready\.")

        assert shop.call("celery_app.read_prices.delay().get(timeout=60)") == {"cup": 1999, "pot": 1999}
        assert [one.stop(), two.stop()] == [0, 0]

    outputs = one.output + two.output
    assert outputs.count("Applied 'first_products'") == 1
    assert "opened before fork" not in outputs


def test_failure(shop: Shop, client: MongoClient[dict[str, Any]], name: str) -> None:
    """If a migration fails the worker ends with an error, its log says why, and no task is taken."""
    shop.write(FAILING)
    shop.call("shop.add.delay(1, 2).id")
    queued = list((shop.folder / "broker").glob("*.msg"))

    with shop.worker("one") as worker:
        assert worker.wait() == 1

    assert re.search(r"CRITICAL.*migrate.*ValueError", worker.output)
    assert "out of stock" in worker.output
    assert len(queued) == 1
    assert list((shop.folder / "broker").glob("*.msg")) == queued
    assert not is_leased(client[name], "products")


@pytest.mark.parametrize("app", [LONG, LONG_ASYNC], ids=["sync", "async"])
def test_sigterm(app: str, shop: Shop, client: MongoClient[dict[str, Any]], name: str) -> None:
    """SIGTERM in a backfill ends the worker, which releases the lease; the next worker resumes, and takes tasks."""
    shop.write(app)
    client[name].orders.insert_many([{"_id": number} for number in range(3)])
    with shop.worker("one") as one:
        one.read_until("imported")
        while not client[name].done.find_one({"_id": 1}):
            pass

        assert one.stop() == 143

    assert not is_leased(client[name], "products")
    client[name].done.delete_one({"_id": 1})  # the batch in progress comes again
    client[name].go.insert_one({})
    with shop.worker("two") as two:
        two.read_until("resumes after 1 ")
        two.read_until("ready")
        assert shop.call("shop.add.delay(1, 2).get(timeout=60)") == 3


def test_soft_time_limit(shop: Shop, client: MongoClient[dict[str, Any]], name: str) -> None:
    """A run in a task that reaches its soft time limit ends, releases the lease, and resumes in the next task."""
    shop.write(SOFT)
    client[name].orders.insert_many([{"_id": number} for number in range(3)])
    with shop.worker("one") as worker:
        worker.read_until("ready")

        error = shop.call("type(shop.migrate_in_a_task.delay().get(timeout=60, propagate=False)).__name__")

        assert error == "SoftTimeLimitExceeded"
        assert not is_leased(client[name], "long")
        client[name].done.delete_one({"_id": 1})
        client[name].go.insert_one({})
        assert shop.call("shop.migrate_in_a_task.delay().get(timeout=60)") is None
    assert [document["_id"] for document in client[name].done.find()] == [0, 1, 2]


def test_worker_of_test_tools(client: MongoClient[dict[str, Any]], name: str) -> None:
    """In a worker of Celery's test tools, the migrations run before the tasks, too."""
    app, registry = Celery(broker="memory://", backend="cache+memory://"), MigrationRegistry()

    @registry.register("a")
    def insert(db: Any) -> None:
        db.done.insert_one({"_id": 1})

    @run_before_tasks(app)
    def migrate() -> None:
        registry.run_sync(client[name])

    @app.task
    def count() -> int:
        return client[name].done.count_documents({})

    with start_worker(app, perform_ping_check=False):
        assert count.delay().get(timeout=60) == 1


def test_worker_in_a_thread() -> None:
    """A worker that starts in another thread than the main one, which can't handle signals, calls the function."""
    app, calls = Celery(broker="memory://"), []
    run_before_tasks(app)(lambda: calls.append(1))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(app.WorkController).result()

    assert calls == [1]


def test_several(client: MongoClient[dict[str, Any]], name: str) -> None:
    """Two functions of one name both run."""
    app, calls = Celery(broker="memory://"), []

    def register(number: int) -> None:
        @run_before_tasks(app)
        def migrate() -> None:
            calls.append(number)

    for number in (1, 2):
        register(number)

    with start_worker(app, perform_ping_check=False):
        assert sorted(calls) == [1, 2]
