"""Partitions at random. `--long` plays 100 rounds, which takes an hour and a half."""

import random
import secrets
from dataclasses import replace

import pytest

from tests.faults import partitions
from tests.faults.partitions import Write, problems
from tests.faults.works import Left, Work, once

WORKS = (Work("a"), Work("b", transaction=True))
A, B = 1, 2  # process ids
PROPER = [Write("begun", "a", A), Write("ended", "a", A), Write("recorded", "a")]
PROPER += [Write("begun", "b", B), Write("ended", "b", B), Write("recorded", "b")]
SAID = [(A, {"is": "MigrationApplied", "name": "a"}), (B, {"is": "MigrationApplied", "name": "b"})]


@pytest.mark.timeout(4 * 3600)
def test_partitions(pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the network does: no record is lost or doubled, what a transaction does is there exactly once, all
    workers return, and no two of them execute at once.
    """
    rounds = partitions.LONG if pytestconfig.getoption("--long") else partitions.SHORT
    with capsys.disabled():
        print()
        figures = partitions.play(rounds, seed=secrets.randbelow(10**6))
        print("\n".join(figures.lines()))

    assert figures.wrong == []
    assert figures.rounds == rounds
    assert figures.faults.total() >= 2 * rounds


@pytest.mark.parametrize(
    ("said", "writes", "state", "found"),
    [
        ([], PROPER, once(WORKS), []),
        (SAID, PROPER, once(WORKS), []),
        ([*SAID, (A, {"is": "returned", "names": ["a"]})], PROPER, once(WORKS), []),
        ([*SAID, (A, {"is": "returned", "names": []})], PROPER, once(WORKS), ["1 returned"]),
        ([*SAID, (B, SAID[0][1])], PROPER, once(WORKS), ["a was applied by"]),
        (SAID, PROPER[:5], replace(once(WORKS), records=["a"]), ["b is recorded 0 times", "b was recorded 0 times"]),
        (SAID, PROPER, replace(once(WORKS), records=["a", "a", "b"]), ["a is recorded 2 times"]),
        (SAID, [*PROPER, PROPER[2]], once(WORKS), ["a was recorded 2 times", "a was recorded by 1"]),
        (SAID, PROPER, replace(once(WORKS), begun={"a": 2, "b": 2}), ["b, in a transaction, took effect 2"]),
        (SAID, PROPER, replace(once(WORKS), ended={"a": 0, "b": 1}), ["a is recorded and not done"]),
        # B begins before A has recorded.
        (SAID, [PROPER[3], *PROPER[:3], *PROPER[4:]], once(WORKS), ["b was recorded by 2, and 1 was executing"]),
        # What A begins and doesn't record, because it was cut off, is nobody's fault.
        (SAID, [*PROPER[:4], Write("begun", "b", A), *PROPER[4:], Write("ended", "b", A)], once(WORKS), []),
    ],
)
def test_checker(said: partitions.Said, writes: list[Write], state: Left, found: list[str]) -> None:
    """It finds each thing that must not be, and nothing else."""
    told = list(problems(WORKS, said, writes, state))

    assert len(told) == len(found), told
    assert all(one.startswith(start) for one, start in zip(told, found, strict=True)), told


def test_a_round_can_be_repeated() -> None:
    """A seed decides the migrations and the faults."""
    one, again, other = (partitions.script(random.Random(seed)) for seed in (1, 1, 2))  # noqa: S311 - to be repeated

    assert one == again != other
