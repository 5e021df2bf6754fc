"""The files of `quaestor init` and `quaestor new`: a package for migrations, and modules to fill in."""

import json
import re
import sys
import tomllib
import unicodedata
from collections.abc import Sequence
from importlib.resources import files
from keyword import iskeyword
from operator import attrgetter
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from quaestor import SyncRunner
from quaestor._text import find_similar
from quaestor.cli.loader import Location
from quaestor.cli.settings import FILE, TABLE, CommandError, read_project
from quaestor.discovery import is_left_out
from quaestor.errors import MissingDependencyError
from quaestor.registry import MigrationRegistry

LONGEST = 60
"""The longest module name, in characters."""

_SHOWN = 3  # names of files

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

# Both functions raise until they are written: one that did nothing would be recorded as applied, or rolled back.
MODULE = files("quaestor.cli").joinpath("module.txt").read_text(encoding="utf-8")

_NO_NAME = re.compile(r"[/\\]|^[-.\s]|\s$|\.py$|^[\W_]*$")
"""In names of paths, options and files; blanks at an end; and no letter or digit."""

IDEMPOTENT = "Make it idempotent: it may run twice."
RETRIED = "Change nothing but the database: the transaction may be retried."

_SYNC = {"define": "def", "driver": "pymongo.database", "database": "Database"}
_ASYNC = {"define": "async def", "driver": "pymongo.asynchronous.database", "database": "AsyncDatabase"}


def init(root: Path, package: str = "migrations", prefix: str = "app") -> list[Path]:
    """Write a package for migrations with its registry, and its settings into pyproject.toml; return the files written.

    If the package or the settings exist, nothing is written.
    """
    with MongoClient[Any](connect=False) as client:
        SyncRunner(MigrationRegistry(), client["db"], prefix)  # checks the prefix, and sends nothing
    names = package.split(".")
    if not all(map(_is_module_name, names)) or names[0] in sys.stdlib_module_names:
        raise CommandError(
            f"{package!r} can't name a package, or is a module of Python. Choose another name, such as shop.migrations."
        )
    folder = Path("src" if (root / "src" / names[0]).is_dir() else "", *names)
    module, project = root / folder / "__init__.py", root / FILE
    text, tool = read_project(project)
    if isinstance(tool, dict) and "quaestor" in tool:
        raise CommandError(
            f"{project} has a table {TABLE} already, so this project is set up. "
            "Add a migration with `quaestor new NAME`."
        )
    entries = sorted(entry.name for entry in module.parent.iterdir()) if module.parent.is_dir() else []
    if taken := [name for name in entries if name != "__pycache__" and not name.startswith(".")]:
        more = ", ..." if len(taken) > _SHOWN else ""
        raise CommandError(
            f"{module.parent} isn't empty: it has {', '.join(taken[:_SHOWN])}{more}. Choose another package, such as "
            "`quaestor init mongo_migrations`, or write a registry into this one."
        )
    if (file := module.parent.with_suffix(".py")).exists():
        raise CommandError(f"The package {package!r} would hide {file}. Choose another name.")
    configured = _add_table(project, text, registry=f"{package}:registry", migrations=folder.as_posix(), prefix=prefix)
    write(module, PACKAGE)
    write(project, configured)
    return [module, project]


def new(
    folder: Path,
    name: str,
    registry: MigrationRegistry,
    location: Location,
    *,
    depends_on: Sequence[str] | None = None,
    is_async: bool | None = None,
    transaction: bool = False,
) -> Path:
    """Write a module with a migration to fill in, and its rollback; return its file.

    By default it depends on all migrations that no other depends on, so every database gets it after them.
    """
    file = choose_file(folder, name, registry, location)
    if depends_on is None:
        ordered = registry.sort()
        met = {needed for migration in ordered for needed in migration.depends_on}
        depends_on = [migration.name for migration in ordered if migration.name not in met]
    for needed in depends_on:
        if needed not in registry.migrations:
            raise MissingDependencyError(name, needed, find_similar(needed, registry.migrations))
    if is_async is None:  # projects move from `def` to `async def`, and seldom back
        is_async = any(migration.is_async for migration in registry.migrations.values())
    function = file.stem
    needs = ", ".join(map(literal, dict.fromkeys(depends_on)))
    values = {
        "title": f"{function.replace('_', ' ').strip().capitalize()}.",
        "module": location.module,
        "imported": location.attribute.partition(".")[0],
        "registry": location.attribute,
        "options": (f", depends_on=[{needs}]" if needs else "") + (", transaction=True" if transaction else ""),
        "function": function,
        "hint": RETRIED if transaction else IDEMPOTENT,
        "name": literal(name),
    }
    write(file, MODULE.format_map(values | (_ASYNC if is_async else _SYNC)))
    return file


def choose_file(folder: Path, name: str, registry: MigrationRegistry, location: Location) -> Path:
    """Choose the file of a new migration, whose function has the same name. It must not exist."""
    if attrgetter(location.attribute)(sys.modules[location.module]) is not registry:
        raise CommandError(
            f"{location.attribute!r} is a factory, whose registry a module can't import. Configure the registry "
            "itself, or pass it, such as --registry shop.migrations:registry."
        )
    MigrationRegistry().register(name)  # checks the name
    if _NO_NAME.search(name) or not name.isprintable():
        raise CommandError(
            f"{name!r} can't name a migration here: it looks like a path, a file or an option, has no letter or "
            "digit, or blanks at an end. Pass a name such as lowercase_emails."
        )
    if name in registry.migrations:
        raise CommandError(f"Migration {name!r} exists already. Choose another name.")
    file = folder / f"{module_name(name, taken=location.attribute.partition('.')[0])}.py"
    if not (folder / "__init__.py").is_file():
        raise CommandError(f"{folder} is no package. Add an __init__.py that discovers the modules in it.")
    if file.exists() or file.with_suffix("").exists():
        raise CommandError(f"{file} or a package of that name exists already. Choose another name for the migration.")
    return file


def write(file: Path, text: str) -> None:
    """Write a file, and the folders that it is in."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="")
    except OSError as error:
        raise CommandError(f"Can't write {error.filename}: {error.strerror}.") from error


def module_name(name: str, taken: str) -> str:
    """Make a name for the module and the function of a migration: an identifier, no keyword, and not `taken`.

    A module with the name of the registry would replace it in the package.
    """
    letters = (c if f"a{c}".isidentifier() else "_" for c in unicodedata.normalize("NFKC", name.lower()))
    words = re.sub("_+", "_", "".join(letters)).strip("_")[:LONGEST].rstrip("_")
    is_usable = words.isidentifier() and not is_left_out(words)  # by discover
    identifier = words if is_usable else f"migration_{words}".rstrip("_")  # 2024_...; or empty
    is_usable = _is_module_name(identifier) and not is_left_out(identifier) and identifier != taken
    return identifier if is_usable else f"{identifier}_"


def _is_module_name(name: str) -> bool:
    return name.isidentifier() and not iskeyword(name)


def literal(text: str) -> str:
    """Write a string for Python and TOML: JSON's escapes mean the same in both."""
    return json.dumps(text, ensure_ascii=False)


def _add_table(project: Path, text: str, **settings: str) -> str:
    """Return the text of the pyproject.toml with our table added at its end."""
    table = CONFIGURATION.format_map({key: literal(value) for key, value in settings.items()})
    if not text:
        return table
    newline = "\r\n" if "\r\n" in text else "\n"
    configured = text + newline * (1 if text.endswith("\n") else 2) + table.replace("\n", newline)
    try:
        tomllib.loads(configured)
    except ValueError as error:  # `tool` is an inline table, to which TOML can't add
        raise CommandError(f"Can't add a table to {project}. Write it into {FILE} by hand:\n{table}") from error
    return configured
