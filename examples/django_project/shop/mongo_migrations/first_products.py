"""First products."""

from typing import Any

from pymongo.database import Database

from quaestor.contrib.django import registry


@registry.register("first_products")
def first_products(db: Database[dict[str, Any]]) -> None:
    """Add a cup and a pot."""
    for sku in ("cup", "pot"):
        db.products.update_one({"_id": sku}, {"$setOnInsert": {"price": 19.99}}, upsert=True)
