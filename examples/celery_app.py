"""Migrations before a Celery worker takes tasks: `MONGODB_URI=... celery -A celery_app worker`.

Several workers may start at once: one migrates, the others wait for it. If a migration fails, no worker takes a task.
The broker is a folder (`BROKER_FOLDER`), so the example needs no other server. Yours is Redis or RabbitMQ.
"""

import os
from pathlib import Path
from typing import Any

from celery import Celery
from pymongo import MongoClient
from pymongo.database import Database

from quaestor import MigrationRegistry
from quaestor.contrib.celery import run_before_tasks

URI = os.environ.get("MONGODB_URI", "mongodb://127.0.0.1/shop")
FOLDER = os.environ.get("BROKER_FOLDER", "broker")
Path(FOLDER).mkdir(exist_ok=True)

app = Celery(broker="filesystem://", backend=URI)
app.conf.broker_transport_options = {"data_folder_in": FOLDER, "data_folder_out": FOLDER, "control_folder": FOLDER}
registry = MigrationRegistry()


@registry.register("first_products")
def first_products(db: Database[dict[str, Any]]) -> None:
    for sku in ("cup", "pot"):
        db.products.update_one({"_id": sku}, {"$setOnInsert": {"price": 19.99}}, upsert=True)


@registry.register("prices_in_cents", depends_on=["first_products"])
def prices_in_cents(db: Database[dict[str, Any]]) -> None:
    cents = {"$toInt": {"$round": [{"$multiply": ["$price", 100]}]}}
    db.products.update_many({"price": {"$type": "double"}}, [{"$set": {"price": cents}}])


@run_before_tasks(app)
def migrate() -> None:
    with MongoClient[dict[str, Any]](URI) as client:  # closed before the worker forks its pool
        registry.run_sync(client.get_default_database("shop"), "products")


@app.task
def read_prices() -> dict[str, int]:
    """Return each product with its price in cents."""
    with MongoClient[dict[str, Any]](URI) as client:
        return {product["_id"]: product["price"] for product in client.get_default_database("shop").products.find()}
