"""Importing the modules of a package, so that their decorators run."""

import contextlib
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType


def discover(package: str) -> list[str]:
    """See `MigrationRegistry.discover`."""
    module = _import(package)
    inside = [discover(f"{package}.{name}") for name in sorted(_find_modules(list(getattr(module, "__path__", ()))))]
    return [package, *(name for names in inside for name in names)]


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except SystemExit as error:  # which would end the application, perhaps with exit code 0
        raise ImportError(
            f"The module {name!r} calls sys.exit() when it is imported. Do that in a function, or below "
            '`if __name__ == "__main__":`.',
            name=name,
        ) from error
    except Exception as error:
        with contextlib.suppress(Exception):  # the error may refuse notes, and matters more
            error.add_note(f"quaestor: while importing the module {name!r}, to find migrations")
        raise


def _find_modules(folders: list[str]) -> set[str]:
    """Find the modules and packages in the folders (or archives) of a package."""
    found = {module.name for module in pkgutil.iter_modules(folders)}
    for folder in map(Path, folders):
        # pkgutil skips folders without an __init__.py, so their migrations would silently be missing.
        entries = folder.iterdir() if folder.is_dir() else ()
        found |= {entry.name for entry in entries if "." not in entry.name and any(entry.rglob("*.py"))}
    return found - {"__main__", "__pycache__"}
