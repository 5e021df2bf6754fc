"""What cannot be right is refused before the first command, in a sentence that says what to pass."""

from typing import Any

import pytest
from pymongo import AsyncMongoClient, MongoClient

from quaestor import AsyncRunner, InvalidDatabaseError, InvalidOptionError, InvalidPrefixError, MigrationRegistry
from tests.databases import drivers
from tests.scenarios import BAD_OPTIONS, BAD_PREFIXES

pytestmark = pytest.mark.anyio

NOWHERE = "mongodb://user:secret@127.0.0.1:1"  # nothing listens there, and nothing may be sent


@pytest.mark.driver("pymongo")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: None, "db must be a database, not None: pass client['name']"),
        (lambda: NOWHERE, "db must be a database, not str: pass client['name']"),
        (dict, "db must be a database, not dict"),
        (lambda: AsyncMongoClient(NOWHERE), "db is a client (AsyncMongoClient), not a database: pass client["),
        (lambda: MongoClient(NOWHERE, connect=False)["app"], "db is a synchronous database (Database): call `registry"),
        (lambda: AsyncMongoClient(NOWHERE)["app"]["users"], "db must be a database, not AsyncCollection"),
    ],
)
async def test_not_a_database(make: Any, words: str) -> None:
    """Anything but a database of this colour is refused, and says what to do; a password is not repeated."""
    with pytest.raises(InvalidDatabaseError) as caught:
        await MigrationRegistry().run(make(), "app")
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.driver("pymongo")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: NOWHERE, "sync_db must be a database, not str"),
        (lambda: MongoClient(NOWHERE, connect=False), "sync_db is a client (MongoClient), not a database"),
        (lambda: AsyncMongoClient(NOWHERE)["app"], "sync_db must be a synchronous database, not AsyncDatabase"),
        (lambda: MongoClient(NOWHERE, connect=False)["other"], "the same database, but they are 'app' and 'other'"),
    ],
)
async def test_not_the_other_database(make: Any, words: str) -> None:
    """The database for the other colour is checked like the first, and must be the same one."""
    db = AsyncMongoClient(NOWHERE)["app"]
    with pytest.raises(InvalidDatabaseError) as caught:
        AsyncRunner(MigrationRegistry(), db, "app", sync_db=make())
    assert words in str(caught.value)


@pytest.mark.parametrize(("prefix", "words"), BAD_PREFIXES)
async def test_bad_prefix(db: Any, prefix: Any, words: str) -> None:
    """A prefix that cannot name a collection is refused."""
    with pytest.raises(InvalidPrefixError) as caught:
        await MigrationRegistry().run(db, prefix)
    assert words in str(caught.value)
    assert "cret" not in str(caught.value)


@pytest.mark.parametrize(("options", "words"), BAD_OPTIONS)
async def test_bad_options(db: Any, options: Any, words: str) -> None:
    """A time that cannot be one is refused."""
    with pytest.raises(InvalidOptionError) as caught:
        await MigrationRegistry().run(db, "app", **options)
    assert words in str(caught.value)


async def test_longest_prefix(db: Any) -> None:
    """The longest prefix that is taken works; one byte more is refused."""
    longest = "p" * (255 - len(f"{db.name}._migrations_progress"))

    assert await MigrationRegistry().run(db, longest) == []
    with pytest.raises(InvalidPrefixError, match="1 bytes too long"):
        await MigrationRegistry().run(db, longest + "p")


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_proxy_of_a_database(db: Any) -> None:
    """An object that stands for a database, as werkzeug's LocalProxy does, is taken for what it stands for."""

    class Proxy:
        @property
        def __class__(self) -> Any:
            return type(db)

        def __getattr__(self, attribute: str) -> Any:
            return getattr(db, attribute)

    proxy: Any = Proxy()
    assert await MigrationRegistry().run(proxy, "app") == []


@pytest.mark.driver("pymongo")
async def test_subclass_of_a_database(uri: str, name: str) -> None:
    """A framework's own subclass of a database is a database."""
    from pymongo.asynchronous.database import AsyncDatabase

    class Own(AsyncDatabase[dict[str, Any]]):
        pass

    async with AsyncMongoClient(uri) as client:
        assert await MigrationRegistry().run(Own(client, name), "app") == []
