"""Prices in cents."""

from typing import Any

from pymongo.database import Database

from quaestor.contrib.django import registry


@registry.register("prices_in_cents", depends_on=["first_products"])
def prices_in_cents(db: Database[dict[str, Any]]) -> None:
    """Turn prices into whole cents."""
    cents = {"$toInt": {"$round": [{"$multiply": ["$price", 100]}]}}
    db.products.update_many({"price": {"$type": "double"}}, [{"$set": {"price": cents}}])


@registry.register_rollback("prices_in_cents")
def undo_prices_in_cents(db: Database[dict[str, Any]]) -> None:
    """Turn cents back into prices."""
    price = {"$divide": ["$price", 100]}
    db.products.update_many({"price": {"$type": "int"}}, [{"$set": {"price": price}}])
