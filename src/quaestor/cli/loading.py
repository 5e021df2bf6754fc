"""From `package.module:attribute` or `path/to/file.py:attribute` to the registry that is there."""

import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

from quaestor._core.graph import closest
from quaestor.cli.sentences import message
from quaestor.cli.settings import CommandError
from quaestor.registry import MigrationRegistry

ATTRIBUTE = "registry"


@dataclass(frozen=True, slots=True)
class Location:
    """Where a registry is.

    Attributes:
        module: The module to import (str, dotted).
        attribute: The registry in it, or a function that returns it (str, dotted).
        folder: Where the import starts (Path, absolute).
        file: The file that was named (Path, absolute); None if a module was.
    """

    module: str
    attribute: str
    folder: Path
    file: Path | None = None


def load_registry(reference: str, folder: Path) -> MigrationRegistry:
    """Import the registry, with `folder`, or the one that a named file's package is in, first on `sys.path`.

    Args:
        reference: `package.module:attribute` or `path/to/file.py:attribute` (str). The attribute may be dotted, and is
            `registry` unless told; it is a MigrationRegistry, or a function without arguments that returns one.
        folder: What the reference is relative to (Path, absolute).

    Raises:
        CommandError: There is no such module, file or attribute, or it is no registry. Or the module cannot be
            imported, or the function fails: then the `__cause__` is what it raised.
    """
    location = locate(reference, folder)
    module = _imported(location)
    try:
        found: object = attrgetter(location.attribute)(module)
    except AttributeError:
        raise CommandError(_no_attribute(location, module)) from None
    if _is_factory(found):
        try:
            found = found()
        except Exception as error:
            raise CommandError(f"{_name(location)} failed: {told(error)}") from error
    if not isinstance(found, MigrationRegistry):
        raise CommandError(
            f"{_name(location)} must be a MigrationRegistry, or a function without arguments that returns one, "
            f"not {'the class ' + found.__name__ if isinstance(found, type) else 'of type ' + type(found).__name__}."
            f"{_registries(module)}"
        )
    return found


def locate(reference: str, folder: Path) -> Location:
    """Read a reference, without importing anything. A file in a package is the module that the package's users import.

    Raises:
        CommandError: It is neither a module nor a file that exists.
    """
    place, attribute = split(reference)
    if not place.endswith(".py"):
        if _dotted(place) and _dotted(attribute):
            return Location(place, attribute, folder)
        raise CommandError(f"{reference!r} must be package.module:attribute or path/to/file.py:attribute.")
    file = (folder / place).resolve()
    if not file.is_file():
        raise CommandError(f"There is no file {file}, named by {reference!r}.")
    names = [] if file.name == "__init__.py" else [file.stem]
    top = file.parent
    while (top / "__init__.py").is_file():
        names.insert(0, top.name)
        top = top.parent
    if not all(map(str.isidentifier, names)) or not _dotted(attribute):
        raise CommandError(f"{reference!r} cannot be imported: {'.'.join(names)}:{attribute} is no name in Python.")
    return Location(".".join(names), attribute, top, file)


def split(reference: str) -> tuple[str, str]:
    r"""The module or file, and the attribute. The colon of a drive, as in `C:\shop\file.py`, is not the one between."""
    place, colon, attribute = reference.rpartition(":")
    if not colon or attribute.endswith(".py"):
        return reference, ATTRIBUTE
    return place, attribute


def _dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _imported(location: Location) -> ModuleType:
    for folder in (location.folder / "src", location.folder):  # the second ends up before the first
        if folder.is_dir() and str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    try:
        module = import_module(location.module)
    except (Exception, SystemExit) as error:  # a script without its `if __name__ == "__main__"` may exit
        if isinstance(error, ModuleNotFoundError) and _is_part(error.name, location.module):
            raise CommandError(
                f"There is no module {error.name!r} in {location.folder} or among the installed packages. Start in the "
                f"folder that it is in, or name the file, as in path/to/file.py:{location.attribute}."
            ) from error
        raise CommandError(f"The module {location.module!r} cannot be imported: {told(error)}") from error
    imported = getattr(module, "__file__", None)
    if location.file is not None and (imported is None or Path(imported).resolve() != location.file):
        raise CommandError(
            f"{location.file} cannot be imported: {location.module!r} is another module "
            f"({imported or 'a part of Python'}). Give the file another name."
        )
    return module


def _is_part(name: str | None, module: str) -> bool:
    """Whether this is the module itself or a package that it is in, and not something that the module imports."""
    return name is not None and f"{module}.".startswith(f"{name}.")


def told(error: BaseException) -> str:
    """The error and the last place in the user's own code that it came from."""
    sentence = f"{type(error).__name__}: {message(error)}".rstrip(".: ")
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})."
    foreign = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parents[1]), "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(foreign)]
    return f"{sentence} ({frames[-1].filename}, line {frames[-1].lineno})." if frames else f"{sentence}."


def _no_attribute(location: Location, module: ModuleType) -> str:
    known = _registries(module)
    close = closest(location.attribute, vars(module))
    suggestion = f" Did you mean {close!r}?" if close else ""
    return f"The module {location.module!r} has no {location.attribute!r}.{suggestion}{known}"


def _registries(module: ModuleType) -> str:
    names = sorted(name for name, value in vars(module).items() if isinstance(value, MigrationRegistry))
    return f" The registries in {module.__name__!r} are: {', '.join(names)}." if names else ""


def _is_factory(value: object) -> TypeGuard[Callable[[], object]]:
    """Whether it is a function without arguments. A class is none: MigrationRegistry itself would give an empty one."""
    if not callable(value) or isinstance(value, type) or inspect.iscoroutinefunction(value):
        return False
    try:
        inspect.signature(value).bind()
    except (TypeError, ValueError):
        return False
    return True


def _name(location: Location) -> str:
    return f"{location.module}:{location.attribute}"
