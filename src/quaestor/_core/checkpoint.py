"""A pass over a collection in batches, as values: what it goes over, how far it is, what comes next.

A pass goes over `_id`s of every type in the order of MongoDB. A comparison in a query is one within a type, so a pass
takes one type after the other. Which there are, and the highest `_id` of each, is asked once, when the pass begins:
that is where it ends, however much is inserted beyond. And the next batch begins at an `_id` that was there before the
last one was handed over: what is inserted right behind a document is not taken for the next one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from quaestor._core.lease import ANNOUNCED_EVERY, LONGEST_TTL
from quaestor.errors import InvalidOptionError

Document: TypeAlias = dict[str, Any]
"""A document of MongoDB."""

Body: TypeAlias = Callable[[list[Document]], object]
"""What a batch is given to."""

DEFAULT_SIZE = 1_000
"""How many documents are in a batch."""

MOST_TYPES = 40
"""More types than `_id`s can have."""

COUNTED = 100_000
"""A collection with more documents is not counted but sampled, for that would take long."""

SAMPLE = 1_000
"""Of how many documents."""

LOOKED_EVERY = (0.5, 1.0)
"""How often a pass that waits for replicas looks how they are, in seconds: at least and at most."""

_LARGEST = 2**31 - 2  # a batch and one more is a number that the server takes


@dataclass(frozen=True, slots=True)
class Source:
    """What a pass goes over.

    Attributes:
        collection: The driver's collection.
        name: Its name, with that of its database where it is another one's.
        filter: Which documents.
        projection: Which fields of them.
        fingerprint: Differs where collection or filter do.
    """

    collection: Any
    name: str
    filter: Mapping[str, Any]
    projection: Mapping[str, Any] | Sequence[str] | None
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Pace:
    """How a pass goes. Making one checks it.

    Attributes:
        size: How many documents are in a batch.
        pause: How long to wait between two, in seconds.
        max_lag: How far the replicas may be behind, in seconds, for the pass to go on; None: it does not ask.

    Raises:
        InvalidOptionError: One of them cannot be used.
    """

    size: int = DEFAULT_SIZE
    pause: float = 0.0
    max_lag: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not 1 <= self.size <= _LARGEST:
            raise InvalidOptionError(f"size must be a whole number of documents, from 1 on, not {self.size!r:.40}.")
        _check_seconds("pause", self.pause)
        if self.max_lag is not None:
            _check_seconds("max_lag", self.max_lag)

    @property
    def rests(self) -> bool:
        """Whether the pass stops between two batches."""
        return self.pause > 0 or self.max_lag is not None


@dataclass(frozen=True, slots=True)
class PassKey:
    """By what a pass is known again in a later attempt at its migration.

    Attributes:
        migration: The migration.
        undo: Whether it is one of its rollback.
        fingerprint: That of what it goes over; and of the batch, if it is begun inside one of another pass.
        number: How many such passes the migration began before it.
    """

    migration: str
    undo: bool
    fingerprint: str
    number: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a pass is.

    Attributes:
        bounds: The highest `_id` of every type that is not gone over yet, in order. The first is of the current one.
        start: The `_id` at which the next batch begins, as the only item (None is an `_id`); empty at the first of its
            type.
        batches: How many batches there were.
        done: How many documents there were in them.
        total: How many there are in all, estimated when the pass began; None where nobody knows.
        collection_id: By what the server knows the collection, whatever its name; b"" where there is none, None where
            the server does not tell.
        finished: Whether all is done.
    """

    bounds: tuple[object, ...] = ()
    start: tuple[object, ...] = ()
    batches: int = 0
    done: int = 0
    total: int | None = None
    collection_id: bytes | None = None
    finished: bool = False

    def advanced(self, documents: Sequence[Document], size: int) -> tuple[list[Document], "Checkpoint"]:
        """The next batch and the checkpoint after it, of documents that were read from here on: one more than `size`
        of the current type, or as many as there are.

        Raises:
            InvalidOptionError: Two of them cannot be told apart by their `_id`s.
        """
        batch = list(documents[:size])
        # By repr, for Python takes True for 1. Seen at the border of a batch alone, where it would do harm.
        if len(documents) > size and repr(documents[size]["_id"]) == repr(documents[size - 1]["_id"]):
            raise InvalidOptionError(
                f"Two documents have the `_id` {documents[size]['_id']!r:.80}, and a pass cannot tell them apart: it "
                "is stored twice, on two shards, or the codec options of the collection make one of different ones."
            )
        after = replace(self, batches=self.batches + 1, done=self.done + len(batch))
        if len(documents) > size:
            return batch, replace(after, start=(documents[size]["_id"],))
        return batch, replace(after, bounds=self.bounds[1:], start=())

    def is_of(self, collection_id: bytes | None) -> bool:
        """Whether it is of the collection that the server knows by this, as far as it tells."""
        return None in {collection_id, self.collection_id} or collection_id == self.collection_id

    @property
    def whole(self) -> int | None:
        """How many documents there are in all, as far as one knows by now."""
        if self.total is None:
            return None
        return max(self.total, self.done) if self.bounds else self.done


@dataclass(slots=True)
class Reminder:
    """Says when something that goes on is to be told again.

    Attributes:
        told_at: When it was told last (float, seconds of some clock).
    """

    told_at: float

    def is_due(self, now: float) -> bool:
        """Whether it is to be told now. If so, it counts as told."""
        due = now - self.told_at >= ANNOUNCED_EVERY
        self.told_at = now if due else self.told_at
        return due


def check_projection(projection: object) -> None:
    """Check that a projection keeps the `_id`.

    Raises:
        InvalidOptionError: It does not, or is none.
    """
    if projection is None:
        return
    if isinstance(projection, str | bytes) or not isinstance(projection, Mapping | Sequence):
        raise InvalidOptionError(f"projection must be a dict or a list of fields, not {projection!r:.80}.")
    kept = projection.get("_id", True) if isinstance(projection, Mapping) else True
    if not all(isinstance(name, str) for name in projection):
        raise InvalidOptionError(f"projection must hold the names of fields (str): {projection!r:.80}.")
    is_cut = any(name.startswith("_id.") for name in projection)
    if is_cut or not isinstance(kept, bool | int | float) or not kept:
        raise InvalidOptionError("projection must keep `_id` as it is: a pass knows by it where it is.")


def _check_seconds(option: str, value: object) -> None:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not math.isfinite(value)
        or not 0 <= value <= LONGEST_TTL
    ):
        raise InvalidOptionError(
            f"{option} must be a number of seconds, from 0 to {LONGEST_TTL:,.0f}, not {value!r:.40}."
        )
