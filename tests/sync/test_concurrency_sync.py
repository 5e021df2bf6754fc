"""Concurrent `def` migrations that run in threads."""

import threading
from collections.abc import Callable
from typing import Any

from quaestor import BackfillStarted, MigrationContext, MigrationProgressed, MigrationRegistry
from tests.functions import fill
from tests.meeting import Meeting, Told


def test_one_event_at_a_time(db: Any, registry: MigrationRegistry) -> None:
    """Threads that have an event at the same time take turns to call the hook."""
    meeting, about_to_tell = Meeting(2), Meeting(3)

    def hook() -> None:
        if told.names(BackfillStarted) in (["a"], ["b"]):  # the other one is about to tell the same
            about_to_tell.wait()

    told = Told({BackfillStarted: hook})
    others = []

    def function(name: str) -> Callable[[Any, MigrationContext], None]:
        def body(db: Any, context: MigrationContext) -> None:
            meeting.wait()
            others.append(threading.Thread(target=about_to_tell.wait))
            others[-1].start()
            for _ in context.batches(db[name], size=1):
                meeting.wait()

        return body

    for name in "ab":
        fill(db[name], 5)
        registry.register(name)(function(name))

    registry.run_sync(db, "app", on_event=told, concurrency=2)

    for thread in others:
        thread.join()
    assert sorted(told.names(BackfillStarted)) == ["a", "b"]
    assert len(told.names(MigrationProgressed)) > 2
    assert told.calls.most == 1
