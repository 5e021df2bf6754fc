"""Generate tests/sync from tests/async: `python -m tools.sync_tests`; with `--check`, name stale files and exit 1.

Each line is rewritten by the substitutions below, then ruff removes unused imports, sorts the rest and formats.
Functions, classes and statements that must stay async in the sync tests end with the comment `# stays async`, which
covers the indented block below too. A test that differs in more than that belongs in a file of `ONE_SIDE`.
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
ASYNC, SYNC = ROOT / "tests/async", ROOT / "tests/sync"

ONE_SIDE = {
    "conftest.py": "drivers and databases",
    "test_interruption_async.py": "cancellation, timeouts, the end of an event loop",
    "test_interruption_sync.py": "Ctrl-C",
    "test_sync_and_async_async.py": "what is said and done about `def` functions",
    "test_sync_and_async_sync.py": "what is said and done about `async def` functions",
}
"""Files that are written by hand, with what they are about."""

HEADER = "# Generated from tests/async/{name} by tools/sync_tests.py\n"
IMPORT = re.compile(r"from [\w.]+ import \w|    \w+,$")  # on one line, or one name of several lines
IMPORTED = re.compile(r"\w+")
STAYS_ASYNC = re.compile(r"\s+# stays async$")

SUBSTITUTIONS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in [
        (r"^pytestmark = pytest\.mark\.anyio$", ""),
        (r"^    pytest\.mark\.anyio,$", ""),
        # parentheses that only the `await` needs
        (r"\(await ((?:[^()]|\((?:[^()]|\([^()]*\))*\))*)\)(?=[\[.])", r"\1"),
        (r"\bawait ", ""),
        (r"(?<!`)\basync (?=(?:def|for|with)\b)", ""),  # in a docstring it is what it says
        (r"\bAwaitable\[([^\[\]]*)\]", r"\1"),
        # A registry is called with a database first, a runner never.
        (r"\.run\((?=(?:db|another|weak|proxy|Own\())", ".run_sync("),
        (r"\.(run|rollback|mark)_many\(", r".\1_many_sync("),
        (r"\bsync_(?=dbs?\b)", "async_"),
        (r'"pymongo", "motor"', '"pymongo"'),
        (r'"async"', '"sync"'),
        (r"\bStopAsyncIteration\b", "StopIteration"),
        (r"\basyncio\.CancelledError\b", "KeyboardInterrupt"),
        (r"\banext\b", "next"),
        (r"\bpymongo\.asynchronous\b", "pymongo.synchronous"),
        (r"\bAsyncRunner\b", "SyncRunner"),
        (r"\bAsync(?=[A-Z])", ""),
        (r"\b(?!is_async)([A-Za-z]\w*)_async\b", r"\1"),
    ]
]


def substitute(text: str) -> str:
    """Apply all substitutions to a line."""
    for pattern, replacement in SUBSTITUTIONS:
        text = pattern.sub(replacement, text)
    return text


def import_both(match: re.Match[str]) -> str:
    """Import the sync name beside the async one, which code that stays async needs; ruff removes what is not used."""
    return f"{match[0]}, {name}" if (name := substitute(match[0])) != match[0] else name


def translate(source: str) -> Iterator[str]:
    """Yield the lines of a sync test module."""
    kept_indent: int | None = None  # of the block that stays async
    for line in source.splitlines():
        indent = len(line) - len(line.lstrip())
        if kept_indent is not None and line.strip() and indent <= kept_indent and line.strip() not in {")", "]"}:
            kept_indent = None
        if STAYS_ASYNC.search(line) and kept_indent is None:
            kept_indent = indent
        result = STAYS_ASYNC.sub("", line)
        if kept_indent is None:
            result = IMPORTED.sub(import_both, result) if IMPORT.match(line) else substitute(result)
        yield result


def generate(name: str) -> str:
    """Return the text of the sync twin of an async test module."""
    text = HEADER.format(name=name) + "\n".join(translate((ASYNC / name).read_text("utf-8"))) + "\n"
    # C4 and SIM117: `list(xs)` and one `with` do where the async code needs a comprehension and two.
    fix = ["check", "--fix", "--unsafe-fixes", "--exit-zero", "--quiet", "--select", "C4,F401,F811,I,SIM117"]
    for command in (fix, ["format", "--quiet"]):
        text = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--stdin-filename", SYNC / name, "-"],
            input=text,
            stdout=subprocess.PIPE,
            check=True,
            encoding="utf-8",
        ).stdout
    return text


def main() -> int:
    """Write the generated files, or say which ones are stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a file is stale")
    check = parser.parse_args().check

    expected = {SYNC / path.name: generate(path.name) for path in ASYNC.glob("*.py") if path.name not in ONE_SIDE}
    left_over = [path for path in SYNC.glob("*.py") if path not in expected and path.name not in ONE_SIDE]
    stale = [path for path, text in expected.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in sorted([*left_over, *stale]):
        if check:
            sys.stderr.write(f"{path.relative_to(ROOT)} is {'left over' if path in left_over else 'stale'}\n")
        elif path in left_over:
            path.unlink()
        else:
            path.write_text(expected[path], "utf-8")
    if check and (left_over or stale):
        sys.stderr.write("Run `python -m tools.sync_tests`.\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
