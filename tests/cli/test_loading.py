"""Importing a registry by its name or file, and the errors if that fails."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quaestor import DuplicateMigrationError, MigrationRegistry
from quaestor.cli.loader import Location, load_registry, locate, split
from quaestor.cli.settings import CommandError
from tests.cli.imports import fresh

REGISTRY = """
from quaestor import MigrationRegistry

registry = MigrationRegistry()
registry.register("first")(lambda db: None)
"""


@pytest.fixture(autouse=True)
def _imports(tmp_path: Path) -> Iterator[None]:
    with fresh(tmp_path):
        yield


def write(path: Path, text: str = REGISTRY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def fault(reference: str, folder: Path) -> str:
    """The sentence with which a reference is refused."""
    with pytest.raises(CommandError) as caught:
        load_registry(reference, folder)
    return str(caught.value)


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("shop.migrations:all", ("shop.migrations", "all")),
        ("shop.migrations:app.registry", ("shop.migrations", "app.registry")),
        ("shop.migrations", ("shop.migrations", "registry")),
        ("shop/file.py:all", ("shop/file.py", "all")),
        ("shop/file.py", ("shop/file.py", "registry")),
        (r"C:\shop\file.py:all", (r"C:\shop\file.py", "all")),
        (r"C:\shop\file.py", (r"C:\shop\file.py", "registry")),
        ("C:file.py", ("C:file.py", "registry")),
        ("C:/shop/file.py", ("C:/shop/file.py", "registry")),
    ],
)
def test_split(reference: str, parts: tuple[str, str]) -> None:
    """The attribute may be left out, and the colon of a Windows drive is not the one before it."""
    assert split(reference) == parts


@pytest.mark.parametrize("reference", ["shop.migrations:registry", "shop.migrations", "shop/migrations.py:registry"])
@pytest.mark.parametrize("layout", [".", "src"])
def test_load(tmp_path: Path, reference: str, layout: str) -> None:
    """A module is found from the folder, also in its `src`; a file is the module that its package's users import."""
    write(tmp_path / layout / "shop" / "__init__.py", "")
    write(tmp_path / layout / "shop" / "migrations.py")
    named = f"{layout}/{reference}" if "/" in reference else reference
    assert list(load_registry(named, tmp_path).migrations) == ["first"]
    assert "shop.migrations" in sys.modules


def test_same_registry(tmp_path: Path) -> None:
    """By its name, its file and its package's file: one registry, so that migrations register in the one that runs."""
    write(tmp_path / "shop" / "__init__.py")
    registry = load_registry("shop:registry", tmp_path)
    assert load_registry("shop/__init__.py", tmp_path) is registry
    assert load_registry(f"{tmp_path}/shop/__init__.py:registry", Path("/")) is registry
    assert sys.path.count(str(tmp_path)) == 1


def test_locate(tmp_path: Path) -> None:
    """Find where a registry is without importing anything."""
    file = write(tmp_path / "shop" / "db" / "migrations.py", "raise AssertionError")
    write(tmp_path / "shop" / "db" / "__init__.py", "raise AssertionError")
    assert locate("shop/db/migrations.py", tmp_path) == Location("db.migrations", "registry", tmp_path / "shop", file)
    assert locate("db.migrations:r", tmp_path) == Location("db.migrations", "r", tmp_path)


def test_dotted_attribute_and_function(tmp_path: Path) -> None:
    """The registry may be an attribute of an object, or what a function without arguments returns."""
    write(
        tmp_path / "shop.py",
        REGISTRY + "class App:\n    registry = registry\napp = App()\ndef made(name='x'):\n    return registry\n",
    )
    registry = load_registry("shop", tmp_path)
    assert load_registry("shop:app.registry", tmp_path) is registry
    assert load_registry("shop:made", tmp_path) is registry


@pytest.mark.parametrize("reference", ["", "a b", "shop:", "shop:a b", "shop/migrations", ":registry", "shop..db"])
def test_no_reference(tmp_path: Path, reference: str) -> None:
    """Something that is no reference is refused, and the error shows one."""
    assert fault(reference, tmp_path).endswith("must be package.module:attribute or path/to/file.py:attribute.")


@pytest.mark.parametrize("name", ["my-shop.py", "2024.py", "a.b.py"])
def test_file_that_is_no_module(tmp_path: Path, name: str) -> None:
    """A file whose name no `import` can hold is refused."""
    write(tmp_path / name)
    assert "is no name in Python" in fault(name, tmp_path)


def test_no_file(tmp_path: Path) -> None:
    """The error has the full path of a missing file."""
    assert str(tmp_path / "shop.py") in fault("shop.py:registry", tmp_path)


@pytest.mark.parametrize("missing", ["shop", "shop.db", "shop.db.migrations"])
def test_no_module(tmp_path: Path, missing: str) -> None:
    """The error names the missing part of a module's name, and where it was looked for."""
    parents = missing.split(".")[:-1]
    for depth in range(len(parents)):
        write(tmp_path.joinpath(*parents[: depth + 1], "__init__.py"), "")
    said = fault("shop.db.migrations:registry", tmp_path)
    assert said.startswith(f"There is no module {missing!r} in {tmp_path} ")


@pytest.mark.parametrize(
    ("text", "kind", "line"),
    [
        ("\n\nx = 1 / 0\n", ZeroDivisionError, 3),
        ("\nx = (\n", SyntaxError, 2),
        ("import nothing_of_this_name", ModuleNotFoundError, 1),
        ("import shop.nothing", ModuleNotFoundError, 1),
        (f"{REGISTRY}registry.register('first')(print)\n", DuplicateMigrationError, 6),
        ("import json\njson.loads('')", json.JSONDecodeError, 2),
        ("import sys\nsys.exit(3)", SystemExit, 2),
    ],
)
def test_module_that_fails(tmp_path: Path, text: str, kind: type[BaseException], line: int) -> None:
    """The error of the user's module is shown with the line in the user's own file, and kept as the cause."""
    file = write(tmp_path / "shop.py", text)
    with pytest.raises(CommandError) as caught:
        load_registry("shop:registry", tmp_path)
    cause = caught.value.__cause__
    assert isinstance(cause, kind)
    reason = str(cause.msg if isinstance(cause, SyntaxError) else cause).rstrip(".")
    assert str(caught.value) == (
        f"The module 'shop' cannot be imported: {kind.__name__}: {reason} ({file}, line {line})."
    )


def test_factory_that_exits(tmp_path: Path) -> None:
    """A function that should return the registry and exits is an error, whatever its exit code."""
    file = write(tmp_path / "shop.py", "def make():\n    raise SystemExit(0)")
    assert f"shop:make failed: SystemExit: 0 ({file}, line 2)." in fault("shop:make", tmp_path)


def test_discovered_module_that_fails(tmp_path: Path) -> None:
    """In a package that imports its modules, the error shows the line at fault, not the call of discover."""
    write(tmp_path / "shop" / "__init__.py", f"{REGISTRY}registry.discover(__name__)")
    file = write(tmp_path / "shop" / "second.py", "from shop import registry\nregistry.register('')(print)")
    assert f"InvalidMigrationError: A migration's name must not be empty ({file}, line 2)." in fault("shop", tmp_path)


def test_file_that_another_module_hides(tmp_path: Path) -> None:
    """A file called as a module of Python's is never imported in its place, nor that one taken for it."""
    said = fault(str(write(tmp_path / "json.py")), tmp_path)
    assert "'json' is another module" in said
    assert "Give the file another name" in said


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("registri", "has no 'registri'. Did you mean 'registry'? The registries in 'shop' are: other, registry."),
        ("zzz", "has no 'zzz'. The registries in 'shop' are: other, registry."),
        ("registry.zzz", "has no 'registry.zzz'."),
        ("number", "not of type int. The registries in 'shop' are: other, registry."),
        ("MigrationRegistry", "not the class MigrationRegistry."),
        ("needy", "not of type function."),
        ("later", "not of type function."),
        ("empty", "not of type NoneType."),
        ("broken", "shop:broken failed: KeyError: 'x' ("),
    ],
)
def test_no_registry(tmp_path: Path, attribute: str, said: str) -> None:
    """If the name is missing or is no registry, the error lists the registries."""
    functions = "needy = lambda x: registry\nasync def later(): ...\ndef empty(): ...\ndef broken(): return {}['x']\n"
    write(tmp_path / "shop.py", f"{REGISTRY}\nnumber = 1\nother = MigrationRegistry()\n{functions}")
    assert said in fault(f"shop:{attribute}", tmp_path)


def test_no_registry_at_all(tmp_path: Path) -> None:
    """Where a module has no registry, none is suggested."""
    write(tmp_path / "shop.py", "x = 1")
    assert fault("shop", tmp_path) == "The module 'shop' has no 'registry'."


def test_type(tmp_path: Path) -> None:
    """What is loaded is the very registry."""
    write(tmp_path / "shop.py")
    assert type(load_registry("shop", tmp_path)) is MigrationRegistry
