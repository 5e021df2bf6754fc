"""The pages that the benchmarks write: docs/benchmarks.md, and the limits in CONTRIBUTING.md."""

import re

import pytest

import benchmarks.__main__
from benchmarks import page
from benchmarks.peers.report import NOTHING, AtOnce, Report
from benchmarks.table import Row

FACTS = page.Facts("2026-01-31", "3.13.0", "6.0.5", {"PyMongo": "4.20.0"})


def report() -> Report:
    made = Report(
        ["ours", "ours (async)"], dict.fromkeys(("ours", "ours (async)", "quick", "gone"), "`run()`"), ["quick"]
    )
    made.versions = {
        "ours": {"Python": "3.13.0", "ours": "2.0", "pymongo": "4.20.0"},
        "quick": {"Python": "3.13.0", "quick": "0.3", "pymongo": "4.20.0", "motor": "3.7"},
        "gone": "not installed: it needs Python >=3.99",
    }
    made.applied = {"ours": [0.4, 0.2, 0.3], "ours (async)": [0.1], "quick": [0.15, 0.14, 0.16], "gone": "Error: no"}
    made.commands = {"ours": (604, 1), "quick": (401, 2)}
    made.at_once = {
        "ours": [AtOnce(20, [], 1.0), AtOnce(20, [], 3.0)],
        "quick": [AtOnce(20, ["LockError"] * 7, 0.5), AtOnce(33, [], 0.6)],
    }
    made.imported = {NOTHING: [0.125], "ours": [0.25], "quick": [0.375]}
    return made


GROUPS = {
    "importing": [Row("c", "1 x", "at most 2 x", reached=True)],
    "batches": [Row("a | b", "1.5 x", "at most 1.4 x", reached=False)],
}


def lines() -> list[str]:
    return page.page(FACTS, GROUPS, report()).splitlines()


def test_readers_see_figures_without_our_limits() -> None:
    """The page has each of our own figures, under its heading, and says nothing of limits."""
    shown = lines()
    for heading, row in [("### Import", "| c | 1 x |"), ("### Backfills", "| a \\| b | 1.5 x |")]:
        assert row in shown[shown.index(heading) :]
    assert not re.search("missed|at most", "\n".join(shown))


def test_limits_are_for_contributors() -> None:
    """The limits have all figures, those that miss first, and replace the last ones in CONTRIBUTING.md."""
    text = f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n"
    replaced = page.replace_limits(text, page.limits(FACTS, GROUPS)).splitlines()
    assert replaced[:2] == ["before", page.BEGIN]
    assert replaced[-2:] == [page.END, "after"]
    assert [line for line in replaced if "x |" in line or line == "old"] == [
        "| a \\| b | 1.5 x | at most 1.4 x | **missed** |",
        "| c | 1 x | at most 2 x | reached |",
    ]


def test_every_figure_has_a_heading() -> None:
    """Everything that is measured has a heading on the page; CONTRIBUTING.md has a place for the limits."""
    assert list(page.SECTIONS) == list(benchmarks.__main__.MEASURED)
    page.replace_limits(benchmarks.__main__.CONTRIBUTING.read_text(encoding="utf-8"), "")


def test_medians_and_ratios_the_quickest_first() -> None:
    """The median, not the mean, the range, the ratio to our first, the commands; what failed comes last."""
    table = [line for line in lines() if line.startswith("|") and (" ms |" in line or "Error: no" in line)]
    assert table[:4] == [
        "| ours (async) | 100 ms | 100 to 100 | 0.33 x |  |",
        "| quick | 150 ms | 140 to 160 | 0.50 x | 401 |",
        "| ours | 300 ms | 200 to 400 | 1.00 x | 604 |",
        "| gone | failed: Error: no |  |  |  |",
    ]


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        ({"ours": [2.0, 3.0], "quick": [1.0, 1.5]}, "Faster than ours here: **quick** (0.50 x)."),
        ({"ours": [2.0, 3.0], "quick": [1.0, 2.5]}, "Faster than ours here: **quick** (0.70 x, the ranges overlap)."),
        ({"ours": [2.0], "ours (async)": [1.0], "slow": [2.1]}, "No other tool was faster than ours here."),
        ({"quick": [1.0]}, "ours has no figures here."),
    ],
)
def test_who_is_ahead(seen: dict[str, list[float]], said: str) -> None:
    """A tool that is faster is named, with its ratio; quaestor's own other drivers aren't."""
    assert page.ahead(["ours", "ours (async)"], seen) == said
