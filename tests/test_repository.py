"""The files that a repository's host and other tools read."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
GITHUB = ROOT / ".github"
FILES = [*GITHUB.rglob("*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]


def read(file: Path) -> Any:
    import yaml  # here, and likewise below: `nox -s matrix` collects this file without it

    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_yaml(file: Path) -> None:
    """Each file is YAML with a mapping."""
    assert isinstance(read(file), dict)


def test_actions_are_pinned() -> None:
    """A workflow uses the actions of others by commit, with the version beside it, because a tag can be moved."""
    used = [
        line.strip()
        for file in GITHUB.rglob("*.yml")
        for line in file.read_text(encoding="utf-8").splitlines()
        if re.match(r"[\s-]*uses:", line)
    ]
    assert used
    pinned = r"(- )?uses: ([\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./[\w./-]+)"
    assert [line for line in used if not re.fullmatch(pinned, line)] == []


def test_publishing_needs_the_checks() -> None:
    """What is published was checked first, and only the job that publishes gets a token for that."""
    jobs = read(GITHUB / "workflows" / "release.yml")["jobs"]
    publishers = [name for name, job in jobs.items() if job.get("permissions", {}).get("id-token") == "write"]
    assert publishers == ["publish"]
    assert {"checks", "build"} <= set(jobs["publish"]["needs"])
    assert jobs["checks"]["uses"] == "./.github/workflows/ci.yml"


def test_changelog_has_the_version() -> None:
    """A released version has a section with its date; before that there is one of what isn't released."""
    from packaging.version import Version

    import quaestor

    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    version = Version(quaestor.__version__)
    assert re.fullmatch(r"Unreleased" if version.is_devrelease else rf"\[{version}\] - \d{{4}}-\d\d-\d\d", headings[0])
