"""Flask: the commands of quaestor as `flask quaestor ...`, on the application's own registry and database."""

from collections.abc import Callable
from inspect import isroutine
from pathlib import Path
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import with_appcontext

from quaestor import MigrationRegistry, SyncDatabase, SyncRunner
from quaestor.cli import main
from quaestor.cli.settings import Setting


class Quaestor:
    """Adds `flask quaestor status|plan|run|...`, which are the commands of `quaestor` in the application's context.

    Example::

        Quaestor(app, registry, db)

    Args:
        app: The application; None, to call `init_app` later.
        registry: The migrations.
        db: PyMongo's `Database`, or a function without arguments that returns it, called in the application's context.
        prefix: Names quaestor's collections, such as `{prefix}_migrations`.
        release: The release of the application, for the records and the history. Defaults to QUAESTOR_RELEASE.
    """

    def __init__(
        self,
        app: Flask | None,
        registry: MigrationRegistry,
        db: SyncDatabase | Callable[[], SyncDatabase],
        prefix: str = "app",
        *,
        release: str | None = None,
    ) -> None:
        self.registry = registry
        self.prefix = prefix
        self.release = release
        self._db = db
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Add the commands to an application."""
        app.extensions["quaestor"] = self
        app.cli.add_command(_run)

    @property
    def db(self) -> Any:
        """The database.

        Raises:
            InvalidDatabaseError: It isn't PyMongo's `Database`, or mongomock's.
        """
        db: Any = self._db() if isroutine(self._db) else self._db  # PyMongo's databases are callable, too
        SyncRunner(self.registry, db, self.prefix)  # refuses anything else
        return db


class _Client:
    """The application's client for a command, which can't close it: the application may go on, in a test, say."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getitem__(self, name: str) -> Any:
        return self._client[name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def close(self) -> None:
        """Do nothing."""


@click.command(
    "quaestor",
    help="Show, apply and roll back migrations.",
    add_help_option=False,  # the commands have their own
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@with_appcontext
def _run(arguments: tuple[str, ...]) -> None:
    extension = _get_extension()
    values = {
        "registry": f"{__name__}:get_registry",
        "client": f"{__name__}:get_client",
        "db": extension.db.name,
        "prefix": extension.prefix,
    } | ({} if extension.release is None else {"release": extension.release})
    settings = {name: Setting(value, Path.cwd(), "the db of Quaestor(app, ...)") for name, value in values.items()}
    main(arguments, prog_name="flask quaestor", settings=settings)


def _get_extension() -> Quaestor:
    extension: Quaestor = current_app.extensions["quaestor"]
    return extension


def get_registry() -> MigrationRegistry:
    """Return the registry of the current application, for the commands."""
    return _get_extension().registry


def get_client() -> _Client:
    """Return the client of the current application, for the commands."""
    return _Client(_get_extension().db.client)
