"""Importing the modules of a package: which ones, in which order, and what is said of one that fails."""

import contextlib
import gc
import importlib
import py_compile
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from quaestor import InvalidOptionError, MigrationRegistry, NoMigrationsError

Write: TypeAlias = Callable[[str, dict[str, str]], None]
"""Writes a package: its name, and its files with what stands in them."""

MODULE = """
from imported import names, registry
names.append(__name__)
registry.register(__name__)(print)
"""


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of the modules whose code was run, in order; what was imported is forgotten in the end."""
    gc.collect()  # registries of other tests
    before = set(sys.modules)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "imported.py").write_text(
        "from quaestor import MigrationRegistry\nnames = []\nregistry = MigrationRegistry()\n"
    )
    import imported  # type: ignore[import-not-found]  # made just now

    names: list[str] = imported.names
    yield names
    for name in set(sys.modules) - before:
        with contextlib.suppress(KeyError):
            del sys.modules[name]
    sys.path_importer_cache.pop(str(tmp_path), None)


@pytest.fixture
def registry(imported: list[str]) -> MigrationRegistry:
    """The registry that the modules use."""
    found: MigrationRegistry = sys.modules["imported"].registry
    return found


@pytest.fixture
def write(tmp_path: Path, imported: list[str]) -> Write:
    """Writes a package where it can be imported."""

    def written(package: str, files: dict[str, str]) -> None:
        for path, text in files.items():
            file = tmp_path / package / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)

    return written


def test_sorted(write: Write, imported: list[str], registry: MigrationRegistry) -> None:
    """Every module is imported once, in sorted order, nested packages where their name stands; names may be numbers."""
    files = ["__init__.py", "b.py", "0002_b.py", "0001_a.py", "a_b.py", "a/__init__.py", "a/z.py", "a/c/__init__.py"]
    write("nested", dict.fromkeys(files, MODULE))

    found = registry.discover("nested")

    order = ["", ".0001_a", ".0002_b", ".a", ".a.c", ".a.z", ".a_b", ".b"]
    assert found == imported == [f"nested{name}" for name in order]


def test_folders_without_init(write: Write, imported: list[str], registry: MigrationRegistry) -> None:
    """Folders without `__init__.py` are packages as well, the outermost too; those without modules are none."""
    write("plain", {"2026/01/a.py": MODULE, "2026/b.py": MODULE, "c.py": MODULE, "data/users.json": "{}"})

    found = registry.discover("plain")

    assert found == ["plain", "plain.2026", "plain.2026.01", "plain.2026.01.a", "plain.2026.b", "plain.c"]
    assert imported == ["plain.2026.01.a", "plain.2026.b", "plain.c"]


def test_what_is_no_module(write: Write, imported: list[str], registry: MigrationRegistry) -> None:
    """`__main__` is not run, and what is not Python, hidden or cached is left alone."""
    others = ["__main__.py", "a/__main__.py", "notes.txt", "a.py.orig", "a.sql", ".hidden/b.py", "__pycache__/c.py"]
    write("mixed", dict.fromkeys(["__init__.py", "a/__init__.py"], MODULE) | dict.fromkeys(others, MODULE))

    assert registry.discover("mixed") == imported == ["mixed", "mixed.a"]


def test_module(write: Write, imported: list[str], registry: MigrationRegistry) -> None:
    """The name of a module is good too, in a package or by itself."""
    write("holds", {"__init__.py": MODULE, "a.py": MODULE, "b.py": MODULE})
    write("", {"alone.py": MODULE})

    assert registry.discover("holds.a") == ["holds.a"]
    assert registry.discover("alone") == ["alone"]
    assert imported == ["holds", "holds.a", "alone"]


def test_again(write: Write, imported: list[str], registry: MigrationRegistry) -> None:
    """A second call says the same and runs no module again."""
    write("twice", {"__init__.py": MODULE, "a.py": MODULE})

    assert registry.discover("twice") == registry.discover("twice") == ["twice", "twice.a"]
    assert imported == ["twice", "twice.a"]


def test_zip(tmp_path: Path, imported: list[str], monkeypatch: pytest.MonkeyPatch, registry: MigrationRegistry) -> None:
    """A package in a zip file is found like any other; its folders may have no `__init__`, and modules no source."""
    compiled = write_compiled(tmp_path / "c.py").read_bytes()
    with zipfile.ZipFile(tmp_path / "packed.zip", "w") as packed:
        for name in ("__init__.py", "0001_a.py", "nested/__init__.py", "nested/b.py", "nested/notes.txt", "data/x.txt"):
            packed.writestr(f"packed/{name}", MODULE)
        for name in ("2026/", "2026/01/"):  # as archivers write them; Python finds no such folders without
            packed.writestr(f"packed/{name}", "")
        packed.writestr("packed/2026/01/c.pyc", compiled)
    monkeypatch.syspath_prepend(str(tmp_path / "packed.zip"))

    found = registry.discover("packed")

    assert imported == ["packed", "packed.0001_a", "packed.2026.01.c", "packed.nested", "packed.nested.b"]
    assert found == [*imported[:2], "packed.2026", "packed.2026.01", *imported[2:]]


def write_compiled(source: Path) -> Path:
    """Write a module as bytecode alone."""
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(MODULE)
    py_compile.compile(str(source), str(source.with_suffix(".pyc")))
    source.unlink()
    return source.with_suffix(".pyc")


def test_without_source(tmp_path: Path, registry: MigrationRegistry) -> None:
    """Modules that exist as `.pyc` alone are found, also in folders without `__init__`; a cache holds none."""
    for name in ("__init__.py", "a.py", "2026/b.py", "2025/__pycache__/c.py"):
        write_compiled(tmp_path / "compiled" / name)

    assert registry.discover("compiled") == ["compiled", "compiled.2026", "compiled.2026.b", "compiled.a"]


def test_left_out(write: Write, imported: list[str], registry: MigrationRegistry) -> None:
    """Tests are left out at any depth, and what `exclude` names, with what is in it; the named package never is."""
    files = [
        "__init__.py",
        "a.py",
        "conftest.py",
        "test_a.py",
        "a_test.py",
        "tests/b.py",
        "in/tests.py",
        "in/testing.py",
    ]
    more = ["helpers.py", "in/helpers.py", "old/__init__.py", "old/c.py", "2024_x.py"]
    write("tests_of", {"tests/" + name: MODULE for name in files + more})

    found = registry.discover("tests_of.tests", exclude=["helpers", "old", "2024*"])

    assert [name.removeprefix("tests_of.tests") for name in found] == ["", ".a", ".in", ".in.helpers", ".in.testing"]
    assert imported == [name for name in found if name != "tests_of.tests.in"]
    assert "tests_of.tests.in.helpers" not in registry.discover("tests_of.tests", exclude=["*helpers", "old", "2024*"])


@pytest.mark.parametrize("exclude", ["helpers", [7], None])
def test_bad_exclude(write: Write, imported: list[str], registry: MigrationRegistry, exclude: Any) -> None:
    write("refused", {"__init__.py": MODULE})
    with pytest.raises(InvalidOptionError, match="exclude must be a list of names"):
        registry.discover("refused", exclude=exclude)
    assert imported == []


EMPTY = "registered = None\n"


def test_nothing_registered(write: Write, imported: list[str], registry: MigrationRegistry) -> None:
    """Modules that register nothing are an error, however often; what they registered earlier counts."""
    write("nothing", {"__init__.py": EMPTY, "a.py": EMPTY})
    for _ in range(2):
        with pytest.raises(
            NoMigrationsError, match=r"None of these modules .*: nothing, nothing\.a\. Use @reg"
        ) as caught:
            registry.discover("nothing")
        assert caught.value.args == ("nothing", ["nothing", "nothing.a"], "imported", [])
    write("thin", {"__init__.py": "", "a.py": "import thick.b\n"})
    write("thick", {"b.py": MODULE})
    importlib.import_module("thin.a")
    assert registry.discover("thin") == ["thin", "thin.a"]


def test_compiled_modules(write: Write, imported: list[str], registry: MigrationRegistry) -> None:
    """A module of machine code isn't on the stack when it registers: what comes during the first call counts later."""
    register = "from imported import registry\nfrom threading import Thread\n"
    register += "thread = Thread(target=lambda: registry.register('a')(print))\nthread.start()\nthread.join()\n"
    write("machine", {"a.py": register})
    assert registry.discover("machine") == registry.discover("machine") == ["machine", "machine.a"]


@pytest.mark.parametrize("frozen", [False, True])
def test_no_modules(write: Write, registry: MigrationRegistry, monkeypatch: pytest.MonkeyPatch, frozen: bool) -> None:
    """A package without modules is an error, except where that of a new project discovers itself."""
    write("empty", {"__init__.py": "", "tests/a.py": MODULE})
    write("new", {"__init__.py": "from quaestor import MigrationRegistry\nMigrationRegistry().discover(__name__)\n"})
    if frozen:
        monkeypatch.setattr(sys, "frozen", True, raising=False)
    with pytest.raises(NoMigrationsError, match=r"The package 'empty' has no modules\. .*--collect-submodules empty\)"):
        registry.discover("empty")
    with pytest.raises(NoMigrationsError, match="The package 'new'") if frozen else contextlib.nullcontext():
        importlib.import_module("new")


SCRIPT = """
from quaestor import MigrationRegistry, NoMigrationsError
registry = MigrationRegistry()
try:
    print(__name__, registry.discover("migs"))
except NoMigrationsError as error:
    print(__name__, error.here, error.elsewhere, error)
"""


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_script_that_is_imported(tmp_path: Path, names: list[str]) -> None:
    """`python app.py`, whose modules do `from app import registry`, has a second registry: the error says so."""
    (tmp_path / "app.py").write_text(SCRIPT)
    (tmp_path / "migs").mkdir()
    for name in names:
        text = "from app import registry\nregistry.register(__name__)(print)\n"
        (tmp_path / "migs" / f"{name}.py").write_text(text)

    told = subprocess.run([sys.executable, "app.py"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert "\n__main__ __main__ ['app'] None of these modules" in f"\n{told}"
    assert "created in __main__" in told
    assert "created in app" in told
    assert ("app app ['__main__']" in told) is (len(names) == 1)  # with two, the second registers there in time


def test_reloaded(write: Write, imported: list[str], registry: MigrationRegistry) -> None:
    """After a reload there is a second registry, and the modules have the first."""
    write("kept", {"a.py": MODULE})
    registry.discover("kept")
    new: MigrationRegistry = importlib.reload(sys.modules["imported"]).registry
    with pytest.raises(NoMigrationsError) as caught:
        new.discover("kept")
    assert (caught.value.here, caught.value.elsewhere) == ("imported", ["imported"])


def test_at_the_end_of_the_package(write: Write, imported: list[str]) -> None:
    """A package can discover itself at the end of its `__init__`; its modules import the registry from it."""
    own = "from quaestor import MigrationRegistry\nregistry = MigrationRegistry()\nregistry.discover(__name__)\n"
    module = MODULE + "from own import registry\n@registry.register(__name__)\ndef migration(db): ...\n"
    write("own", {"__init__.py": own, "b.py": module, "a.py": module})

    import own as package  # type: ignore[import-not-found]  # made just now

    assert imported == ["own.a", "own.b"]
    assert list(package.registry.migrations) == ["own.a", "own.b"]
    assert package.registry.discover("own") == ["own", "own.a", "own.b"]


def test_two_portions(
    tmp_path: Path, write: Write, imported: list[str], monkeypatch: pytest.MonkeyPatch, registry: MigrationRegistry
) -> None:
    """A package without `__init__.py` may lie in two places: the modules of both are found, in sorted order."""
    write("parts", {"2026/b.py": MODULE, "c.py": MODULE})
    write("more/parts", {"2026/a.py": MODULE, "d.py": MODULE})
    monkeypatch.syspath_prepend(str(tmp_path / "more"))

    found = registry.discover("parts")

    assert imported == ["parts.2026.a", "parts.2026.b", "parts.c", "parts.d"]
    assert found == ["parts", "parts.2026", *imported]


@pytest.mark.parametrize(
    ("text", "kind"),
    [("raise LookupError('own')", LookupError), ("def", SyntaxError), ("import quaestor.nothing", ModuleNotFoundError)],
)
def test_module_that_fails(
    write: Write, imported: list[str], text: str, kind: type[Exception], registry: MigrationRegistry
) -> None:
    """What a module raises is raised as it is, with a note of which module it was; those before it are imported."""
    write("broken", {"__init__.py": MODULE, "a.py": MODULE, "b/c.py": text, "d.py": MODULE})

    with pytest.raises(kind) as caught:
        registry.discover("broken")

    assert type(caught.value) is kind
    assert caught.value.__notes__ == ["quaestor: while importing the module 'broken.b.c', to find migrations"]
    assert imported == ["broken", "broken.a"]


@pytest.mark.parametrize("name", ["nowhere", "nowhere.at.all"])
def test_no_such_package(imported: list[str], name: str, registry: MigrationRegistry) -> None:
    """A name that cannot be imported is Python's own error, with the note."""
    with pytest.raises(ModuleNotFoundError) as caught:
        registry.discover(name)
    assert caught.value.name == "nowhere"
    assert caught.value.__notes__ == [f"quaestor: while importing the module {name!r}, to find migrations"]


def test_module_that_exits(write: Write) -> None:
    """A module that exits when it is imported would end the application with exit code 0: an ImportError instead."""
    write("exits", {"__init__.py": "", "a.py": "import sys\nsys.exit(0)"})
    with pytest.raises(ImportError, match=r"The module 'exits\.a' calls sys\.exit\(\) when it is imported") as caught:
        MigrationRegistry().discover("exits")
    assert isinstance(caught.value.__cause__, SystemExit)
