"""One attempt at a migration, its rollback, or a batch, in a transaction: its steps, and how it can end.

The steps are a flow of their own, so that they are performed in the colour of the function, wherever the run is; to the
run an attempt is one effect, and no transaction stays open while the run does something else. What follows from an
ending (commit again, run again, give up) is decided in `transacting.py`.

The record is written, or removed, inside the transaction. Of two transactions of the same migration only one can
commit, for they write the same document of the records: that is what makes it happen once. The lock document is never
touched in it, for every renewal would then be a conflict. A batch of a pass is done likewise, with the checkpoint of
the pass as its record.
"""

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, TypeVar

R = TypeVar("R")

LONGEST = 120.0
"""For how long a transaction is begun again, and a commit repeated, in seconds; as in the drivers' with_transaction."""

MOST_ATTEMPTS = 200
"""How often a transaction is begun, at most."""


class Step(Enum):
    """What an attempt asks for. RECORD is answered by whether there was a record to write or to remove (bool)."""

    BEGIN = auto()
    EXECUTE = auto()
    RECORD = auto()
    COMMIT = auto()
    ABORT = auto()


class Ending(Enum):
    """How an attempt ended.

    COMMITTED: the function's work and its record are there. RECORDED: the record was so before. ABORTED: nothing of it
    is there, and it can be tried again. EXPIRED: likewise, for the server ended the transaction. UNKNOWN: the answer to
    the commit was lost.
    """

    COMMITTED = auto()
    RECORDED = auto()
    ABORTED = auto()
    EXPIRED = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Attempt(Generic[R]):
    """An attempt that has ended.

    Attributes:
        ending: How.
        seconds: How long it took (float, seconds).
        error: What the driver raised, if it did.
        result: What the function returned; None if it did not come to that.
    """

    ending: Ending
    seconds: float = 0.0
    error: Exception | None = None
    result: R | None = None


def attempt() -> Generator[Step, object, Ending]:
    """Function, record and commit, or nothing of it."""
    yield Step.BEGIN
    try:
        yield Step.EXECUTE
        written = yield Step.RECORD
    except GeneratorExit:  # the flow itself is thrown away: there is nobody left to ask
        raise
    except BaseException:
        yield Step.ABORT
        raise
    if not written:
        yield Step.ABORT
        return Ending.RECORDED
    yield Step.COMMIT
    return Ending.COMMITTED


def begun_again_within(attempts: int) -> float:
    """The longest pause before the transaction is begun again, in seconds, after so many attempts."""
    return float(min(1.0, 0.01 * 1.5 ** min(attempts, 20)))
