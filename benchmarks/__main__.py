"""The benchmarks (`nox -s benchmarks`): ratios measured in one run, and quaestor beside its peers.

All of them, which writes docs/benchmarks.md and the limits in CONTRIBUTING.md, or those that are named:
`python -m benchmarks importing peers`. A figure that misses its limit is marked.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from benchmarks import batches, importing, instances, page, planning, running, side_by_side
from benchmarks.peers import measuring
from benchmarks.table import Row
from tools.mongod import NoServerError, server

MEASURED: dict[str, Callable[[str], Iterator[Row]]] = {
    "importing": lambda _: importing.rows(),
    "running": running.rows,
    "instances": instances.rows,
    "planning": lambda _: planning.rows(),
    "batches": batches.rows,
    "side_by_side": side_by_side.rows,
}
PEERS = "peers"
ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"


def main(names: Sequence[str]) -> None:
    """Measure these, and print them; or all, and write the page, too."""
    known = [*MEASURED, PEERS]
    if unknown := set(names) - set(known):
        sys.exit(f"There is no {', '.join(sorted(unknown))} to measure, but {', '.join(known)}.")
    console = Console()
    with server() as uri:
        groups = own([name for name in names or MEASURED if name in MEASURED], uri, console)
        if names and PEERS not in names:
            return
        report = measuring.measure(uri, console)
        console.print(Markdown(page.peers(report)))
        if not names:
            measured_on = facts(uri)
            PAGE.write_text(page.page(measured_on, groups, report), encoding="utf-8")
            limits = page.limits(measured_on, groups)
            CONTRIBUTING.write_text(page.replace_limits(CONTRIBUTING.read_text("utf-8"), limits), encoding="utf-8")
            console.print(f"[bold]{PAGE.name}[/] and the limits in [bold]{CONTRIBUTING.name}[/] are written.")


def own(names: Sequence[str], uri: str, console: Console) -> dict[str, list[Row]]:
    """Measure these parts of quaestor's own figures, and print them, row by row as they come in."""
    groups: dict[str, list[Row]] = {}
    for name in names:
        for row in MEASURED[name](uri):
            console.print(f"{row.what}: {row.measured}", style="dim", highlight=False)
            groups.setdefault(name, []).append(row)
    if groups:
        table = Table("what", "measured", "limit", "", title=f"quaestor on Python {sys.version.split()[0]}")
        for row in (row for rows in groups.values() for row in rows):
            mark = "[green]reached[/]" if row.reached else "[red]missed[/]"
            table.add_row(row.what, row.measured, row.reach, mark)
        console.print(table)
    return groups


def facts(uri: str) -> page.Facts:
    """What it was measured on."""
    with MongoClient[dict[str, Any]](uri) as client:
        mongodb = client.server_info()["version"]
    drivers = {"PyMongo": version("pymongo"), "Motor": version("motor")}
    return page.Facts(datetime.now(UTC).date().isoformat(), sys.version.split()[0], mongodb, drivers)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except NoServerError as error:
        sys.exit(str(error))
