"""Migrations of a Flask application: `flask --app flask_app quaestor run`, and then `flask --app flask_app run`.

Both take the database from MONGODB_URI. Several pods may run the first at once: one migrates, the others wait for it.
"""

import os
from typing import Any

from flask import Flask
from pymongo import MongoClient
from pymongo.database import Database

from quaestor import MigrationRegistry
from quaestor.contrib.flask import Quaestor

registry = MigrationRegistry()


@registry.register("first_products")
def first_products(db: Database[dict[str, Any]]) -> None:
    for sku in ("cup", "pot"):
        db.products.update_one({"_id": sku}, {"$setOnInsert": {"price": 19.99}}, upsert=True)


@registry.register("prices_in_cents", depends_on=["first_products"])
def prices_in_cents(db: Database[dict[str, Any]]) -> None:
    cents = {"$toInt": {"$round": [{"$multiply": ["$price", 100]}]}}
    db.products.update_many({"price": {"$type": "double"}}, [{"$set": {"price": cents}}])


def create_app() -> Flask:
    """Create the application, with its commands."""
    app = Flask(__name__)
    client = MongoClient[dict[str, Any]](os.environ.get("MONGODB_URI", "mongodb://127.0.0.1/shop"))
    db = client.get_default_database("shop")
    Quaestor(app, registry, db, prefix="products")

    @app.get("/products")
    def products() -> dict[str, int]:
        """Each product with its price in cents."""
        return {product["_id"]: product["price"] for product in db.products.find().sort("_id")}

    return app
