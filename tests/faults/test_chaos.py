"""Faults at random, in many processes at once. `--long` plays the rounds of which docs/reliability.md tells."""

import secrets

import pytest

from tests.faults import chaos

pytestmark = pytest.mark.timeout(3600)  # the long form of one test takes half an hour
ROUNDS_WITH_ROLLBACKS = 2


@pytest.mark.parametrize("nodes", [1, 3])
def test_chaos(nodes: int, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is killed, frozen or steps down: no record is lost or doubled, no lease stays behind, no process sees an
    error that was not killed or frozen itself, and effects in transactions are there exactly once.
    """
    rounds = (chaos.LONG if pytestconfig.getoption("--long") else chaos.SHORT)[nodes]
    with capsys.disabled():
        print()
        figures = chaos.play(nodes, rounds, seed=secrets.randbelow(10**6))
        print(chaos.table([figures]))

    _check(figures, rounds)


def test_chaos_with_rollbacks(capsys: pytest.CaptureFixture[str]) -> None:
    """The same while other processes undo some of the migrations; in the end all are applied."""
    with capsys.disabled():
        print()
        figures = chaos.play(1, ROUNDS_WITH_ROLLBACKS, seed=secrets.randbelow(10**6), rollbacks=True)

    _check(figures, ROUNDS_WITH_ROLLBACKS)
    assert figures.undone >= ROUNDS_WITH_ROLLBACKS


def _check(figures: chaos.Figures, rounds: int) -> None:
    assert figures.wrong == []
    assert figures.kills >= 2 * rounds
    assert figures.freezes >= rounds
    assert figures.step_downs >= (2 * rounds if figures.nodes > 1 else 0)
