"""The vocabulary of the core: what a flow may ask of the world.

Rule 1: an effect is a frozen value. It says what is wanted, never how.
Rule 2: a flow asks with `answer = yield from SomeEffect(...)`. The type of the answer stands in the effect's base.
Rule 3: a runner performs every effect in one `match` that ends in `assert_never`.

The pattern of generators that ask and runners that do is psycopg 3's (`generators.py`, `waiting.py`).
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeAlias, TypeVar

from quaestor.core.events import Event
from quaestor.core.migration import MigrationDefinition
from quaestor.core.records import Records

T = TypeVar("T")
R = TypeVar("R")


class Ask(Generic[T]):
    """A request for a T."""

    __slots__ = ()

    def __iter__(self) -> Generator[Self, Any, T]:  # Any: only here the answer of a runner gets its type
        answer: T = yield self
        return answer


@dataclass(frozen=True, slots=True)
class ReadRecords(Ask[Records]):
    """Read all records, with majority concern on the primary."""


@dataclass(frozen=True, slots=True)
class Execute(Ask[float]):
    """Call the migration's function and wait for its end. Answers how long it took, in seconds."""

    migration: MigrationDefinition


@dataclass(frozen=True, slots=True)
class Record(Ask[None]):
    """Write that the migration of this name has been applied now, with majority concern."""

    name: str


@dataclass(frozen=True, slots=True)
class Emit(Ask[None]):
    """Tell the hook a fact. Never fails."""

    event: Event


Effect: TypeAlias = ReadRecords | Execute | Record | Emit
"""Any effect. A runner performs all of them."""

Flow: TypeAlias = Generator[Effect, object, R]
"""A generator that asks for effects and returns an R.

Its send type is object, not Any: a type checker then finds an effect that is yielded without `from`.
"""
