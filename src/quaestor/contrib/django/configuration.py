"""The setting QUAESTOR: which database and which migrations it names."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import module_has_submodule
from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database

from quaestor import MigrationRegistry
from quaestor._text import find_similar
from quaestor.cli.loader import load_registry
from quaestor.cli.settings import MOCK, CommandError, Setting, find
from quaestor.errors import NoMigrationsError

MODULE = "mongo_migrations"
"""The name of an app's module or package of migrations. `migrations` has Django's own."""

_DEFAULTS = {"REGISTRY": "quaestor.contrib.django:registry", "URI": "", "DB": "", "PREFIX": "app", "RELEASE": ""}
_BACKEND = "django_mongodb_backend"
_URI = "QUAESTOR['URI']"


@dataclass(frozen=True, slots=True)
class Connection:
    """The database that the settings name, and how to connect to it."""

    name: str
    arguments: Mapping[str, Any] = field(repr=False)  # of a client; they may hold a password
    alias: str | None = None  # in DATABASES, of django-mongodb-backend

    def __post_init__(self) -> None:
        """Refuse a pattern, which would be one for the command line, and a name for `get_database`."""
        if {*"*?"} & {*self.name}:
            raise ImproperlyConfigured(
                f"The settings name one database, not a pattern such as {self.name!r}. Pass a pattern to a command: "
                f"manage.py quaestor run --db {self.name!r}."
            )

    def open_async_database(self) -> Any:
        """Open the database for `async def` migrations, with a client that a run closes; None in memory."""
        is_mock = str(self.arguments["host"]).startswith(MOCK)
        return None if is_mock else AsyncMongoClient[dict[str, Any]](**self.arguments)[self.name]


def read_setting(key: str) -> str:
    """Return a value of QUAESTOR, or its default.

    Raises:
        ImproperlyConfigured: QUAESTOR isn't a dictionary of strings, or has an unknown key.
    """
    given = getattr(settings, "QUAESTOR", {})
    if not isinstance(given, dict):
        raise ImproperlyConfigured('QUAESTOR must be a dictionary, such as {"URI": "mongodb://127.0.0.1:27017/shop"}.')
    for name, value in given.items():
        if name not in _DEFAULTS:
            close = find_similar(str(name).upper(), _DEFAULTS)
            hint = f"Did you mean {close!r}?" if close else f"The keys are {', '.join(_DEFAULTS)}."
            raise ImproperlyConfigured(f"QUAESTOR has an unknown key {name!r}. {hint}")
        if not isinstance(value, str) or not value:  # the value isn't shown: it may hold a password
            raise ImproperlyConfigured(f"QUAESTOR[{name!r}] must be a string, and not empty. Correct it, or remove it.")
    found: str = given.get(key, _DEFAULTS[key])
    return found


def find_connection() -> Connection:
    """Find the database of the settings; nothing is sent.

    Raises:
        ImproperlyConfigured: The settings name no database, or can't be used.
    """
    uri, name = read_setting("URI"), read_setting("DB")
    if uri:
        return Connection(_check_uri(uri, name), {"host": uri})
    aliases = [alias for alias in connections if connections.settings[alias]["ENGINE"] == _BACKEND]
    found = [alias for alias in aliases if name in {"", alias}]
    if len(found) != 1:
        other = f'set "DB" to one of the aliases {", ".join(aliases)}' if aliases else f"use {_BACKEND} in DATABASES"
        raise ImproperlyConfigured(f'QUAESTOR names no database. Add "URI", such as mongodb://host/db, or {other}.')
    connection = connections[found[0]]
    name, arguments = connection.settings_dict["NAME"], connection.get_connection_params()
    if "://" in (host := str(arguments["host"])):
        _check_uri(host, name)
    return Connection(name, arguments, found[0])


def get_database() -> Database[dict[str, Any]]:
    """Return the database of the settings; in a test run, the test database.

    The client is Django's own (django-mongodb-backend) or, with a URI, one for the whole process.

    Raises:
        ImproperlyConfigured: The settings name no database, or can't be used.
    """
    connection = find_connection()
    opened: Any = connections[connection.alias] if connection.alias else _open_client(connection.arguments["host"])
    database: Database[dict[str, Any]] = opened.database if connection.alias else opened[connection.name]
    return database


def get_registry() -> MigrationRegistry:
    """Return the registry of the settings, after importing `mongo_migrations` of each installed app.

    Raises:
        ImproperlyConfigured: The settings name no registry.
        NoMigrationsError: A module or package `mongo_migrations` registers nothing in it. An empty package may.
        Exception: What importing the migrations raises.
    """
    with _report_settings("QUAESTOR['REGISTRY']"):
        registry = load_registry(read_setting("REGISTRY"), Path.cwd())
    for app in apps.get_app_configs():
        if app.module is not None and module_has_submodule(app.module, MODULE):
            try:
                registry.discover(f"{app.name}.{MODULE}")
            except NoMigrationsError as error:
                if error.modules:  # otherwise it's new
                    raise
    return registry


def load_for_cli() -> MigrationRegistry:
    """Return the registry for the command line, which reports what is wrong with the settings."""
    try:
        return get_registry()
    except (ImproperlyConfigured, NoMigrationsError) as error:
        raise CommandError(str(error)) from None


def open_clients() -> tuple[Any, Any]:
    """Open clients of the command line, as django-mongodb-backend would: it closes them when it ends."""
    arguments = find_connection().arguments
    return MongoClient[dict[str, Any]](**arguments), AsyncMongoClient[dict[str, Any]](**arguments)


def configure_cli() -> dict[str, Setting]:
    """Return the settings of the command line."""
    connection = find_connection()
    values = {"registry": f"{__name__}:load_for_cli", "prefix": read_setting("PREFIX"), "db": connection.name}
    if connection.alias is None:
        values["uri"], source = connection.arguments["host"], _URI
    else:
        values["client"], source = f"{__name__}:open_clients", f"DATABASES[{connection.alias!r}]"
    if release := read_setting("RELEASE"):
        values["release"] = release
    return {name: Setting(value, Path.cwd(), source) for name, value in values.items()}


@cache
def _check_uri(uri: str, name: str) -> str:
    """Check a URI before the driver shows a part of it; return the database, which the URI may name."""
    root = Path(Path.cwd().anchor)  # where no pyproject.toml is
    given = {"registry": "unused", "uri": uri} | ({"db": name} if name else {})
    with _report_settings():
        found = find({}, {}, root, {key: Setting(value, root, _URI) for key, value in given.items()})
        if "db" not in found.values:
            raise ImproperlyConfigured('QUAESTOR names no database. Add "DB", or name it in "URI": mongodb://host/db.')
        found.check()
    return found.value("db")


@contextmanager
def _report_settings(place: str = "QUAESTOR") -> Iterator[None]:
    """Report what the command line says of a setting as an error of Django's settings."""
    try:
        yield
    except CommandError as error:
        text = str(error) if _URI in str(error) else f"{place}: {error}"
        raise ImproperlyConfigured(text) from None  # the cause may show a password


@cache
def _open_client(uri: str) -> Any:
    if uri.startswith(MOCK):
        import mongomock  # here: tests without a server need it

        return mongomock.MongoClient()
    return MongoClient[dict[str, Any]](uri)
