"""What `init` and `new` write: real projects, used by processes of their own."""

import keyword
import subprocess
import sys
import tomllib
from ast import literal_eval
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor.cli import scaffold
from quaestor.cli.loader import load_registry, locate
from quaestor.cli.scaffold import LONGEST, init, module_name
from quaestor.cli.settings import CommandError, find
from quaestor.discovery import is_left_out
from quaestor.errors import QuaestorError
from tests.cli.imports import fresh

SHOW = """
import sys
from pathlib import Path
from quaestor.cli.loader import load_registry

registry = load_registry(sys.argv[1], Path.cwd())
for m in registry.migrations.values():
    print((m.name, m.execute.__name__, m.depends_on, m.transaction, m.is_async, m.execute.__doc__))
"""
NO_NAMES = ["../x", "a/b", "a\\b", ".x", "-x", "--help", "x.py", "!?", "__", "two\nlines", "\x1b[31m"]
RUN = """
import asyncio
from migrations import registry

if any(migration.is_async for migration in registry.migrations.values()):
    from mongomock_motor import AsyncMongoMockClient
    run = lambda db: asyncio.run(registry.run(db, "app"))
    db = AsyncMongoMockClient()["shop"]
else:
    from mongomock import MongoClient
    run = lambda db: registry.run_sync(db, "app")
    db = MongoClient()["shop"]
print(run(db))
"""


def python(project: Path, program: str, *arguments: str) -> str:
    """Run a program in the folder of a project; gives what it printed."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def new(project: Path, name: str, reference: str = "migrations", folder: str = "migrations", **options: Any) -> Path:
    """`quaestor new`, with the project as it is now."""
    with fresh(project):
        registry = load_registry(reference, project)
        return scaffold.new(project / folder, name, registry, locate(reference, project), **options)


def shown(project: Path, reference: str = "migrations") -> list[str]:
    """The migrations that another process finds."""
    return python(project, SHOW, reference).splitlines()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in which `quaestor init` has been called."""
    init(tmp_path)
    return tmp_path


def test_init(tmp_path: Path) -> None:
    """A new project has an empty registry, and the settings that lead there; the database alone is left to give."""
    files = init(tmp_path)
    assert files == [tmp_path / "migrations" / "__init__.py", tmp_path / "pyproject.toml"]
    assert all(file.is_file() for file in files)
    found = find({}, {"MONGODB_URI": "mongodb://h/shop"}, tmp_path)
    assert (found.value("registry"), found.value("db"), found.value("prefix")) == ("migrations:registry", "shop", "app")
    assert find({}, {}, tmp_path).value("migrations") == "migrations"
    assert shown(tmp_path, found.value("registry")) == []


@pytest.mark.parametrize(("layout", "folder"), [("shop", "shop/migrations"), ("src/shop", "src/shop/migrations")])
def test_init_in_a_package(tmp_path: Path, layout: str, folder: str) -> None:
    """The package may stand in that of the application, also below `src`."""
    (tmp_path / layout).mkdir(parents=True)
    (tmp_path / layout / "__init__.py").touch()
    init(tmp_path, "shop.migrations", 'the "shop"')
    found = find({}, {}, tmp_path)
    assert (found.value("registry"), found.value("migrations")) == ("shop.migrations:registry", folder)
    assert found.value("prefix") == 'the "shop"'
    new(tmp_path, "first", found.value("registry"), folder)
    assert shown(tmp_path, found.value("registry"))[0].startswith("('first', 'first'")


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\r\n"])
def test_init_keeps_the_file(tmp_path: Path, end: str) -> None:
    """What the pyproject.toml holds stays as it is, comments and line ends included."""
    newline = "\r\n" if "\r" in end else "\n"
    before = f'# ours: größer{newline}[project]{newline}name = "shop"  # kept{end}'.encode()
    (tmp_path / "pyproject.toml").write_bytes(before)
    init(tmp_path)
    after = (tmp_path / "pyproject.toml").read_bytes()
    assert after.startswith(before)
    assert after.count(b"\r\n") == (after.count(b"\n") if "\r" in end else 0)
    parsed = tomllib.loads(after.decode())
    assert parsed["project"] == {"name": "shop"}
    assert parsed["tool"]["quaestor"]["prefix"] == "app"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.quaestor]", "has a table [tool.quaestor] already"),
        ("tool.quaestor.prefix = 'a'", "has a table [tool.quaestor] already"),
        ("tool = {}", "by hand:\n[tool.quaestor]\nregistry = "),
        ("[tool", "Can't read"),
    ],
)
def test_init_refuses(tmp_path: Path, text: str, said: str) -> None:
    """Where the table cannot be added nothing is written at all."""
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    with pytest.raises(CommandError) as caught:
        init(tmp_path)
    assert said in str(caught.value)
    assert (tmp_path / "pyproject.toml").read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [tmp_path / "pyproject.toml"]


@pytest.mark.parametrize("files", [["env.py", "script.py.mako", "versions/"], ["__init__.py", "0001_initial.py"]])
def test_init_in_a_package_of_others(tmp_path: Path, files: list[str]) -> None:
    """A folder of Alembic's or Django's is refused; one with nothing but hidden files is empty."""
    folder = tmp_path / "migrations"
    for file in files:
        (folder / file).mkdir(parents=True) if file.endswith("/") else folder.mkdir(exist_ok=True)
        (folder / file).touch()
    with pytest.raises(CommandError, match=f"isn't empty: it has {min(files)}") as caught:
        init(tmp_path)
    assert "Choose another package" in str(caught.value)
    assert list(tmp_path.iterdir()) == [folder]
    hidden = tmp_path / "steps"
    (hidden / "__pycache__").mkdir(parents=True)
    (hidden / ".gitkeep").touch()
    assert init(tmp_path, "steps")[0] == hidden / "__init__.py"


def test_init_hides_no_module(tmp_path: Path) -> None:
    """A package would be imported in place of a module of its name."""
    (tmp_path / "migrations.py").touch()
    with pytest.raises(CommandError, match=r"would hide .*migrations\.py"):
        init(tmp_path)


def test_init_twice(project: Path) -> None:
    """In a project that is set up, nothing is written, and the error says how to add a migration."""
    for package in ("migrations", "others"):
        with pytest.raises(CommandError, match=r"set up\. Add a migration with `quaestor new NAME`"):
            init(project, package)
    assert not (project / "others").exists()


@pytest.mark.parametrize("package", ["", "a b", "shop.", "class", "json", "json.migrations", "../shop"])
def test_init_bad_package(tmp_path: Path, package: str) -> None:
    """A package that could not be imported, or would hide one of Python's, is refused."""
    with pytest.raises(CommandError, match="can't name a package"):
        init(tmp_path, package)
    assert list(tmp_path.iterdir()) == []


def test_init_that_cannot_write(tmp_path: Path) -> None:
    """Where a file stands in the way, the sentence names it."""
    (tmp_path / "shop").touch()
    with pytest.raises(CommandError, match=r"Can't write .*shop"):
        init(tmp_path, "shop.migrations")


def test_new(project: Path) -> None:
    """The module is found by the next process, with all that was asked for."""
    assert new(project, "lowercase_emails") == project / "migrations" / "lowercase_emails.py"
    new(project, "unique_emails", depends_on=["lowercase_emails", "lowercase_emails"], transaction=True)
    assert shown(project) == [
        "('lowercase_emails', 'lowercase_emails', [], False, False, 'Lowercase emails.')",
        "('unique_emails', 'unique_emails', ['lowercase_emails'], True, False, 'Unique emails.')",
    ]


def test_new_in_any_order_of_import(project: Path) -> None:
    """The modules import the package that imports them: whichever is imported first, all are registered once."""
    new(project, "a")
    new(project, "b")
    assert python(project, "import migrations.b; print(*migrations.registry.migrations)") == "a b"
    assert python(project, "from migrations import registry; print(*registry.migrations)") == "a b"


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_new_raises_until_it_is_written(project: Path, kind: str) -> None:
    """An unwritten function that did nothing would be recorded. A written one takes the database of its kind."""
    file = new(project, "add_things", is_async=kind == "async")
    with pytest.raises(AssertionError, match=r"NotImplementedError: This migration isn't written yet\."):
        python(project, RUN)
    text = file.read_text(encoding="utf-8")
    assert "# Make it idempotent" in text
    insert = "await db.things.insert_one({})" if kind == "async" else "db.things.insert_one({})"
    file.write_text(text.replace("raise NotImplementedError", f"{insert}  #", 1), encoding="utf-8")
    assert python(project, RUN) == "['add_things']"


def test_new_depends_on_the_leaves(project: Path) -> None:
    """By default on all migrations that no other depends on, so each database gets it after them."""
    new(project, "a")
    new(project, "b")
    new(project, "aside", depends_on=[])
    new(project, "c")
    assert [literal_eval(line)[2] for line in shown(project)] == [[], [], ["a"], ["aside", "b"]]
    file = project / "migrations" / "b.py"
    file.write_text(file.read_text(encoding="utf-8").replace('["a"]', '["other"]'), encoding="utf-8")
    with pytest.raises(QuaestorError, match="'other', which is not registered"):
        new(project, "e")


def test_new_in_a_transaction_is_not_told_to_be_idempotent(project: Path) -> None:
    """A migration in a transaction is applied exactly once, but its function may be called again."""
    text = new(project, "add_things", transaction=True).read_text(encoding="utf-8")
    assert "idempotent" not in text
    assert "may be retried" in text


def test_new_has_a_rollback(project: Path) -> None:
    """The module has the function that undoes it, too."""
    new(project, "add_things")
    program = "from migrations import registry; print(registry.migrations['add_things'].rollback.__name__)"
    assert python(project, program) == "undo_add_things"


def test_new_is_async_like_the_others(project: Path) -> None:
    """Where migrations are asynchronous the next one is, unless it is to be another."""
    new(project, "a", is_async=True)
    new(project, "b")
    new(project, "c", is_async=False)
    new(project, "d")
    assert [literal_eval(line)[4] for line in shown(project)] == [True, True, False, True]


@pytest.mark.parametrize("name", ["0007 lower-case", "größe", 'a "quoted" name', "v1.2", "集合", "class"])
def test_new_with_any_name(project: Path, name: str) -> None:
    """The name is recorded as it was given; the module is called by something that can be imported."""
    assert new(project, name).stem.isidentifier()
    assert [literal_eval(line)[0] for line in shown(project)] == [name]


def test_new_called_as_the_registry(project: Path) -> None:
    """A module `registry` would take the registry's place in the package."""
    assert new(project, "registry").name == "registry_.py"
    assert len(shown(project)) == 1


def test_new_imports_what_the_reference_names(tmp_path: Path) -> None:
    """The registry may stand in another module, or be an attribute of an object in it."""
    (tmp_path / "steps").mkdir()
    (tmp_path / "steps" / "__init__.py").touch()
    (tmp_path / "shop.py").write_text(
        "from types import SimpleNamespace\nfrom quaestor import MigrationRegistry\n"
        "app = SimpleNamespace(registry=MigrationRegistry())\nmade = lambda: app.registry\n",
        encoding="utf-8",
    )
    new(tmp_path, "first", "shop.py:app.registry", "steps")
    assert python(tmp_path, "import steps.first, shop; print(*shop.app.registry.migrations)") == "first"
    with pytest.raises(CommandError, match="'made' is a factory"):
        new(tmp_path, "second", "shop:made", "steps")


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("lowercase_emails", {}, "'lowercase_emails' exists already"),
        ("lowercase-emails", {}, "lowercase_emails.py or a package of that name exists already"),
        ("sub", {}, "or a package of that name exists already"),
        ("b", {"depends_on": ["lowercase_email"]}, "Did you mean 'lowercase_emails'?"),
        ("b", {"depends_on": ["zzz"]}, "'zzz', which is not registered"),
        ("", {}, "must not be empty"),
        *((name, {}, "can't name a migration here") for name in NO_NAMES),
        ("b", {"folder": "nowhere"}, "nowhere is no package"),
    ],
)
def test_new_refuses(project: Path, name: str, options: dict[str, Any], said: str) -> None:
    """What cannot be written is refused by a sentence, and nothing is written or overwritten."""
    file = new(project, "lowercase_emails")
    (project / "migrations" / "sub").mkdir()
    before = file.read_text(encoding="utf-8")
    with pytest.raises((CommandError, QuaestorError)) as caught:
        new(project, name, **options)
    assert said in str(caught.value)
    assert "NotImplementedError" in before
    assert file.read_text(encoding="utf-8") == before
    assert sorted((project / "migrations").glob("*.py")) == [project / "migrations" / "__init__.py", file]


def test_new_that_cannot_write(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses the file, the sentence names it."""

    def refuse(path: Path, *_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "write_text", refuse)  # tests may run as root, who may write anywhere
    with pytest.raises(CommandError, match=r"Can't write .*first.py"):
        new(project, "first")


@given(name=st.text(min_size=1))
def test_module_name(name: str) -> None:
    """Whatever a migration is called, its module can be imported, and is not taken for the registry."""
    module = module_name(name, "registry")
    assert module.isidentifier()
    assert not keyword.iskeyword(module)
    assert module not in {"registry", "__init__", "__main__"}
    assert not is_left_out(module)
    assert len(module) <= LONGEST + len("migration_") + 1


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("lowercase_emails", "lowercase_emails"),
        ("Lower-case  E-Mails!", "lower_case_e_mails"),
        ("0007_x", "migration_0007_x"),
        ("!?", "migration"),
        ("import", "import_"),
        ("registry", "registry_"),
        ("__init__", "init"),
        ("tests", "migration_tests"),
        ("test users", "migration_test_users"),
        ("remove A/B test", "migration_remove_a_b_test_"),
    ],
)
def test_module_names(name: str, module: str) -> None:
    """The name of the module is that of the migration, as near as can be."""
    assert module_name(name, "registry") == module
