"""The table of `quaestor status`: the progress of backfills."""

from datetime import UTC, datetime

import pytest
from rich.console import Console, Group

from quaestor.cli.pictures import dot, mermaid, svg
from quaestor.cli.reports import report_status
from quaestor.status import BackfillStatus, MigrationStatus, State, Status

NOON = datetime(2026, 1, 2, 12, 0, tzinfo=UTC)


def backfill(done: int, total: int | None, *, finished: bool = False, undo: bool = False) -> BackfillStatus:
    return BackfillStatus("users", "users", done, total, finished, NOON, undo)


def table(*backfills: BackfillStatus, state: State = "pending", width: int = 100) -> list[str]:
    """The lines of the table for one migration with these backfills."""
    console = Console(width=width)
    migration = MigrationStatus("a", state, backfills=backfills, description="Says what it does.")
    with console.capture() as captured:
        console.print(Group(*report_status(Status("shop", "app", (migration,)), width)))
    return [line.rstrip() for line in captured.get().splitlines()]


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        (backfill(0, 3000), "users: 0%, 0 of 3,000"),
        (backfill(2999, 3000), "users: 99%, 2,999 of 3,000"),
        (backfill(1000, None), "users: 1,000"),
        (backfill(0, 0), "users: 0 of 0"),
        (backfill(2500, 2500, finished=True), "users: 100%, 2,500 of 2,500"),
    ],
)
def test_progress(kept: BackfillStatus, words: str) -> None:
    """Percentage and number of documents, also without an estimate."""
    assert table(kept)[1] == f"○  a          pending  {words:{len(words)}}  Says what it does."


def test_last_of_several_backfills() -> None:
    """A migration shows its last backfill, because the ones before it are finished."""
    assert "50%, 2 of 4" in table(backfill(9, 9, finished=True), backfill(2, 4))[1]


def test_backfills_of_a_rollback() -> None:
    """An applied migration shows the backfills of its rollback, a pending one those of its function."""
    done, undone = backfill(9, 9, finished=True), backfill(1, 4, undo=True)
    assert "rollback of users: 25%, 1 of 4" in table(undone, done, state="applied")[1]
    assert "100%, 9 of 9" in table(done, undone)[1]
    assert "progress" not in table(done, state="applied")[0]


def test_narrow_terminal() -> None:
    """Where there is little room the progress goes before the name and the state do."""
    assert table(backfill(1, 4), width=24) == [
        "   migration  state",
        "○  a          pending",
        "",
        "shop/app: 1 pending.",
    ]


def test_replaced_and_retired() -> None:
    """They have no row, and are counted last."""
    states: dict[str, State] = {"a": "applied", "b": "replaced", "c": "retired", "d": "retired", "e": "unknown"}
    status = Status("shop", "app", tuple(MigrationStatus(name, state) for name, state in states.items()))
    console = Console(width=100)
    with console.capture() as captured:
        console.print(Group(*report_status(status, 100)))
    lines = [line.rstrip() for line in captured.get().splitlines()]
    assert [line.split()[1] for line in lines[1 : lines.index("")]] == ["a", "e"]
    assert lines[-1] == "shop/app: 1 applied, 1 unknown, 1 replaced, 2 retired."
    for draw in (svg, mermaid, dot):
        text = draw(status)
        assert all(f">{name}<" in text or f'{name}"' in text for name in "ae"), text
        assert not any(f">{name}<" in text or f' {name}"' in text for name in "bcd"), text
