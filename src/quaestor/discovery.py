"""Importing the modules of a package, so that their decorators run."""

import importlib
import inspect
import pkgutil
import sys
import zipfile
from collections.abc import Collection, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import ModuleType

from quaestor._text import add_note

_LEFT_OUT = ("__main__", "__pycache__", "tests", "conftest", "test_*", "*_test")


def discover(package: str, exclude: Collection[str] = ()) -> list[str]:
    """See `MigrationRegistry.discover`."""

    def visit(name: str) -> Iterator[str]:
        module = _import(name)
        yield name
        for inner in sorted(_find_modules(list(getattr(module, "__path__", ())))):
            full = f"{name}.{inner}"
            if not is_left_out(inner) and not _matches(full.removeprefix(f"{package}."), exclude):
                yield from visit(full)

    return list(visit(package))


def is_left_out(name: str) -> bool:
    """Say whether a module isn't one of migrations, by the last part of its name."""
    return _matches(name, _LEFT_OUT)


def is_new_package(package: str) -> bool:
    """Say whether a package is discovering itself, as that of a new project does before it has modules."""
    module = sys.modules[package]
    is_importing = getattr(module.__spec__, "_initializing", False)
    return is_importing and hasattr(module, "__path__") and not hasattr(sys, "frozen")


def _matches(name: str, patterns: Collection[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except SystemExit as error:  # which would end the application, perhaps with exit code 0
        raise ImportError(
            f"The module {name!r} calls sys.exit() when it is imported. Move that into a function, or below "
            '`if __name__ == "__main__":`.',
            name=name,
        ) from error
    except Exception as error:
        add_note(error, f"while importing the module {name!r}, to find migrations")
        raise


def _find_modules(folders: list[str]) -> set[str]:
    """Find the modules and packages in the folders (or archives) of a package."""
    found = {module.name for module in pkgutil.iter_modules(folders)}
    for folder in map(_open, folders):
        # pkgutil skips folders without an __init__.py, so their migrations would silently be missing.
        found |= {entry.name for entry in (folder.iterdir() if folder else ()) if _is_package(entry)}
    return found


def _open(path: str) -> Path | zipfile.Path | None:
    """Open a folder, which may be in an archive; None if it is neither."""
    folder = Path(path)
    if folder.is_dir():
        return folder
    archive = next(filter(zipfile.is_zipfile, folder.parents), None)
    return None if archive is None else zipfile.Path(archive, f"{folder.relative_to(archive).as_posix()}/")


def _is_package(folder: Path | zipfile.Path) -> bool:
    """Say whether it is a folder that has modules, at any depth."""
    if "." in folder.name or folder.name == "__pycache__" or not folder.is_dir():
        return False
    return any(inspect.getmodulename(entry.name) or _is_package(entry) for entry in folder.iterdir())
