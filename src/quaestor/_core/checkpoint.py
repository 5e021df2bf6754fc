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
"""The maximum number of documents in a batch."""

DEFAULT_BYTES = 48_000_000
"""The maximum size of a batch, in bytes of BSON."""

_LARGEST = 2**31 - 2  # one more is the largest limit of the server


@dataclass(frozen=True, slots=True)
class Throttle:
    """The size of batches, and the waits between them: arguments of `MigrationContext.batches`, checked."""

    size: int = DEFAULT_SIZE
    pause: float = 0.0
    max_lag: float | None = None
    max_bytes: int = DEFAULT_BYTES

    def __post_init__(self) -> None:
        for option, unit in (("size", "documents"), ("max_bytes", "bytes")):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
                raise InvalidOptionError(f"{option} must be a whole number of {unit}, 1 or more, not {value!r:.40}.")
        check_seconds("pause", self.pause, 0, LONGEST_TTL)
        if self.max_lag is not None:
            check_seconds("max_lag", self.max_lag, 0, LONGEST_TTL)

    @property
    def waits(self) -> bool:
        """Whether the backfill waits between two batches."""
        return self.pause > 0 or self.max_lag is not None


@dataclass(frozen=True, slots=True)
class Batch:
    """Documents of one type of `_id`, in order."""

    documents: list[Document]  # there may be none, at the end of a type
    ends: tuple[object, ...] = ()  # the first and last `_id`, as they are stored; empty if there are no documents
    following: tuple[object, ...] = ()  # the `_id` where the next batch starts, as the only item, if the type has more


@dataclass(frozen=True, slots=True)
class Origin:
    """The backfill that a checkpoint belongs to: if it differs, the checkpoint isn't valid.

    `fingerprint` is a digest of the collection's name and the filter. The other fields are those of `Checkpoint`.
    """

    collection: str
    fingerprint: str
    collection_id: bytes | None
    finished: bool


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The progress of a backfill.

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

    def advance(self, batch: Batch) -> "Checkpoint":
        """Make the checkpoint after the next batch."""
        after = replace(self, batches=self.batches + 1, done=self.done + len(batch.documents))
        if batch.following:
            return replace(after, start=batch.following)
        return replace(after, bounds=self.bounds[1:], start=())

    @property
    def estimate(self) -> int | None:
        """The number of documents in all, as far as known."""
        return estimate(self.done, self.total, is_end=not self.bounds)


def is_same_collection(one: bytes | None, other: bytes | None) -> bool:
    """Say whether two UUIDs are of one collection, as far as the server says."""
    return None in {one, other} or one == other


def estimate(done: int, total: int | None, *, is_end: bool) -> int | None:
    """Correct an estimate: at the end it's what is done, and before, once that much is done, it was too low."""
    if is_end:
        return done
    return None if total is None or done >= total else total


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
