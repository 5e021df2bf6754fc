"""The target of a command: its registry and databases, from the options that commands share.

Runners are sync: they call sync and async functions, given a database for each, and the command line has no event loop
of its own. With the application's own client (--client) they are as that is: an async one works in the command's loop.
The address `mongomock://` means an empty database in memory.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, redirect_stdout, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pymongo import AsyncMongoClient, MongoClient

from quaestor import AsyncRunner, DatabaseResult, MigrationDefinition, SyncRunner
from quaestor.cli.loader import describe_kind, load_client, load_hook, load_registry
from quaestor.cli.logs import JsonStderr
from quaestor.cli.redaction import redact
from quaestor.cli.settings import MOCK, CommandError, Settings, find
from quaestor.cli.signals import Loop
from quaestor.errors import InvalidDatabaseError
from quaestor.events import Event, Hook
from quaestor.registry import MigrationRegistry
from quaestor.status import Work

T = TypeVar("T")

_READS_AT_ONCE = 8
_TIMEOUT_OPTION = "serverSelectionTimeoutMS"
_TIMEOUT = 10_000  # milliseconds until a server is found: a person is waiting
LEASE = ("lease_ttl", "lease_timeout", "patience")  # the options of a command that acquires it
_CLOSE_TIMEOUT = 1.0  # seconds to end a client's sessions on the server, which isn't needed


def _ignore(_event: Event) -> None:
    """The hook of a command that shows the outcome itself."""


class Server(NamedTuple):
    """The databases of a server, by their names."""

    db: Callable[[str], Any]
    other_db: Callable[[str], Any] | None  # for the other kind of functions; None if there are none, or no client
    list_names: Callable[[], Any]
    loop: Loop | None = None  # of an async client


def _close(client: Any) -> None:
    # pymongo.timeout wouldn't limit how long a connection takes to open.
    thread = threading.Thread(target=client.close, daemon=True)
    thread.start()
    thread.join(_CLOSE_TIMEOUT)


def _connect_mock(*, is_async: bool) -> Server:
    try:
        import mongomock

        client: Any = mongomock.MongoClient()
        if not is_async:
            return Server(client.get_database, None, client.list_database_names)
        import mongomock_motor
    except ModuleNotFoundError as error:
        package = (error.name or "").replace("_", "-")
        raise CommandError(f"{MOCK} needs {package}: pip install {package}") from error
    async_client: Any = mongomock_motor.AsyncMongoMockClient(mock_mongo_client=client)
    return Server(client.get_database, async_client.get_database, client.list_database_names)


def _is_async(client: Any, reference: str) -> bool:
    """Ask the runners whether a client is async. Refuses anything that isn't a client."""
    with suppress(Exception):  # anything may have been given
        db = client["quaestor"]
        with suppress(InvalidDatabaseError):
            SyncRunner(MigrationRegistry(), db, "app")
            return False
        AsyncRunner(MigrationRegistry(), db, "app")
        return True
    raise CommandError(
        f"{reference} must be a client of PyMongo, Motor or a mock, or a function without arguments that returns one, "
        f"not {describe_kind(client)}."
    )


class Target:
    """The target of a command: from its options, the environment and the project of the current folder."""

    def __init__(self, command: str = "", *, as_json: bool = False, **options: Any) -> None:
        self.as_json = as_json
        framework = options.pop("framework", {})
        lease = {name: value for name in LEASE if (value := options.pop(name, None)) is not None}
        self.settings: Settings = find(options, os.environ, Path.cwd(), framework)
        release = self.settings.values.get("release")
        self.options: dict[str, Any] = lease | {"release": None if release is None else release.value}
        self.stack: ExitStack = ExitStack()  # closed when the command ends
        self._command = command
        if isinstance(sys.stderr, JsonStderr):
            sys.stderr.clean = self.clean
            sys.stderr.place = {"prefix": self.settings.value("prefix")}
            if "db" in self.settings.values and not self.settings.is_pattern:
                sys.stderr.place["database"] = self.settings.value("db")

    @property
    def has_server(self) -> bool:
        """Whether the settings name a server (bool)."""
        return self.settings.has_client or "uri" in self.settings.values

    @property
    def is_many(self) -> bool:
        """Whether the settings name a pattern of databases."""
        self.settings.check()
        return self.settings.is_pattern

    @property
    def db(self) -> str:
        """The one database of the settings (str)."""
        if self.is_many:
            raise CommandError(f"`{self._command}` works on one database. Name it (--db).")
        return self.settings.value("db")

    @property
    def place(self) -> str:
        """The database, or the pattern, and the prefix (str)."""
        return f"{self.settings.value('db')}/{self.settings.value('prefix')}"

    def clean(self, text: str) -> str:
        """Remove the password of the URI from a text, and those of the URIs that the application's client may have."""
        uris = [self.settings.value("uri")] if "uri" in self.settings.values else []
        for uri in {*uris, *(value for value in os.environ.values() if value.startswith(("mongodb:", "mongodb+srv:")))}:
            text = redact(text, uri)
        return text

    @cached_property
    def registry(self) -> MigrationRegistry:
        """The registry of the settings; loaded once, because a factory makes a new one each time."""
        with redirect_stdout(sys.stderr):  # a module may print when imported, and stdout is for the answer
            return load_registry(self.settings.value("registry"), self.settings.folder("registry"))

    @property
    def on_event(self) -> Hook | None:
        """The event hook of the settings, if there is one."""
        if "on_event" not in self.settings.values:
            return None
        with redirect_stdout(sys.stderr):
            return load_hook(self.settings.value("on_event"), self.settings.folder("on_event"))

    @cached_property
    def server(self) -> Server:
        """The server of the settings, connected until the command ends."""
        if self.settings.has_client:
            return self._use_client()
        uri = self.settings.value("uri")
        is_async = any(
            MigrationDefinition(migration.name, function).is_async
            for migration in self.registry.migrations.values()
            for function in (migration.execute, migration.rollback, *migration.preconditions, *migration.verifications)
            if function is not None
        )
        if uri.startswith(MOCK):
            return _connect_mock(is_async=is_async)
        # An option given here would override that of the URI.
        timeout: dict[str, Any] = {} if _TIMEOUT_OPTION.lower() in uri.lower() else {_TIMEOUT_OPTION: _TIMEOUT}
        client = MongoClient[dict[str, Any]](uri, **timeout)
        self.stack.callback(_close, client)

        def async_db(name: str) -> Any:
            # Made outside an event loop: it belongs to the runner's, and the runner closes it with its loop.
            return AsyncMongoClient[dict[str, Any]](uri, **timeout)[name]

        return Server(
            client.get_database,
            async_db if is_async else None,
            lambda: [db["name"] for db in client.list_databases(nameOnly=True, authorizedDatabases=True)],
        )

    def _use_client(self) -> Server:
        """Take the application's own client, or a sync and an async one, and close them when the command ends."""
        _ = self.registry  # first: it may set up what the client, or an ODM, needs
        reference, loop = self.settings.value("client"), Loop()
        self.stack.callback(loop.close)
        with redirect_stdout(sys.stderr):
            found: Any = load_client(reference, self.settings.folder("client"), loop.call)
        given = found if isinstance(found, tuple) else (found,)
        clients = {_is_async(client, reference): client for client in given}
        if len(clients) < max(len(given), 1):
            raise CommandError(f"{reference} must give one client, or a sync and an async one, not {len(given)}.")
        for is_async, client in clients.items():
            self.stack.callback(partial(loop.call, client.close) if is_async else partial(_close, client))
        if True not in clients:
            return Server(clients[False].get_database, None, clients[False].list_database_names)
        other_db = clients[False].get_database if False in clients else None
        return Server(clients[True].get_database, other_db, clients[True].list_database_names, loop)

    @cached_property
    def names(self) -> list[str]:
        """The databases that match the pattern, sorted. Read once, so what is confirmed is what is done."""
        self.settings.check()
        return self.settings.match_names(self._call(self.server.list_names))

    def ask(self, question: Callable[[SyncRunner], T], on_event: Hook = _ignore) -> T:
        """Ask a runner for the registry and the database of the settings.

        With an async client it is an AsyncRunner, whose methods have the same names and arguments.
        """
        return self._call(lambda: question(self._make_runner(self.db, on_event)))

    def run_elsewhere(self, registry: MigrationRegistry, name: str) -> None:
        """Apply the migrations of another registry to another database of the server."""
        self._call(lambda: self._make_runner(name, _ignore, registry).run())

    def read(self, name: str, read: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
        """Read a database of the server. The coroutine awaits nothing but what an async client returns."""
        if self.server.loop is not None:
            return self._call(lambda: read(self.server.db(name)))  # type: ignore[return-value]  # it's awaited
        try:
            read(self.server.db(name)).send(None)
        except StopIteration as returned:
            result: T = returned.value
            return result
        raise RuntimeError("A sync client returned something to wait for.")

    def _call(self, function: Callable[[], T]) -> T:
        """Call a function; with an async client in the loop, where what it returns is awaited."""
        loop = self.server.loop
        result: T = function() if loop is None else loop.call(function)
        return result

    def ask_each(
        self, question: Callable[[SyncRunner], T], names: Sequence[str] | None = None
    ) -> dict[str, T | Exception]:
        """Ask a runner for each of these databases, by default all that match the pattern.

        Returns the answer or the error of each, sorted. If the settings name one database, its error is raised.
        """
        if not self.is_many:
            return {self.db: self.ask(question)}
        self.registry.sort()  # otherwise each database would report the same error
        names = self.names if names is None else names
        if self.server.loop is not None:
            return dict(zip(names, self.server.loop.call(lambda: self._ask_in_loop(question, names)), strict=True))

        def ask(name: str) -> T | Exception:
            try:
                return question(self._make_runner(name, _ignore))
            except Exception as error:  # noqa: BLE001 - the others are asked all the same
                return error

        with ThreadPoolExecutor(_READS_AT_ONCE) as pool:
            return dict(zip(names, pool.map(ask, names), strict=True))

    async def _ask_in_loop(self, question: Callable[[Any], Any], names: Sequence[str]) -> list[Any]:
        slots = asyncio.Semaphore(_READS_AT_ONCE)

        async def ask(name: str) -> Any:
            async with slots:
                return await question(self._make_runner(name, _ignore))

        return await asyncio.gather(*map(ask, names), return_exceptions=True)

    def find_protection(self) -> tuple[str, str] | None:
        """Find the database, or the first that matches the pattern, that is protected, and its label.

        Raises what it can't read, because it may be protected.
        """
        for name, answer in self.ask_each(lambda runner: runner.read_protection()).items():
            if isinstance(answer, Exception):
                raise answer
            if answer is not None:
                return name, answer
        return None

    def work_on_each(self, work: Work, on_event: Hook, names: Iterable[str], /, **options: Any) -> list[DatabaseResult]:
        """Call the registry's `run_many`, `rollback_many` or `mark_many` for these databases."""
        server, prefix = self.server, self.settings.value("prefix")
        databases = [server.db(name) for name in names]
        options |= {"on_event": on_event, **self.options}
        results: list[DatabaseResult]
        if server.loop is None:
            work_sync = getattr(self.registry, f"{work}_many_sync")
            results = work_sync(databases, prefix, async_db=server.other_db, **options)
        else:
            work_async = getattr(self.registry, f"{work}_many")
            results = server.loop.call(partial(work_async, databases, prefix, sync_db=server.other_db, **options))
        return results

    def _make_runner(self, name: str, on_event: Hook, registry: MigrationRegistry | None = None) -> Any:
        server = self.server
        other_db = None if server.other_db is None else server.other_db(name)
        arguments = (registry or self.registry, server.db(name), self.settings.value("prefix"))
        if server.loop is None:
            return SyncRunner(*arguments, async_db=other_db, on_event=on_event, **self.options)
        return AsyncRunner(*arguments, sync_db=other_db, on_event=on_event, **self.options)
