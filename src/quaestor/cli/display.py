"""How the events of a run are shown: live on a terminal, else as lines."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

from quaestor.cli.course import Course
from quaestor.cli.drawing import WholeConsole
from quaestor.cli.lines import json_lines, plain_lines
from quaestor.cli.live import live
from quaestor.cli.live_many import live_many
from quaestor.cli.sentences import Clean
from quaestor.events import Event, Hook


def displayed(clean: Clean, *, as_json: bool = False) -> AbstractContextManager[Hook]:
    """Show the events of a run or rollback on stdout, in the way that suits it; yields the hook to give them to.

    On a terminal that can move its cursor that is a live display, else a line for each event. As JSON, stdout is for
    the events alone: what migrations print goes to stderr.

    Args:
        clean: Takes secrets out of a text.
        as_json: Write a JSON object for each event.
    """
    return _displayed(partial(live, clean=clean), clean, as_json=as_json)


@contextlib.contextmanager
def displayed_many(names: list[str], course: Course, clean: Clean, *, as_json: bool = False) -> Iterator[Hook]:
    """The same for a run over many databases; each event is told to the course of it as well.

    Args:
        names: Of the databases.
        course: Of the run.
        clean: As for `displayed`.
        as_json: As for `displayed`.
    """
    many = partial(live_many, course=course, names=names, clean=clean)
    with _displayed(many, clean, as_json=as_json) as hook:

        def tell(event: Event) -> None:
            course.tell(event)
            hook(event)

        yield tell


@contextlib.contextmanager
def _displayed(
    alive: Callable[[WholeConsole], AbstractContextManager[Hook]], clean: Clean, *, as_json: bool
) -> Iterator[Hook]:
    stdout = sys.stdout
    if as_json:
        with contextlib.redirect_stdout(sys.stderr):
            yield json_lines(stdout, clean)
        return
    console = WholeConsole()
    # isatty, for with FORCE_COLOR, which many a CI sets, Rich takes any file for a terminal
    if stdout.isatty() and console.is_interactive and console.encoding.startswith("utf"):
        with alive(console) as hook:
            yield hook
    else:
        yield plain_lines(stdout, clean)
