"""All tools that are measured, quaestor first."""

from benchmarks.peers import (
    with_beanie,
    with_mongo_quaestor,
    with_mongodb_migrations,
    with_mongomig,
    with_mongrator,
    with_pymongo_migrate,
    with_quaestor,
)

OURS = [tool.name for tool in with_quaestor.TOOLS]
TOOLS = [
    *with_quaestor.TOOLS,
    *with_mongo_quaestor.TOOLS,
    *with_mongomig.TOOLS,
    *with_mongrator.TOOLS,
    *with_pymongo_migrate.TOOLS,
    *with_mongodb_migrations.TOOLS,
    *with_beanie.TOOLS,
]
