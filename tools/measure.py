"""Measure the targets of docs/architecture.md on the code as it is installed: `python -m tools.measure [--only ...]`.

Prints a Markdown table; nothing is compared, so a missed target is no failure. Ratios of times are noisy on a machine
that does other work: compare the best of several runs.
"""

import argparse
import ast
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.measure_frames import frames
from tools.measure_runs import PACKAGE, Row, commands, files, wall_time
from tools.mongod import NoServerError, server

TESTS = Path(__file__).parents[1] / "tests"
GENERATED = b"# Generated from"
MEMORY = Path("/dev/shm")  # noqa: S108 - the server's folder in it has a random name
ROOM = 2**30  # bytes that a server may need
IMPORT_ROUNDS = 40
IMPORT = "import time; {before}; started = time.perf_counter(); {timed}; print(time.perf_counter() - started)"

# Words in -ed and -ing that begin a name as a verb in the imperative, or as a noun.
NOT_PARTICIPLES = (
    "anything bed breed bring cling embed everything exceed feed heading need nothing ping proceed red ring seed "
    "setting shed sing something speed spring sting string succeed swing thing warning weed wing"
)
# Without those that are imperatives too: cut, find, put, read, run, set, split ...
IRREGULAR_PARTICIPLES = (
    "begun bound bought broken brought built caught chosen done drawn driven fallen felt forgotten found frozen given "
    "gone grown held hidden kept known laid left lent lost made meant met overridden paid proven said seen sent shown "
    "slept sold spent spoken stolen stood stuck sworn taken taught thought thrown told torn unbound understood undone "
    "withdrawn won woken worn written"
)


def lines(_uri: str) -> Iterator[Row]:
    """Count the lines of Python, docstrings and comments included."""
    package, frameworks = (sum(map(_lines, folder.rglob("*.py"))) for folder in (PACKAGE, PACKAGE / "contrib"))
    yield Row("lines in src/quaestor without contrib", f"{package - frameworks:,}", "18,800")
    yield Row("lines in src/quaestor/contrib", f"{frameworks:,}", "1,150")
    by_hand = [path for path in TESTS.rglob("*.py") if not path.read_bytes().startswith(GENERATED)]
    yield Row("hand-written lines in tests", f"{sum(map(_lines, by_hand)):,}", "42,300")


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def names(_uri: str) -> Iterator[Row]:
    """Find the functions and methods whose names begin with a participle or gerund; Python's own names don't count."""
    found = [(path, node) for path in sorted(PACKAGE.rglob("*.py")) for node in functions(path.read_text("utf-8"))]
    participles = [(path, node) for path, node in found if is_participle(node.name)]
    yield Row(
        "functions that begin with a participle or gerund",
        f"{len(participles) / len(found):.1%} ({len(participles)} of {len(found)})",
        "3%",
        tuple(f"{path.relative_to(PACKAGE).as_posix()}:{node.lineno}: {node.name}" for path, node in participles),
    )


def functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Find all functions and methods, nested ones too; magic methods and the signatures of overloads don't count."""
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            and not node.name.startswith("__")
            and "overload" not in map(ast.unparse, node.decorator_list)
        ):
            yield node


def is_participle(name: str) -> bool:
    """Whether the first word of a function's name is a participle or gerund."""
    word = name.lstrip("_").partition("_")[0]
    if word.endswith(("ed", "ing")):
        return word not in NOT_PARTICIPLES.split()
    return word in IRREGULAR_PARTICIPLES.split()


def import_time(_uri: str) -> Iterator[Row]:
    """Compare the import of quaestor with that of pymongo: best of alternating rounds, each in a new process."""
    programs = {
        "pymongo": IMPORT.format(before="pass", timed="import pymongo"),
        "alone": IMPORT.format(before="pass", timed="import quaestor"),
        "beside": IMPORT.format(before="import pymongo", timed="import quaestor"),
    }
    times: dict[str, list[float]] = {key: [] for key in programs}
    with tempfile.TemporaryDirectory() as cache:  # of bytecode: installers and environments may keep none
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = cache
        for _ in range(IMPORT_ROUNDS):
            for key, program in programs.items():
                command = [sys.executable, "-c", program]
                ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                times[key].append(float(ended.stdout))
    best = {key: min(seconds) for key, seconds in times.items()}
    for key, what, target in (("alone", "alone", "0.25"), ("beside", "beside pymongo", "0.06")):
        detail = f"{best[key] * 1e3:.1f} ms against {best['pymongo'] * 1e3:.1f}"
        yield Row(
            f"import quaestor {what}, against import pymongo", f"{best[key] / best['pymongo']:.2f} ({detail})", target
        )


MEASURES: dict[str, Callable[[str], Iterator[Row]]] = {
    "lines": lines,
    "names": names,
    "import": import_time,
    "frames": frames,
    "files": files,
    "commands": commands,
    "time": wall_time,
}
NEED_A_SERVER = {"frames", "files", "commands", "time"}


@contextlib.contextmanager
def server_in_memory() -> Iterator[str]:
    """Start a server whose files are in memory, if there is room; wall times on disk vary too much to compare."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= ROOM
    if not roomy or "MONGODB_URI" in os.environ:
        print("The server's files may be on disk: wall times vary.", file=sys.stderr)  # noqa: T201 - a command
    before = tempfile.tempdir
    if roomy:
        tempfile.tempdir = str(MEMORY)  # where the server makes its folder
    try:
        with server() as uri:
            yield uri
    finally:
        tempfile.tempdir = before


def main() -> None:
    """Measure the figures that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tools.measure", description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--only", nargs="+", choices=MEASURES, metavar="FIGURE", help=", ".join(MEASURES))
    parser.add_argument("--list", action="store_true", help="list the functions, frames and files behind the figures")
    options = parser.parse_args()
    chosen: list[str] = options.only or list(MEASURES)
    with contextlib.ExitStack() as stack:
        uri = stack.enter_context(server_in_memory()) if NEED_A_SERVER & set(chosen) else ""
        print("| what | seen | target |\n|---|---|---|")  # noqa: T201
        rows = []
        for figure in chosen:
            for row in MEASURES[figure](uri):
                rows.append(row)
                print(f"| {row.what} | {row.seen} | {row.target} |", flush=True)  # noqa: T201
    if options.list:
        for row in rows:
            if row.details:
                print(f"\n{row.what}:", *row.details, sep="\n  ")  # noqa: T201


if __name__ == "__main__":
    try:
        main()
    except NoServerError as error:
        sys.exit(str(error))
