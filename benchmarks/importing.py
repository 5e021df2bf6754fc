"""What `import quaestor` costs, beside `import pymongo`, each in a new process."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.table import Row, at_most

ROUNDS = 21
PROGRAM = "import time; {before}; started = time.perf_counter(); {timed}; print(time.perf_counter() - started)"


def rows() -> Iterator[Row]:
    """Alone, and in a process that has imported pymongo; the three measured in turn, medians compared."""
    programs = {
        "pymongo": PROGRAM.format(before="pass", timed="import pymongo"),
        "alone": PROGRAM.format(before="pass", timed="import quaestor"),
        "after": PROGRAM.format(before="import pymongo", timed="import quaestor"),
    }
    times: dict[str, list[float]] = {key: [] for key in programs}
    for _ in range(ROUNDS):
        for key, program in programs.items():
            times[key].append(_seconds(program))
    median = {key: statistics.median(seconds) for key, seconds in times.items()}
    pymongo = median["pymongo"]
    yield at_most(
        "time to import quaestor, against importing pymongo",
        median["alone"] / pymongo,
        0.25,
        f"{median['alone'] * 1e3:.1f} ms",
    )
    yield at_most(
        "time to import quaestor after pymongo, against importing pymongo",
        median["after"] / pymongo,
        0.06,
        f"{median['after'] * 1e3:.1f} ms",
    )
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, quaestor; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()
    drivers = {"anyio", "bson", "motor", "pymongo"} & set(loaded)
    yield Row("drivers and anyio loaded by import quaestor", ", ".join(sorted(drivers)) or "none", "none", not drivers)


def _seconds(program: str) -> float:
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)  # noqa: S603 - our own
    return float(ended.stdout)
