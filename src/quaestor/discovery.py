"""Importing the modules of a package, so that the decorators in them run."""

import contextlib
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType


def discover(package: str) -> list[str]:
    """Import a package and every module in it, nested ones too, in sorted order.

    Returns:
        The names imported.

    Raises:
        Exception: What a module raised, as it is, with a note of which module it was.
    """
    module = _imported(package)
    inside = [discover(f"{package}.{name}") for name in sorted(_names(list(getattr(module, "__path__", ()))))]
    return [package, *(name for names in inside for name in names)]


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        with contextlib.suppress(Exception):  # it may refuse notes, and goes first
            error.add_note(f"quaestor: while importing the module {name!r}, to find migrations")
        raise


def _names(folders: list[str]) -> set[str]:
    """The modules and packages in the folders (or archives) of a package."""
    found = {module.name for module in pkgutil.iter_modules(folders)}
    for folder in map(Path, folders):
        # pkgutil passes over folders that have no __init__.py, and would be silent about the migrations in them.
        entries = folder.iterdir() if folder.is_dir() else ()
        found |= {entry.name for entry in entries if "." not in entry.name and any(entry.rglob("*.py"))}
    return found - {"__main__", "__pycache__"}
