"""Where the command line gets its settings from, and how a password is kept out of what it shows.

An option on the command line comes first, then the environment, then `[tool.quaestor]` in the nearest pyproject.toml.
"""

import contextlib
import re
import tomllib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote, quote_plus, unquote_plus

from quaestor._core.graph import closest

FILE: Final = "pyproject.toml"
MOCK: Final = "mongomock://"
"""The scheme of an address that stands for a database in memory."""

TABLE: Final = "[tool.quaestor]"
VARIABLES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "registry": ("QUAESTOR_REGISTRY",),
        "uri": ("QUAESTOR_URI", "MONGODB_URI"),
        "db": ("QUAESTOR_DB",),
        "prefix": ("QUAESTOR_PREFIX",),
        "migrations": ("QUAESTOR_MIGRATIONS",),
    }
)
"""Every setting, with the environment variables that give it; of several that are set, the first counts."""

MEANINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "registry": "where the registry is, such as shop.migrations:registry",
        "uri": "the address of MongoDB, such as mongodb://127.0.0.1:27017 (or mongomock://, in memory)",
        "db": "the name of the database (which may also stand in the URI: mongodb://host/db)",
        "prefix": "the prefix of the collections that hold the records, as your application passes it",
        "migrations": "the folder of the migrations, such as shop/migrations",
    }
)
_OF_MONGODB: Final = frozenset({"admin", "config", "local"})


class CommandError(Exception):
    """What the user of the command line has to put right; `str()` is a sentence that says how."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a command needs that works on a database.

    Attributes:
        registry: Where the registry is (str), as `package.module:attribute` or `path/to/file.py:attribute`.
        folder: The folder that `registry` is looked for from (Path).
        uri: The address of MongoDB (str). It may hold a password, so `repr()` leaves it out.
        db: The name of the database (str), or a pattern of names.
        prefix: The prefix of the collections of records and lease (str).
    """

    registry: str
    folder: Path
    uri: str = field(repr=False)
    db: str
    prefix: str

    @property
    def is_pattern(self) -> bool:
        """Whether `db` is a pattern, which stands for all databases of the server that match it (bool)."""
        return any(sign in self.db for sign in "*?")

    def matching(self, names: Iterable[str]) -> list[str]:
        """Those of the names of databases that match the pattern, without those of MongoDB itself (sorted list of str).

        Raises:
            CommandError: None does.
        """
        found = sorted(name for name in names if name not in _OF_MONGODB and fnmatchcase(name, self.db))
        if not found:
            raise CommandError(
                f"No database matches {self.db!r}: correct the pattern (--db), or name a single one, which need not be "
                "there yet."
            )
        return found


@dataclass(frozen=True, slots=True)
class Given:
    """The settings that were given, of which a command may need only some.

    Attributes:
        values: Each setting that was given (str) with its value (str), and the folder that a path in it starts from
            (Path): that of the pyproject.toml it stands in, or else the current one.
    """

    values: Mapping[str, tuple[str, Path]] = field(repr=False)

    def value(self, setting: str) -> str:
        """The value of a setting (str, a key of VARIABLES).

        Raises:
            CommandError: It was not given; the sentence says all the ways to give it.
        """
        if setting not in self.values:
            first = " In a new project `quaestor init` writes it." if setting == "registry" else ""
            raise CommandError(f"Say {MEANINGS[setting]}: {_ways(setting)}.{first}")
        return self.values[setting][0]

    def folder(self, setting: str) -> Path:
        """The folder that a path in the value of this setting starts from.

        Raises:
            CommandError: The setting was not given.
        """
        self.value(setting)
        return self.values[setting][1]

    def settings(self) -> Settings:
        """All that a command needs that works on a database. Without `db`, the URI may name it: `mongodb://host/db`.

        Raises:
            CommandError: One of them was not given, or the URI cannot be read.
        """
        registry, uri, prefix = self.value("registry"), self.value("uri"), self.value("prefix")
        _database(uri)  # so that a broken URI is found before the driver shows a part of it
        return Settings(registry, self.folder("registry"), uri, self.value("db"), prefix)


def find(options: Mapping[str, str | None], environ: Mapping[str, str], folder: Path) -> Given:
    """Collect the settings: options before environment variables before the table of the nearest pyproject.toml.

    Args:
        options: The settings (keys of VARIABLES) that the command line may give; None for those that it did not.
        environ: The environment variables. An empty one counts as not set.
        folder: The current folder, absolute (Path).

    Raises:
        CommandError: An option is empty, or the pyproject.toml or its table cannot be used.
    """
    project = next((place for place in (folder, *folder.parents) if (place / FILE).is_file()), folder)
    for setting, option in options.items():
        if option == "":  # an unset variable of the shell, most likely: nothing else may take its place
            raise CommandError(f"--{setting} is empty: give it a value, or leave it out.")
    environment = {setting: next(filter(None, map(environ.get, names)), None) for setting, names in VARIABLES.items()}
    values: dict[str, tuple[str, Path]] = {}
    for source, base in ((_table(project / FILE), project), (environment, folder), (options, folder)):
        given = {setting: value for setting, value in source.items() if value is not None}
        # A database that an address names counts for more than one that a weaker source names.
        with contextlib.suppress(CommandError):  # it is told when the address is needed
            if "uri" in given and (named := _database(given["uri"])) is not None:
                given = {"db": named} | given
        if misplaced := [setting for setting, value in given.items() if setting != "uri" and "://" in value]:
            raise CommandError(f"{misplaced[0]!r} looks like an address: say that of MongoDB {_ways('uri')}.")
        values |= {setting: (value, base) for setting, value in given.items()}
    return Given(values)


def refuse_addresses(arguments: Sequence[str]) -> None:
    """Refuse an address that stands where none belongs: as a name, say, it would be shown, and a password with it.

    Raises:
        CommandError: There is one.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option = before if not argument.startswith("-") else argument.partition("=")[0]
        if "://" in argument and option != "--uri":
            raise CommandError(f"An argument looks like an address: say that of MongoDB {_ways('uri')}.")


def _ways(setting: str) -> str:
    option = "" if setting == "migrations" else f"by --{setting}, "
    variables = " or ".join(VARIABLES[setting])
    return f"{option}by the environment variable {variables}, or by the key {setting!r} in {TABLE} of {FILE}"


def redacted(text: str, uri: str) -> str:
    """The text with `***` for each password of the URI, however it is written there.

    The URI may be broken: whatever stands where a password would is taken for one.
    """
    written = {form for secret in _secrets(uri) for form in _forms(secret) if form}
    return re.sub("|".join(map(re.escape, sorted(written, key=len, reverse=True))), "***", text) if written else text


def _secrets(uri: str) -> Iterator[str]:
    """What could be the password, up to the last `@` that could end it, and what options of the URI name so."""
    address = uri.partition("://")[2] or uri  # the scheme may have been forgotten
    for part in (re.split("[/?]", address, maxsplit=1)[0], address):
        yield part.rpartition("@")[0].partition(":")[2]
    yield from re.findall(r"(?:password|token)[=:]([^&,]+)", uri, re.IGNORECASE)


def _forms(secret: str) -> set[str]:
    """A password as it may be written: as it is, with and without percent-encoding, and inside a Python literal."""
    plain = unquote_plus(secret)
    encoded = [quoted(plain, safe, errors="surrogatepass") for quoted in (quote, quote_plus) for safe in ("", "/")]
    forms = {secret, plain, *encoded}
    return forms | {repr(form)[1:-1] for form in forms}


def _table(path: Path) -> dict[str, str]:
    """The settings in a pyproject.toml; none if there is no such file or no such table."""
    if not path.is_file():
        return {}
    try:
        tool: Any = tomllib.loads(path.read_text(encoding="utf-8")).get("tool", {})
    except (OSError, ValueError) as error:  # not readable, not UTF-8, or not TOML
        raise CommandError(f"{path} cannot be read: {error}.") from error
    table = tool.get("quaestor", {}) if isinstance(tool, dict) else tool
    if not isinstance(table, dict):
        raise CommandError(f"tool.quaestor in {path} must be a table: write its keys under {TABLE}.")
    for key, value in table.items():
        if key not in VARIABLES:
            raise CommandError(f"{TABLE} in {path} has an unknown key {key!r}. {_known(key)}")
        if not isinstance(value, str) or not value:  # the value is not shown: it may hold a password
            raise CommandError(f"{key!r} in {TABLE} of {path} must be a string that is not empty.")
    return table


def _known(key: str) -> str:
    close = closest(key, VARIABLES)
    return f"Did you mean {close!r}?" if close else f"The keys are {', '.join(VARIABLES)}."


def _database(uri: str) -> str | None:
    """The database named in the path of the URI. Nothing is looked up: a `mongodb+srv://` one is read as a plain one.

    The driver's reason is told only of a URI that has no place for a password, for it quotes parts of what it read.
    """
    from pymongo.uri_parser import parse_uri  # here, for only commands that work on a database need the driver

    if uri.startswith(MOCK):
        return uri.removeprefix(MOCK).partition("?")[0] or "quaestor"
    plain = uri.replace("mongodb+srv://", "mongodb://", 1).partition("?")[0]
    try:
        with warnings.catch_warnings(action="ignore"):  # the client warns again
            database: str | None = parse_uri(plain, validate=False)["database"]
    except Exception as error:  # noqa: BLE001 - ValueError and PyMongoError: they have no other base
        reason = f" ({str(error).rstrip('.')})" if "@" not in uri else ""
    else:
        return database
    raise CommandError(
        f"The URI of MongoDB cannot be read{reason}. It should look like mongodb://user:password@host:27017/db or "
        "mongodb+srv://user:password@host/db; in the user name and the password the characters : / ? # [ ] @ % must "
        "be percent-encoded, such as %40 for @."
    )
