"""A process whose run meets what few runs do. As a program it is given a case of CASES, a driver, a URI, a database."""

import asyncio
import os
import signal
import sys
import threading
import time
from functools import partial
from typing import Any

from pymongo import AsyncMongoClient, MongoClient

from quaestor import Event, MigrationApplied, MigrationRegistry
from quaestor._hosts.calls import current_cancellation
from quaestor._mongo.mongo_store import MongoStore

CASES = [
    "main ended",
    "fork exit",
    "fork raise",
    "fork return",
    "limit in release",
    "limit in task",
    "limit in hook",
    "second signal",
    "second signal, many",
]


class SoftTimeLimit(Exception):
    """What the handler of a signal raises."""


def _raise_limit(*_: object) -> None:
    raise SoftTimeLimit


def _say(*words: object) -> None:
    print(*words, flush=True)


def _main(case: str, driver: str, uri: str, name: str) -> None:
    registry, started, release = MigrationRegistry(), threading.Event(), MongoStore.release_lease
    signal.signal(signal.SIGALRM, partial(_raise_limit) if case == "limit in task" else _raise_limit)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if case.startswith("second signal"):
        signal.signal(signal.SIGALRM, signal.default_int_handler)

    def act() -> None:
        started.set()
        if case == "main ended":
            while threading.main_thread().is_alive():
                time.sleep(0.01)
            time.sleep(0.1)  # executors hear of it a little later
        elif case.startswith("fork"):
            if (child := os.fork()) == 0:
                if case == "fork exit":
                    sys.exit(7)
                if case == "fork raise":
                    raise ValueError("in the child")
                return
            _say("child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    def a(db: Any) -> None:
        act()

    async def a_async(db: Any) -> None:
        act()

    @registry.register("b")
    def b(db: Any) -> None:
        """Nothing."""

    async def release_late(store: MongoStore, sessions: tuple[bytes, ...]) -> None:
        MongoStore.release_lease = release  # type: ignore[method-assign]
        if case == "limit in task":
            signal.raise_signal(signal.SIGALRM)
        else:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
        await store.host.sleep(5 if case.startswith("second signal") else 0.5)
        await release(store, sessions)

    if case in {"limit in release", "limit in task"} or case.startswith("second signal"):
        MongoStore.release_lease = release_late  # type: ignore[method-assign]

    def hook(event: Event) -> None:
        _say(type(event).__name__)
        if case == "limit in hook" and isinstance(event, MigrationApplied):
            signal.raise_signal(signal.SIGALRM)
        if case.startswith("second signal") and isinstance(event, MigrationApplied):
            os.kill(os.getpid(), signal.SIGINT)
            while driver == "pymongo" and case.endswith("many") and not current_cancellation.get().is_set():
                time.sleep(0.01)  # the main thread gets the signal

    async def call_async(client: Any) -> list[str]:
        other = MongoClient[Any](uri)[name]
        if case.endswith("many"):
            await registry.run_many([client[name]], "app", on_event=hook, sync_db=lambda _: other)
        return await registry.run(client[name], "app", on_event=hook, sync_db=other)

    def call() -> list[str]:
        if driver == "pymongo":
            with MongoClient[Any](uri) as client:
                if case.endswith("many"):
                    registry.run_many_sync([client[name]], "app", on_event=hook)
                return registry.run_sync(client[name], "app", on_event=hook)
        if driver == "pymongo-async":
            return asyncio.run(call_async(AsyncMongoClient[Any](uri)))
        from motor.motor_asyncio import AsyncIOMotorClient

        return asyncio.run(call_async(AsyncIOMotorClient(uri)))

    def run() -> None:
        try:
            _say("returned", *call())
        except BaseException as error:  # noqa: BLE001 - the test gets it
            _say("raised", type(error).__name__)

    registry.register("a")(a if driver == "pymongo" or case == "main ended" else a_async)
    if case == "main ended":
        threading.Thread(target=run).start()
        started.wait()
    else:
        run()


if __name__ == "__main__":
    _main(*sys.argv[1:])
