"""Migrations at the start of a FastAPI application: `MONGODB_URI=... uvicorn fastapi_app:app`.

Several workers, or pods, may start at once: one migrates, the others wait for it.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from quaestor import MigrationRegistry
from quaestor.contrib.fastapi import migrate, ready

logging.basicConfig(level=logging.INFO)
registry = MigrationRegistry()


@registry.register("first_products")
async def first_products(db: AsyncDatabase[dict[str, Any]]) -> None:
    for sku in ("cup", "pot"):
        await db.products.update_one({"_id": sku}, {"$setOnInsert": {"price": 19.99}}, upsert=True)


@registry.register("prices_in_cents", depends_on=["first_products"])
async def prices_in_cents(db: AsyncDatabase[dict[str, Any]]) -> None:
    cents = {"$toInt": {"$round": [{"$multiply": ["$price", 100]}]}}
    await db.products.update_many({"price": {"$type": "double"}}, [{"$set": {"price": cents}}])


client = AsyncMongoClient[dict[str, Any]](os.environ.get("MONGODB_URI", "mongodb://127.0.0.1/shop"))
db = client.get_default_database("shop")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """Close the client in the end."""
    async with client:
        yield


app = FastAPI(lifespan=migrate(registry, client, db.name, prefix="products", lifespan=lifespan))
app.get("/ready")(ready(registry, client, db.name, prefix="products"))


@app.get("/products")
async def products() -> dict[str, int]:
    """Each product with its price in cents."""
    return {product["_id"]: product["price"] async for product in db.products.find().sort("_id")}
