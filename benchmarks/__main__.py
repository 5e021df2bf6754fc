"""The benchmarks (`nox -s benchmarks`): ratios measured in one run, in a table. What falls short is marked."""

import sys
from itertools import chain

from rich.console import Console
from rich.table import Table

from benchmarks import importing, instances, planning, running
from tools.mongod import NoServerError, server


def main() -> None:
    """Measure all and print the table, row by row as they come in."""
    table = Table("what", "measured", "to reach", "", title=f"quaestor on Python {sys.version.split()[0]}")
    console = Console()
    with server() as uri:
        for row in chain(importing.rows(), running.rows(uri), instances.rows(uri), planning.rows()):
            console.print(f"{row.what}: {row.measured}", style="dim", highlight=False)
            mark = "[green]reached[/]" if row.reached else "[red]missed[/]"
            table.add_row(row.what, row.measured, row.reach, mark)
    console.print(table)


if __name__ == "__main__":
    try:
        main()
    except NoServerError as error:
        sys.exit(str(error))
