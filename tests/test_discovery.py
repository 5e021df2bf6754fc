"""Importing the modules of a package: which ones, in which order, and what is said of one that fails."""

import contextlib
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from quaestor import MigrationRegistry

Write: TypeAlias = Callable[[str, dict[str, str]], None]
"""Writes a package: its name, and its files with what stands in them."""

MODULE = """
from imported import names
names.append(__name__)
"""


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the modules whose code was run, in order; what was imported is forgotten in the end."""
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "imported.py").write_text("names = []\n")
    import imported  # type: ignore[import-not-found]  # made just now

    names: list[str] = imported.names
    yield names
    for name in set(sys.modules) - before:
        with contextlib.suppress(KeyError):
            del sys.modules[name]
    sys.path_importer_cache.pop(str(tmp_path), None)


@pytest.fixture
def write(tmp_path: Path, imported: list[str]) -> Write:
    """Writes a package where it can be imported."""

    def written(package: str, files: dict[str, str]) -> None:
        for path, text in files.items():
            file = tmp_path / package / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return written


def test_sorted(write: Write, imported: list[str]) -> None:
    """Every module is imported once, in sorted order, nested packages where their name stands; names may be numbers."""
    files = ["__init__.py", "b.py", "0002_b.py", "0001_a.py", "a_b.py", "a/__init__.py", "a/z.py", "a/c/__init__.py"]
    write("nested", dict.fromkeys(files, MODULE))

    found = MigrationRegistry().discover("nested")

    order = ["", ".0001_a", ".0002_b", ".a", ".a.c", ".a.z", ".a_b", ".b"]
    assert found == imported == [f"nested{name}" for name in order]


def test_folders_without_init(write: Write, imported: list[str]) -> None:
    """Folders without `__init__.py` are packages as well, the outermost too; those without modules are none."""
    write("plain", {"2026/01/a.py": MODULE, "2026/b.py": MODULE, "c.py": MODULE, "data/users.json": "{}"})

    found = MigrationRegistry().discover("plain")

    assert found == ["plain", "plain.2026", "plain.2026.01", "plain.2026.01.a", "plain.2026.b", "plain.c"]
    assert imported == ["plain.2026.01.a", "plain.2026.b", "plain.c"]


def test_what_is_no_module(write: Write, imported: list[str]) -> None:
    """`__main__` is not run, and what is not Python, hidden or cached is left alone."""
    others = ["__main__.py", "a/__main__.py", "notes.txt", "a.py.orig", "a.sql", ".hidden/b.py", "__pycache__/c.py"]
    write("mixed", dict.fromkeys(["__init__.py", "a/__init__.py"], MODULE) | dict.fromkeys(others, MODULE))

    assert MigrationRegistry().discover("mixed") == imported == ["mixed", "mixed.a"]


def test_module(write: Write, imported: list[str]) -> None:
    """The name of a module is good too, in a package or by itself."""
    write("holds", {"__init__.py": MODULE, "a.py": MODULE, "b.py": MODULE})
    write("", {"alone.py": MODULE})

    assert MigrationRegistry().discover("holds.a") == ["holds.a"]
    assert MigrationRegistry().discover("alone") == ["alone"]
    assert imported == ["holds", "holds.a", "alone"]


def test_again(write: Write, imported: list[str]) -> None:
    """A second call says the same and runs no module again."""
    write("twice", {"__init__.py": MODULE, "a.py": MODULE})

    assert MigrationRegistry().discover("twice") == MigrationRegistry().discover("twice") == ["twice", "twice.a"]
    assert imported == ["twice", "twice.a"]


def test_zip(tmp_path: Path, imported: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A package in a zip file is found like any other."""
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        for name in ("__init__.py", "0001_a.py", "nested/__init__.py", "nested/b.py", "nested/notes.txt"):
            packed.writestr(f"packed/{name}", MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "packed.zip"))

    found = MigrationRegistry().discover("packed")

    assert found == imported == ["packed", "packed.0001_a", "packed.nested", "packed.nested.b"]


def test_at_the_end_of_the_package(write: Write, imported: list[str]) -> None:
    """A package can discover itself at the end of its `__init__`; its modules import the registry from it."""
    own = "from quaestor import MigrationRegistry\nregistry = MigrationRegistry()\nregistry.discover(__name__)\n"
    module = MODULE + "from own import registry\n@registry.register(__name__)\ndef migration(db): ...\n"
    write("own", {"__init__.py": own, "b.py": module, "a.py": module})

    import own as package  # type: ignore[import-not-found]  # made just now

    assert imported == ["own.a", "own.b"]
    assert list(package.registry.migrations) == ["own.a", "own.b"]
    assert package.registry.discover("own") == ["own", "own.a", "own.b"]


def test_two_portions(tmp_path: Path, write: Write, imported: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A package without `__init__.py` may lie in two places: the modules of both are found, in sorted order."""
    write("parts", {"2026/b.py": MODULE, "c.py": MODULE})
    write("more/parts", {"2026/a.py": MODULE, "d.py": MODULE})
    monkeypatch.syspath_prepend(str(tmp_path / "more"))

    found = MigrationRegistry().discover("parts")

    assert imported == ["parts.2026.a", "parts.2026.b", "parts.c", "parts.d"]
    assert found == ["parts", "parts.2026", *imported]


@pytest.mark.parametrize(
    ("text", "kind"),
    [("raise LookupError('own')", LookupError), ("def", SyntaxError), ("import quaestor.nothing", ModuleNotFoundError)],
)
def test_module_that_fails(write: Write, imported: list[str], text: str, kind: type[Exception]) -> None:
    """What a module raises is raised as it is, with a note of which module it was; those before it are imported."""
    write("broken", {"__init__.py": MODULE, "a.py": MODULE, "b/c.py": text, "d.py": MODULE})

    with pytest.raises(kind) as caught:
        MigrationRegistry().discover("broken")

    assert type(caught.value) is kind
    assert caught.value.__notes__ == ["quaestor: while importing the module 'broken.b.c', to find migrations"]
    assert imported == ["broken", "broken.a"]


@pytest.mark.parametrize("name", ["nowhere", "nowhere.at.all"])
def test_no_such_package(imported: list[str], name: str) -> None:
    """A name that cannot be imported is Python's own error, with the note."""
    with pytest.raises(ModuleNotFoundError) as caught:
        MigrationRegistry().discover(name)
    assert caught.value.name == "nowhere"
    assert caught.value.__notes__ == [f"quaestor: while importing the module {name!r}, to find migrations"]


def test_module_that_exits(write: Write) -> None:
    """A module that exits when it is imported would end the application with exit code 0: an ImportError instead."""
    write("exits", {"__init__.py": "", "a.py": "import sys\nsys.exit(0)"})
    with pytest.raises(ImportError, match=r"The module 'exits\.a' calls sys\.exit\(\) when it is imported") as caught:
        MigrationRegistry().discover("exits")
    assert isinstance(caught.value.__cause__, SystemExit)
