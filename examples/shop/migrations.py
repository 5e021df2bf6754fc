"""What the shop's team wrote over three years. The first two are from before they went async."""

from typing import Any

from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database

from quaestor import AsyncMigrationContext, MigrationRegistry

registry = MigrationRegistry()
Document = dict[str, Any]
STEP = 10_000


@registry.register("rename_mail_to_email")
def rename_mail_to_email(db: Database[Document]) -> None:
    """A renamed field."""
    db.customers.update_many({"mail": {"$exists": True}}, {"$rename": {"mail": "email"}})


@registry.register("lowercase_emails", depends_on=["rename_mail_to_email"])
def lowercase_emails(db: Database[Document]) -> None:
    """Cleaned data, so that an index can be unique."""
    db.customers.update_many({"email": {"$type": "string"}}, [{"$set": {"email": {"$toLower": "$email"}}}])


@registry.register("unique_emails", depends_on=["lowercase_emails"])
async def unique_emails(db: AsyncDatabase[Document]) -> None:
    """A unique index."""
    await db.customers.create_index("email", unique=True, sparse=True)


@registry.register_rollback("unique_emails")
async def drop_unique_emails(db: AsyncDatabase[Document]) -> None:
    """An index is undone by dropping it."""
    await db.customers.drop_index("email_1")


@registry.register("split_customer_names")
async def split_customer_names(db: AsyncDatabase[Document]) -> None:
    """One field becomes two."""
    words = {"$split": ["$name", " "]}
    await db.customers.update_many(
        {"name": {"$type": "string"}},
        [{"$set": {"first_name": {"$first": words}, "last_name": {"$last": words}}}, {"$unset": "name"}],
    )


@registry.register("product_cents", transaction=True)
async def product_cents(db: AsyncDatabase[Document]) -> None:
    """Another type: whole cents instead of a binary fraction; together with its record, or not at all."""
    await db.products.update_many({"price": {"$type": "double"}}, [{"$set": {"price": _cents("$price")}}])


@registry.register("backfill_order_state")
async def backfill_order_state(db: AsyncDatabase[Document]) -> None:
    """A backfill: the top of the diamond."""
    await db.orders.update_many({"state": {"$exists": False}}, {"$set": {"state": "shipped"}})


@registry.register("order_cents", depends_on=["backfill_order_state"])
async def order_cents(db: AsyncDatabase[Document], context: AsyncMigrationContext) -> None:
    """One side of the diamond; in batches: it shows its progress, and resumes there after a crash."""
    old = {"amount": {"$type": "double"}}
    async for orders in context.batches(db.orders, old, size=STEP, projection=["_id"]):
        some = {"_id": {"$in": [order["_id"] for order in orders]}} | old
        await db.orders.update_many(some, [{"$set": {"amount": _cents("$amount")}}])


@registry.register("order_dates", depends_on=["backfill_order_state"])
async def order_dates(db: AsyncDatabase[Document]) -> None:
    """The other side: text becomes a date."""
    await db.orders.update_many({"placed": {"$type": "string"}}, [{"$set": {"placed": {"$toDate": "$placed"}}}])


@registry.register("daily_revenue", depends_on=["order_cents", "order_dates"])
async def daily_revenue(db: AsyncDatabase[Document]) -> None:
    """The bottom of the diamond: a new collection made of both."""
    day = {"$dateTrunc": {"date": "$placed", "unit": "day"}}
    pipeline: list[Document] = [
        {"$match": {"state": {"$ne": "returned"}}},
        {"$group": {"_id": day, "cents": {"$sum": "$amount"}, "orders": {"$sum": 1}}},
        {"$out": "revenue"},
    ]
    async for _ in await db.orders.aggregate(pipeline):
        pass


@registry.register_rollback("daily_revenue")
async def drop_daily_revenue(db: AsyncDatabase[Document]) -> None:
    """What was made of other collections can be made again."""
    await db.revenue.drop()


@registry.register("orders_by_customer", depends_on=["order_dates"])
async def orders_by_customer(db: AsyncDatabase[Document]) -> None:
    """A compound index."""
    await db.orders.create_index([("customer", 1), ("placed", -1)])


@registry.register_rollback("orders_by_customer")
async def drop_orders_by_customer(db: AsyncDatabase[Document]) -> None:
    """As above."""
    await db.orders.drop_index("customer_1_placed_-1")


@registry.register("validate_orders", depends_on=["order_cents", "order_dates"])
async def validate_orders(db: AsyncDatabase[Document]) -> None:
    """A validator: what was fixed stays fixed."""
    schema = {
        "required": ["customer", "product", "amount", "placed", "state"],
        "properties": {"amount": {"bsonType": "int"}, "placed": {"bsonType": "date"}, "state": {"bsonType": "string"}},
    }
    await db.command("collMod", "orders", validator={"$jsonSchema": schema})


def _cents(price: str) -> Document:
    return {"$toInt": {"$round": [{"$multiply": [price, 100]}]}}
