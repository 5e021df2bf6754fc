# Generated from tests/async/test_backfill_workers.py by tools/sync_tests.py
"""Backfills whose batches several workers share, and batches that are advanced in the wrong place."""

from typing import Any

import pytest

from quaestor import InvalidOptionError, MigrationContext, MigrationRegistry, SyncRunner
from tests.functions import Broken, fill, nothing, numbers
from tests.meeting import Meeting, start

Batch = list[dict[str, Any]]


def share(registry: MigrationRegistry, function: Any, **options: Any) -> None:
    """Register a migration `a` that shares the batches of `things` between workers."""

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        def body(batch: Batch) -> None:
            function(db, batch)

        context.for_each_batch(db.things, body, transaction=False, **options)


def test_workers(db: Any, registry: MigrationRegistry) -> None:
    """So many batches are in progress at the same time. Each document comes once, and no checkpoint is left."""
    fill(db.things, 20)
    meeting = Meeting(3)

    def meet(db: Any, batch: Batch) -> None:
        if batch[0]["_id"] < 6:
            meeting.wait()
        db.seen.insert_many(batch)

    share(registry, meet, size=2, workers=3)
    assert registry.run_sync(db, "app") == ["a"]
    assert sorted(numbers(list(db.seen.find()))) == list(range(20))
    assert db.app_migrations_progress.count_documents({}) == 0


def test_failure(db: Any, registry: MigrationRegistry) -> None:
    """If a body fails, those in progress end, and the next run resumes at the first gap. The error names its batch."""
    fill(db.things, 20)
    meeting, failing = Meeting(3), [2]
    seen: list[Any] = []

    def meet(db: Any, batch: Batch) -> None:
        if failing and batch[0]["_id"] < 6:
            meeting.wait()
        if batch[0]["_id"] in failing:
            raise Broken
        seen.extend(numbers(batch))

    share(registry, meet, size=2, workers=3)
    with pytest.raises(Broken) as caught:
        registry.run_sync(db, "app")
    assert caught.value.__notes__ == [
        "quaestor: at the `_id`s from 2 to 3 of the backfill 'things'",
        "quaestor: in migration 'a', 1 of 1",
    ]
    assert set(seen) >= {0, 1, 4, 5}
    (status,) = SyncRunner(registry, db, "app").status().migrations
    assert [one.done for one in status.backfills] == [2]

    failing.clear()
    seen.clear()
    assert registry.run_sync(db, "app") == ["a"]
    assert sorted(seen) == list(range(2, 20))


def test_interruption(db: Any, registry: MigrationRegistry) -> None:
    """An interruption that a body raises is raised; the next run resumes."""
    fill(db.things, 6)
    interruptions: list[BaseException] = [KeyboardInterrupt()]
    seen: list[Any] = []

    def interrupt(db: Any, batch: Batch) -> None:
        if interruptions and batch[0]["_id"] == 4:
            raise interruptions.pop()
        seen.extend(numbers(batch))

    share(registry, interrupt, size=2, workers=2)
    with pytest.raises(KeyboardInterrupt):
        registry.run_sync(db, "app")
    assert registry.run_sync(db, "app") == ["a"]
    assert sorted(set(seen)) == list(range(6))


def test_bad_workers(db: Any, registry: MigrationRegistry) -> None:
    """Workers can't share a transaction, and are a number from 1 to 100."""
    refused = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        for options in ({"workers": 2}, {"workers": 0, "transaction": False}, {"workers": True, "transaction": False}):
            with pytest.raises(InvalidOptionError, match="workers") as caught:
                context.for_each_batch(db.things, nothing, **options)
            refused.append(str(caught.value))

    registry.run_sync(db, "app")
    assert "transaction=False" in refused[0]
    assert refused[1] == "workers must be a whole number, from 1 to 100, not 0."
    assert len(refused) == 3


def test_advanced_elsewhere(db: Any, registry: MigrationRegistry) -> None:
    """Another thread or task than the one that began can't ask for the next batch; the error shows the right form."""
    fill(db.things, 6)
    seen = []

    @registry.register("a")
    def a(db: Any, context: MigrationContext) -> None:
        batches = context.batches(db.things, size=2)
        seen.append(numbers(next(batches)))
        with pytest.raises(InvalidOptionError, match=r"context\.for_each_batch\(.*, transaction=False, workers=8\)"):
            start(lambda: advance(batches)).result()
        raise Broken

    def advance(batches: Any) -> Any:
        return next(batches)

    with pytest.raises(Broken):
        registry.run_sync(db, "app")
    assert seen == [[0, 1]]
    (left,) = list(db.app_migrations_progress.find())
    assert left["done"] == 0
