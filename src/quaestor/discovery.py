"""Importing the modules of a package, so that the decorators in them run."""

import importlib
import importlib.resources
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from types import ModuleType


def discover(package: str) -> list[str]:
    """Import a package and every module in it, nested ones too, in sorted order.

    Returns:
        The names imported.

    Raises:
        Exception: What a module raised, as it is, with a note of which module it was.
    """
    top = _imported(package)
    if not hasattr(top, "__path__"):
        return [package]  # a module
    names = sorted(_modules(package, importlib.resources.files(top)), key=lambda name: name.split("."))
    for name in names:
        _imported(name)
    return [package, *names]


def _imported(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:
        error.add_note(f"quaestor: while importing the module {name!r}, to find migrations")
        raise


def _modules(package: str, folder: Traversable) -> Iterator[str]:
    # Not pkgutil, which silently passes over folders that have no __init__.py, and the migrations in them.
    for entry in folder.iterdir():
        stem, dot, suffix = entry.name.partition(".")
        name = f"{package}.{stem}"
        if entry.is_file() and suffix == "py" and stem not in {"__init__", "__main__"}:
            yield name
        elif entry.is_dir() and not dot and stem != "__pycache__":
            inside = list(_modules(name, entry))
            if inside or (entry / "__init__.py").is_file():
                yield name
            yield from inside
