"""Imports that are forgotten again, so that each command of a test starts as a process of its own would."""

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def fresh(folder: Path) -> Iterator[None]:
    """Afterwards `sys.path` is as before, and no module from this folder is loaded."""
    path = [*sys.path]
    try:
        yield
    finally:
        sys.path[:] = path
        specs = {name: repr(getattr(module, "__spec__", None)) for name, module in sys.modules.items()}
        for name in (name for name, spec in specs.items() if str(folder) in spec):
            del sys.modules[name]
        importlib.invalidate_caches()
