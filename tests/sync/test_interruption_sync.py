"""A sync run that is interrupted by Ctrl-C, or by an exception that ends a generator."""

from typing import Any

import pytest

from quaestor import MigrationRegistry
from tests.databases import drivers
from tests.functions import is_free, recorded
from tests.processes import interrupted


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.driver("pymongo")
def test_ctrl_c(uri: str, name: str, kind: str) -> None:
    """SIGINT while a function runs: KeyboardInterrupt, the function has ended, what came before stays recorded."""
    ended = interrupted("sync", kind, uri, name)

    assert "KeyboardInterrupt" in ended.errors
    assert "quaestor: in migration 'b', 2 of 2" in ended.errors
    assert ended.lines == ["started", "function ended", "failed"]
    assert ended.records == ["a"]
    assert ended.released


@pytest.mark.parametrize("transaction", [False, True])
@pytest.mark.parametrize("driver", drivers("pymongo"))
def test_generator_exit(db: Any, *, transaction: bool) -> None:
    """A function that raises GeneratorExit, as broken generators do, fails like any other and releases the lease."""
    registry = MigrationRegistry()

    @registry.register("a", transaction=transaction)
    def leaves(db: Any) -> None:
        db.users.insert_one({})
        raise GeneratorExit

    with pytest.raises(RuntimeError, match="raised GeneratorExit"):
        registry.run_sync(db, "app")
    assert recorded(db) == []
    assert is_free(db)
