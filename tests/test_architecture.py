"""The rules of docs/architecture.md that no linter checks."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_architecture_names_every_file() -> None:
    """The picture of the rooms in docs/architecture.md has the files of the package, all of them and no other."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = text[text.index("src/quaestor/") : text.index("\ntests/")]
    assert sorted(re.findall(r"^ +(\w+\.py)\s", rooms, re.MULTILINE)) == sorted(
        path.name for path in (ROOT / "src").rglob("*.py")
    )


def test_no_two_modules_share_a_name() -> None:
    """A module is known by its name alone."""
    names = [path.stem for path in (ROOT / "src").rglob("*.py") if not path.stem.startswith("__")]
    assert len(names) == len(set(names))
