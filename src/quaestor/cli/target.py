"""What a command works on, from the options that all of them have; and how a command becomes one of Typer's."""

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import typer

from quaestor._core.lease import DEFAULT_TTL
from quaestor._core.plan import validated
from quaestor._hosts.sync import SyncRunner
from quaestor.cli.failures import reported
from quaestor.cli.loading import load_registry
from quaestor.cli.operations import Server, connected
from quaestor.cli.settings import CommandError, Given, Settings, find, redacted
from quaestor.events import Event, Hook
from quaestor.registry import MigrationRegistry

T = TypeVar("T")

_READS_AT_ONCE = 8

_option = partial(typer.Option, show_default=False, rich_help_panel="Project and database")

SHARED: dict[str, Any] = {
    "registry": Annotated[str | None, _option(metavar="MODULE:NAME", help="Where the registry is; or FILE:NAME.")],
    "uri": Annotated[str | None, _option(metavar="URI", help="The address of MongoDB, or mongomock://.")],
    "db": Annotated[
        str | None,
        _option(
            metavar="NAME",
            help="The database; else the one in the URI. For run, status, check: or a pattern, 'a_*'.",
        ),
    ],
    "prefix": Annotated[str | None, _option(metavar="NAME", help="The prefix of our collections.")],
    "traceback": Annotated[bool, _option("--traceback", help="Show where an error comes from.")],
}
"""The options of every command, with their types."""


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What one of many databases has answered.

    Attributes:
        database: Its name (str).
        value: The answer; None where there was an error.
        error: What was raised (Exception); else None.
    """

    database: str
    value: T | None
    error: Exception | None = None


class Target:
    """What a command works on.

    Args:
        given: The settings that were given.
        command: The command, as it is typed.
    """

    def __init__(self, given: Given, command: str) -> None:
        self.given = given
        self._command = command

    @property
    def uri(self) -> str | None:
        """The address of MongoDB (str), if it was given."""
        return self.given.values["uri"][0] if "uri" in self.given.values else None

    @property
    def is_many(self) -> bool:
        """Whether the settings name a pattern of databases."""
        return self.given.settings().is_pattern

    @property
    def settings(self) -> Settings:
        """All the settings, which name one database.

        Raises:
            CommandError: One was not given, or cannot be used.
        """
        settings = self.given.settings()
        if settings.is_pattern:
            raise CommandError(f"`{self._command}` works on one database: name it (--db).")
        return settings

    def clean(self, text: str) -> str:
        """The text without the password of the URI."""
        return redacted(text, self.uri or "")

    @cached_property
    def registry(self) -> MigrationRegistry:
        """The registry that the settings name; loaded once, for a factory makes another one each time."""
        with redirect_stdout(sys.stderr):  # a module may print when it is imported: stdout is for the answer
            return load_registry(self.given.value("registry"), self.given.folder("registry"))

    def ask(
        self,
        question: Callable[[SyncRunner], T],
        on_event: Hook | None = None,
        *,
        lease_ttl: float = DEFAULT_TTL,
        lease_timeout: float | None = None,
    ) -> T:
        """The answer of a runner for the registry and the database that the settings name."""
        settings, registry = self.settings, self.registry
        with connected(registry, settings) as server:
            return question(
                server.runner(
                    registry,
                    settings.db,
                    settings.prefix,
                    _ignore if on_event is None else on_event,
                    lease_ttl=lease_ttl,
                    lease_timeout=lease_timeout,
                )
            )

    def ask_each(self, question: Callable[[SyncRunner], T]) -> list[Answer[T]]:
        """The answers of runners for each database that matches the pattern, in the order of their names.

        Raises:
            CommandError: None matches.
            QuaestorError: The graph is not sound.
        """
        prefix, registry = self.given.settings().prefix, self.registry
        validated(registry.migrations)  # it would be so for each of them
        with self.all_matching() as (server, names), ThreadPoolExecutor(_READS_AT_ONCE) as pool:

            def ask(name: str) -> Answer[T]:
                try:
                    return Answer(name, question(server.runner(registry, name, prefix, _ignore)))
                except Exception as error:  # noqa: BLE001 - the others are asked all the same
                    return Answer(name, None, error)

            return list(pool.map(ask, names))

    @contextmanager
    def all_matching(self) -> Iterator[tuple[Server, list[str]]]:
        """The server, and the names of the databases that match the pattern.

        Raises:
            CommandError: None matches.
        """
        settings = self.given.settings()
        with connected(self.registry, settings) as server:
            yield server, settings.matching(server.names())


def found(command: str = "", **options: str | None) -> Target:
    """The target of these options, the environment and the project that the current folder is in."""
    return Target(find(options, os.environ, Path.cwd()), command)


def command(
    group: typer.Typer, name: str, *, error_code: int = 1
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function that takes a `Target` as a command, which takes the shared options instead.

    Typer reads the options of a command from its signature, so they are added to that.

    Args:
        group: What it is a command of.
        name: What it is called.
        error_code: The exit code of an error.
    """
    title = " ".join(filter(None, [group.info.name, name]))

    def decorator(function: Callable[..., None]) -> Callable[..., None]:
        def run(*, traceback: bool, **arguments: Any) -> None:
            options = {setting: arguments.pop(setting) for setting in SHARED if setting != "traceback"}
            report = partial(reported, code=error_code, trace=traceback)
            with report(partial(redacted, uri=options["uri"] or "")):
                target = found(title, **options)
            with report(target.clean):
                function(target, **arguments)

        own = [
            parameter.replace(kind=parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name != "target"
        ]
        shared = [
            inspect.Parameter(
                option,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if option == "traceback" else None,
                annotation=annotation,
            )
            for option, annotation in SHARED.items()
        ]
        run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]  # PEP 362
        run.__annotations__ = inspect.get_annotations(function) | SHARED
        run.__doc__ = function.__doc__
        group.command(name)(run)
        return function

    return decorator


def _ignore(_event: Event) -> None:
    """For a command that says the outcome itself."""
