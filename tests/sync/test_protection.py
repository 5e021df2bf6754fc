# Generated from tests/async/test_protection.py by tools/sync_tests.py
"""The label of a protected database, which the command line asks about and the API doesn't."""

from typing import Any

import pytest

from quaestor import InvalidOptionError, SyncRunner
from tests.databases import drivers
from tests.operations import CHAIN, registry
from tools.commands import Commands


def test_label(db: Any) -> None:
    """It is stored beside the lease, which works as before, and read by itself or with the status."""
    runner = SyncRunner(registry(CHAIN, "sync", []), db, "app")
    assert runner.read_protection() is None
    runner.protect(None)
    assert db.list_collection_names() == []

    for label in ("staging", "production", "production"):
        runner.protect(label)
        assert runner.read_protection() == runner.status().protected_as == label
    assert SyncRunner(registry(CHAIN, "sync", []), db, "other").read_protection() is None
    runner.run()
    assert runner.status().lease is None

    runner.protect(None)
    runner.protect(None)
    assert runner.read_protection() is None
    assert runner.status().protected_as is None


def test_api_is_not_affected(db: Any) -> None:
    """The methods of runners aren't restricted."""
    runner = SyncRunner(registry(CHAIN, "sync", []), db, "app")
    runner.protect("production")
    runner.run()
    assert runner.mark_pending(["d"]) == ["d"]
    assert runner.rollback(["a"]) == ["c", "b", "a"]
    assert runner.unlock() is None
    assert runner.read_protection() == "production"


@pytest.mark.parametrize("label", ["", " ", "\0", 7, b"production"])
def test_invalid_label(db: Any, label: Any) -> None:
    """What can't be shown is refused, and nothing is written."""
    with pytest.raises(InvalidOptionError, match="label"):
        SyncRunner(registry(CHAIN, "sync", []), db, "app").protect(label)
    assert db.list_collection_names() == []


@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_commands(db: Any, commands: Commands) -> None:
    """A read, and a write with majority concern if there is something to change. The status needs no read for it."""
    runner = SyncRunner(registry(CHAIN, "sync", []), db, "app")
    runner.protect("production")
    assert commands.names == ["find", "update"]
    assert commands.sent[1]["writeConcern"]["w"] == "majority"
    runner.protect("production")
    runner.read_protection()
    assert commands.names == ["find", "update", "find", "find"]
    commands.sent.clear()
    runner.status()
    assert len(commands.names) == 4
