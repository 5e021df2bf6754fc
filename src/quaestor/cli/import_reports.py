"""The file with the names for an import, and the report of what was imported."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import RenderableType

from quaestor import ImportResult
from quaestor._text import format_count
from quaestor.cli.marks import FAILED
from quaestor.cli.reports import make_column, make_table
from quaestor.cli.settings import CommandError


def read_names(file: Path) -> Mapping[str, str]:
    """Read the names in the other tool with those here, from JSON."""
    try:
        names = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_make_object)
    except OSError as error:
        raise CommandError(f"Can't read {file}: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # also of the encoding
        raise CommandError(f"{file} isn't JSON: {error}.") from None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise CommandError(f'{file} must have a JSON object such as {{"their name": "our name"}}.')
    return names


def _make_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make an object of JSON. Of a name that is there twice, Python would take the last."""
    names = dict(pairs)
    if len(names) < len(pairs):
        ((name, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the name {name!r} is there twice")
    return names


def report_import(result: ImportResult, width: int, *, is_done: bool) -> Iterator[RenderableType]:
    """Report what was recorded, or would be, and what wasn't, with the reasons."""
    has_others = any(one.theirs != one.name for one in result.imported)
    tables = [
        {
            "imported" if is_done else "to import": make_column(one.name for one in result.imported),
            f"in {result.tool}": make_column(one.theirs if has_others else "" for one in result.imported),
            "applied (UTC)": make_column(f"{one.applied_at:%Y-%m-%d %H:%M:%S}" for one in result.imported),
        },
        {
            "not applied there": make_column(one.name for one in result.not_applied),
            "why": make_column((one.reason for one in result.not_applied), "dim"),
        },
        {
            "not placed": make_column((one.name for one in result.unplaced), FAILED.style),
            "why": make_column(one.reason for one in result.unplaced),
        },
    ]
    for columns in tables:
        if any(columns.values()):
            yield make_table(columns, width, needed={"applied (UTC)"})
            yield ""
    numbers = {
        "imported" if is_done else "to import": len(result.imported),
        "recorded already": len(result.recorded),
        "not applied there": len(result.not_applied),
        "not placed": len(result.unplaced),
    }
    found = ", ".join(f"{number:,} {what}" for what, number in numbers.items() if number)
    total = format_count(sum(numbers.values()))
    yield f"{total} of {result.tool} in the collection {result.collection}" + (f": {found}." if found else ".")
