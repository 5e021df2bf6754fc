"""Graphs of migrations, and what a database says of them, for the tests of the pictures."""

import random
from collections.abc import Mapping
from datetime import UTC, datetime

from quaestor.status import HistoryEntry, Lease, MigrationStatus, RecordedError, Status

NOW = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
AWKWARD = [
    'say "hello"',
    "<b>&amp;</b></text></svg><script>document.title = 'broken out'</script>",
    "two\nlines\\",
    "\x1b[31mred",
    "データ移行",
    "e\u0301\u0301",
    "end",
    "#35; `code` *bold* %%",
    "x" * 80,
]
Needs = Mapping[str, tuple[str, ...]]


def shaped(shape: str, size: int = 200) -> Needs:
    """A large graph, the same in every run."""
    chance = random.Random(shape)  # noqa: S311 - nothing is kept secret with it
    names = [f"backfill_{chance.choice(['orders', 'customers', 'x'])}_{index:03}" for index in range(size)]
    match shape:
        case "chain":
            before = [names[max(0, index - 1) : index] for index in range(size)]
        case "fan":
            before = [names[: min(index, 1)] for index in range(size)]
        case "layered":
            layers = [names[max(0, index // 20 * 20 - 20) : index // 20 * 20] for index in range(size)]
            before = [chance.sample(layer, min(len(layer), chance.randint(0, 3))) for layer in layers]
        case _:
            before = [[] for _ in names]
    return dict(zip(names, map(tuple, before), strict=True))


FAILURE = HistoryEntry("failed", "a", NOW, error=RecordedError("ValueError", "boom"))


def status(
    needs: Needs, *, interrupted: str = "", failed: str = "", running: str = "", unknown: tuple[str, ...] = ()
) -> Status:
    """A status in which the first half is applied."""
    applied = list(needs)[: len(needs) // 2]
    migrations = [
        MigrationStatus(
            name,
            "applied" if name in applied else "pending",
            NOW if name in applied else None,
            depends_on,
            description="A description.",
            interrupted=name == interrupted,
            last_failure=FAILURE if name == failed else None,
        )
        for name, depends_on in needs.items()
    ]
    migrations += [MigrationStatus(name, "unknown", NOW) for name in unknown]
    lease = Lease("owner", 1, "host", 1, NOW, 0, 30.0, NOW, (running,)) if running else None
    return Status("shop", "app", tuple(migrations), lease)
