"""How the events of a run are shown: live on a terminal, else as lines."""

import contextlib
import sys
from collections.abc import Iterator

from quaestor.cli.lines import json_lines, plain_lines
from quaestor.cli.live import WholeConsole, live
from quaestor.cli.sentences import Clean
from quaestor.core.events import Hook


@contextlib.contextmanager
def displayed(clean: Clean, *, as_json: bool = False) -> Iterator[Hook]:
    """Show the events of a run or rollback on stdout, in the way that suits it; yields the hook to give them to.

    On a terminal that can move its cursor that is a live display, else a line for each event. As JSON, stdout is for
    the events alone: what migrations print goes to stderr.

    Args:
        clean: Takes secrets out of a text.
        as_json: Write a JSON object for each event.
    """
    stdout = sys.stdout
    if as_json:
        with contextlib.redirect_stdout(sys.stderr):
            yield json_lines(stdout, clean)
        return
    console = WholeConsole()
    # isatty, for with FORCE_COLOR, which many a CI sets, Rich takes any file for a terminal
    if stdout.isatty() and console.is_interactive and console.encoding.startswith("utf"):
        with live(console, clean) as hook:
            yield hook
    else:
        yield plain_lines(stdout, clean)
