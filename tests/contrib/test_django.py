"""quaestor.contrib.django: a project of its own in each test, and its commands as processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django_mongodb_backend.features import DatabaseFeatures
from pymongo import MongoClient

MANAGE = """
import os, sys
from django.core.management import execute_from_command_line

os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
execute_from_command_line(sys.argv)
"""
SETTINGS = """
import json
import os

INSTALLED_APPS = ["quaestor.contrib.django", "shop", "users"]
SECRET_KEY = "of a test"
TEST_RUNNER = "quaestor.contrib.django.testing.MigratingRunner"
QUAESTOR = {"URI": os.environ["SHOP_URI"]}
"""
BACKEND = """
DEFAULT_AUTO_FIELD = "django_mongodb_backend.fields.ObjectIdAutoField"
url, _, query = os.environ["SHOP_URI"].partition("?")
host, name = url.rsplit("/", 1)
DATABASES = {"default": {"ENGINE": "django_mongodb_backend", "HOST": f"{host}/?{query}", "NAME": name}}
QUAESTOR = {}
"""
FIRST = """
from quaestor.contrib.django import registry

@registry.register("first")
def first(db):
    db.effects.insert_one({"_id": "first"})

@registry.register_rollback("first")
def undo_first(db):
    db.effects.delete_one({"_id": "first"})
"""
SECOND = """
from quaestor.contrib.django import registry

@registry.register("second", depends_on=["first"])
async def second(db):
    await db.effects.insert_one({"_id": "second"})
"""
TESTS = """
from django.test import SimpleTestCase
from quaestor.contrib.django import get_database

class MigrationsTest(SimpleTestCase):
    databases = "__all__"

    def test_migrated(self):
        found = [document["_id"] for document in get_database().effects.find().sort("_id")]
        print("seen", get_database().name, *found)
"""


@dataclass
class Project:
    """A Django project with two apps, and its database."""

    folder: Path
    environment: dict[str, str]
    name: str
    client: MongoClient[dict[str, Any]]

    def write(self, path: str, text: str) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")

    def configure(self, text: str) -> None:
        self.write("settings.py", SETTINGS + text)

    def manage(self, *arguments: str, fails: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run manage.py."""
        done = subprocess.run(
            [sys.executable, "manage.py", *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=25,  # below the 30 s for which PyMongo looks for a server
        )
        assert bool(done.returncode) == fails, done.stdout + done.stderr
        return done

    def call(self, statement: str, *, fails: bool = False) -> subprocess.CompletedProcess[str]:
        """Run a statement where Django is set up."""
        imports = "from django.core.management import call_command\nfrom quaestor.contrib.django import get_database\n"
        return self.manage("shell", "--command", imports + statement, fails=fails)

    @property
    def effects(self) -> list[str]:
        """What the applied migrations have left in the database."""
        return self.find_effects(self.name)

    def find_effects(self, name: str) -> list[str]:
        return [document["_id"] for document in self.client[name].effects.find().sort("_id")]


@pytest.fixture
def project(uri: str, name: str, tmp_path: Path) -> Iterator[Project]:
    """A project whose first app has the migration `first` and whose second has `second`, an async one."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("QUAESTOR_", "MONGODB_"))}
    environment = {"SHOP_URI": urlsplit(uri)._replace(path=f"/{name}").geturl(), "COLUMNS": "200"}
    with MongoClient[dict[str, Any]](uri) as client:
        made = Project(tmp_path, inherited | environment, name, client)
        for path, text in {
            "manage.py": MANAGE,
            "shop/__init__.py": "",
            "shop/tests.py": TESTS,
            "shop/mongo_migrations/__init__.py": "",
            "shop/mongo_migrations/first.py": FIRST,
            "users/__init__.py": "",
            "users/mongo_migrations.py": SECOND,
        }.items():
            made.write(path, text)
        made.configure("")
        yield made
        client.drop_database(f"test_{name}")


def use_backend(project: Project, settings: str = "") -> None:
    """Use django-mongodb-backend, if it takes the server: its newest release needs MongoDB 7."""
    project.configure(BACKEND + settings)
    found, needed = project.client.server_info()["versionArray"], DatabaseFeatures.minimum_database_version
    if tuple(found) < needed:
        pytest.skip(f"django-mongodb-backend needs MongoDB {needed[0]}")


@pytest.fixture(params=["uri", "backend"])
def connected(request: pytest.FixtureRequest, project: Project) -> Project:
    """The project, with a URI or with django-mongodb-backend's connection."""
    if request.param == "backend":
        use_backend(project)
    return project


def test_commands(connected: Project) -> None:
    """The commands take the database from the settings, and the migrations from a package and a module of the apps."""
    assert connected.manage("quaestor", "check", fails=True).returncode == 1
    connected.manage("quaestor", "run")
    assert connected.effects == ["first", "second"]
    assert "2 applied" in connected.manage("quaestor", "check").stdout
    connected.manage("quaestor", "mark", "pending", "second")
    connected.manage("quaestor", "protect", "--as", "production")
    assert connected.manage("quaestor", "rollback", "first", "--yes", fails=True).returncode == 2
    assert connected.effects == ["first", "second"]
    connected.manage("quaestor", "rollback", "first", "--confirm", connected.name)
    assert connected.effects == ["second"]


def test_call_command(connected: Project) -> None:
    """`call_command` returns, writes to the given streams, and leaves the connection open."""
    done = connected.call(
        "import io\n"
        "out = io.StringIO()\n"
        "call_command('quaestor', 'run')\n"
        "call_command('quaestor', 'plan', stdout=out)\n"
        "print(repr(out.getvalue()), get_database().effects.count_documents({}))"
    )
    assert "Up to date" in done.stdout
    assert done.stdout.endswith("2\n")


def test_call_command_fails(project: Project) -> None:
    """A failure of `call_command` is Django's exception, with the exit code of the command; stderr says why."""
    done = project.call(
        "from django.core.management.base import CommandError\n"
        "try:\n"
        "    call_command('quaestor', 'rollback', 'second', '--yes')\n"
        "except CommandError as error:\n"
        "    print(error, error.returncode)\n"
        "call_command('quaestor', 'run', 'first')\n"
        "call_command('quaestor', 'run', 'frist')",
        fails=True,
    )
    assert "'frist'" in done.stderr
    assert project.effects == ["first"]


def test_options(project: Project) -> None:
    """Django's own options can be anywhere; an option of quaestor counts more than a setting."""
    project.manage("quaestor", "run", "first", "--settings=settings", "--db", f"test_{project.name}")
    assert project.effects == []
    assert project.find_effects(f"test_{project.name}") == ["first"]


def test_environment_and_pyproject(project: Project) -> None:
    """The settings of Django count more than the other ones that quaestor can find."""
    project.write("pyproject.toml", '[tool.quaestor]\nclient = "nowhere:client"\nprefix = "other"\n')
    project.manage("quaestor", "run", QUAESTOR_URI="mongodb://nowhere/other", QUAESTOR_REGISTRY="nowhere:registry")
    assert project.effects == ["first", "second"]
    assert project.client[project.name].app_migrations.count_documents({}) == 2


def test_every_key(project: Project) -> None:
    """DB names the database, PREFIX the collections, REGISTRY a registry of the project's own."""
    project.write("mongo.py", "from quaestor import MigrationRegistry\nregistry = MigrationRegistry()")
    for path, text in {"shop/mongo_migrations/first.py": FIRST, "users/mongo_migrations.py": SECOND}.items():
        project.write(path, text.replace("quaestor.contrib.django", "mongo"))
    other = f"test_{project.name}"
    project.configure(f'QUAESTOR |= {{"DB": "{other}", "PREFIX": "own", "REGISTRY": "mongo:registry"}}')
    project.manage("quaestor", "run")
    assert project.find_effects(other) == ["first", "second"]
    assert project.client[other].own_migrations.count_documents({}) == 2


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ('QUAESTOR = {"URL": "mongodb://ada:geheim@h/db"}', "'URI'"),
        ('QUAESTOR |= {"TIMEOUT": "1"}', "'TIMEOUT'"),
        ('QUAESTOR = {"URI": ""}', "'URI'"),
        ('QUAESTOR |= {"DB": 1}', "'DB'"),
        ('QUAESTOR = "mongodb://ada:geheim@h/db"', "dictionary"),
        ('QUAESTOR = {"URI": "mongodb://ada:geh@eim@h/db"}', "Percent-encode"),
        ('QUAESTOR = {"URI": "mongodb://ada:geheim@h/"}', '"DB"'),
        ("del QUAESTOR", '"URI"'),
        ('QUAESTOR |= {"REGISTRY": "nowhere:registry"}', "quaestor: QUAESTOR['REGISTRY']: There is no module"),
        ('QUAESTOR |= {"DB": "test_*"}', "--db 'test_*'"),
        (BACKEND + 'DATABASES["default"]["HOST"] = "mongodb://ada:geh@eim@h/"', "Percent-encode"),
        (BACKEND + 'DATABASES["other"] = DATABASES["default"]', "default, other"),
    ],
)
def test_wrong_settings(project: Project, settings: str, said: str) -> None:
    """A wrong setting is refused with exit code 2, and no password is shown."""
    project.configure(settings)
    done = project.manage("quaestor", "check", fails=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert "geh" not in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_settings_in_the_json_log(project: Project) -> None:
    """A wrong setting is an object in a log in JSON, and its sentence names the setting."""
    project.configure('QUAESTOR = {"URI": "mongodb://ada:geh@eim@h/db"}')
    done = project.manage("quaestor", "check", "--log-format", "json", fails=True)
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["level"] == "ERROR"
    assert "from QUAESTOR['URI']" in json.loads(line)["message"]


def test_handlers_and_the_json_log(project: Project) -> None:
    """In a log in JSON, loggers with handlers of their own, as Django's has, write objects, too."""
    project.configure(LOGGING)
    project.write("shop/mongo_migrations/noisy.py", NOISY)
    done = project.manage("quaestor", "run", "noisy", "--log-format", "json")
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert ["noise", "WARNING", "noisy"] in [[one["message"], one["level"], one["migration"]] for one in found]
    assert done.stdout == ""


LOGGING = """
LOGGING = {
    "version": 1,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"noisy": {"handlers": ["console"], "propagate": False}},
}
"""
NOISY = """
import logging
from quaestor.contrib.django import registry

@registry.register("noisy")
def noisy(db):
    logging.getLogger("noisy").warning("noise")
"""


def test_check_of_settings(project: Project) -> None:
    """A wrong setting is an error of the system check."""
    project.configure("QUAESTOR = {'DBB': 'shop'}")
    assert "quaestor.E001" in project.manage("check", fails=True).stderr
    project.configure("")
    assert "'soon'" in project.manage("check", fails=True, QUAESTOR_CHECK_TIMEOUT="soon").stderr


def test_alias(project: Project) -> None:
    """Without a URI, DB is the alias of one of several connections."""
    name = f"test_{project.name}"
    use_backend(project, f'DATABASES["other"] = {{**DATABASES["default"], "NAME": "{name}"}}\nQUAESTOR["DB"] = "other"')
    project.manage("quaestor", "run")
    assert project.find_effects(name) == ["first", "second"]


def test_password(connected: Project) -> None:
    """No password of the URI is shown, even if a migration module shows it."""
    connected.write("users/mongo_migrations.py", SECOND + "import os\nraise ValueError(os.environ['SHOP_URI'])")
    done = connected.manage("quaestor", "status", fails=True, SHOP_URI="mongodb://ada:geheim@127.0.0.1:1/shop")
    assert "ada:***@" in done.stderr
    assert "geheim" not in done.stdout + done.stderr


def test_check(connected: Project) -> None:
    """The system check warns of pending migrations, by name, and says nothing when all are applied."""
    done = connected.manage("check", QUAESTOR_CHECK_TIMEOUT="20")
    assert "quaestor.W001" in done.stderr
    assert "first, second" in done.stderr
    connected.manage("quaestor", "run")
    assert "no issues" in connected.manage("check", QUAESTOR_CHECK_TIMEOUT="20").stdout


def test_without_server(connected: Project) -> None:
    """The system check says nothing, before the driver gives up; a command names the setting of the address."""
    nowhere = "mongodb://127.0.0.1:1/shop"
    assert "no issues" in connected.manage("check", SHOP_URI=nowhere).stdout
    said = connected.manage("quaestor", "status", fails=True, SHOP_URI=f"{nowhere}?serverSelectionTimeoutMS=1").stderr
    assert "(QUAESTOR['URI'])" in said or "(DATABASES['default'])" in said
    assert "(--uri)" in connected.manage("quaestor", "status", f"--uri={nowhere}", fails=True).stderr


def test_check_cannot_read(project: Project) -> None:
    """If the server refuses to say what is applied, the system check says so."""
    db = project.client[project.name]
    db.numbers.insert_one({"zero": 0})
    db.create_collection("app_migrations", viewOn="numbers", pipeline=[{"$set": {"_id": {"$divide": [1, "$zero"]}}}])
    assert "quaestor.W002" in project.manage("check", QUAESTOR_CHECK_TIMEOUT="20").stderr


def test_check_of_a_graph(project: Project) -> None:
    """Migrations that can't be sorted are an error of the system check."""
    project.write("shop/mongo_migrations/first.py", FIRST.replace('"first")', '"first", depends_on=["none"])', 1))
    done = project.manage("check", fails=True)
    assert "quaestor.E001" in done.stderr
    assert "'none'" in done.stderr


def test_other_registry(project: Project) -> None:
    """A module that registers nothing in the registry of the settings is refused."""
    project.write("users/mongo_migrations.py", "registry = None")
    done = project.manage("quaestor", "run", fails=True)
    assert "users.mongo_migrations" in done.stderr
    assert project.effects == []


def test_new(project: Project) -> None:
    """`new` writes into the package of the app that is named, or of the only app that has one, and makes it."""
    project.write("users/mongo_migrations.py", "")
    (project.folder / "users" / "mongo_migrations.py").unlink()
    assert "shop/mongo_migrations/third.py" in project.manage("quaestor", "new", "third").stdout
    project.manage("quaestor", "new", "fourth", "--app=users")
    text = (project.folder / "users" / "mongo_migrations" / "fourth.py").read_text()
    assert "from quaestor.contrib.django import registry" in text
    assert 'depends_on=["third"]' in text
    planned = project.manage("quaestor", "plan").stdout
    assert planned.index("first") < planned.index("third") < planned.index("fourth")


def test_squash(project: Project) -> None:
    """`squash` writes into the package of an app, as `new` does, and proves the result on the server."""
    project.write("shop/mongo_migrations/third.py", FIRST.replace("first", "third"))
    done = project.manage("quaestor", "squash", "first", "third", "--into=both", "--app=users", fails=True)
    assert "Make it a package" in done.stderr
    assert "--app LABEL" in project.manage("quaestor", "squash", "first", "third", "--into=both", fails=True).stderr
    shown = project.manage("quaestor", "squash", "first", "third", "--into=both", "--app=shop").stdout
    assert "shop/mongo_migrations/both.py" in shown
    assert "Proved: in an empty database" in shown
    text = (project.folder / "shop" / "mongo_migrations" / "both.py").read_text()
    assert "from quaestor.contrib.django import registry" in text
    assert "Proved" in project.manage("quaestor", "squash", "--prove", "both").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["new", "third", "--app", "shpo"], "quaestor, shop, users"),
        (["new", "third", "--app", "users"], "package"),
        (["new", "third"], "--app"),
        (["init"], "--app"),
    ],
)
def test_refused_new(project: Project, arguments: list[str], said: str) -> None:
    """`new` without a clear place for the module is refused, and `init`: nothing is written."""
    before = sorted(project.folder.rglob("*.py"))
    done = project.manage("quaestor", *arguments, fails=True)
    assert done.returncode == 2
    assert said in done.stderr
    assert sorted(project.folder.rglob("*.py")) == before


def test_new_in_no_package(project: Project) -> None:
    """Where no app has a package of migrations, `new` asks for the app."""
    project.configure("INSTALLED_APPS = INSTALLED_APPS[:1]")
    assert "quaestor new NAME --app" in project.manage("quaestor", "check", fails=True).stderr
    assert "--app" in project.manage("quaestor", "new", "third", fails=True).stderr


def test_help(project: Project) -> None:
    """The help has the commands under the name by which they are called, and what differs in Django."""
    for arguments in (["help", "quaestor"], ["quaestor", "new", "-h"]):
        shown = project.manage(*arguments).stdout
        assert "manage.py quaestor" in shown
        assert "--app" in shown
        assert "Create a package" not in shown  # of `init`


def test_runner(connected: Project) -> None:
    """Tests see a test database with all migrations applied; it is gone afterwards, and the other one untouched."""
    assert f"seen test_{connected.name} first second" in connected.manage("test").stdout
    assert connected.effects == []
    assert connected.find_effects(f"test_{connected.name}") == []


def test_runner_keeps_the_database(connected: Project) -> None:
    """With --keepdb the test database stays, and the next run applies what is pending there."""
    for _ in range(2):
        assert "first second" in connected.manage("test", "--keepdb").stdout
        assert connected.find_effects(f"test_{connected.name}") == ["first", "second"]


def test_runner_after_a_crash(project: Project) -> None:
    """What an earlier test run left in the test database is dropped."""
    project.client[f"test_{project.name}"].effects.insert_one({"_id": "left"})
    assert f"seen test_{project.name} first second" in project.manage("test").stdout


def test_runner_in_parallel(project: Project) -> None:
    """Tests that would share a test database with another process are refused."""
    project.write("users/tests.py", TESTS)
    assert "--parallel" in project.manage("test", "--parallel=2", fails=True).stderr


def test_in_memory(project: Project) -> None:
    """With mongomock the tests need no server."""
    project.write("users/mongo_migrations.py", SECOND.replace("async ", "").replace("await ", ""))
    assert "seen test_quaestor first second" in project.manage("test", SHOP_URI="mongomock://").stdout
