"""What docs/benchmarks.md says of figures."""

import pytest

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


def lines() -> list[str]:
    rows = [Row("a | b", "1.5 x", "at most 1.4 x", reached=False), Row("c", "1 x", "at most 2 x", reached=True)]
    return page.page(FACTS, rows, report()).splitlines()


def test_what_fell_short_is_marked() -> None:
    """A figure of our own that missed its limit says so."""
    assert "| a \\| b | 1.5 x | at most 1.4 x | **missed** |" in lines()
    assert "| c | 1 x | at most 2 x | reached |" in lines()


def test_medians_and_ratios_the_quickest_first() -> None:
    """The median, not the mean, the range, the ratio to our first, the commands; what failed stands last."""
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
        ({"ours": [2.0, 3.0], "quick": [1.0, 1.5]}, "Ahead of ours here: **quick** (0.50 x)."),
        ({"ours": [2.0, 3.0], "quick": [1.0, 2.5]}, "Ahead of ours here: **quick** (0.70 x, the ranges overlap)."),
        ({"ours": [2.0], "ours (async)": [1.0], "slow": [2.1]}, "No peer was ahead of ours here."),
        ({"quick": [1.0]}, "ours has no figures here."),
    ],
)
def test_who_is_ahead(seen: dict[str, list[float]], said: str) -> None:
    """A peer that is ahead is named, with its ratio; quaestor's own other drivers are no peers."""
    assert page.ahead(["ours", "ours (async)"], seen) == said
