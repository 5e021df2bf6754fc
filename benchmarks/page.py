"""What was measured, as Markdown: docs/benchmarks.md. What it says beside the tables is made from the figures."""

import os
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.peers import report as amounts
from benchmarks.peers.report import NOTHING, AtOnce, Report
from benchmarks.table import Row


@dataclass(frozen=True)
class Facts:
    """What the figures were measured on.

    Attributes:
        date: The day, as ISO 8601 has it.
        python: The version of the Python that measured.
        mongodb: The version of the server.
        drivers: The versions of the drivers, by their names.
    """

    date: str
    python: str
    mongodb: str
    drivers: Mapping[str, str]


INTRODUCTION = """\
# Benchmarks

Written by `nox -s benchmarks`, which measures all of it anew. Seconds are those of one machine on one day, and can be
compared within one run only; ratios and numbers of commands say more.
"""
OWN = """\
## What quaestor costs

Each figure has a limit that it is to reach. *By hand* and *a bare loop* are the same commands without quaestor.
"""
REPEAT = """\
## How to repeat it

    pip install nox
    nox -s benchmarks                       # all of this page, and writes it
    nox -s benchmarks -- peers              # the comparison alone, and prints it
    nox -s benchmarks -- importing running  # some of quaestor's own figures; a wrong name lists them all

It finds a MongoDB server as the tests do: the one that `MONGODB_URI` names, `mongod` on PATH, or the one that comes
with a wheel for Linux x86-64. Each tool gets an environment of its own with what is published on that day, on the
newest Python that is on PATH, for some want a new one. How a tool is used is in `benchmarks/peers/`, a file for each.
"""


def page(facts: Facts, rows: Sequence[Row], report: Report) -> str:
    """The whole page."""
    return "\n".join([INTRODUCTION, _measured_on(facts), own(rows), peers(report), REPEAT])


def own(rows: Sequence[Row]) -> str:
    """The section with quaestor's own figures."""
    cells = [[row.what, row.measured, row.reach, "reached" if row.reached else "**missed**"] for row in rows]
    return f"{OWN}\n{_table(['what', 'measured', 'to reach', ''], cells)}"


def peers(report: Report) -> str:
    """The section with the comparison."""
    applied = _ranked(report, report.applied, {name: pair[0] for name, pair in _counted(report)})
    idle = _ranked(report, report.idle, {name: pair[1] for name, pair in _counted(report)})
    return f"""\
## Beside the peers

Every tool does the same work: it loads a chain of migrations from files, one in each, and applies what is missing; each
inserts one document. It is called in Python, as its documentation does it, or as its command line does. Rounds are
interleaved, every tool once in each; what is told is the median, the lowest and the highest, and the quickest first.
What a tool loads late, when it is called first, is loaded before the clock starts, but in the new processes.

{_compared(report)}
### {amounts.MIGRATIONS} migrations, applied to an empty database

The seconds of the call, in {amounts.ROUNDS} rounds. The commands are all that were sent to the server, the
{amounts.MIGRATIONS} inserts of the migrations with them.

{applied}
### Nothing to do

The same call again, in {amounts.ROUNDS} rounds. Tools that load the {amounts.MIGRATIONS} files before they look do so
here, too.

{idle}
From the start of a new process to the end of this call: Python, imports (those of the measurement with them, the same
for all), connection, call.

{_ranked(report, report.process)}
### {amounts.PROCESSES} processes at once

They have imported and connected, and are told to begin: {amounts.SLOW} migrations, each of which inserts a document and
waits {amounts.SLOW_SECONDS * 1e3:.0f} ms. How many times migrations ran in all processes together; how many processes
ended with an error, which may be how a tool refuses a second run; the time from the first start to the last end, in
{amounts.ROUNDS_AT_ONCE} rounds.

{_crowds(report)}
### Import

A new process that runs the import its documentation begins with, and nothing else, in {amounts.ROUNDS_OF_IMPORTS}
rounds, less `python -c pass`. What a tool loads late is not in it (`import quaestor` loads no driver), but in the new
process above. Where a tool has several drivers, it is measured once.

{_imports(report)}"""


def _measured_on(facts: Facts) -> str:
    drivers = ", ".join(f"{name} {version}" for name, version in facts.drivers.items())
    return f"Measured on {facts.date}: Python {facts.python}, MongoDB {facts.mongodb}, {drivers}, {_cores()} cores.\n"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _compared(report: Report) -> str:
    pythons = {found["Python"] for found in report.versions.values() if not isinstance(found, str)}
    cells = []
    for name, found in report.versions.items():
        connects = "its own" if name in report.connects else "the application's"
        if isinstance(found, str):
            cells.append([name, found, "", report.called[name], connects])
            continue
        own_version, *drivers = (pair for pair in found.items() if pair[0] != "Python")
        told = ", ".join(f"{driver} {version}" for driver, version in drivers)
        cells.append([name, own_version[1], told, report.called[name], connects])
    table = _table(["tool", "version", "drivers", "called", "connection"], cells)
    return (
        f"All on Python {', '.join(sorted(pythons))}. A tool that opens connections of its own does so within the "
        f"call.\n\n{table}"
    )


def _counted(report: Report) -> list[tuple[str, tuple[int, int]]]:
    return [(name, pair) for name, pair in report.commands.items() if not isinstance(pair, str)]


def _ranked(report: Report, figures: Mapping[str, list[float] | str], commands: Mapping[str, int] | None = None) -> str:
    """A table of seconds, the quickest first, and who is ahead of quaestor in it."""
    seen = {name: seconds for name, seconds in figures.items() if not isinstance(seconds, str)}
    reference = statistics.median(seen[report.ours[0]]) if report.ours[0] in seen else None
    unit = 1.0 if max(map(statistics.median, seen.values()), default=0) >= 1 else 1e3
    cells = []
    for name in sorted(seen, key=lambda name: statistics.median(seen[name])):
        median, low, high = (
            _told(seconds, unit) for seconds in (statistics.median(seen[name]), min(seen[name]), max(seen[name]))
        )
        ratio = f"{statistics.median(seen[name]) / reference:.2f} x" if reference else ""
        number = [] if commands is None else [str(commands.get(name, ""))]
        cells.append([name, f"{median} {'s' if unit == 1 else 'ms'}", f"{low} to {high}", ratio, *number])
    for name, why in figures.items():
        if isinstance(why, str):
            cells.append([name, f"failed: {why}", "", "", *([] if commands is None else [""])])
    heads = [
        "tool",
        "median",
        "lowest to highest",
        f"against {report.ours[0]}",
        *([] if commands is None else ["commands"]),
    ]
    return f"{_table(heads, cells)}\n{ahead(report.ours, seen)}\n"


def ahead(ours: Sequence[str], seen: Mapping[str, Sequence[float]]) -> str:
    """A sentence: which peers were quicker than quaestor, and by how much."""
    first = ours[0]
    if first not in seen:
        return f"{first} has no figures here."
    reference = statistics.median(seen[first])
    quicker = []
    for name in sorted(seen, key=lambda name: statistics.median(seen[name])):
        if name not in ours and (median := statistics.median(seen[name])) < reference:
            overlap = ", the ranges overlap" if max(seen[name]) >= min(seen[first]) else ""
            quicker.append(f"**{name}** ({median / reference:.2f} x{overlap})")
    if not quicker:
        return f"No peer was ahead of {first} here."
    return f"Ahead of {first} here: {', '.join(quicker)}."


def _crowds(report: Report) -> str:
    cells = []
    for name, rounds in report.at_once.items():
        if isinstance(rounds, str):
            cells.append([name, f"failed: {rounds}", "", ""])
            continue
        errors = sorted(Counter(error for once in rounds for error in once.errors))
        ended = _range([len(once.errors) for once in rounds]) + (f" ({', '.join(errors)})" if errors else "")
        seconds = [once.seconds for once in rounds]
        told = f"{statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
        cells.append([name, _range([once.ran for once in rounds]), ended, told])
    heads = ["tool", f"migrations ran, of {amounts.SLOW}", f"errors, of {amounts.PROCESSES}", "first start to end"]
    return f"{_table(heads, cells)}\n{sound(report.at_once)}\n"


def sound(at_once: Mapping[str, Sequence[AtOnce] | str]) -> str:
    """A sentence: with which tools each migration ran once, and no process failed."""
    names = [
        name
        for name, rounds in at_once.items()
        if not isinstance(rounds, str) and all(once.ran == amounts.SLOW and not once.errors for once in rounds)
    ]
    return f"Each migration ran once, and no process ended with an error, with: {', '.join(names) or 'none'}."


def _imports(report: Report) -> str:
    """The seconds of imports, without those of Python itself."""
    alone = report.imported.get(NOTHING, [])
    if isinstance(alone, str) or not alone:
        return f"Not measured: {alone or 'no tool could be installed'}.\n"
    start = statistics.median(alone)
    less = {
        name: seconds if isinstance(seconds, str) else [each - start for each in seconds]
        for name, seconds in report.imported.items()
        if name != NOTHING
    }
    return f"{_ranked(report, less)}\nPython alone took {start * 1e3:.0f} ms.\n"


def _range(numbers: Sequence[int]) -> str:
    return str(min(numbers)) if min(numbers) == max(numbers) else f"{min(numbers)} to {max(numbers)}"


def _told(seconds: float, unit: float) -> str:
    """Three digits, of seconds or of milliseconds."""
    value = seconds * unit
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *cells]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
