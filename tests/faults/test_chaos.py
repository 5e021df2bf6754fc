"""Faults at random, in many processes at once. `--long` plays the rounds of which docs/reliability.md tells."""

import secrets

import pytest

from tests.faults import chaos


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

    assert figures.wrong == []
    assert figures.kills >= 2 * rounds
    assert figures.freezes >= rounds
    assert figures.step_downs >= (2 * rounds if nodes > 1 else 0)
