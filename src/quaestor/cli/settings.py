"""The settings of the command line.

An option comes first, then a framework's own setting, the environment, `[tool.quaestor]` in the nearest pyproject.toml.
"""

import contextlib
import tomllib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from quaestor._text import cut_values, find_similar
from quaestor.cli.redaction import is_doubtful
from quaestor.databases import SYSTEM_DATABASES

FILE: Final = "pyproject.toml"
MOCK: Final = "mongomock://"
"""The scheme of an address that means a database in memory."""

TABLE: Final = "[tool.quaestor]"
VARIABLES: Final[Mapping[str, tuple[str, ...]]] = {
    "registry": ("QUAESTOR_REGISTRY",),
    "uri": ("QUAESTOR_URI", "MONGODB_URI"),
    "client": ("QUAESTOR_CLIENT",),
    "db": ("QUAESTOR_DB",),
    "prefix": ("QUAESTOR_PREFIX",),
    "release": ("QUAESTOR_RELEASE",),
    "migrations": ("QUAESTOR_MIGRATIONS",),
    "on_event": ("QUAESTOR_ON_EVENT",),
    "log_format": ("QUAESTOR_LOG_FORMAT",),
}
"""Every setting with its environment variables; the first that is set counts."""

LOG_FORMATS: Final = ("text", "json")
_DEFAULTS: Final[Mapping[str, str]] = {"prefix": "app", "log_format": "text"}

_MISSING: Final[Mapping[str, tuple[str, str]]] = {
    "registry": ("registry", "for example shop.migrations:registry; in a new project, `quaestor init` writes it"),
    "uri": (
        "MongoDB URI",
        "for example mongodb://127.0.0.1:27017, mongomock:// for memory, or --client for your application's client",
    ),
    "db": ("database", "or name it in the URI: mongodb://host/db; /admin, /config and /local are for authentication"),
    "migrations": ("folder of migrations", "for example shop/migrations"),
}
"""What is missing without each setting, and an example or another way to give it."""


_UNREADABLE: Final = (
    "Can't read the MongoDB URI from {}{}. It should look like mongodb://user:password@host:27017/db or "
    "mongodb+srv://user:password@host/db. Percent-encode the characters : / ? # [ ] @ % in the user name and the "
    "password, as Python's urllib.parse.quote_plus does, and @ everywhere else (%40)."
)
"""It shows nothing of the URI, whose parts may be parts of the password."""


class CommandError(Exception):
    """A mistake in usage or configuration; `str()` says how to fix it. The exit code is 2, and nothing was done."""


class Setting(NamedTuple):
    """The value of a setting, the folder that a path in it is relative to, and where it was set."""

    value: str
    folder: Path
    source: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings that were given."""

    values: Mapping[str, Setting] = field(repr=False)  # the URI may hold a password

    def value(self, setting: str) -> str:
        """Return the value of a setting (a key of VARIABLES). Without `db`, the URI may name it: `mongodb://host/db`."""
        if setting in self.values:
            return self.values[setting].value
        if setting in _DEFAULTS:
            return _DEFAULTS[setting]
        missing, hint = _MISSING[setting]
        raise CommandError(f"No {missing} configured. Set {_ways(setting)} ({hint}).")

    def folder(self, setting: str) -> Path:
        """Return the folder that a path in the value of this setting is relative to."""
        self.value(setting)
        return self.values[setting].folder

    @property
    def source(self) -> str:
        """Where the URI, or the client in its place, was set or can be set (str)."""
        setting = "client" if self.has_client else "uri"
        return self.values[setting].source if setting in self.values else "--uri"

    def check(self) -> None:
        """Check that the settings of a command on a database were given."""
        for setting in ("registry", "client" if self.has_client else "uri"):
            self.value(setting)
        if not self.has_client:
            _database(self.value("uri"), self.source)  # finds a broken URI before the driver shows a part of it
        name = self.value("db")
        if name != name.strip():
            raise CommandError(f"The database {name!r} starts or ends with white space. Correct its name (--db).")

    @property
    def has_client(self) -> bool:
        """Whether the application's own client takes the place of a URI, which then only names the database (bool)."""
        return "client" in self.values

    @property
    def is_pattern(self) -> bool:
        """Whether `db` is a pattern, which means all matching databases of the server (bool)."""
        return any(sign in self.value("db") for sign in "*?")

    def match_names(self, names: Iterable[str]) -> list[str]:
        """Return the names that match the pattern, sorted, without MongoDB's own databases."""
        pattern = self.value("db")
        found = sorted(name for name in names if name not in SYSTEM_DATABASES and fnmatchcase(name, pattern))
        if not found:
            raise CommandError(
                f"No database matches {pattern!r}. Correct the pattern (--db), or name one database, which may be new."
            )
        return found


def find(
    options: Mapping[str, str | None],
    environ: Mapping[str, str],
    folder: Path,
    framework: Mapping[str, Setting] = MappingProxyType({}),
) -> Settings:
    """Collect the settings: options, then a framework's, environment variables, the table of a pyproject.toml."""
    values: dict[str, Setting] = {}
    for given in _read_sources(options, environ, folder, framework):
        for setting, (value, _, source) in given.items():
            if setting != "uri" and "://" in value:
                raise CommandError(f"{source} looks like an address. For the address of MongoDB, set {_ways('uri')}.")
        if "db" in given and given["db"].value in SYSTEM_DATABASES and given["db"].source != "--db":
            name = given["db"].value
            raise CommandError(f"{name!r} is MongoDB's own database. To use it all the same, pass it as --db.")
        values |= _read_uri(given)
    if "uri" in values and is_doubtful(values["uri"].value):  # even if it isn't used: a module may use it, and show it
        raise CommandError(_UNREADABLE.format(values["uri"].source, ""))
    if "log_format" in values and values["log_format"].value not in LOG_FORMATS:
        wrong = values["log_format"]
        raise CommandError(f"The log format must be {' or '.join(LOG_FORMATS)}, not {wrong.value!r} ({wrong.source}).")
    passed = {setting for setting, value in options.items() if value is not None}
    if passed >= {"uri", "client"}:
        raise CommandError("Pass --uri or --client, not both.")
    if "uri" in passed or ("uri" in framework and "client" not in passed):  # one in the environment may be for others
        values.pop("client", None)
    return Settings(values)


def _read_sources(
    options: Mapping[str, str | None], environ: Mapping[str, str], folder: Path, framework: Mapping[str, Setting]
) -> Iterator[dict[str, Setting]]:
    """Read what each source gives, from the weakest to the strongest."""
    for setting, option in options.items():
        if option is not None and not option.strip():
            # Most likely an unset variable of the shell: nothing may replace it.
            raise CommandError(f"{_option(setting)} is empty. Pass a value, or leave it out.")
    project = next((place for place in (folder, *folder.parents) if (place / FILE).is_file()), folder)
    in_file = f"in {TABLE} of {project / FILE}"
    table = _table(project / FILE)
    yield {setting: Setting(value, project, f"`{setting}` {in_file}") for setting, value in table.items()}
    given = {
        setting: next((name for name in names if environ.get(name, "").strip()), None)
        for setting, names in VARIABLES.items()
    }
    yield {setting: Setting(environ[name], folder, name) for setting, name in given.items() if name is not None}
    yield dict(framework)
    yield {setting: Setting(value, folder, _option(setting)) for setting, value in options.items() if value is not None}


def _read_uri(given: dict[str, Setting]) -> dict[str, Setting]:
    """Add the database in the URI, which counts more than one from a weaker source."""
    if "uri" not in given:
        return given
    uri = given["uri"]._replace(value=given["uri"].value.strip())  # a file or a variable may end with a newline
    with contextlib.suppress(CommandError):  # reported when the address is needed
        if (named := _database(uri.value, uri.source)) is not None:
            return {"db": uri._replace(value=named)} | given | {"uri": uri}
    return given | {"uri": uri}


def refuse_addresses(arguments: Sequence[str]) -> None:
    """Refuse an address in the wrong place: as a name, it would be shown with its password."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option = before if not argument.startswith("-") else argument.partition("=")[0]
        if "://" in argument and option != "--uri":
            raise CommandError(f"An argument looks like an address. For the address of MongoDB, set {_ways('uri')}.")


def _option(setting: str) -> str:
    return f"--{setting.replace('_', '-')}"


def _ways(setting: str) -> str:
    option = [] if setting == "migrations" else [_option(setting)]
    return f"{', '.join([*option, *VARIABLES[setting]])} or `{setting}` in {TABLE} of {FILE}"


def _table(path: Path) -> dict[str, str]:
    """Read the settings in a pyproject.toml; none if there is no such file or table."""
    _, tool = read_project(path)
    table = tool.get("quaestor", {}) if isinstance(tool, dict) else tool
    if not isinstance(table, dict):
        raise CommandError(f"tool.quaestor in {path} must be a table. Write its keys under {TABLE}.")
    for key, value in table.items():
        if key not in VARIABLES:
            close = find_similar(key, VARIABLES)
            hint = f"Did you mean {close!r}?" if close else f"The keys are {', '.join(VARIABLES)}."
            raise CommandError(f"{TABLE} in {path} has an unknown key {key!r}. {hint}")
        if not isinstance(value, str) or not value.strip():  # the value is not shown: it may hold a password
            raise CommandError(f"{key!r} in {TABLE} of {path} must be a string, and not empty.")
    return table


def read_project(path: Path) -> tuple[str, Any]:
    """Read a pyproject.toml: its text and its table `tool`. Both are empty if there is no such file."""
    try:
        text = path.read_bytes().decode() if path.is_file() else ""
        return text, tomllib.loads(text).get("tool", {})
    except (OSError, ValueError) as error:  # not readable, not UTF-8, or not TOML
        raise CommandError(f"Can't read {path}: {error}.") from error


def _database(uri: str, source: str) -> str | None:
    """Return the database in the path of the URI, looking nothing up: `mongodb+srv://` is read like `mongodb://`.

    MongoDB's own databases are there for authentication.
    """
    from pymongo.uri_parser import parse_uri  # here: only commands with a database need the driver

    if is_doubtful(uri):
        raise CommandError(_UNREADABLE.format(source, ""))
    if uri.startswith(MOCK):
        return uri.removeprefix(MOCK).partition("?")[0] or "quaestor"
    plain = uri.replace("mongodb+srv://", "mongodb://", 1).partition("?")[0]
    try:
        with warnings.catch_warnings(action="ignore"):  # the client warns again
            database: str | None = parse_uri(plain, validate=False)["database"]
    except Exception as error:  # noqa: BLE001 - ValueError and PyMongoError: they have no other base
        # The driver's reason quotes parts of the URI. If there is an @, one may be the password.
        reason = f" ({cut_values(str(error)).rstrip('.')})" if "@" not in uri else ""
    else:
        return None if database in SYSTEM_DATABASES else database
    raise CommandError(_UNREADABLE.format(source, reason))
