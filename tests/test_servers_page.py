"""The table of docs/servers.md: every command that quaestor sends."""

import pytest

from tests import sent_commands
from tools import mongod


def test_commands() -> None:
    """The page lists what is sent. If it doesn't: `python -m tests.sent_commands --write`, and see what changed."""
    try:
        mongod.executable()
    except mongod.NoServerError as error:
        pytest.skip(str(error))
    with mongod.started("--replSet", mongod.REPLICA_SET) as nodes:
        assert sent_commands.make(mongod.initiate(nodes)).splitlines() == sent_commands.read().splitlines()


def test_no_argument_is_left_out() -> None:
    """A row has every operator and option of a command, also of those in its statements and pipelines."""
    update = {
        "update": "app_migrations_lock",
        "$db": sent_commands.NAME,
        "lsid": {"id": 1},
        "collation": {"locale": "en"},
        "updates": [{"q": {"a": {"$not": {"$lt": 1}}}, "u": [{"$set": {"b": "$$NOW"}}], "upsert": True}],
        "writeConcern": {"w": "majority"},
    }
    assert sent_commands.sign(update) == (
        "update",
        "`{prefix}_migrations_lock`",
        ("`$$NOW`", "`$lt`", "`$not`", "`$set`", "`collation`", "`upsert`", "`writeConcern: majority`", "a pipeline"),
    )
    commit = {"commitTransaction": 1, "$db": "admin", "autocommit": False, "txnNumber": 1}
    assert sent_commands.sign(commit) == ("commitTransaction", "the database `admin`", ("in the transaction",))
