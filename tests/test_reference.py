"""The reference has all that is public. (That what it names can be found is for `nox -s docs` to say.)"""

import re
from pathlib import Path

import quaestor

DOCS = Path(__file__).parent.parent / "docs"


def test_every_public_name_once() -> None:
    """Each name of `__all__` has its place in the reference, and nothing else has."""
    found = re.findall(
        r"^\.\. (?:auto\w+|data):: (\w+)$", (DOCS / "reference.rst").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert sorted(found) == quaestor.__all__


def test_every_setting() -> None:
    """Each setting of the command line is in the table, with its option and its environment variables."""
    # Here, for `nox -s matrix` collects this file without the extra `cli`.
    from quaestor.cli.settings import VARIABLES
    from quaestor.cli.target import SHARED

    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*? \| +(.*?) *\| (.*?) \| `(\w+)` \|$", text, re.MULTILINE)
    assert {key: tuple(re.findall(r"`(\w+)`", variables)) for _, variables, key in rows} == VARIABLES
    assert [option.strip("`-") for option, _, _ in rows] == [key if key in SHARED else "" for _, _, key in rows]
