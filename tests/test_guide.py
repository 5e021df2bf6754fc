"""The guide and the README, done as their reader would: every block is a file to write, or something to run."""

import ast
import asyncio
import contextlib
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pymongo
import pytest
from packaging.requirements import Requirement
from pymongo import AsyncMongoClient, MongoClient

import quaestor

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guide.md"
HOME = "/home/ada/shop"  # the folder, the address and the database that the guide speaks of
ADDRESS = re.compile(r"mongodb://127\.0\.0\.1:27017/shop(\w*)")
VARYING = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?|\d+\.\d+ ?s\b")  # times, and how long something took


class Block(NamedTuple):
    """A fenced or indented block of a page."""

    language: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    from markdown_it import MarkdownIt  # here, and likewise below: `nox -s matrix` collects this file without them

    tokens = MarkdownIt().parse(page.read_text(encoding="utf-8"))
    return [
        Block(token.info, token.content, token.map[0] + 1)
        for token in tokens
        if token.type in {"fence", "code_block"} and token.map is not None
    ]


def steps(console: str) -> Iterator[tuple[str, str]]:
    """Each command of a console with the output that is shown."""
    for step in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, output = step.partition("\n")
        yield command, output


def commands(value: Any) -> Iterator[list[str]]:
    """Every `command` in a YAML document."""
    if isinstance(value, dict):
        yield from [value["command"]] if "command" in value else []
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from commands(item)


def mask_varying(output: str) -> list[str]:
    """The lines of an output, without what differs between two runs."""
    return [VARYING.sub("…", line).rstrip() for line in output.rstrip().splitlines()]


class Reader:
    """Does in a folder what a page says."""

    def __init__(self, folder: Path, uri: str, name: str) -> None:
        self.folder = folder
        self.name = name
        self.uri = uri
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("QUAESTOR_", "MONGODB_"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = inherited | {"PATH": path, "PYTHONUTF8": "1", "LC_ALL": "C"}

    def do(self, block: Block) -> None:
        match block.language:
            case "python":
                file = re.match("# (.+\\.py)\n", block.text)
                assert file, f"line {block.line}: the first line must name the file"
                self.write(file[1], block.text)
            case "console":
                for command, output in steps(block.text):
                    assert mask_varying(self.run(command)) == mask_varying(output), f"line {block.line}: {command}"
            case "yaml":
                import yaml

                found = list(commands(yaml.safe_load(block.text)))
                assert found, f"line {block.line}: no command"
                for command in found:
                    subprocess.run(command, cwd=self.folder, env=self.environment, check=True)
            case _:
                pytest.fail(f"line {block.line}: a block that is not run must not be there")

    def write(self, file: str, text: str) -> None:
        path = self.folder / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def run(self, command: str) -> str:
        """What a shell prints for a command; its variables stay for the next one."""
        command = ADDRESS.sub(
            lambda found: urlsplit(self.uri)._replace(path=f"/{self.name}{found[1]}").geturl(), command
        )
        if variable := re.fullmatch(r"export (\w+)=(.*)", command):
            self.environment[variable[1]] = variable[2]
            return ""
        output = subprocess.run(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            check=False,
        ).stdout
        return output.replace(str(self.folder), HOME).replace(self.name, "shop")


@pytest.mark.timeout(300)  # about a hundred commands
def test_guide(uri: str, name: str, tmp_path: Path) -> None:
    """Whoever follows the guide from top to bottom sees what it shows."""
    reader = Reader(tmp_path, uri, name)
    try:
        for block in blocks(GUIDE):
            reader.do(block)
    finally:
        with MongoClient[dict[str, Any]](uri) as client:
            client.drop_database(f"{name}_old")


def test_readme(uri: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of the README runs from top to bottom, `await` included.

    Given are `client` and `async_client`, the database `db` (sync or async, as the statement is), the public names of
    quaestor, and mongomock. Functions that are tests are called.
    """
    import mongomock

    namespace: dict[str, Any] = {each: getattr(quaestor, each) for each in quaestor.__all__} | {"mongomock": mongomock}
    with asyncio.Runner() as loop, contextlib.ExitStack() as stack:

        def client() -> MongoClient[dict[str, Any]]:
            return stack.enter_context(MongoClient(uri))

        def async_client() -> AsyncMongoClient[dict[str, Any]]:
            made: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri)
            stack.callback(lambda: loop.run(made.close()))
            return made

        monkeypatch.setattr(pymongo, "MongoClient", client)
        monkeypatch.setattr(pymongo, "AsyncMongoClient", async_client)
        namespace |= {"client": client(), "async_client": async_client(), "AsyncMongoClient": async_client}
        for block in blocks(ROOT / "README.md"):
            if block.language == "python":
                for statement in ast.parse(block.text.replace('"shop"', repr(name))).body:
                    perform(statement, namespace, name, loop)


def perform(statement: ast.stmt, namespace: dict[str, Any], name: str, loop: asyncio.Runner) -> None:
    """Execute a statement, in the loop if it awaits; call what it defines if that is a test."""
    code = compile(ast.Module([statement], type_ignores=[]), "README.md", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    awaits = bool(code.co_flags & inspect.CO_COROUTINE)
    namespace["db"] = namespace["async_client" if awaits else "client"][name]
    result = eval(code, namespace)  # noqa: S307 - it is our own
    if awaits:
        loop.run(result)
    if isinstance(statement, ast.FunctionDef) and statement.name.startswith("test_"):
        namespace[statement.name]()


@pytest.mark.parametrize("page", [GUIDE, ROOT / "README.md"], ids=lambda page: page.name)
def test_installation(page: Path) -> None:
    """What a page says to install is this distribution, with extras that it has."""
    found = re.findall(r"pip install [\"']?(mongo-quaestor[^\s\"'`]*)", page.read_text(encoding="utf-8"))
    assert found
    metadata = importlib.metadata.metadata("mongo-quaestor")
    assert {extra for each in found for extra in Requirement(each).extras} <= set(metadata.get_all("Provides-Extra"))
