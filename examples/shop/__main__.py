"""The demo (`nox -s demo`): migrates a shop of 100,000 orders on a real server, and shows what that did."""

import asyncio
import sys
import time
from datetime import datetime
from functools import partial
from typing import Any

from pymongo import AsyncMongoClient, MongoClient
from pymongo.database import Database
from pymongo.errors import WriteError
from rich.console import Console
from rich.table import Table

from examples.shop import data
from examples.shop.migrations import registry
from quaestor import Event, LeaseAwaited, MigrationApplied, RunStarted
from tools.mongod import NoServerError, server

NAME = "quaestor_demo"
INSTANCES = 3
SHOWN = ("customers", "products", "orders", "revenue")

console = Console(width=min(Console().width, 120), highlight=False)


def main() -> None:
    """Load, show, migrate, show, and migrate again."""
    console.print("[bold]Looking for MongoDB[/], or starting it ...")
    with server() as uri, MongoClient[dict[str, Any]](uri) as client:
        client.drop_database(NAME)  # on a server of the user's own an earlier demo may have left it
        db = client[NAME]
        console.print(
            f"[bold]Loading[/] {data.ORDERS:,} orders, {data.CUSTOMERS:,} customers, {data.PRODUCTS:,} products ..."
        )
        data.load(db)
        before = _documents(db)

        console.print(f"\n[bold]await registry.run(db, 'shop', sync_db=sync_db)[/] in {INSTANCES} instances at once")
        started = time.perf_counter()
        counts = [len(applied) for applied in asyncio.run(_run_at_once(uri, db))]
        console.print(
            f"[bold]Applied {sum(counts)} migrations[/] in {time.perf_counter() - started:.1f} s; "
            f"by instance: {', '.join(map(str, counts))}\n"
        )

        _show(before, _documents(db), db)
        console.print("\n[bold]await registry.run(db, 'shop', sync_db=sync_db)[/], once more")
        console.print(f"Applied: {asyncio.run(_run(uri, db, 1))}. Nothing is left to do.")
        client.drop_database(NAME)


async def _run_at_once(uri: str, db: Database[dict[str, Any]]) -> list[list[str]]:
    return await asyncio.gather(*(_run(uri, db, instance) for instance in range(1, INSTANCES + 1)))


async def _run(uri: str, db: Database[dict[str, Any]], instance: int) -> list[str]:
    async with AsyncMongoClient[dict[str, Any]](uri) as client:
        return await registry.run(client[NAME], "shop", sync_db=db, on_event=partial(_progress, instance))


def _progress(instance: int, event: Event) -> None:
    match event:
        case LeaseAwaited():
            console.print(f"[dim]Instance {instance} waits for the one that migrates[/]")
        case RunStarted(plan=plan) if plan:
            console.print(f"Instance {instance} has {len(plan)} to apply, dependencies first, else alphabetically:")
        case MigrationApplied(name=name, position=position, total=total, seconds=seconds):
            needs = ", ".join(registry.migrations[name].depends_on)
            after = f"  [dim]after {needs}[/]" if needs else ""
            after += "  [dim]in a transaction[/]" if registry.migrations[name].transaction else ""
            console.print(f"  [green]✓[/] {position:2}/{total} {name:21} {seconds:5.2f} s{after}")
        case _:
            pass


def _documents(db: Database[dict[str, Any]]) -> dict[str, Any]:
    """The first document of every collection."""
    return {name: db[name].find_one(sort=[("_id", 1)]) for name in SHOWN}


def _show(before: dict[str, Any], after: dict[str, Any], db: Database[dict[str, Any]]) -> None:
    table = Table("collection", "before", "after", show_lines=True, expand=True)
    for name in SHOWN:
        table.add_row(name, _shown(before[name]), _shown(after[name]))
    console.print(table)
    indexes = [name for collection in ("customers", "orders") for name in db[collection].index_information()]
    console.print(f"Indexes: {', '.join(name for name in indexes if name != '_id_')}")
    left = db.orders.count_documents({"$nor": [{"amount": {"$type": "int"}, "placed": {"$type": "date"}}]})
    console.print(f"Orders still in the old form: {left} of {db.orders.estimated_document_count():,}")
    try:
        db.orders.insert_one({**before["orders"], "_id": data.ORDERS})
    except WriteError as error:
        reason = (error.details or {}).get("errmsg")
        console.print(f"An order in the old form is now refused by the server: {reason}")
    else:
        sys.exit("An order in the old form was taken: the validator is not there.")


def _shown(document: dict[str, Any] | None) -> str:
    if document is None:
        return "[dim]not there[/]"
    return "\n".join(f"[dim]{field}:[/] {_value(value)}" for field, value in document.items())


def _value(value: object) -> str:
    return f"Date {value:%Y-%m-%d}" if isinstance(value, datetime) else repr(value)


if __name__ == "__main__":
    try:
        main()
    except NoServerError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted.")
