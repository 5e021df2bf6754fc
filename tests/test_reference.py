"""The reference has all that is public. (That what it names can be found is for `nox -s docs` to say.)"""

import re
from pathlib import Path

import quaestor

REFERENCE = Path(__file__).parent.parent / "docs" / "reference.rst"


def test_every_public_name_once() -> None:
    """Each name of `__all__` has its place in the reference, and nothing else has."""
    found = re.findall(r"^\.\. auto\w+:: (\w+)$", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(found) == quaestor.__all__
