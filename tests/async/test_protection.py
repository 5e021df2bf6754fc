"""The label of a protected database, which the command line asks about and the API doesn't."""

from typing import Any

import pytest

from quaestor import AsyncRunner, InvalidOptionError
from tests.databases import drivers
from tests.operations import CHAIN, registry
from tools.commands import Commands

pytestmark = pytest.mark.anyio


async def test_label(db: Any) -> None:
    """It is stored beside the lease, which works as before, and read by itself or with the status."""
    runner = AsyncRunner(registry(CHAIN, "async", []), db, "app")
    assert await runner.read_protection() is None
    await runner.protect(None)
    assert await db.list_collection_names() == []

    for label in ("staging", "production", "production"):
        await runner.protect(label)
        assert await runner.read_protection() == (await runner.status()).protected_as == label
    assert await AsyncRunner(registry(CHAIN, "async", []), db, "other").read_protection() is None
    await runner.run()
    assert (await runner.status()).lease is None

    await runner.protect(None)
    await runner.protect(None)
    assert await runner.read_protection() is None
    assert (await runner.status()).protected_as is None


async def test_api_is_not_affected(db: Any) -> None:
    """The methods of runners aren't restricted."""
    runner = AsyncRunner(registry(CHAIN, "async", []), db, "app")
    await runner.protect("production")
    await runner.run()
    assert await runner.mark_pending(["d"]) == ["d"]
    assert await runner.rollback(["a"]) == ["c", "b", "a"]
    assert await runner.unlock() is None
    assert await runner.read_protection() == "production"


@pytest.mark.parametrize("label", ["", " ", "\0", 7, b"production"])
async def test_invalid_label(db: Any, label: Any) -> None:
    """What can't be shown is refused, and nothing is written."""
    with pytest.raises(InvalidOptionError, match="label"):
        await AsyncRunner(registry(CHAIN, "async", []), db, "app").protect(label)
    assert await db.list_collection_names() == []


@pytest.mark.parametrize("driver", drivers("pymongo", "motor"))
async def test_commands(db: Any, commands: Commands) -> None:
    """A read, and a write with majority concern if there is something to change. The status needs no read for it."""
    runner = AsyncRunner(registry(CHAIN, "async", []), db, "app")
    await runner.protect("production")
    assert commands.names == ["find", "update"]
    assert commands.sent[1]["writeConcern"]["w"] == "majority"
    await runner.protect("production")
    await runner.read_protection()
    assert commands.names == ["find", "update", "find", "find"]
    commands.sent.clear()
    await runner.status()
    assert len(commands.names) == 4
