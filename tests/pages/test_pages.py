"""The pages and the README, done as their reader would: every block is a file to write, or something to run.

How to write a page of docs/tutorial.md, docs/moving.md or docs/how-to:

- A block whose first line is a comment with a file name (`# shop/app.py`) is that file. With `, at the end` after the
  name, the block is added to the file.
- A `console` block has commands after `$ `, and the output of each. Times, ids and the width of columns may differ; a
  line `...` stands for any lines. `pip install` isn't done. A command that ends with ` &` is a server: the lines below
  it must appear in its output, in this order, among others. It is stopped at the end of the page.
- A `yaml` block without a file name has a `command`, as a manifest has, which is run.
- In tabs, `:sync: sync` and `:sync: async` are two walks through the page.
- The address is mongodb://127.0.0.1:27017, the database is `shop` or begins with `shop_`, the folder is /home/ada/shop,
  the port of a web server is 8000, and the user is ada on web-1. Each test has its own.
- Above a block that can't be run here: `<!-- not run: the reason -->`.
"""

import ast
import asyncio
import contextlib
import importlib.metadata
import inspect
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pymongo
import pytest
from packaging.requirements import Requirement
from pymongo import AsyncMongoClient, MongoClient

import quaestor
from quaestor._author import find_user

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = [DOCS / "tutorial.md", DOCS / "moving.md", *sorted((DOCS / "how-to").glob("*.md"))]
HOME = "/home/ada/shop"
PORT = "8000"
ADDRESS = re.compile(r"mongodb://127\.0\.0\.1:27017(?:/(\w+))?")
# In an address, after --db and --confirm, and in quotes where it is the database for certain: INSTALLED_APPS may have a
# "shop", too.
DATABASE = re.compile(
    r"""(?<=27017/)shop|(?<=--confirm )shop|(?<=--db )shop|(?<=["'])shop(?=_)|(?<=\w\[")shop(?="\])|(?<="DB": ")shop"""
)
VARYING = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?(\.\d+)?)?|\d+(\.\d+)? ?s\b|(?<=process )\d+|\[\d+\]"
    r"|\b[0-9a-f]{16}([0-9a-f]{16})?\b"
)
PADDING = re.compile(r"(?<=\S) {3,}")  # of columns, which depends on what varies
TAB = re.compile(r"(?::.*\n)*?:sync: (sync|async)\n")
NOT_RUN = re.compile(r"<!-- not run: .+ -->\n")
SERVER_STARTS_WITHIN = 60.0  # seconds


class Block(NamedTuple):
    """A fenced or indented block of a page."""

    language: str
    text: str
    line: int
    is_run: bool = True


def read_blocks(text: str, kind: str = "sync", line: int = 0) -> Iterator[Block]:
    """Find the blocks of a page, also inside of tabs and notes, but for tabs of the other kind."""
    from markdown_it import MarkdownIt  # here, and likewise below: `nox -s matrix` collects this file without them
    from mdit_py_plugins.colon_fence import colon_fence_plugin

    is_run = True
    for token in MarkdownIt().use(colon_fence_plugin).parse(text):
        match token.type:
            case "html_block":
                is_run = not NOT_RUN.fullmatch(token.content)
            case "fence" | "colon_fence" | "code_block":
                assert token.map is not None
                first = line + token.map[0] + 1
                if not token.info.startswith("{"):
                    yield Block(token.info, token.content, first, is_run)
                elif (tab := TAB.match(token.content)) is None or tab[1] == kind:
                    yield from read_blocks(token.content, kind, first)
                is_run = True
            case _:
                pass


def read_steps(console: str) -> Iterator[tuple[str, list[str]]]:
    """Each command of a console with the lines of output that are shown."""
    for step in re.split(r"^\$ ", console, flags=re.MULTILINE)[1:]:
        command, _, output = step.partition("\n")
        while command.endswith("\\"):
            line, _, output = output.partition("\n")
            command = f"{command}\n{line}"
        yield command, mask_varying(output)


def find_commands(value: Any) -> Iterator[list[str]]:
    """Every `command` in a YAML document."""
    if isinstance(value, dict):
        yield from [value["command"]] if "command" in value else []
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from find_commands(item)


def mask_varying(output: str) -> list[str]:
    """The lines of an output, without what differs between two runs."""
    return [PADDING.sub("  ", VARYING.sub("…", line)).rstrip() for line in output.rstrip().splitlines()]


def is_like(printed: list[str], shown: list[str]) -> bool:
    """Whether an output is as shown, where a line `...` stands for any lines."""
    pattern = "".join("(.*\n)*" if line == "..." else re.escape(line) + "\n" for line in shown)
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in printed)) is not None


class Reader:
    """Does in a folder what a page says."""

    def __init__(self, folder: Path, uri: str, name: str) -> None:
        self.root = self.folder = folder
        self.name = name
        self.uri = uri
        with socket.create_server(("127.0.0.1", 0)) as unused:
            self.port = str(unused.getsockname()[1])
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("QUAESTOR_", "MONGODB_"))}
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        self.environment = inherited | {"PATH": path, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "LC_ALL": "C"}
        self.environment["QUAESTOR_CHECK_TIMEOUT"] = "60"  # the check of Django must not give up on a loaded machine
        self.servers = contextlib.ExitStack()

    def do(self, block: Block) -> None:
        if not block.is_run:
            return
        file = re.match(r"(?:#|//|<!--) ([\w./-]+)(, at the end)?(?: -->)?\n", block.text)
        if block.language == "console":
            for command, shown in read_steps(block.text):
                printed = self.run(command, shown)
                assert is_like(printed, shown), f"line {block.line}: {command}\n" + "\n".join(printed)
        elif file:
            path = self.folder / file[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a" if file[2] else "w", encoding="utf-8") as opened:
                opened.write(self.localize(block.text))
        elif block.language == "yaml":
            import yaml

            found = [each for document in yaml.safe_load_all(block.text) for each in find_commands(document)]
            assert found, f"line {block.line}: neither the name of a file nor a command"
            for command in found:
                subprocess.run(command, cwd=self.folder, env=self.environment, check=True)
        else:
            pytest.fail(f"line {block.line}: name the file in the first line, or say why the block isn't run")

    def localize(self, text: str) -> str:
        """Replace the server, the database and the port of the page with those of the test."""
        text = DATABASE.sub(self.name, text)
        text = ADDRESS.sub(lambda found: urlsplit(self.uri)._replace(path=f"/{found[1] or ''}").geturl(), text)
        return re.sub(rf"\b{PORT}\b", self.port, text)

    def run(self, command: str, shown: list[str]) -> list[str]:
        """What a shell prints for a command; its folder and its variables stay for the next one."""
        command = self.localize(command)
        if variable := re.fullmatch(r"export (\w+)=(.*)", command):
            self.environment[variable[1]] = shlex.split(variable[2])[0]
            return []
        if folder := re.fullmatch(r"cd (\S+)", command):
            self.folder = self.folder / folder[1]
            return []
        if command.startswith(("pip install ", "python -m pip install ")):
            return []  # it is there, with all its extras; see test_installation
        if command.endswith(" &"):
            return self.serve(command.removesuffix(" &"), shown)
        with self.popen(command) as process:
            output, _ = process.communicate()
        return self.generalize(output)

    def popen(self, command: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
        )

    def generalize(self, output: str) -> list[str]:
        """Replace the folder, the database and the port of the test with those of the page."""
        output = output.replace(str(self.root), HOME).replace(self.name, "shop").replace(self.port, PORT)
        output = output.replace(f"{find_user()}@{socket.gethostname()}", "ada@web-1")
        output = output.replace(quaestor.__version__, quaestor.__version__.partition(".dev")[0])
        return mask_varying(output)

    def serve(self, command: str, shown: list[str]) -> list[str]:
        """Start a server, and wait for the lines that are shown."""
        process = self.servers.enter_context(self.popen(f"exec {command}"))
        self.servers.callback(process.terminate)
        stopwatch = threading.Timer(SERVER_STARTS_WITHIN, process.terminate)
        self.servers.callback(stopwatch.cancel)
        stopwatch.start()
        assert process.stdout is not None
        awaited, printed = list(shown), []
        while awaited and (line := process.stdout.readline()):
            printed += self.generalize(line)
            if printed[-1:] == awaited[:1]:
                del awaited[0]
        stopwatch.cancel()
        drain = threading.Thread(target=process.stdout.read)  # a full pipe would stop the server
        self.servers.callback(drain.join)
        self.servers.callback(process.terminate)
        drain.start()
        return printed if awaited else shown


@pytest.mark.timeout(300)  # about a hundred commands
@pytest.mark.parametrize(
    ("page", "kind"),
    [
        pytest.param(page, kind, id=f"{page.stem}-{kind}")
        for page in PAGES
        for kind in (("sync", "async") if ":sync: async" in page.read_text(encoding="utf-8") else ("sync",))
    ],
)
def test_page(page: Path, kind: str, uri: str, name: str, tmp_path: Path) -> None:
    """Whoever follows a page from top to bottom, with one kind of tabs, sees what it shows."""
    reader = Reader(tmp_path, uri, name)
    with MongoClient[dict[str, Any]](uri) as client, reader.servers:
        try:
            for block in read_blocks(page.read_text(encoding="utf-8"), kind):
                reader.do(block)
        finally:
            for database in client.list_database_names():
                if database.startswith(f"{name}_"):
                    client.drop_database(database)


PAGE = """
```python
# shop/app.py
```

::::{tab-set}
:sync-group: kind

:::{tab-item} Sync
:sync: sync

```console
$ one
```
:::

:::{tab-item} Async
:sync: async

```console
$ two
```
:::
::::

<!-- not run: it needs a cluster -->
```console
$ kubectl get pods
```

```console
$ three
```
"""


@pytest.mark.parametrize(("kind", "command"), [("sync", "one"), ("async", "two")])
def test_blocks_of_a_page(kind: str, command: str) -> None:
    """Blocks in tabs are found, of one kind in each walk; what isn't run is marked."""
    found = [(block.text.split()[-1], block.line, block.is_run) for block in read_blocks(PAGE, kind)]
    line = {"one": 12, "two": 20}[command]
    assert found == [("shop/app.py", 2, True), (command, line, True), ("pods", 27, False), ("three", 31, True)]


def test_nearly_all_blocks_are_run() -> None:
    """A block that isn't run is an exception."""
    found = [block for page in PAGES for block in read_blocks(page.read_text(encoding="utf-8"))]
    assert sum(not block.is_run for block in found) <= len(found) // 20


def test_outputs_of_a_page() -> None:
    """An output may differ from what is shown in times and ids, and in lines that are left out."""
    assert is_like(
        mask_varying("2026-11-23T11:01:46Z INFO in 0.12 s\n"), mask_varying("2025-01-01T00:00:00Z INFO in 3 s")
    )
    assert is_like(["a", "b", "c", "d"], ["a", "...", "d"])
    assert not is_like(["a", "b"], ["a"])


def test_what_a_page_must_not_have(tmp_path: Path) -> None:
    """A block that isn't run, a server that doesn't start and a command that prints something else are failures."""
    reader = Reader(tmp_path, "mongodb://127.0.0.1:1/", "unused")
    for language, text in [("python", "print(1)\n"), ("console", "$ echo 1\n2\n"), ("console", "$ echo 1 &\n2\n")]:
        with reader.servers, pytest.raises((AssertionError, pytest.fail.Exception), match="line 7"):
            reader.do(Block(language, text, line=7))


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "index.md"], ids=lambda page: page.name)
def test_first_pages(page: Path, kind: str, uri: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of the README and of the landing page runs from top to bottom, `await` included.

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

        monkeypatch.setattr(asyncio, "run", loop.run)  # where the client is closed
        monkeypatch.setattr(pymongo, "MongoClient", client)
        monkeypatch.setattr(pymongo, "AsyncMongoClient", async_client)
        namespace |= {"client": client(), "async_client": async_client(), "AsyncMongoClient": async_client}
        for block in read_blocks(page.read_text(encoding="utf-8"), kind):
            if block.language == "python":
                for statement in ast.parse(block.text.replace('"shop"', repr(name))).body:
                    perform(statement, namespace, name, loop)


def perform(statement: ast.stmt, namespace: dict[str, Any], name: str, loop: asyncio.Runner) -> None:
    """Execute a statement, in the loop if it awaits; call what it defines if that is a test."""
    code = compile(ast.Module([statement], type_ignores=[]), "<page>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    awaits = bool(code.co_flags & inspect.CO_COROUTINE)
    namespace["db"] = namespace["async_client" if awaits else "client"][name]
    result = eval(code, namespace)  # noqa: S307 - it is our own
    if awaits:
        loop.run(result)
    if isinstance(statement, ast.FunctionDef) and statement.name.startswith("test_"):
        namespace[statement.name]()


def test_installation() -> None:
    """What the pages and the README say to install is this distribution, with extras that it has."""
    metadata = importlib.metadata.metadata("mongo-quaestor")
    for page in [*DOCS.rglob("*.md"), ROOT / "README.md"]:
        for found in re.findall(r"pip install [\"']?(mongo-quaestor[^\s\"'`]*)", page.read_text(encoding="utf-8")):
            assert Requirement(found).extras <= set(metadata.get_all("Provides-Extra")), page
