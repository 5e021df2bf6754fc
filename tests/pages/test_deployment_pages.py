"""The pages on concepts and deployment: their code, manifests and servers, done as a reader would."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from tests.pages.test_pages import DOCS, Block, Reader, find_commands, read_blocks

PAGES = [*sorted((DOCS / "concepts").glob("*.md")), *sorted((DOCS / "deploy").glob("*.md"))]
REGISTRY = """
from quaestor import MigrationRegistry

registry = MigrationRegistry()
registry.discover(__name__)
"""
PROJECT = """
[tool.quaestor]
registry = "migrations:registry"
prefix = "app"
"""
WAITING = """
import time

from migrations import registry


@registry.register("waiting")
def waiting(db):
    print("begun", flush=True)
    while True:
        time.sleep(0.05)
"""


@pytest.fixture
def reader(uri: str, name: str, tmp_path: Path) -> Iterator[Reader]:
    """A reader whose project has no migrations yet, and whose database is empty."""
    reader = Reader(tmp_path, uri, name)
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "migrations").mkdir()
    (tmp_path / "migrations" / "__init__.py").write_text(REGISTRY)
    reader.environment["QUAESTOR_URI"] = reader.localize("mongodb://127.0.0.1:27017/shop")
    with reader.servers:
        yield reader


def blocks_of(page: Path, language: str, kind: str = "sync") -> list[Block]:
    return [block for block in read_blocks(page.read_text(encoding="utf-8"), kind) if block.language == language]


def find_files(kind: str = "sync") -> dict[str, str]:
    """The files of all pages, by their names."""
    blocks = (block for page in PAGES for block in blocks_of(page, "python", kind))
    files = {}
    for block in blocks:
        file = re.match(r"# ([\w./]+\.py)\n", block.text)
        assert file, f"the first line must name the file: {block.text}"
        files[file[1]] = block.text
    return files


def test_manifests(reader: Reader) -> None:
    """Each manifest is YAML with the fields that every resource has, and its commands succeed, in the page's order."""
    import yaml

    commands = []
    for page in PAGES:
        for block in blocks_of(page, "yaml"):
            for resource in yaml.safe_load_all(block.text):
                assert resource.keys() >= {"apiVersion", "kind", "metadata", "spec"}, f"{page.name}, line {block.line}"
                commands += find_commands(resource)
    (reader.folder / "migrations" / "a.py").write_text(
        'from migrations import registry\n\n@registry.register("a")\ndef a(db):\n    db.things.insert_one({"_id": 1})\n'
    )
    assert {command[1] for command in commands} == {"run", "check"}
    for command in commands:
        subprocess.run(command, cwd=reader.folder, env=reader.environment, check=True)


def test_old_release_passes_its_probe(reader: Reader) -> None:
    """The startup probe of an old release succeeds on a database that a newer release has migrated."""
    import yaml

    with MongoClient[dict[str, Any]](reader.uri) as client:
        client[reader.name].app_migrations.insert_one({"_id": "newer", "name": "newer"})
    (reader.folder / "migrations" / "a.py").write_text(
        'from migrations import registry\n\n@registry.register("a")\ndef a(db):\n    db.things.insert_one({"_id": 1})\n'
    )
    reader.run("quaestor run", [])
    (probe,) = [
        command
        for block in blocks_of(DOCS / "deploy" / "kubernetes.md", "yaml")
        for command in find_commands(yaml.safe_load(block.text))
        if "check" in command
    ]
    codes = [
        subprocess.run(command, cwd=reader.folder, env=reader.environment, check=False).returncode
        for command in (probe, [part for part in probe if part != "--allow-unknown"])
    ]
    assert codes == [0, 1]


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_migrations(reader: Reader, kind: str) -> None:
    """The migrations of all pages run, on data that they fit, and a second run has nothing to do."""
    files = {file: text for file, text in find_files(kind).items() if file.startswith("migrations/")}
    names = re.findall(r'@registry\.register\("(\w+)"', "".join(files.values()))
    for file, text in files.items():
        (reader.folder / file).write_text(text)
    with MongoClient[dict[str, Any]](reader.uri) as client:
        db = client[reader.name]
        db.users.insert_one({"_id": 1, "name": "Ada Lovelace", "email": "ada@example.com"})
        db.customers.insert_one({"_id": 1})
        db.orders.insert_many([{"_id": number, "price": 1.5, "customer": 1} for number in range(3)])
        first, second = (reader.run("quaestor run --json", []) for _ in range(2))
        assert {record["name"] for record in db.app_migrations.find()} == set(names), first
        assert db.customers.find_one() == {"_id": 1, "orders": 3}
        assert {order["cents"] for order in db.orders.find()} == {150}
        assert db.users.find_one() == {"_id": 1, "first": "Ada", "last": "Lovelace", "email": "ada@example.com"}
    assert '"applied": []' in "\n".join(second)


def test_other_files() -> None:
    """The other files are the two below, and the application, which is Python; tests/contrib runs such a one."""
    others = {file: text for file, text in find_files().items() if not file.startswith("migrations/")}
    assert others.keys() == {"gunicorn.conf.py", "migrate.py", "shop/app.py"}
    compile(others["shop/app.py"], "shop/app.py", "exec")


@pytest.mark.skipif(sys.platform == "win32", reason="gunicorn needs fork")
@pytest.mark.parametrize(
    ("file", "command"),
    [
        pytest.param("gunicorn.conf.py", ["gunicorn", "--bind", "127.0.0.1:0", "plain:app"], id="gunicorn"),
        pytest.param("migrate.py", [sys.executable, "migrate.py"], id="script"),
    ],
)
def test_sigterm(reader: Reader, file: str, command: list[str]) -> None:
    """SIGTERM during a migration ends the process, with 143; nothing is recorded, and the lease is released."""
    (reader.folder / file).write_text(find_files()[file])
    (reader.folder / "plain.py").write_text("def app(environ, start_response): ...\n")
    (reader.folder / "migrations" / "waiting.py").write_text(WAITING)
    process = reader.servers.enter_context(
        subprocess.Popen(command, cwd=reader.folder, env=reader.environment, stdout=subprocess.PIPE, text=True)
    )
    reader.servers.callback(process.kill)
    assert process.stdout is not None
    assert any("begun" in line for line in process.stdout)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 143
    with MongoClient[dict[str, Any]](reader.uri) as client:
        assert client[reader.name].app_migrations.count_documents({}) == 0
        assert "owner" not in client[reader.name].app_migrations_lock.find_one()


def test_links() -> None:
    """The pages link to pages that exist, and to headings that those have."""
    for page in [*PAGES, *(DOCS / f"{name}.md" for name in ("compare", "reliability", "servers", "architecture"))]:
        text = page.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([\w-]+))?\)", text):
            file = (page.parent / target).resolve() if target else page
            assert file.is_file(), f"{page.name}: {target}"
            if anchor:
                assert anchor in find_anchors(file.read_text(encoding="utf-8")), f"{page.name}: {target}#{anchor}"


def find_anchors(text: str) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
