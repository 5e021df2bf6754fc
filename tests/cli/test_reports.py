"""What the table of `quaestor status` says of passes."""

from datetime import UTC, datetime

import pytest
from rich.console import Console, Group

from quaestor.cli.reports import report_status
from quaestor.status import BackfillStatus, MigrationStatus, State, Status

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def a_pass(done: int, total: int | None, *, finished: bool = False, undo: bool = False) -> BackfillStatus:
    return BackfillStatus("users", "users", done, total, finished, NOON, undo)


def table(*passes: BackfillStatus, state: State = "pending", width: int = 100) -> list[str]:
    """The lines of the table for one migration with these passes."""
    console = Console(width=width)
    migration = MigrationStatus("a", state, backfills=passes, description="Says what it does.")
    with console.capture() as captured:
        console.print(Group(*report_status(Status("shop", "app", (migration,)), width)))
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (a_pass(0, 3000), "users: 0%, 0 of 3,000"),
        (a_pass(2999, 3000), "users: 99%, 2,999 of 3,000"),
        (a_pass(1000, None), "users: 1,000"),
        (a_pass(0, 0), "users: 0 of 0"),
        (a_pass(2500, 2500, finished=True), "users: 100%, 2,500 of 2,500"),
    ],
)
def test_progress(kept: BackfillStatus, words: str) -> None:
    """Share and number of documents, also where there is no estimate."""
    assert table(kept)[1] == f"○  a          pending  {words:{len(words)}}  Says what it does."


def test_last_of_several_passes() -> None:
    """A migration shows the pass that went on last, for those before are at their end."""
    assert "50%, 2 of 4" in table(a_pass(9, 9, finished=True), a_pass(2, 4))[1]


def test_passes_of_the_other_direction() -> None:
    """Of an applied migration the passes of its rollback are shown, of a pending one those of its function."""
    done, undone = a_pass(9, 9, finished=True), a_pass(1, 4, undo=True)
    assert "rollback of users: 25%, 1 of 4" in table(undone, done, state="applied")[1]
    assert "100%, 9 of 9" in table(done, undone)[1]
    assert "progress" not in table(done, state="applied")[0]


def test_narrow_terminal() -> None:
    """Where there is little room the progress goes before the name and the state do."""
    assert table(a_pass(1, 4), width=24) == ["   migration  state", "○  a          pending", "", "shop/app: 1 pending."]
