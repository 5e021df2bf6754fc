"""The examples, each run as a user would run it, against the real server."""

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pymongo import MongoClient

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
MIGRATED = {"cup": 1999, "pot": 1999}


@pytest.fixture
def environment(uri: str, name: str) -> dict[str, str]:
    """The environment of an example: the URI names the database."""
    return {**os.environ, "MONGODB_URI": urlsplit(uri)._replace(path=f"/{name}").geturl(), "PYTHONUNBUFFERED": "1"}


@contextlib.contextmanager
def serving(arguments: list[str], environment: dict[str, str], folder: Path) -> Iterator[str]:
    """Start a web server on a free port; gives the address that it says it listens on."""
    with subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            said = []
            for line in process.stdout:
                said.append(line)
                if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                    yield found.group()
                    return
            pytest.fail("".join(said))
        finally:
            process.terminate()


def run(arguments: list[str], environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script to its end."""
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)


def get(address: str) -> object:
    with urllib.request.urlopen(f"{address}/products", timeout=30) as answer:
        return json.load(answer)


def test_script(uri: str, name: str, environment: dict[str, str]) -> None:
    """The script migrates once, and says what it did."""
    with MongoClient(uri) as client:
        client[name].users.insert_one({"email": "Ada@Example.com"})

        outputs = [run(["script.py"], environment, EXAMPLES).stdout for _ in range(2)]

        assert outputs == ["applied: ['lowercase_emails', 'unique_emails']\n", "applied: []\n"]
        assert client[name].users.find_one({}, {"_id": 0}) == {"email": "ada@example.com"}


@pytest.mark.parametrize("module", ["fastapi_app", "litestar_app"])
def test_asgi(environment: dict[str, str], module: str) -> None:
    """The application answers with migrated data, is ready, and starts again on the migrated database."""
    for _ in range(2):
        with serving(["uvicorn", f"{module}:app", "--port", "0"], environment, EXAMPLES) as address:
            assert get(address) == MIGRATED
            with urllib.request.urlopen(f"{address}/ready", timeout=30) as answer:
                assert answer.status == 200


def test_flask(environment: dict[str, str]) -> None:
    """The command migrates once, and the application answers with migrated data."""
    command = ["-m", "flask", "--app", "flask_app", "quaestor", "run"]
    outputs = [run(command, environment, EXAMPLES).stdout for _ in range(2)]

    assert "Applied 2 migrations" in outputs[0]
    assert "Up to date" in outputs[1]
    with serving(["flask", "--app", "flask_app", "run", "--port", "0"], environment, EXAMPLES) as address:
        assert get(address) == MIGRATED


def test_django(uri: str, name: str, environment: dict[str, str]) -> None:
    """The command migrates once, the project answers with migrated data, and its tests see a migrated database."""
    folder = EXAMPLES / "django_project"
    outputs = [run(["manage.py", "quaestor", "run"], environment, folder).stdout for _ in range(2)]

    assert "Applied 'prices_in_cents' (2 of 2)" in outputs[0]
    assert "Up to date" in outputs[1]
    with serving(["manage", "runserver", "--noreload", "127.0.0.1:0"], environment, folder) as address:
        assert get(address) == MIGRATED
    with MongoClient(uri) as client:
        client[name].products.drop()
        assert "OK" in run(["manage.py", "test"], environment, folder).stderr
        assert f"test_{name}" not in client.list_database_names()
