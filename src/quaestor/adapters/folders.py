"""Registering the migrations of another tool as they are: each file of a folder, in the order in which that tool runs
them.
"""

import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, cast

from quaestor._core.definition import is_async, takes_context
from quaestor._text import add_note
from quaestor.errors import InvalidMigrationError, InvalidOptionError

if TYPE_CHECKING:  # the registry is above: it is passed in
    from quaestor.registry import MigrationRegistry

FolderTool: TypeAlias = Literal["pymongo-migrate", "mongodb-migrations", "mongrator"]
Function: TypeAlias = Callable[..., object]


class _Migration(NamedTuple):
    """A migration in a file."""

    execute: Function
    rollback: Function | None
    depends_on: Sequence[str] | None = None  # None: the one before
    description: str | None = None  # None: that of the function


def register_folder(registry: "MigrationRegistry", folder: str | PathLike[str], *, tool: FolderTool) -> list[str]:
    """Register the migrations in a folder of another tool's files, as they are, under the names of the files.

    Their dependencies are those in the files ("pymongo-migrate"), or each depends on the one before ("mongrator" and
    "mongodb-migrations", which go by the names of the files). The files of "mongodb-migrations" don't need that tool
    any more; those of "mongrator" do if they use `mongrator.ops`.

    Args:
        registry: Where to register them.
        folder: The folder. In a module of migrations, write `Path(__file__).parent / "old"`: a relative path depends on
            the working directory.
        tool: The tool that they were written for.

    Returns:
        The names, in the order of the files.

    Raises:
        InvalidOptionError: There is no such folder, it has no migrations, or the tool isn't one of the three.
        InvalidMigrationError: A file isn't a migration of this tool.
        DuplicateMigrationError: A name is taken.
        Exception: Whatever a file raises when it is imported, unchanged, with a note that names it.
    """
    if tool not in tuple(_READERS):  # a tuple, because it may be unhashable
        raise InvalidOptionError(f"tool must be one of {', '.join(map(repr, _READERS))}, not {tool!r:.40}.")
    path = Path(folder).resolve()
    files = _sort([file for file in path.glob("*.py") if not file.stem.startswith("__")], tool)
    if not files:
        what = "has no migrations of" if path.is_dir() else "isn't a folder with migrations of"
        raise InvalidOptionError(f"{str(folder)!r} {what} {tool}.")
    names: list[str] = []
    for file in files:
        execute, rollback, dependencies, description = _READERS[tool](file)
        depends_on = names[-1:] if dependencies is None else dependencies
        register: Any = registry.register(file.stem, depends_on, description=description)
        register(execute)
        if rollback is not None:
            register_rollback: Any = registry.register_rollback(file.stem)
            register_rollback(rollback)
        names.append(file.stem)
    return names


def _sort(files: Sequence[Path], tool: str) -> list[Path]:
    """Put the files in the order in which the tool runs them, without those that it ignores."""
    if tool != "mongodb-migrations":
        return sorted(files)
    by_digits: dict[str, Path] = {}
    for file in sorted(files):
        if found := re.fullmatch(r"(\d+)[_a-z]*", file.stem):
            if other := by_digits.get(found[1]):
                raise InvalidMigrationError(
                    f"{file} and {other.name} begin with the same digits, so {tool} runs only one of them. Remove the "
                    "other one."
                )
            by_digits[found[1]] = file
    return [by_digits[digits] for digits in sorted(by_digits)]


def _load(file: Path) -> ModuleType:
    """Import a file under its path, which no import statement names, because its folder may be a package, too."""
    name = str(file.with_suffix(""))
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} can't be imported.", name=name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # a dataclass in it looks there
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        add_note(error, f"while importing {file}")
        raise
    return module


def _find_function(file: Path, owner: object, name: str) -> Function:
    found: Function | None = getattr(owner, name, None)
    if not callable(found):
        raise InvalidMigrationError(f"{file} has no function {name}().")
    return found


def _read_pymongo_migrate(file: Path) -> _Migration:
    module = _load(file)
    if (name := getattr(module, "name", file.stem)) != file.stem:
        raise InvalidMigrationError(f"{file} has the name {name!r}, which must be that of the file: {file.stem!r}.")
    if not isinstance(dependencies := getattr(module, "dependencies", None), list):
        raise InvalidMigrationError(f"{file} has no list of dependencies.")
    description = next(iter(inspect.cleandoc(module.__doc__ or "").splitlines()), None)
    execute = _find_function(file, module, "upgrade")
    return _Migration(execute, getattr(module, "downgrade", None), dependencies, description)


class _BaseMigration:
    """In place of mongodb_migrations.base.BaseMigration, which connects to a server of its own."""

    db: Any

    def __init__(self, *_arguments: object, **_options: object) -> None:
        pass  # `db` is there already


@contextmanager
def _stand_in() -> Iterator[None]:
    """Let `from mongodb_migrations.base import BaseMigration` import the class above, even without the tool."""
    package, module = ModuleType("mongodb_migrations"), ModuleType("mongodb_migrations.base")
    vars(module)["BaseMigration"] = _BaseMigration
    vars(package)["base"] = module
    before = {name: sys.modules.get(name) for name in (package.__name__, module.__name__)}
    sys.modules |= {package.__name__: package, module.__name__: module}
    try:
        yield
    finally:
        for name, one in before.items():
            if one is None:
                del sys.modules[name]
            else:
                sys.modules[name] = one


def _read_mongodb_migrations(file: Path) -> _Migration:
    with _stand_in():
        module = _load(file)
    found = getattr(module, "Migration", None)
    if not isinstance(found, type) or not issubclass(found, _BaseMigration):
        raise InvalidMigrationError(f"{file} has no class Migration(BaseMigration).")
    _find_function(file, found, "upgrade")
    if getattr(found, "downgrade", None) is None:
        return _Migration(_bind(found, "upgrade"), None)
    _find_function(file, found, "downgrade")
    return _Migration(_bind(found, "upgrade"), _bind(found, "downgrade"))


def _bind(migration: type[_BaseMigration], name: str) -> Function:
    """Make a function of a method that uses `self.db`."""

    @wraps(getattr(migration, name))
    def call(db: object) -> object:
        bound = migration.__new__(migration)
        bound.db = db
        bound.__init__()  # type: ignore[misc] # after `db` is there, which it may use
        return getattr(bound, name)()

    return call


def _read_mongrator(file: Path) -> _Migration:
    module = _load(file)
    up = _find_function(file, module, "up")
    takes_context(f"up() in {file}", up)  # now, because what wraps it takes the database in any case
    down = getattr(module, "down", None)
    if is_async(up):
        return _Migration(_refuse_operations(up), down)
    if down is None and any(_is_of_operations(one) for one in vars(module).values()):
        down = _revert_operations(up)
    return _Migration(_apply_operations(up), down)


def _is_of_operations(value: object) -> bool:
    """Say whether it is `mongrator.ops`, or something from it."""
    module = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    return module == "mongrator.ops"


def _list_operations(result: object) -> list[Any]:
    """List the operations that `up` has returned, and not performed."""
    is_list = isinstance(result, list) and all(_is_of_operations(type(one)) for one in result)
    return cast("list[Any]", result) if is_list else []


def _apply_operations(up: Function) -> Function:
    @wraps(up)
    def execute(db: object) -> object:
        result = up(db)
        for operation in (operations := _list_operations(result)):
            operation.apply(db)
        return None if operations else result

    return execute


def _refuse_operations(up: Function) -> Function:
    @wraps(up)
    async def execute(db: object) -> object:
        result = await cast("Any", up(db))
        if _list_operations(result):
            raise InvalidMigrationError(
                f"{up.__module__}: an `async def up` returned operations, which need a sync database. Make it a `def`."
            )
        return result

    return execute


def _revert_operations(up: Function) -> Function:
    """Make a rollback as mongrator does: `up` is called again, and what it returns is reverted."""

    @wraps(up)
    def rollback(db: object) -> None:
        operations = _list_operations(up(db))
        if not operations or not all(one.is_reversible for one in operations):
            lasting = "; ".join(one.description for one in operations if not one.is_reversible)
            raise InvalidMigrationError(
                f"{up.__module__} can't be undone without a down(): {lasting or 'its up() returned no operations'}."
            )
        for operation in reversed(operations):
            operation.revert(db)

    return rollback


_READERS: Mapping[str, Callable[[Path], _Migration]] = {
    "pymongo-migrate": _read_pymongo_migrate,
    "mongodb-migrations": _read_mongodb_migrations,
    "mongrator": _read_mongrator,
}
