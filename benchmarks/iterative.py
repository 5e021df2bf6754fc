"""The change of `benchmarks.batches` as an iterative migration of Beanie's, carried out by Beanie."""

import time
from datetime import datetime
from typing import Any, cast

from beanie import Document, iterative_migration
from beanie.migrations.database import DBHandler
from beanie.migrations.models import MigrationLog, RunningDirections, RunningMode
from beanie.migrations.runner import MigrationNode
from beanie.odm.utils.init import init_beanie


class OldUser(Document):
    """As they are."""

    name: str
    email: str
    city: str
    joined: datetime
    visits: int
    active: bool

    class Settings:
        """Where they are."""

        name = "users"


class User(OldUser):
    """As they shall be."""

    first: str
    last: str

    class Settings:
        """Where they are."""

        name = "users"


async def split_names(input_document: OldUser, output_document: User) -> None:
    """Called with each."""
    output_document.first, output_document.last = input_document.name.split()


class Forward:
    """A migration is a class in Beanie. Its decorators and its runner have no types."""

    split_names = cast("Any", iterative_migration())(split_names)


async def seconds(uri: str, database: str) -> float:
    """What its own runner takes, without connecting: what `beanie migrate --no-use-transaction` does with a folder of
    one migration. In one transaction, its default, it takes as long.
    """
    handler, node = cast("Any", DBHandler), cast("Any", MigrationNode)
    handler.set_db(uri, database)
    await handler.client.admin.command("ping")
    started = time.perf_counter()
    await init_beanie(handler.database, document_models=[MigrationLog])
    await MigrationLog.find_one({"is_current": True})
    root = node("root", next_migration=node("split_names", forward_class=Forward))
    mode = RunningMode(direction=RunningDirections.FORWARD)
    await root.run(mode, allow_index_dropping=False, use_transaction=False)
    taken = time.perf_counter() - started
    await handler.client.close()
    return taken
