"""Protocols of the databases and collections that quaestor takes. Every supported driver's classes fit them."""

from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeVar

D_co = TypeVar("D_co", bound=Mapping[str, Any], covariant=True)
"""A document. Its bound keeps async collections, whose `find_one` returns a coroutine, from being sync ones."""

SYSTEM_DATABASES: Final = frozenset({"admin", "config", "local"})
"""MongoDB's own databases."""


class _Named(Protocol):
    @property
    def name(self) -> str:
        """Its name."""


class SyncDatabase(_Named, Protocol):
    """PyMongo's `Database`, or mongomock's."""

    def list_collection_names(self) -> list[str]:
        """The names of its collections."""


class AsyncDatabase(_Named, Protocol):
    """PyMongo's `AsyncDatabase`, Motor's `AsyncIOMotorDatabase`, or mongomock-motor's."""

    async def list_collection_names(self) -> list[str]:
        """The names of its collections."""


class SyncCollection(_Named, Protocol[D_co]):
    """A collection of PyMongo, or of mongomock."""

    def find_one(self, filter: Mapping[str, Any] | None = None, /) -> D_co | None:  # noqa: A002 - PyMongo's word
        """Read a document."""


class AsyncCollection(_Named, Protocol[D_co]):
    """A collection of PyMongo's async client, of Motor, or of mongomock-motor."""

    async def find_one(self, filter: Mapping[str, Any] | None = None, /) -> D_co | None:  # noqa: A002 - PyMongo's word
        """Read a document."""
