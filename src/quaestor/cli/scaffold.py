"""What `quaestor init` and `quaestor new` write: a package for migrations, and modules to fill in."""

import json
import re
import sys
import tomllib
import unicodedata
from collections.abc import Sequence
from keyword import iskeyword
from operator import attrgetter
from pathlib import Path

from quaestor._core.definition import Colour, checked_name
from quaestor._core.graph import closest
from quaestor._mongo.drivers import checked_prefix
from quaestor.cli.loading import Location
from quaestor.cli.settings import FILE, TABLE, CommandError
from quaestor.errors import MissingDependencyError
from quaestor.registry import MigrationRegistry

LONGEST = 60
"""Of a module's name, in characters: a migration's can be any text, of any length."""

PACKAGE = '''\
"""The migrations of the database. `quaestor new` adds a module."""

from quaestor import MigrationRegistry

registry = MigrationRegistry()
registry.discover(__name__)  # last: the modules that it imports need `registry`
'''

CONFIGURATION = """\
[tool.quaestor]
registry = {registry}
migrations = {migrations}
prefix = {prefix}
# The database: QUAESTOR_URI="mongodb://host:27017/name" in the environment, or --uri.
"""

# The migration does nothing yet, so that a suite which runs all of them stays green. A rollback that did nothing would
# let a record go while the work stays: that one raises.
MODULE = '''\
"""{title}"""

from typing import Any

from {driver} import {database}

from {module} import {imported}


{decorator}
{define} {function}(db: {database}[dict[str, Any]]) -> None:
    """{title}"""
    # Write it so that a second run does no harm. Until then it does nothing, and is recorded all the same.


@{registry}.register_rollback({name})
{define} undo_{function}(db: {database}[dict[str, Any]]) -> None:
    """Undo it. If that cannot be done, remove this function."""
    raise NotImplementedError
'''

DRIVERS: dict[Colour, dict[str, str]] = {
    "sync": {"define": "def", "driver": "pymongo.database", "database": "Database"},
    "async": {"define": "async def", "driver": "pymongo.asynchronous.database", "database": "AsyncDatabase"},
}


def init(root: Path, package: str = "migrations", prefix: str = "app") -> list[Path]:
    """Write a package for migrations with its registry, and the settings that lead there into pyproject.toml.

    Args:
        root: The folder of the project (Path), which has the pyproject.toml or gets one.
        package: The package to make (str, dotted). If its first part is a folder in `src`, it is made there.
        prefix: The prefix of the collections of records and lease (str).

    Returns:
        The files written.

    Raises:
        InvalidPrefixError: The prefix cannot name collections.
        CommandError: The package cannot be called so, there are such settings or such a package already (then nothing
            was written), or a file cannot be written.
    """
    checked_prefix(prefix, database="")
    names = package.split(".")
    if not all(map(_is_module_name, names)) or names[0] in sys.stdlib_module_names:
        raise CommandError(
            f"{package!r} cannot name a package, or is a module of Python: choose another, such as shop.migrations."
        )
    folder = Path("src" if (root / "src" / names[0]).is_dir() else "", *names)
    module, project = root / folder / "__init__.py", root / FILE
    if module.exists():
        raise CommandError(f"{module} exists already: choose another package, or write a registry into this one.")
    configured = _configured(project, registry=f"{package}:registry", migrations=folder.as_posix(), prefix=prefix)
    try:
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text(PACKAGE, encoding="utf-8")
        project.write_text(configured, encoding="utf-8", newline="")
    except OSError as error:
        raise CommandError(f"{error.filename} cannot be written: {error.strerror}.") from error
    return [module, project]


def new(
    folder: Path,
    name: str,
    registry: MigrationRegistry,
    location: Location,
    *,
    depends_on: Sequence[str] = (),
    colour: Colour | None = None,
    transaction: bool = False,
) -> Path:
    """Write a module with a migration to fill in, and its rollback.

    Args:
        folder: The package that it becomes a part of (Path).
        name: The name of the migration (str). That of the module is made from it.
        registry: The registry as it is now, from `load_registry`.
        location: Where the module imports it from: what `locate` made of the same reference.
        depends_on: The names of the migrations that it needs (list of str).
        colour: "sync" or "async"; None: "async" if a migration of the registry is.
        transaction: Whether the migration and its record are one transaction (bool).

    Returns:
        The file written.

    Raises:
        InvalidMigrationError: The name cannot be used.
        MissingDependencyError: It depends on something that is not registered.
        CommandError: The name is taken, no module can import the registry, or the file cannot be written.
    """
    if attrgetter(location.attribute)(sys.modules[location.module]) is not registry:
        raise CommandError(
            f"{location.attribute!r} makes a registry, which the module of a migration cannot import. Name the "
            "registry itself."
        )
    _check(registry, checked_name(name), depends_on)
    imported = location.attribute.partition(".")[0]
    function = module_name(name, taken=imported)
    file = folder / f"{function}.py"
    if not (folder / "__init__.py").is_file():
        raise CommandError(f"{folder} is no package: make it one by a file __init__.py that finds the modules in it.")
    if file.exists() or file.with_suffix("").exists():
        raise CommandError(f"{file} or a package of that name exists already: choose another name for the migration.")
    text = MODULE.format_map(
        {
            "title": f"{function.replace('_', ' ').strip().capitalize()}.",
            "module": location.module,
            "imported": imported,
            "registry": location.attribute,
            "decorator": _decorator(location.attribute, name, depends_on, transaction=transaction),
            "function": function,
            "name": _literal(name),
            **DRIVERS[colour or _colour(registry)],
        }
    )
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}.") from error
    return file


def module_name(name: str, taken: str) -> str:
    """A name for the module and the function of a migration: an identifier, and neither a keyword nor `taken`.

    A module called as the registry would take its place in the package.
    """
    letters = (c if f"a{c}".isidentifier() else "_" for c in unicodedata.normalize("NFKC", name.lower()))
    words = re.sub("_+", "_", "".join(letters)).strip("_")[:LONGEST].rstrip("_")
    identifier = words if words.isidentifier() else f"migration_{words}".rstrip("_")  # 2024_...; or empty
    return identifier if _is_module_name(identifier) and identifier != taken else f"{identifier}_"


def _is_module_name(name: str) -> bool:
    return name.isidentifier() and not iskeyword(name)


def _check(registry: MigrationRegistry, name: str, depends_on: Sequence[str]) -> None:
    if name in registry.migrations:
        raise CommandError(f"There is a migration {name!r} already: choose another name.")
    for needed in depends_on:
        if needed not in registry.migrations:
            raise MissingDependencyError(name, needed, closest(needed, registry.migrations))


def _colour(registry: MigrationRegistry) -> Colour:
    """Asynchronous if one of them is: projects move from `def` to `async def`, and seldom back."""
    return "async" if any(migration.colour == "async" for migration in registry.migrations.values()) else "sync"


def _decorator(registry: str, name: str, depends_on: Sequence[str], *, transaction: bool) -> str:
    arguments = [_literal(name)]
    if depends_on:
        arguments.append(f"depends_on=[{', '.join(map(_literal, dict.fromkeys(depends_on)))}]")
    if transaction:
        arguments.append("transaction=True")
    return f"@{registry}.register({', '.join(arguments)})"


def _literal(text: str) -> str:
    """A string for Python and for TOML: JSON's escapes mean the same in both."""
    return json.dumps(text, ensure_ascii=False)


def _configured(project: Path, **settings: str) -> str:
    """The text of the pyproject.toml with our table at its end, and all else as it was."""
    table = CONFIGURATION.format_map({key: _literal(value) for key, value in settings.items()})
    try:
        with project.open(encoding="utf-8", newline="") as file:
            text = file.read()
        tool = tomllib.loads(text).get("tool")
    except FileNotFoundError:
        return table
    except (OSError, ValueError) as error:  # not readable, not UTF-8, or not TOML
        raise CommandError(f"{project} cannot be read: {error}.") from error
    if isinstance(tool, dict) and "quaestor" in tool:
        raise CommandError(f"{project} has a table {TABLE} already: this project is set up.")
    newline = "\r\n" if "\r\n" in text else "\n"
    configured = text + newline * (1 if text.endswith("\n") else 2) + table.replace("\n", newline)
    try:
        tomllib.loads(configured)
    except ValueError as error:  # `tool` is written such that TOML allows no table in it
        raise CommandError(f"{project} cannot take another table. Write it into {FILE} by hand:\n{table}") from error
    return configured
