"""Clients with automatic encryption, whose driver refuses some commands, and encrypts and decrypts the others."""

from typing import Any

import pytest
from bson import STANDARD, CodecOptions
from pymongo import MongoClient
from pymongo.encryption import Algorithm, AutoEncryptionOpts, ClientEncryption
from pymongo.errors import EncryptionError

from quaestor import AsyncMigrationContext, MigrationRegistry
from tests.databases import drivers

pytestmark = pytest.mark.anyio

KEY = {"local": {"key": bytes(96)}}


@pytest.fixture(params=drivers("pymongo", "motor"))
def driver(request: pytest.FixtureRequest) -> str:
    """The drivers that encrypt."""
    return str(request.param)


@pytest.fixture
def client_options(name: str) -> dict[str, Any]:
    """It encrypts nothing by itself, because that needs a further program; it decrypts. It knows two schemas."""
    schemas = {f"{name}.{collection}": {"bsonType": "object"} for collection in ("users", "copies")}
    encryption = AutoEncryptionOpts(KEY, f"{name}.keys", schema_map=schemas, bypass_query_analysis=True)
    return {"auto_encryption_opts": encryption}


@pytest.fixture
def secret(uri: str, name: str) -> Any:
    """A value that was encrypted with a key of this database."""
    with (
        MongoClient[dict[str, Any]](uri) as client,
        ClientEncryption(KEY, f"{name}.keys", client, CodecOptions(uuid_representation=STANDARD)) as encryption,
    ):
        return encryption.encrypt(
            "secret", Algorithm.AEAD_AES_256_CBC_HMAC_SHA_512_Random, encryption.create_data_key("local")
        )


async def test_transactions(db: Any, registry: MigrationRegistry, secret: Any) -> None:
    """Transactions work, of a function and of a batch, and so do encrypted fields outside of them."""

    @registry.register("a", transaction=True)
    async def a(db: Any) -> None:
        await db.users.insert_one({"_id": 1})

    @registry.register("b", depends_on=["a"])
    async def b(db: Any, context: AsyncMigrationContext) -> None:
        async def body(batch: list[Any]) -> None:
            await db.copies.insert_many(batch)

        await context.for_each_batch(db.users, body)
        await db.copies.update_one({}, {"$set": {"field": secret}})
        assert await db.copies.find_one() == {"_id": 1, "field": "secret"}

    assert await registry.run(db, "app") == ["a", "b"]


@pytest.mark.parametrize("what", ["key", "schema"])
async def test_fetching_in_a_transaction(db: Any, registry: MigrationRegistry, secret: Any, what: str) -> None:
    """A key, or a schema, that the driver doesn't have yet is its error there: it can't fetch it. A note says so."""

    @registry.register("a", transaction=True)
    async def a(db: Any) -> None:
        await db[{"key": "users", "schema": "others"}[what]].insert_one({"field": secret})
        await db.users.find_one()

    with pytest.raises(EncryptionError) as caught:
        await registry.run(db, "app")
    assert "Register the migration without transaction=True" in caught.value.__notes__[0]
