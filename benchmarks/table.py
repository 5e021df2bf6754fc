"""A row of the table that the benchmarks print."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure.

    Attributes:
        what: What was measured.
        measured: What was seen, in words and numbers.
        reach: The limit, in words and numbers.
        reached: Whether the limit is kept.
    """

    what: str
    measured: str
    reach: str
    reached: bool


def at_most(what: str, ratio: float, limit: float, detail: str = "") -> Row:
    """A ratio that must not be larger than a limit."""
    return Row(what, f"{ratio:.3f} x" + (f"  ({detail})" if detail else ""), f"at most {limit} x", ratio <= limit)


def at_least(what: str, ratio: float, limit: float, detail: str = "") -> Row:
    """A ratio that must not be smaller than a limit."""
    return Row(what, f"{ratio:.3f} x" + (f"  ({detail})" if detail else ""), f"at least {limit} x", ratio >= limit)
