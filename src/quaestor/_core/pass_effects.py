"""The vocabulary of a pass: what it may ask of the world. The rules of `effects.py` hold.

It is a vocabulary of its own because a pass is performed where its migration's function runs: in its thread or task, on
the database of its colour. The run, wherever it is, waits for the function meanwhile.
"""

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from quaestor._core.checkpoint import Body, Checkpoint, Document, PassKey, Source
from quaestor._core.effects import Ask, AskForTransactions, CheckLease, Command, Emit, Now, Sleep, Unknown
from quaestor._core.transaction import Attempt

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class FindPasses(Command[Mapping[PassKey, bool]]):
    """Which passes of a migration, or of its rollback, have checkpoints, and whether they are finished."""

    migration: str
    undo: bool


@dataclass(frozen=True, slots=True)
class ClaimCheckpoint(Command[Checkpoint | None]):
    """Make the checkpoint of a pass this run's, with majority concern. Answers it; None: it is a later run's, or gone.

    Attributes:
        key: Whose.
        name: What it goes over, for people to read.
        checkpoint: What to write; None: there is one to go on from.
        token: That of the run's lease. A run with a lower one cannot write it any more.
        by_force: Whether to take it from a run with a higher one.
    """

    key: PassKey
    name: str
    checkpoint: Checkpoint | None
    token: int
    by_force: bool = False


@dataclass(frozen=True, slots=True)
class SaveCheckpoint(Command[bool]):
    """Write a checkpoint that is this run's, with majority concern. False: it is not any more."""

    key: PassKey
    checkpoint: Checkpoint
    token: int


@dataclass(frozen=True, slots=True)
class FindCheckpoint(Command[Checkpoint | None]):
    """Read a checkpoint that is this run's, with majority concern on the primary. None: it is not any more."""

    key: PassKey
    token: int


@dataclass(frozen=True, slots=True)
class IdentifyCollection(Command[bytes | None]):
    """By what the server knows the collection of this name; b"": there is none; None: it does not tell."""

    source: Source


@dataclass(frozen=True, slots=True)
class FindHighest(Command[tuple[object, ...]]):
    """The highest `_id` of those whose type is not among these, as the only item; empty if there is none."""

    source: Source
    others: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class CountAll(Command[int | None]):
    """How many documents the whole collection has, by what the server keeps of that; None where it cannot say."""

    source: Source


@dataclass(frozen=True, slots=True)
class CountMatching(Command[int | None]):
    """Count the documents of the source; None where the server cannot."""

    source: Source


@dataclass(frozen=True, slots=True)
class CountSampled(Command[int | None]):
    """How many of so many random documents of the collection are of the source; None where the server cannot say."""

    source: Source
    size: int


@dataclass(frozen=True, slots=True)
class ReadBatch(Command[list[Document]]):
    """Read documents of the current type in the order of `_id`, from a checkpoint on, at most so many."""

    source: Source
    checkpoint: Checkpoint
    limit: int


@dataclass(frozen=True, slots=True)
class ReadBeside(Ask[tuple[list[Document] | Unknown, bool | Unknown]]):
    """Read a batch, and save a checkpoint beside that, in a thread or task. Answers both.

    For the majority that keeps a checkpoint takes about as long as the next batch takes to come.
    """

    read: ReadBatch
    save: SaveCheckpoint


@dataclass(frozen=True, slots=True)
class HandOver(Ask[None]):
    """Give a batch to whoever works on it, and wait until it is done.

    Attributes:
        documents: The batch.
        body: What is called with it; None: the migration goes on in its own loop.
        where: Differs for every batch of every pass, and is the same in another attempt.
    """

    documents: list[Document]
    body: Body | None
    where: str


@dataclass(frozen=True, slots=True)
class TakeSession(Command[tuple[bytes, ...]]):
    """Have a session for the transactions of this pass. Answers the ids of all that are open in the run."""


@dataclass(frozen=True, slots=True)
class TransactBatch(Ask[Attempt[Checkpoint]]):
    """Perform the flow `transaction.attempt`: `passes.batch` in it, and then the checkpoint that this returns."""

    key: PassKey
    token: int
    source: Source
    checkpoint: Checkpoint
    size: int
    body: Body


@dataclass(frozen=True, slots=True)
class CommitBatchAgain(Ask[Attempt[Checkpoint]]):
    """Send the commit of the last attempt once more, for its outcome is unknown."""


@dataclass(frozen=True, slots=True)
class ReadLag(Command[float]):
    """How far the replica that is most behind is behind the primary, in seconds."""


PassEffect: TypeAlias = (
    FindPasses
    | ClaimCheckpoint
    | SaveCheckpoint
    | FindCheckpoint
    | IdentifyCollection
    | FindHighest
    | CountAll
    | CountMatching
    | CountSampled
    | ReadBatch
    | ReadBeside
    | HandOver
    | AskForTransactions
    | TakeSession
    | TransactBatch
    | CommitBatchAgain
    | ReadLag
    | CheckLease
    | Now
    | Sleep
    | Emit
)
"""Any effect of a pass."""

PassFlow: TypeAlias = Generator[PassEffect, object, R]
"""A flow in this vocabulary."""
