"""A project with sync and async migrations, and the commands in it: in this process, or as processes of their own."""

import contextlib
import io
import logging
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from quaestor.cli import main
from tests.cli.imports import fresh

PYPROJECT = """
[tool.quaestor]
registry = "shop.migrations:registry"
migrations = "shop/migrations"
prefix = "app"
"""
REGISTRY = """
from quaestor import MigrationRegistry

registry = MigrationRegistry()
registry.discover(__name__)
"""
FIRST = '''
import os
from shop.migrations import registry

@registry.register("first")
def first(db):
    """What comes first."""
    print("printed by first")
    if "FAILS" in os.environ:
        raise ValueError(os.environ["FAILS"])
    db.effects.insert_one({"_id": "first"})

@registry.register_rollback("first")
async def undo_first(db):
    await db.effects.delete_one({"_id": "first"})
'''
SECOND = """
from shop.migrations import registry

@registry.register("second", depends_on=["first"], transaction=True)
async def second(db, context):
    await db.effects.insert_one({"_id": "second"})
    context.progress(1, 2)

@registry.register_rollback("second")
def undo_second(db):
    db.effects.delete_one({"_id": "second"})
"""
ASIDE = """
from shop.migrations import registry

@registry.register("aside", description="It has no rollback.")
def aside(db):
    db.effects.insert_one({"_id": "aside"})
"""


@dataclass
class Project:
    """A project in a folder of its own, and a database.

    Attributes:
        folder: The folder.
        environ: The environment of its commands.
        db: The database; None without a server.
    """

    folder: Path
    environ: dict[str, str]
    db: Any = None
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def start(
        self, *arguments: str, environ: Mapping[str, str] | None = None, hangup: signal.Handlers = signal.SIG_DFL
    ) -> subprocess.Popen[str]:
        """Start the command without a terminal. `hangup` is what SIGHUP does in it at first."""
        with _signals_of_a_shell(hangup):
            process = subprocess.Popen(
                [sys.executable, "-m", "quaestor", *arguments],
                cwd=self.folder,
                env=self.environ | dict(environ or {}),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        self.started.append(process)
        return process

    def quaestor(self, *arguments: str, code: int = 0, **environ: str) -> tuple[str, str]:
        """Run the command without a terminal, in this process, and check its exit code.

        Returns its stdout and stderr. A process of its own would show the same, in ten times the time.
        """
        output, errors, exit_code = io.StringIO(), io.StringIO(), None
        with _as_process(self.folder, self.environ | environ, ["quaestor", *arguments], output, errors):
            try:
                main(arguments)
            except SystemExit as error:
                exit_code = error.code or 0
        return _check(arguments, output.getvalue(), errors.getvalue(), exit_code, code)

    def process(self, *arguments: str, code: int = 0, **environ: str) -> tuple[str, str]:
        """Run the command likewise, as a process."""
        process = self.start(*arguments, environ=environ)
        output, errors = process.communicate(timeout=60)
        return _check(arguments, output, errors, process.returncode, code)

    def recorded(self) -> set[str]:
        """The names in the records."""
        return {record["name"] for record in self.db.app_migrations.find()}

    def effects(self) -> set[str]:
        """The work that is there."""
        return {effect["_id"] for effect in self.db.effects.find()}


def _check(arguments: tuple[str, ...], output: str, errors: str, code: object, expected: int) -> tuple[str, str]:
    assert code == expected, (arguments, output, errors)
    assert "Traceback" not in errors or "--traceback" in arguments
    return output, errors


@contextlib.contextmanager
def _as_process(
    folder: Path, environ: Mapping[str, str], arguments: list[str], output: io.StringIO, errors: io.StringIO
) -> Iterator[None]:
    """Give a command what a process of its own would have, and forget afterwards what it has changed."""
    root = logging.getLogger()
    before = os.environ.copy(), root.handlers[:]
    with (
        contextlib.chdir(folder),
        fresh(folder),
        pytest.MonkeyPatch.context() as patch,
        Path(os.devnull).open(encoding="utf-8") as nothing,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
        warnings.catch_warnings(),
    ):
        patch.setattr(sys, "argv", arguments)
        patch.setattr(sys, "stdin", nothing)
        try:
            os.environ.clear()
            os.environ.update(environ)
            yield
        finally:
            os.environ.clear()
            os.environ.update(before[0])
            root.handlers[:] = before[1]
            logging.captureWarnings(capture=False)


@contextlib.contextmanager
def _signals_of_a_shell(hangup: signal.Handlers) -> Iterator[None]:
    """Start a process that ignores no signal, even if a shell's `&` or `nohup` makes the tests themselves ignore one.

    Not by preexec_fn: the tests have threads of their drivers, and Python 3.12 and later warn about forking then.
    """
    handlers = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: hangup}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_OF_A_TERMINAL = {"COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR"}


def _environ() -> dict[str, str]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in _OF_A_TERMINAL and not key.startswith(("QUAESTOR_", "MONGODB_"))
    }
    return kept | {"PYTHONPATH": ""}


@pytest.fixture
def bare(tmp_path: Path) -> Project:
    """A project with nothing in it, and no database."""
    return Project(tmp_path, _environ())


@pytest.fixture
def project(tmp_path: Path, uri: str, name: str) -> Any:
    """A project with three migrations, on a new database."""
    project = Project(tmp_path, _environ() | {"QUAESTOR_URI": uri, "QUAESTOR_DB": name})
    project.write("pyproject.toml", PYPROJECT)
    project.write("shop/__init__.py", "")
    project.write("shop/migrations/__init__.py", REGISTRY)
    project.write("shop/migrations/first.py", FIRST)
    project.write("shop/migrations/second.py", SECOND)
    project.write("shop/migrations/aside.py", ASIDE)
    with MongoClient[dict[str, Any]](uri) as client:
        project.db = client[name]
        yield project
        for process in project.started:
            process.kill()
            process.communicate()
