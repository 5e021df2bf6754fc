"""The database, opened once a process."""

from functools import cache
from typing import Any

from django.conf import settings
from pymongo import MongoClient
from pymongo.database import Database


@cache
def database() -> Database[dict[str, Any]]:
    """The MongoDB database that the settings name."""
    return MongoClient[dict[str, Any]](settings.MONGODB_URI).get_default_database("shop")
