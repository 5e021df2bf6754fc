"""The checkpoints of backfills, and how they advance, as values.

A backfill goes over `_id`s of every type in MongoDB's order. A comparison in a query only matches one type, so it takes
one type after the other. The types, and the highest `_id` of each, are read once, when the backfill starts: it ends
there, whatever is inserted beyond. The start of the next batch is read before the body of the last one runs, so a
document that the body inserts right behind its batch isn't mistaken for that start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from quaestor._core.lease import LONGEST_TTL, check_seconds
from quaestor.errors import InvalidOptionError

Document: TypeAlias = dict[str, Any]
"""A document of MongoDB."""

DEFAULT_SIZE = 1_000
"""How many documents are in a batch."""

_LARGEST = 2**31 - 2  # one more is the largest limit of the server


@dataclass(frozen=True, slots=True)
class Throttle:
    """The size of batches, and the waits between them: arguments of `MigrationContext.batches`, checked."""

    size: int = DEFAULT_SIZE
    pause: float = 0.0
    max_lag: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, bool) or not isinstance(self.size, int) or not 1 <= self.size <= _LARGEST:
            raise InvalidOptionError(f"size must be a whole number of documents, 1 or more, not {self.size!r:.40}.")
        check_seconds("pause", self.pause, 0, LONGEST_TTL)
        if self.max_lag is not None:
            check_seconds("max_lag", self.max_lag, 0, LONGEST_TTL)

    @property
    def rests(self) -> bool:
        """Whether the backfill waits between two batches."""
        return self.pause > 0 or self.max_lag is not None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a backfill is.

    `bounds` has the highest `_id` of every type that is left, in order, from the current type on. The next batch starts
    at the `_id` that is the only item of `start` (None is an `_id`); if there is none, at the first of its type.
    """

    bounds: tuple[object, ...] = ()
    start: tuple[object, ...] = ()
    batches: int = 0  # that are done
    done: int = 0  # documents
    total: int | None = None  # estimated when the backfill started; None: unknown
    collection_id: bytes | None = None  # a UUID; b"": there is no such collection; None: the server doesn't say
    finished: bool = False

    def advance(self, documents: Sequence[Document], size: int) -> tuple[list[Document], "Checkpoint"]:
        """Make the next batch, and the checkpoint after it.

        The documents are those from here on: one more than a batch of the current type, or all that are left.
        """
        batch = list(documents[:size])
        # By repr, because True == 1 in Python. Only at the end of a batch, where it would do harm.
        if len(documents) > size and repr(documents[size]["_id"]) == repr(documents[size - 1]["_id"]):
            raise InvalidOptionError(
                f"Two documents have the `_id` {documents[size]['_id']!r:.80}, and a backfill can't tell them apart: "
                "the document is stored on two shards, or the codec options of the collection decode different `_id`s "
                "alike."
            )
        after = replace(self, batches=self.batches + 1, done=self.done + len(batch))
        if len(documents) > size:
            return batch, replace(after, start=(documents[size]["_id"],))
        return batch, replace(after, bounds=self.bounds[1:], start=())

    def is_of(self, collection_id: bytes | None) -> bool:
        """Say whether it belongs to the collection with this UUID, as far as the server says."""
        return None in {collection_id, self.collection_id} or collection_id == self.collection_id

    @property
    def estimate(self) -> int | None:
        """How many documents there are in all, as far as is known by now."""
        if self.total is None:
            return None
        return max(self.total, self.done) if self.bounds else self.done


def check_projection(projection: object) -> None:
    """Check that it is a projection, and keeps the `_id`."""
    if projection is None:
        return
    if isinstance(projection, str | bytes) or not isinstance(projection, Mapping | Sequence):
        raise InvalidOptionError(f"projection must be a dict or a list of fields, not {projection!r:.80}.")
    kept = projection.get("_id", True) if isinstance(projection, Mapping) else True
    if not all(isinstance(name, str) for name in projection):
        raise InvalidOptionError(f"projection must hold the names of fields (str): {projection!r:.80}.")
    is_cut = any(name.startswith("_id.") for name in projection)
    if is_cut or not isinstance(kept, bool | int | float) or not kept:
        raise InvalidOptionError("projection must keep `_id` as it is: the checkpoints of a backfill are `_id`s.")
