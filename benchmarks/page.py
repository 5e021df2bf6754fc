"""What was measured, as Markdown: docs/benchmarks.md, and quaestor's own limits in CONTRIBUTING.md.

The sentences beside the tables are made from the figures.
"""

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

What quaestor costs, and how it compares with other tools. `nox -s benchmarks` measures everything on this page and
writes it. Seconds are those of one machine on one day: compare them within this page only. Ratios and numbers of
commands say more.
"""
OWN = """\
## What quaestor costs

*By hand* and *a bare loop* are the same commands without quaestor. `x` is a ratio of times or rates.
"""
SECTIONS = {
    "importing": "Import",
    "running": "Runs",
    "instances": "Several instances",
    "planning": "Plans",
    "batches": "Backfills",
    "side_by_side": "Concurrency and many databases",
}
"""The headings of quaestor's own figures, by what `python -m benchmarks` calls them."""
REPEAT = """\
## Repeat it

    pip install nox
    nox -s benchmarks                       # measure everything, and write this page
    nox -s benchmarks -- peers              # only compare with other tools, and print the result
    nox -s benchmarks -- importing running  # some of quaestor's own figures; a wrong name lists them all

It takes about twenty minutes. It finds a MongoDB server as the tests do: the one that `MONGODB_URI` names, `mongod` on
PATH, or the one that a wheel for Linux x86-64 contains. Each tool gets its own environment with its newest release, on
the newest Python on PATH, because some tools need a new one. `benchmarks/peers/` has a file for each tool, which shows
how it's used. [Compare](compare.md) says what the tools do.
"""
BEGIN, END = "<!-- limits: written by nox -s benchmarks -->", "<!-- end of limits -->"
"""Around the limits in CONTRIBUTING.md."""


def page(facts: Facts, groups: Mapping[str, Sequence[Row]], report: Report) -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, _measured_on(facts), own(groups), peers(report), REPEAT])


def own(groups: Mapping[str, Sequence[Row]]) -> str:
    """Return the section with quaestor's own figures, by the names of SECTIONS."""
    tables = [
        f"### {SECTIONS[name]}\n\n{_table(['what', 'measured'], [[row.what, row.measured] for row in rows])}"
        for name, rows in groups.items()
    ]
    return "\n".join([OWN, *tables])


def limits(facts: Facts, groups: Mapping[str, Sequence[Row]]) -> str:
    """Return the figures with our own limits, for CONTRIBUTING.md: those that miss their limit first."""
    rows = sorted((row for group in groups.values() for row in group), key=lambda row: row.reached)
    cells = [[row.what, row.measured, row.reach, "reached" if row.reached else "**missed**"] for row in rows]
    return f"{_measured_on(facts)}\n{_table(['what', 'measured', 'limit', ''], cells)}"


def replace_limits(text: str, new: str) -> str:
    """Replace the limits in the text of CONTRIBUTING.md."""
    before, rest = text.split(BEGIN)
    return f"{before}{BEGIN}\n\n{new}\n{END}{rest.split(END)[1]}"


def peers(report: Report) -> str:
    """Return the section with the comparison."""
    applied = _ranked(report, report.applied, {name: pair[0] for name, pair in _counted(report)})
    idle = _ranked(report, report.idle, {name: pair[1] for name, pair in _counted(report)})
    return f"""\
## Compared with other tools

Every tool does the same work: it loads a chain of migrations, one per file, and applies the pending ones. Each
migration inserts one document. Each tool is called from Python, as its documentation or its own command line does it.
Rounds are interleaved: every tool runs once in each. The tables show the median, the lowest and the highest, with the
fastest tool first. Modules that a tool loads on its first call are loaded before the clock starts, except in the
measurement of new processes.

{_compared(report)}
### {amounts.MIGRATIONS} migrations, applied to an empty database

The time of the call, in {amounts.ROUNDS} rounds. "Commands" counts everything sent to the server, including the
{amounts.MIGRATIONS} inserts of the migrations.

{applied}
### Nothing to do

The same call again, in {amounts.ROUNDS} rounds. Tools that load the {amounts.MIGRATIONS} files before they read the
records do so here too.

{idle}
From the start of a new process to the end of this call: Python, imports (including those of the measurement, the same
for all), connection, call.

{_ranked(report, report.process)}
### {amounts.PROCESSES} processes at once

All processes import, connect, and then start at the same time. There are {amounts.SLOW} migrations; each inserts a
document and waits {amounts.SLOW_SECONDS * 1e3:.0f} ms. The table shows how many migrations ran in all processes
together, how many processes ended with an error (that's how some tools refuse a second run), and the time from the
first start to the last end, in {amounts.ROUNDS_AT_ONCE} rounds.

{_crowds(report)}
### Import

A new process that only runs the import that the tool's documentation starts with, minus `python -c pass`, in
{amounts.ROUNDS_OF_IMPORTS} rounds. Modules that a tool loads later aren't included (`import quaestor` loads no driver);
they are in the new process above. A tool with several drivers is measured once.

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
        f"All on Python {', '.join(sorted(pythons))}. A tool with its own connection opens it within the "
        f"call.\n\n{table}"
    )


def _counted(report: Report) -> list[tuple[str, tuple[int, int]]]:
    return [(name, pair) for name, pair in report.commands.items() if not isinstance(pair, str)]


def _ranked(report: Report, figures: Mapping[str, list[float] | str], commands: Mapping[str, int] | None = None) -> str:
    """Return a table of times, the fastest first, and which peers are faster than quaestor."""
    seen = {name: seconds for name, seconds in figures.items() if not isinstance(seconds, str)}
    reference = statistics.median(seen[report.ours[0]]) if report.ours[0] in seen else None
    unit = 1.0 if max(map(statistics.median, seen.values()), default=0) >= 1 else 1e3
    cells = []
    for name in sorted(seen, key=lambda name: statistics.median(seen[name])):
        median, low, high = (
            _format(seconds, unit) for seconds in (statistics.median(seen[name]), min(seen[name]), max(seen[name]))
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
    """Say which peers were faster than quaestor, and by how much."""
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
        return f"No other tool was faster than {first} here."
    return f"Faster than {first} here: {', '.join(quicker)}."


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
    heads = ["tool", f"migrations run, of {amounts.SLOW}", f"errors, of {amounts.PROCESSES}", "first start to last end"]
    return f"{_table(heads, cells)}\n{sound(report.at_once)}\n"


def sound(at_once: Mapping[str, Sequence[AtOnce] | str]) -> str:
    """Say with which tools each migration ran once, and no process failed."""
    names = [
        name
        for name, rounds in at_once.items()
        if not isinstance(rounds, str) and all(once.ran == amounts.SLOW and not once.errors for once in rounds)
    ]
    return f"Each migration ran once, and no process ended with an error, with: {', '.join(names) or 'none'}."


def _imports(report: Report) -> str:
    """Return the times of imports, without that of Python itself."""
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


def _format(seconds: float, unit: float) -> str:
    """Format a time with three digits, in seconds or milliseconds."""
    value = seconds * unit
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *cells]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)
