"""The benchmarks (`nox -s benchmarks`): ratios measured in one run, in a table. What falls short is marked.

All of them, or those that are named: `python -m benchmarks importing batches`.
"""

import sys
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table

from benchmarks import batches, importing, instances, planning, running
from benchmarks.table import Row
from tools.mongod import NoServerError, server

MEASURED: dict[str, Callable[[str], Iterator[Row]]] = {
    "importing": lambda _: importing.rows(),
    "running": running.rows,
    "instances": instances.rows,
    "planning": lambda _: planning.rows(),
    "batches": batches.rows,
}


def main(names: Sequence[str]) -> None:
    """Measure these, or all, and print the table, row by row as they come in."""
    if unknown := set(names) - set(MEASURED):
        sys.exit(f"There is no {', '.join(sorted(unknown))} to measure, but {', '.join(MEASURED)}.")
    table = Table("what", "measured", "to reach", "", title=f"quaestor on Python {sys.version.split()[0]}")
    console = Console()
    with server() as uri:
        for name in names or MEASURED:
            for row in MEASURED[name](uri):
                console.print(f"{row.what}: {row.measured}", style="dim", highlight=False)
                mark = "[green]reached[/]" if row.reached else "[red]missed[/]"
                table.add_row(row.what, row.measured, row.reach, mark)
    console.print(table)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except NoServerError as error:
        sys.exit(str(error))
