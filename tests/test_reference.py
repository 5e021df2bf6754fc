"""The reference has all that is public. (That what it names can be found is for `nox -s docs` to say.)"""

import re
from pathlib import Path

import quaestor

DOCS = Path(__file__).parent.parent / "docs"


def test_every_public_name_once() -> None:
    """Each name of `__all__` has its place in the reference, and nothing else has."""
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.rst"))
    found = re.findall(r"^\.\. (?:auto\w+|data):: (\w+)(?:\(\))?$", text, re.MULTILINE)
    assert sorted(found) == quaestor.__all__


def test_every_setting() -> None:
    """Each setting of the command line is in the table, with its option and its environment variables."""
    # Here, because `nox -s matrix` collects this file without the extra `cli`.
    from quaestor.cli.options import make_shared_options
    from quaestor.cli.settings import VARIABLES

    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .*? \| +(.*?) *\| (.*?) \| `(\w+)` \|$", text, re.MULTILINE)
    assert {key: tuple(re.findall(r"`(\w+)`", variables)) for _, variables, key in rows} == VARIABLES
    options = {option.name for option in make_shared_options(takes_pattern=True)}
    assert [option.strip("`-").replace("-", "_") for option, _, _ in rows] == [
        key if key in options else "" for _, _, key in rows
    ]
