"""Generates the shop as it was before its migrations: 20,000 customers, 500 products, 100,000 orders."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from pymongo.database import Database

CUSTOMERS, PRODUCTS, ORDERS = 20_000, 500, 100_000
BATCH = 5_000

FIRST = [
    "Ada",
    "Alan",
    "Barbara",
    "Edsger",
    "Frances",
    "Grace",
    "Hedy",
    "John",
    "Katherine",
    "Niklaus",
    "Radia",
    "Tony",
]
LAST = ["Allen", "Dijkstra", "Hoare", "Hopper", "Johnson", "Kay", "Lamarr", "Liskov", "Lovelace", "Perlman", "Turing"]
THINGS = ["cup", "pot", "plate", "bowl", "spoon", "lamp", "chair", "table", "shelf", "clock"]
COLOURS = ["white", "black", "red", "green", "blue"]
OPENED = datetime(2023, 1, 1, tzinfo=UTC)


def load(db: Database[dict[str, Any]]) -> None:
    """Fill the three collections, the same way every time."""
    source = random.Random(2023)  # noqa: S311 - a shop for show needs no secrets
    for collection, documents in (
        (db.customers, _customers(source)),
        (db.products, _products(source)),
        (db.orders, _orders(source)),
    ):
        batch = []
        for document in documents:
            batch.append(document)
            if len(batch) == BATCH:
                collection.insert_many(batch)
                batch = []
        if batch:
            collection.insert_many(batch)


def _customers(source: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(CUSTOMERS):
        first, last = source.choice(FIRST), source.choice(LAST)
        yield {"_id": number, "name": f"{first} {last}", "mail": f"{first}.{last}{number}@Shop.eu"}


def _products(source: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(PRODUCTS):
        title = f"{source.choice(COLOURS)} {source.choice(THINGS)}"
        yield {"_id": number, "title": title, "price": source.randrange(100, 20_000) / 100}


def _orders(source: random.Random) -> Iterator[dict[str, Any]]:
    for number in range(ORDERS):
        placed = OPENED + timedelta(minutes=12 * number)
        order = {
            "_id": number,
            "customer": source.randrange(CUSTOMERS),
            "product": source.randrange(PRODUCTS),
            "amount": source.randrange(100, 50_000) / 100,
            "placed": f"{placed:%Y-%m-%dT%H:%M:%S}",
        }
        if number > ORDERS * 2 // 3:  # younger orders know their state
            order["state"] = source.choice(["paid", "shipped", "returned"])
        yield order
