"""After Ctrl-C: which migrations are waited for, where several are under way at once."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Final

from quaestor.cli.course import Course
from quaestor.cli.failures import exit_when_terminated
from quaestor.cli.marks import shown
from quaestor.cli.sentences import Clean, listed
from quaestor.events import (
    Event,
    Hook,
    MigrationApplied,
    MigrationFailed,
    MigrationRolledBack,
    MigrationStarted,
)

_A_MOMENT: Final = 0.5
"""In which most of what can be cancelled has ended, in seconds."""


@contextmanager
def explained(hook: Hook, clean: Clean, course: Course | None = None) -> Iterator[Hook]:
    """Let signals end the command; and say on stderr, a moment after one came, what it waits for. Yields the hook to
    give events to.

    Args:
        hook: What the events are for.
        clean: Takes secrets out of a text.
        course: Of the run, where it is over many databases.
    """
    under_way: dict[tuple[str, str], None] = {}
    told: SimpleQueue[str] = SimpleQueue()  # the one thing that the handler of a signal may touch at any time

    def tell(event: Event) -> None:
        match event:
            case MigrationStarted():
                under_way[event.database, event.name] = None
            case MigrationApplied() | MigrationRolledBack() | MigrationFailed():
                under_way.pop((event.database, event.name), None)
        hook(event)

    def interrupted() -> None:
        told.put("interrupted")

    def explain() -> None:
        if told.get() == "ended":
            return
        with suppress(Empty):
            if told.get(timeout=_A_MOMENT) == "ended":
                return
        names = [name if course is None else f"{name} in {database}" for database, name in list(under_way)]
        if names:
            said = shown(clean(f"Interrupted: waiting for the migrations under way to end{listed(names)}."))
            sys.stderr.write(f"quaestor: {said}\n")  # by way of a live display that is there
            sys.stderr.flush()

    thread = threading.Thread(target=explain, daemon=True)
    thread.start()
    try:
        exit_when_terminated(interrupted)
        yield tell
    finally:
        told.put("ended")
        thread.join()
