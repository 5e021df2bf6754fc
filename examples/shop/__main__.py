"""The demo (`nox -s demo`): migrates a shop of 100,000 orders on a real server by the command line, and shows it."""

import os
import subprocess
import sys
import time
from datetime import datetime
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import WriteError
from rich.console import Console
from rich.table import Table

from examples.shop import data
from tools.mongod import NoServerError, server

NAME = "quaestor_demo"
INSTANCES = 3
SHOWN = ("customers", "products", "orders", "revenue")

console = Console(width=min(Console().width, 120), highlight=False)


def main() -> None:
    """Load, look, migrate in several instances at once, look again, undo a part and do it again."""
    console.print("[bold]Looking for MongoDB[/], or starting it ...")
    with server() as uri, MongoClient[dict[str, Any]](uri) as client:
        client.drop_database(NAME)  # on a server of the user's own an earlier demo may have left it
        os.environ |= {
            "QUAESTOR_REGISTRY": "examples.shop.migrations:registry",
            "QUAESTOR_URI": uri,
            "QUAESTOR_DB": NAME,
            "QUAESTOR_PREFIX": "shop",
        }
        db = client[NAME]
        console.print(
            f"[bold]Loading[/] {data.ORDERS:,} orders, {data.CUSTOMERS:,} customers, {data.PRODUCTS:,} products ..."
        )
        data.load(db)
        before = _documents(db)

        _quaestor("graph")
        started = time.perf_counter()
        _run_at_once(db)
        console.print(f"[dim]All of that in {time.perf_counter() - started:.1f} s[/]\n")

        _show(before, _documents(db), db)
        _quaestor("plan")
        _quaestor("rollback", "order_dates", code=1)
        _quaestor("rollback", "daily_revenue", "orders_by_customer", "--yes")
        _quaestor("status")
        _quaestor("run")
        _quaestor("check")
        client.drop_database(NAME)


def _start(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "quaestor", *arguments]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, text=True, **options)  # noqa: S603 - it is our own


def _quaestor(*arguments: str, code: int = 0) -> None:
    """Run a command in sight; its exit code must be as told."""
    console.print(f"\n[bold]$ quaestor {' '.join(arguments)}[/]")
    _check(_start(*arguments), code)


def _run_at_once(db: Database[dict[str, Any]]) -> None:
    """One instance in sight, and more that start while it works."""
    console.print(f"\n[bold]$ quaestor run[/]    [dim]and {INSTANCES - 1} more instances start while it works[/]")
    first = _start("run")
    while first.poll() is None and db.shop_migrations_lock.find_one() is None:
        time.sleep(0.01)
    others = [_start("run", stdout=subprocess.PIPE) for _ in range(1, INSTANCES)]
    _check(first)
    for number, instance in enumerate(others, start=2):
        for line in instance.communicate()[0].splitlines():
            console.print(f"[dim]Instance {number}:[/] {line}", soft_wrap=True)
        _check(instance)


def _check(process: subprocess.Popen[str], code: int = 0) -> None:
    if process.wait() != code:
        sys.exit(f"{process.args!r} has ended with {process.returncode}, not {code}.")


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
