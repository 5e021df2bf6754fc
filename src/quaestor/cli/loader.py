"""Load what `package.module:attribute` or `path/to/file.py:attribute` names: a registry, a client or an event hook."""

import inspect
import sys
import sysconfig
import traceback
from collections.abc import Callable
from functools import partial
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, TypeGuard

from quaestor._text import find_similar, format_error
from quaestor.cli.settings import CommandError
from quaestor.errors import PreconditionFailedError, VerificationFailedError
from quaestor.events import Hook
from quaestor.registry import MigrationRegistry


class Location(NamedTuple):
    """Where a registry or a client is."""

    module: str
    attribute: str
    folder: Path  # where the import starts
    file: Path | None = None  # if the reference names one


def load_registry(reference: str, folder: Path) -> MigrationRegistry:
    """Import the registry of `package.module:attribute` or `path/to/file.py:attribute`, relative to `folder`.

    The folder, or that of the file's package, comes first on `sys.path`. The attribute may be dotted, and defaults to
    `registry`; it is a MigrationRegistry, or a function without arguments that returns one.
    """
    location = locate(reference, folder)
    module = _import(location)
    names = sorted(name for name, value in vars(module).items() if isinstance(value, MigrationRegistry))
    known = f" The registries in {module.__name__!r} are: {', '.join(names)}." if names else ""
    found = _find(module, location, known)
    name = f"{location.module}:{location.attribute}"
    if _is_factory(found) and not inspect.iscoroutinefunction(found):
        found = _call(name, found)
    if not isinstance(found, MigrationRegistry):
        raise CommandError(
            f"{name} must be a MigrationRegistry, or a function without arguments that returns one, not "
            f"{describe_kind(found)}.{known}"
        )
    return found


def load_client(reference: str, folder: Path, await_result: Callable[[Callable[[], object]], object]) -> object:
    """Import what a reference names, or call it if it is a function without arguments, `def` or `async def`.

    `await_result` calls a function in an event loop, and awaits what it returns.
    """
    location = locate(reference, folder, "client")
    found = _find(_import(location), location)
    if not _is_factory(found):
        return found
    function = partial(await_result, found) if inspect.iscoroutinefunction(found) else found
    return _call(f"{location.module}:{location.attribute}", function)


def load_hook(reference: str, folder: Path) -> Hook:
    """Import the event hook that a reference names; the attribute defaults to `on_event`."""
    location = locate(reference, folder, "on_event")
    found = _find(_import(location), location)
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise CommandError(
            f"{location.module}:{location.attribute} must be a `def` function that takes an event, not "
            f"{'an `async def` function' if callable(found) else describe_kind(found)}."
        )
    return found


def describe_kind(value: object) -> str:
    """Say what a value is that is something else than what it should be."""
    return f"the class {value.__name__}" if isinstance(value, type) else f"of type {type(value).__name__}"


def _find(module: ModuleType, location: Location, known: str = "") -> object:
    try:
        return attrgetter(location.attribute)(module)
    except AttributeError:
        close = find_similar(location.attribute, vars(module))
        suggestion = f" Did you mean {close!r}?" if close else ""
        raise CommandError(
            f"The module {location.module!r} has no {location.attribute!r}.{suggestion}{known}"
        ) from None


def _call(name: str, function: Callable[[], object]) -> object:
    try:
        return function()
    except CommandError:  # of a framework, which says itself what is wrong
        raise
    except (Exception, SystemExit) as error:
        raise CommandError(f"{name} failed: {locate_error(error)}") from error


def locate(reference: str, folder: Path, default: str = "registry") -> Location:
    """Read a reference without importing anything. A file in a package is the module that its users import."""
    place, attribute = split(reference, default)
    if not place.endswith(".py"):
        if _is_dotted_name(place) and _is_dotted_name(attribute):
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
    if not all(map(str.isidentifier, names)) or not _is_dotted_name(attribute):
        raise CommandError(f"{reference!r} cannot be imported: {'.'.join(names)}:{attribute} is no name in Python.")
    return Location(".".join(names), attribute, top, file)


def split(reference: str, default: str = "registry") -> tuple[str, str]:
    r"""Split a reference into module or file and attribute. The colon of a drive, as in `C:\shop\file.py`, stays."""
    place, colon, attribute = reference.rpartition(":")
    return (place, attribute) if colon and not attribute.endswith(".py") else (reference, default)


def _is_dotted_name(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _import(location: Location) -> ModuleType:
    for folder in (location.folder / "src", location.folder):  # the second ends up before the first
        if folder.is_dir() and str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    try:
        module = import_module(location.module)
    except (Exception, SystemExit) as error:  # a script without its `if __name__ == "__main__"` may exit
        # The module itself or a package that it is in, and not something that it imports
        if isinstance(error, ModuleNotFoundError) and f"{location.module}.".startswith(f"{error.name}."):
            raise CommandError(
                f"There is no module {error.name!r} in {location.folder} or among the installed packages. Start in the "
                f"folder that it is in, or name the file, as in path/to/file.py:{location.attribute}."
            ) from error
        raise CommandError(f"The module {location.module!r} cannot be imported: {locate_error(error)}") from error
    imported = getattr(module, "__file__", None)
    if location.file is not None and (imported is None or Path(imported).resolve() != location.file):
        raise CommandError(
            f"{location.file} cannot be imported: {location.module!r} is another module "
            f"({imported or 'a part of Python'}). Give the file another name."
        )
    return module


def locate_error(error: BaseException) -> str:
    """Describe an error, with the last place in the user's own code that it came from."""
    sentence = format_error(error).rstrip(".: ")
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})."
    frames = list_frames(error)
    return f"{sentence} ({frames[-1].filename}, line {frames[-1].lineno})." if frames else f"{sentence}."


def list_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of an error in the user's own code: not in Python, an installed package or quaestor.

    Of a precondition or a verification that failed, the frames are those of what it raised.
    """
    if isinstance(error, PreconditionFailedError | VerificationFailedError) and error.__cause__ is not None:
        error = error.__cause__
    foreign = (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parents[1]), "<")
    return [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(foreign)]


def _is_factory(value: object) -> TypeGuard[Callable[[], object]]:
    """Say whether it's a function without arguments: a class isn't: MigrationRegistry would give an empty one."""
    if not callable(value) or isinstance(value, type):
        return False
    try:
        inspect.signature(value).bind()
    except (TypeError, ValueError):
        return False
    return True
