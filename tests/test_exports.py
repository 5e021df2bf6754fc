"""The public names: each exists, is imported late, and no other is public. (test_reference.py looks for their docs.)"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

import quaestor
from quaestor import errors, events


def imports_for_type_checkers() -> Iterator[tuple[str, str]]:
    """Find each module and name that type checkers see imported in the package."""
    (block,) = (
        node
        for node in ast.parse(Path(quaestor.__file__).read_text("utf-8")).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.module is not None
        yield from ((node.module, alias.name) for alias in node.names)


def test_all_is_sorted() -> None:
    assert quaestor.__all__ == sorted(set(quaestor.__all__))
    assert dir(quaestor) == quaestor.__all__


def test_type_checkers_see_all_names() -> None:
    assert sorted(name for _, name in imports_for_type_checkers()) == quaestor.__all__


@pytest.mark.parametrize(("module", "name"), list(imports_for_type_checkers()))
def test_name_is_what_type_checkers_see(module: str, name: str) -> None:
    value = getattr(quaestor, name)
    assert value is getattr(import_module(module), name)
    assert getattr(value, "__module__", module) in {module, "collections.abc", "typing"}  # of an alias: where it's from


@pytest.mark.parametrize(("module", "base"), [(errors, errors.QuaestorError), (events, events.Event)])
def test_all_errors_and_events_are_exported(module: object, base: type) -> None:
    public = {name for name, value in vars(module).items() if isinstance(value, type) and issubclass(value, base)}
    assert public <= set(quaestor.__all__)


def test_nothing_else_is_public() -> None:
    found = run("import quaestor; print(*(name for name in vars(quaestor) if not name.startswith('_')))")
    assert found == ["TYPE_CHECKING"]


def test_version() -> None:
    """The version is that of the installed package, read when it is asked for."""
    assert run("import sys, quaestor; print('importlib.metadata' in sys.modules, quaestor.__version__)") == [
        "False",
        version("mongo-quaestor"),
    ]


def test_unknown_name() -> None:
    with pytest.raises(AttributeError, match=r"^module 'quaestor' has no attribute 'MigratonRegistry'$"):
        _ = quaestor.MigratonRegistry  # type: ignore[attr-defined]  # misspelled
    with pytest.raises(ImportError, match="MigratonRegistry"):
        from quaestor import MigratonRegistry  # type: ignore[attr-defined]  # noqa: F401 - misspelled


def test_star_import() -> None:
    assert set(quaestor.__all__) <= set(run("from quaestor import *; print(*dir())"))


def test_import_loads_nothing_else() -> None:
    """`import quaestor` itself loads no module of the package and nothing that isn't in the standard library."""
    loaded = run("import sys; before = set(sys.modules); import quaestor; print(*set(sys.modules) - before)")
    assert {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names} == {"quaestor"}


def test_registering_loads_no_driver() -> None:
    """Registering migrations loads no driver, no event loop, no events and none of the rest of a run."""
    loaded = run("import sys, quaestor; quaestor.MigrationRegistry().register('a')(print); print(*sys.modules)")
    assert not {"anyio", "asyncio", "bson", "logging", "motor", "pymongo"} & set(loaded)
    assert {name for name in loaded if name.startswith("quaestor.")} == {
        "quaestor._core",
        "quaestor._core.definition",
        "quaestor.errors",
        "quaestor.registry",
        "quaestor.status",
    }


def run(program: str) -> list[str]:
    """Run a program in a new process. Returns the words that it prints."""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
