# Generated from tests/async/test_bad_input.py by tools/sync_tests.py
"""Arguments that can't be right are refused before the first command, with a message that says what to pass."""

from typing import Any

import pytest
from pymongo import MongoClient

from quaestor import (
    InvalidDatabaseError,
    InvalidOptionError,
    InvalidPrefixError,
    MigrationRegistry,
    SyncRunner,
    UnknownMigrationError,
)
from tests.databases import drivers
from tests.functions import nowhere
from tests.operations import BAD_NAMES
from tests.scenarios import BAD_OPTIONS, BAD_PREFIXES
from tools.commands import Commands

BAD_CONCURRENCY = [
    ({"concurrency": concurrency}, "concurrency must be a whole number, from 1 to 100, not")
    for concurrency in (0, 101, True, 2.0, "2", None)
]


@pytest.mark.parametrize("driver", drivers("mongomock"))
@pytest.mark.parametrize(("prefix", "words"), BAD_PREFIXES)
def test_bad_prefix(db: Any, prefix: Any, words: str) -> None:
    """A prefix that cannot name a collection is refused."""
    with pytest.raises(InvalidPrefixError) as caught:
        _ = MigrationRegistry().run_sync(db, prefix)  # at the call
    assert words in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("looks_like", "words"),
    [
        ("\tshop", r"must not start or end with white space: '\tshop'"),
        ("shop\u00a0", "must not start or end with white space"),
        ("cafe\u0301", r"must be in the Unicode form NFC, which is 'caf\xe9'"),
    ],
)
def test_bad_database_name(db: Any, looks_like: str, words: str) -> None:
    """A name that looks like that of another database is refused, among many databases too."""
    bad = db.client[looks_like]
    with pytest.raises(InvalidDatabaseError) as caught:
        SyncRunner(MigrationRegistry(), bad, "app")
    assert f"The name of the database {words}" in str(caught.value)
    with pytest.raises(InvalidDatabaseError) as caught:
        MigrationRegistry().run_many_sync([db, bad], "app")
    assert f"The name of the database {words}" in str(caught.value)
    assert caught.value.__notes__ == ["quaestor: it is databases[1]"]


@pytest.mark.parametrize("driver", drivers("mongomock"))
@pytest.mark.parametrize(("options", "words"), [*BAD_OPTIONS, *BAD_CONCURRENCY])
def test_bad_options(db: Any, options: Any, words: str) -> None:
    """A number that can't be used is refused."""
    with pytest.raises(InvalidOptionError) as caught:
        _ = MigrationRegistry().run_sync(db, "app", **options)  # at the call
    assert words in str(caught.value)


@pytest.mark.driver("pymongo")
def test_bad_names() -> None:
    """Unknown names, and anything but a list of names, are refused before the first command."""
    with nowhere() as db:
        runner = SyncRunner(MigrationRegistry(), db, "app")
        for method in (runner.run, runner.plan, runner.rollback, runner.plan_rollback, runner.mark_applied):
            with pytest.raises(UnknownMigrationError, match="There is no migration 'x'"):
                method(["x"])
            for names, words in BAD_NAMES:
                with pytest.raises(InvalidOptionError) as caught:
                    method(names)
                assert words in str(caught.value)
        for needs_names in (runner.mark_applied, runner.mark_pending, runner.mark_accepted):
            with pytest.raises(InvalidOptionError, match="must be a list of names"):
                needs_names(None)  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_nothing_is_sent(db: Any, commands: Commands) -> None:
    """Refusing an argument takes no command."""
    with pytest.raises(InvalidPrefixError):
        MigrationRegistry().run_sync(db, "")
    for options in ({"lease_ttl": 0}, {"concurrency": 0}, {"on_event": 7}):
        with pytest.raises(InvalidOptionError):
            _ = MigrationRegistry().run_sync(db, "app", **options)  # at the call
    assert commands.sent == []


def test_longest_prefix(db: Any) -> None:
    """The longest prefix that is taken works; one byte more is refused."""
    longest = "p" * (255 - len(f"{db.name}._migrations_progress"))

    assert MigrationRegistry().run_sync(db, longest) == []
    with pytest.raises(InvalidPrefixError, match="1 bytes too long"):
        MigrationRegistry().run_sync(db, longest + "p")


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_proxy_of_a_database(db: Any) -> None:
    """A proxy of a database, such as werkzeug's LocalProxy, is accepted."""

    class Proxy:
        @property
        def __class__(self) -> Any:
            return type(db)

        def __getattr__(self, attribute: str) -> Any:
            return getattr(db, attribute)

    proxy: Any = Proxy()
    assert MigrationRegistry().run_sync(proxy, "app") == []


@pytest.mark.driver("pymongo")
def test_subclass_of_a_database(uri: str, name: str) -> None:
    """A framework's subclass of a database, as Flask-PyMongo's, is accepted."""

    from pymongo.synchronous.database import Database

    class Own(Database[dict[str, Any]]):
        pass

    with MongoClient(uri) as client:
        assert MigrationRegistry().run_sync(Own(client, name), "app") == []
