"""Where the settings come from, which one wins, and that no password is ever shown."""

from pathlib import Path
from urllib.parse import quote_plus

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from typer.testing import CliRunner

from quaestor.cli.app import app
from quaestor.cli.redaction import redact
from quaestor.cli.settings import VARIABLES, CommandError, find

ALL = {"registry": "shop:registry", "uri": "mongodb://h/shop", "db": "shop", "prefix": "app"}
BROKEN = [
    "mongodb://ada:lov@elace@h/db",
    "mongodb://ada:lov:elace@h/db",
    "mongodb://ada:lov/elace@h/db",
    "mongodb://ada:lov/elace b@h/db",
    "mongodb://ada:lov?elace@h/db",
    "mongodb://ada:lov%elace@h/db",
    "mongodb://ada:lovelace@h:99999/db",
    "mongodb://ada:lovelace@/db",
    "ada:lovelace@h/db",
    "mongodb+srv://ada:lov/elace b@h/db",
]


def write(folder: Path, table: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pyproject.toml"
    path.write_text(table, encoding="utf-8")
    return path


def fault(folder: Path, *, options: dict[str, str | None] | None = None, environ: dict[str, str] | None = None) -> str:
    """The sentence with which settings are refused."""
    with pytest.raises(CommandError) as caught:
        find(options or {}, environ or {}, folder).check()
    return str(caught.value)


@pytest.mark.parametrize("setting", [setting for setting in VARIABLES if setting != "log_format"])
def test_precedence(tmp_path: Path, setting: str) -> None:
    """An option counts before the environment, and that before the table; what is empty or None there does not."""
    write(tmp_path, f'[tool.quaestor]\n{setting} = "table"')
    variable = VARIABLES[setting][0]
    assert find({setting: "option"}, {variable: "variable"}, tmp_path).value(setting) == "option"
    assert find({setting: None}, {variable: "variable"}, tmp_path).value(setting) == "variable"
    assert find({setting: None}, {variable: ""}, tmp_path).value(setting) == "table"


def test_uri_of_other_tools(tmp_path: Path) -> None:
    """MONGODB_URI, which other tools read too, counts where QUAESTOR_URI is not set, and before the table."""
    write(tmp_path, '[tool.quaestor]\nuri = "table"')
    assert find({}, {"MONGODB_URI": "common"}, tmp_path).value("uri") == "common"
    assert find({}, {"MONGODB_URI": "common", "QUAESTOR_URI": "own"}, tmp_path).value("uri") == "own"


def test_nearest_file(tmp_path: Path) -> None:
    """Only the nearest pyproject.toml upwards is read; paths in it are relative to its folder."""
    write(tmp_path, '[tool.quaestor]\nregistry = "outer:registry"\nprefix = "outer"')
    write(tmp_path / "project", '[tool.quaestor]\nregistry = "inner:registry"')
    below = tmp_path / "project" / "src" / "shop"
    below.mkdir(parents=True)
    found = find({}, {}, below)
    assert (found.value("registry"), found.folder("registry")) == ("inner:registry", tmp_path / "project")
    assert find({"registry": "a.py"}, {}, below).folder("registry") == below
    assert find({}, {"QUAESTOR_REGISTRY": "a.py"}, below).folder("registry") == below
    assert found.value("prefix") == "app"


def test_settings(tmp_path: Path) -> None:
    """A command on a database needs these settings and no other."""
    find(ALL, {}, tmp_path).check()


@pytest.mark.parametrize(
    ("uri", "db"),
    [
        ("mongodb://h/shop", "shop"),
        ("mongodb://ada:p%40ss@h1:1,h2/shop?replicaSet=rs&w=1&w=2", "shop"),
        ("mongodb+srv://ada:p@cluster.invalid/shop?srvServiceName=x", "shop"),
        ("mongodb://%2Ftmp%2Fmongodb.sock/shop", "shop"),
        ("mongodb://h/shop.orders", "shop"),
    ],
)
def test_database_in_the_uri(tmp_path: Path, uri: str, db: str) -> None:
    """The URI may name the database, and is not looked up for that; a db that is given counts before it."""
    options = {**ALL, "uri": uri}
    assert find({**options, "db": None}, {}, tmp_path).value("db") == db
    assert find({**options, "db": "other"}, {}, tmp_path).value("db") == "other"


@pytest.mark.parametrize("setting", ["registry", "uri", "db"])
def test_missing(tmp_path: Path, setting: str) -> None:
    """The error names a missing setting, and all the ways to set it."""
    said = fault(tmp_path, options={**ALL, "uri": "mongodb://h", setting: None})
    for way in (f"--{setting}", *VARIABLES[setting], f"`{setting}`", "[tool.quaestor]", "pyproject.toml"):
        assert way in said


def test_some_settings_alone(tmp_path: Path) -> None:
    """A command that works on no database needs no URI."""
    assert find({"registry": "shop"}, {}, tmp_path).value("registry") == "shop"


def test_client_or_uri(tmp_path: Path) -> None:
    """A client takes the place of a URI, which may be the application's in the environment; --uri counts before it."""
    environ = {"QUAESTOR_CLIENT": "shop:client", "MONGODB_URI": "mongodb://h/shop"}
    others = {"registry": "shop", "prefix": "app"}
    found = find(others, environ, tmp_path)
    found.check()
    assert (found.has_client, found.value("db")) == (True, "shop")
    find({**others, "db": "shop", "client": "shop:client"}, {}, tmp_path).check()
    assert not find({"uri": "mongodb://h"}, environ, tmp_path).has_client
    with pytest.raises(CommandError, match="not both"):
        find({"uri": "mongodb://h", "client": "shop:client"}, {}, tmp_path)


def test_uri_of_white_space(tmp_path: Path) -> None:
    """In the environment it counts as none, like an empty one; elsewhere it is refused."""
    write(tmp_path, '[tool.quaestor]\nuri = "mongodb://h/shop"')
    assert (
        find({}, {"QUAESTOR_URI": " \n", "MONGODB_URI": "mongodb://g/shop"}, tmp_path).value("uri")
        == "mongodb://g/shop"
    )
    assert find({}, {"QUAESTOR_URI": " \n"}, tmp_path).value("uri") == "mongodb://h/shop"
    assert fault(tmp_path, options={"uri": " "}).startswith("--uri is empty")
    write(tmp_path, '[tool.quaestor]\nuri = " "')
    assert "not empty" in fault(tmp_path)


def test_empty_option(tmp_path: Path) -> None:
    """`--db "$UNSET"` must not silently become another database."""
    assert fault(tmp_path, options={"db": ""}, environ={"QUAESTOR_DB": "shop"}).startswith("--db is empty")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[tool.quaestor]\nregsitry = "a"', "'regsitry'. Did you mean 'registry'?"),
        (
            "[tool.quaestor]\nzzz = 1",
            "The keys are registry, uri, client, db, prefix, release, migrations, on_event, log_format.",
        ),
        ("[tool.quaestor]\nprefix = 1", "'prefix' in [tool.quaestor]"),
        ('[tool.quaestor]\nprefix = ""', "'prefix' in [tool.quaestor]"),
        ('[tool.quaestor]\nuri = ["mongodb://u:secret@h"]', "'uri' in [tool.quaestor]"),
        ('[tool]\nquaestor = "a"', "must be a table"),
        ("tool = 1", "must be a table"),
        ("[tool.quaestor\n", "Can't read"),
    ],
)
def test_bad_table(tmp_path: Path, table: str, said: str) -> None:
    """A table that cannot be used is refused by a sentence that names the file."""
    path = write(tmp_path, table)
    sentence = fault(tmp_path)
    assert said in sentence
    assert str(path) in sentence
    assert "secret" not in sentence


def test_bad_bytes(tmp_path: Path) -> None:
    """A pyproject.toml that is not UTF-8 is refused likewise."""
    (tmp_path / "pyproject.toml").write_bytes(b"\xff")
    assert f"Can't read {tmp_path / 'pyproject.toml'}" in fault(tmp_path)


def test_other_tables(tmp_path: Path) -> None:
    """A pyproject.toml without our table gives nothing, and no error."""
    write(tmp_path, "[tool.black]\nline-length = 120")
    assert "--registry" in fault(tmp_path)


@pytest.mark.parametrize("uri", BROKEN)
def test_broken_uri(tmp_path: Path, uri: str) -> None:
    """A URI that the driver refuses is refused before, showing no part of its password; the driver shows some."""
    with pytest.raises((ValueError, PyMongoError)):
        MongoClient(uri.replace("+srv", ""), connect=False)
    said = fault(tmp_path, options={**ALL, "uri": uri})
    assert "Can't read" in said
    assert "lov" not in said
    assert "elace" not in said


@pytest.mark.parametrize("source", ["--uri", "QUAESTOR_URI", "MONGODB_URI", "pyproject.toml"])
@pytest.mark.parametrize("uri", ["mongodb://h:x/shop", "mongodb://ada:p@q@h/shop"])
def test_source_of_a_broken_uri(tmp_path: Path, uri: str, source: str) -> None:
    """The error says where the URI was set: an option, a variable, or a file."""
    path = write(tmp_path, f'[tool.quaestor]\nuri = "{uri}"' if source == "pyproject.toml" else "")
    options = {"registry": "shop", "db": "shop", "uri": uri if source == "--uri" else None}
    said = fault(tmp_path, options=options, environ={source: uri} if source.endswith("_URI") else {})
    assert (
        f"the MongoDB URI from {f'`uri` in [tool.quaestor] of {path}' if source == 'pyproject.toml' else source}"
        in said
    )


def test_log_format(tmp_path: Path) -> None:
    """It is text or json, and text by default; anything else is refused with its source."""
    write(tmp_path, '[tool.quaestor]\nlog_format = "json"')
    assert find({}, {}, tmp_path).value("log_format") == "json"
    assert find({"log_format": "text"}, {}, tmp_path).value("log_format") == "text"
    assert "'xml' (QUAESTOR_LOG_FORMAT)" in fault(tmp_path, environ={"QUAESTOR_LOG_FORMAT": "xml"})
    assert find({}, {}, tmp_path.parent).value("log_format") == "text"


def test_reason_without_password(tmp_path: Path) -> None:
    """Without a password, the error has the driver's reason, up to where it quotes the URI."""
    assert "(Bad database name)" in fault(tmp_path, options={**ALL, "uri": "mongodb://h/my%20shop"})


@pytest.mark.parametrize("source", ["option", "QUAESTOR_URI", "table"])
def test_white_space_around_a_uri(tmp_path: Path, source: str) -> None:
    """It is left out wherever the URI comes from, as the newline at the end of a file is."""
    uri = " mongodb://h/shop\n"
    if source == "table":
        write(tmp_path, f'[tool.quaestor]\nuri = """{uri}"""')
    found = find({"uri": uri if source == "option" else None}, {source: uri}, tmp_path)
    assert (found.value("uri"), found.value("db")) == ("mongodb://h/shop", "shop")


@pytest.mark.parametrize("path", ["admin", "config", "local"])
def test_database_of_mongodb(tmp_path: Path, path: str) -> None:
    """In a URI it is for authentication, and overrides no other; only --db names it as the one to migrate."""
    write(tmp_path, '[tool.quaestor]\ndb = "shop"')
    uri = f"mongodb://ada:p@h/{path}"
    assert find({**ALL, "uri": uri, "db": None}, {}, tmp_path).value("db") == "shop"
    assert find({**ALL, "uri": uri, "db": path}, {}, tmp_path).value("db") == path
    write(tmp_path, "")
    options = {**ALL, "uri": uri, "db": None}
    assert "No database configured" in fault(tmp_path, options=options)
    assert "pass it as --db" in fault(tmp_path, options=options, environ={"QUAESTOR_DB": path})


def test_white_space_around_a_database(tmp_path: Path) -> None:
    """The name of a database that looks like another one is refused, and shown as it is."""
    assert "The database 'shop\\n' starts or ends" in fault(tmp_path, options={**ALL, "db": "shop\n"})


@settings(max_examples=10)  # each takes three commands
@given(password=st.text("QXZ@/#?%:&=+,[]!~ é", min_size=1))
@example("QQQQ@XXXX/ZZZZ")
@example("1234/QQQQ?XXXX=ZZZZ")
def test_password_as_typed(tmp_path_factory: pytest.TempPathFactory, password: str) -> None:
    """No fragment of a password that isn't percent-encoded is in any output, whatever the URI is taken for."""
    folder = tmp_path_factory.getbasetemp()
    (folder / "connects.py").write_text(CONNECTS)
    uri = f"mongodb://ada:{password}@127.0.0.1:1/shop?serverSelectionTimeoutMS=1"
    options = ("--registry", str(folder / "connects.py"), "--prefix", "app", "--traceback")
    for command in ("status", "run", "graph"):
        shown = CliRunner().invoke(app, [command, "--uri", uri, *options], env={"CONNECTS_TO": uri})
        assert shown.exit_code in {2, 75}  # refused, or read, and no server found
        fragments = {password[start : start + 4] for start in range(len(password) - 3)}
        assert [part for part in fragments if set(part) & set("QXZ") and part in shown.output] == []


CONNECTS = """
import os
from pymongo import MongoClient
from quaestor import MigrationRegistry

registry = MigrationRegistry()
MongoClient(os.environ["CONNECTS_TO"], connect=False)
"""


def test_repr(tmp_path: Path) -> None:
    """The settings don't show the URI in their repr."""
    found = find({**ALL, "uri": "mongodb://ada:lovelace@h/db"}, {}, tmp_path)
    assert "lovelace" not in repr(found)


@given(password=st.text(st.characters(codec="utf-8", exclude_characters="*"), min_size=1), around=st.text(max_size=20))
def test_redacted(password: str, around: str) -> None:
    """The password of a URI is in no text any more, as it was typed, encoded, decoded or in a repr."""
    encoded = quote_plus(password)
    uri = f"mongodb://ada:{encoded}@h/shop?appName=a@b"
    shown = redact(f"{around}{uri}{around}{password}{around}{password!r}{around}{encoded}", uri)
    for secret in (password, encoded, repr(password)[1:-1]):
        assert secret not in shown


@given(uri=st.text(), text=st.text())
def test_redacted_anything(uri: str, text: str) -> None:
    """Any text can be in the place of a URI; without a password nothing is changed."""
    redact(text, uri)
    assert redact(text, "mongodb://h:27017/shop") == text


@pytest.mark.parametrize("uri", BROKEN)
def test_redacted_broken_uri(uri: str) -> None:
    """In a URI that can't be read, whatever is in the place of the password is not shown."""
    shown = redact(f"cannot connect to {uri}", uri)
    assert "lov" not in shown
    assert "elace" not in shown


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://h/?tls=true&tlsCertificateKeyFilePassword=lovelace",
        "mongodb://h/?authMechanismProperties=AWS_SESSION_TOKEN:lovelace,X:y&authMechanism=MONGODB-AWS",
    ],
)
def test_redacted_options(uri: str) -> None:
    """The password of a key file and the token of a session are secrets as well."""
    assert redact(uri, uri) == uri.replace("lovelace", "***")


def test_redacted_undecodable() -> None:
    """An environment variable may hold bytes that are not UTF-8, which Python keeps as lone surrogates."""
    assert redact("p\udcff!", "mongodb://ada:p\udcff@h") == "***!"
