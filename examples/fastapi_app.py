"""Migrations at the start of a FastAPI application: `MONGODB_URI=... uvicorn fastapi_app:app`.

Several workers, or pods, may start at once: one migrates, the others wait for it.
"""

import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from pymongo import AsyncMongoClient
from pymongo.asynchronous.database import AsyncDatabase

from quaestor import MigrationRegistry

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


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Migrate before the first request is taken."""
    async with AsyncMongoClient[dict[str, Any]](os.environ.get("MONGODB_URI", "mongodb://127.0.0.1/shop")) as client:
        app.state.db = client.get_default_database("shop")
        await registry.run(app.state.db, "products")
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/products")
async def products(request: Request) -> dict[str, int]:
    """Each product with its price in cents."""
    return {product["_id"]: product["price"] async for product in request.app.state.db.products.find().sort("_id")}
