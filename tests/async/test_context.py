"""The context, a migration's second argument."""

import logging
from typing import Any

import pytest

from quaestor import (
    AsyncMigrationContext,
    AsyncRunner,
    Event,
    InvalidOptionError,
    MigrationProgressed,
    MigrationRegistry,
)

pytestmark = pytest.mark.anyio


async def test_context(db: Any, registry: MigrationRegistry, caplog: pytest.LogCaptureFixture) -> None:
    """A function with a second argument gets a context: its name, a logger, and `progress`, which emits an event; so
    does a rollback.
    """
    events: list[Event] = []

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        await db.effects.insert_one({"migration": context.name})
        context.logger.warning("said by %s", context.name)
        context.progress(1)
        context.progress(2, 4)
        assert events[-1] == MigrationProgressed(db.name, "app", "a", 1, 1, 2, 4)

    @registry.register_rollback("a")
    async def undo_a(db: Any, context: AsyncMigrationContext) -> None:
        context.progress(3, total=4)

    runner = AsyncRunner(registry, db, "app", on_event=events.append)
    assert await runner.run() == ["a"]
    assert await runner.rollback(["a"]) == ["a"]

    assert [event for event in events if isinstance(event, MigrationProgressed)] == [
        MigrationProgressed(db.name, "app", "a", 1, 1, 1, None),
        MigrationProgressed(db.name, "app", "a", 1, 1, 2, 4),
        MigrationProgressed(db.name, "app", "a", 1, 1, 3, 4, undo=True),
    ]
    assert ("quaestor.migration", logging.WARNING, "said by a") in caplog.record_tuples


async def test_progress_in_whole_numbers(db: Any, registry: MigrationRegistry) -> None:
    """Progress that is not a whole number is refused by the call."""

    @registry.register("a")
    async def a(db: Any, context: AsyncMigrationContext) -> None:
        context.progress(0.5)  # type: ignore[arg-type]  # that is the point

    with pytest.raises(InvalidOptionError, match=r"whole numbers \(int\), not 0.5"):
        await AsyncRunner(registry, db, "app").run()
