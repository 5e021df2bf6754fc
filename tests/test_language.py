"""The words that the house doesn't use, and the right uses of words like them."""

from pathlib import Path

import pytest

from tools.language import find_in_module, find_in_text, main


@pytest.mark.parametrize(
    "text",
    [
        "It works for functions of both colours.",
        "Whoever takes the lease may write.",
        "The lease is\n  taken by one instance.",
        "A fail-over undoes nothing.",
        "Pass a name; it is refused, else.",
        "Put it in the environment, for it may hold a password.",
        "A second run does no harm.",
        "Three migrations are under way.",
    ],
)
def test_phrases_that_have_another_word(text: str) -> None:
    """Such a phrase is found once, also across two lines, and the advice isn't empty."""
    (finding,) = find_in_text(text)
    assert finding.line == 1
    assert finding.advice


@pytest.mark.parametrize(
    "text",
    [
        "Each state has its color.",
        "Another instance took the lease over.",
        "Nothing else. How else? Anyone else, or else.",
        "if a: b\nelse it waits",
        "A recommendation, for example.",
        "The `keeper` and\n\n    a fail-over\n",
        "```python\n# under way\n```\n",
        "See [the page](a-fail-over.md).",
    ],
)
def test_right_uses(text: str) -> None:
    """What is right, and code, isn't found."""
    assert list(find_in_text(text)) == []


def test_module() -> None:
    """In a module strings and comments are read, and nothing else; each finding has its line."""
    source = (
        '"""Mend it.\n\n    It gets over it.\n    """\nmend = 1  # the way is free\nprint(f"{mend} is under way")\n'
    )
    assert sorted((each.line, each.phrase) for each in find_in_module(source)) == [
        (1, "Mend"),
        (3, "gets over"),
        (5, "the way is free"),
        (6, "under way"),
    ]


def test_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A finding is written with its file and line, and makes the check fail."""
    page = tmp_path / "README.md"
    page.write_text("# quaestor\n\nThe keeper.\n", encoding="utf-8")
    assert main(tmp_path) == 1
    assert "README.md:3:" in capsys.readouterr().err
    page.write_text("# quaestor\n\nThe holder.\n", encoding="utf-8")
    assert main(tmp_path) == 0
