"""What cannot be right is refused before the first command, in a sentence that says what to pass."""

from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from quaestor import InvalidDatabaseError, InvalidOptionError, InvalidPrefixError, MigrationRegistry, SyncRunner
from tests.databases import drivers, opened
from tests.scenarios import BAD_OPTIONS, BAD_PREFIXES

NOWHERE = "mongodb://user:secret@127.0.0.1:1"  # nothing listens there, and nothing may be sent


@pytest.mark.driver("pymongo")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: None, "db must be a database, not None: pass client['name']"),
        (lambda: NOWHERE, "db must be a database, not str: pass client['name']"),
        (dict, "db must be a database, not dict"),
        (lambda: MongoClient(NOWHERE, connect=False), "db is a client (MongoClient), not a database: pass client["),
        (lambda: AsyncMongoClient(NOWHERE)["app"], "db is an asynchronous database (AsyncDatabase): call `await reg"),
        (lambda: MongoClient(NOWHERE, connect=False)["app"]["users"], "db must be a database, not Collection"),
    ],
)
def test_not_a_database(make: Any, words: str) -> None:
    """Anything but a database of this colour is refused, and says what to do; a password is not repeated."""
    with pytest.raises(InvalidDatabaseError) as caught:
        MigrationRegistry().run_sync(make(), "app")
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.driver("pymongo")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NOWHERE, "async_db must be a database, not str"),
        (lambda: AsyncMongoClient(NOWHERE), "async_db is a client (AsyncMongoClient), not a database"),
        (lambda: MongoClient(NOWHERE, connect=False)["app"], "async_db must be an asynchronous database, not Database"),
        (lambda: AsyncMongoClient(NOWHERE)["other"], "the same database, but they are 'app' and 'other'"),
    ],
)
def test_not_the_other_database(make: Any, words: str) -> None:
    """The database for the other colour is checked like the first, and must be the same one."""
    with opened("pymongo", NOWHERE, "app", connect=False) as db, pytest.raises(InvalidDatabaseError) as caught:
        SyncRunner(MigrationRegistry(), db, "app", async_db=make())
    assert words in str(caught.value)


@pytest.mark.parametrize(("prefix", "words"), BAD_PREFIXES)
def test_bad_prefix(db: Any, prefix: Any, words: str) -> None:
    """A prefix that cannot name a collection is refused."""
    with pytest.raises(InvalidPrefixError) as caught:
        MigrationRegistry().run_sync(db, prefix)
    assert words in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS)
def test_bad_options(db: Any, options: Any, words: str) -> None:
    """A time that cannot be one is refused."""
    with pytest.raises(InvalidOptionError) as caught:
        MigrationRegistry().run_sync(db, "app", **options)
    assert words in str(caught.value)


def test_longest_prefix(db: Any) -> None:
    """The longest prefix that is taken works; one byte more is refused."""
    longest = "p" * (255 - len(f"{db.name}._migrations_progress"))

    assert MigrationRegistry().run_sync(db, longest) == []
    with pytest.raises(InvalidPrefixError, match="1 bytes too long"):
        MigrationRegistry().run_sync(db, longest + "p")


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_proxy_of_a_database(db: Any) -> None:
    """An object that stands for a database, as werkzeug's LocalProxy does, is taken for what it stands for."""

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
    """A framework's own subclass of a database, as Flask-PyMongo's, is a database."""
    from pymongo.database import Database

    class Own(Database[dict[str, Any]]):
        pass

    with MongoClient(uri) as client:
        assert MigrationRegistry().run_sync(Own(client, name), "app") == []
