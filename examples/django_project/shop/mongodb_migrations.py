"""The migrations of the MongoDB database."""

from typing import Any

from pymongo.database import Database

from quaestor import MigrationRegistry

registry = MigrationRegistry()


@registry.register("first_products")
def first_products(db: Database[dict[str, Any]]) -> None:
    for sku in ("cup", "pot"):
        db.products.update_one({"_id": sku}, {"$setOnInsert": {"price": 19.99}}, upsert=True)


@registry.register("prices_in_cents", depends_on=["first_products"])
def prices_in_cents(db: Database[dict[str, Any]]) -> None:
    cents = {"$toInt": {"$round": [{"$multiply": ["$price", 100]}]}}
    db.products.update_many({"price": {"$type": "double"}}, [{"$set": {"price": cents}}])
