"""Migrations in a script: `MONGODB_URI=mongodb://127.0.0.1/shop python script.py`."""

import logging
import os
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database

from quaestor import MigrationRegistry

registry = MigrationRegistry()


@registry.register("lowercase_emails")
def lowercase_emails(db: Database[dict[str, Any]]) -> None:
    db.users.update_many({"email": {"$type": "string"}}, [{"$set": {"email": {"$toLower": "$email"}}}])


@registry.register("unique_emails", depends_on=["lowercase_emails"])
def unique_emails(db: Database[dict[str, Any]]) -> None:
    db.users.create_index("email", unique=True, sparse=True)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with MongoClient[dict[str, Any]](os.environ.get("MONGODB_URI", "mongodb://127.0.0.1/shop")) as client:
        applied = registry.run_sync(client.get_default_database("shop"), "users")
    print("applied:", applied)


if __name__ == "__main__":
    main()
