"""The migrations of the MongoDB database."""

from typing import Any

from pymongo.database import Database

from quaestor import MigrationRegistry

registry = MigrationRegistry()


@registry.register("first_products")
def first_products(db: Database[dict[str, Any]]) -> None:
    db.products.insert_many([{"_id": sku, "price": 9.5} for sku in ("cup", "pot")])


@registry.register("prices_in_cents", depends_on=["first_products"])
def prices_in_cents(db: Database[dict[str, Any]]) -> None:
    db.products.update_many(
        {"price": {"$type": "double"}}, [{"$set": {"price": {"$toInt": {"$multiply": ["$price", 100]}}}}]
    )
