"""What the measurements need to know of a tool."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Place:
    """Migrations, and the database that they are for.

    Attributes:
        folder: Where they were laid down.
        uri: Of the server.
        database: The name of the database.
    """

    folder: Path
    uri: str
    database: str

    @property
    def uri_of_database(self) -> str:
        """The URI with the name of the database in it."""
        return urlsplit(self.uri)._replace(path=f"/{self.database}").geturl()


LayDown: TypeAlias = Callable[[Path, int, float], None]
Ready: TypeAlias = Callable[[Place], AbstractContextManager[Callable[[], object]]]


@dataclass(frozen=True)
class Tool:
    """A tool, and how it is used.

    Attributes:
        name: What the tables call it.
        requirements: What pip installs for it.
        distribution: Whose version is told.
        drivers: Whose versions are told, too.
        imports: The import that its README begins with.
        called: How it is called here, in words.
        connects: It opens connections of its own in that call; else it is given a client that is connected.
        lay_down: Writes migrations into a new folder, so many, each of which inserts one document and then waits so
            many seconds.
        ready: In an environment of the tool: imports it, and connects where it wants a client. What the context gives
            is called and timed: it loads the migrations and applies what is missing.
    """

    name: str
    requirements: tuple[str, ...]
    distribution: str
    drivers: tuple[str, ...]
    imports: str
    called: str
    connects: bool
    lay_down: LayDown
    ready: Ready
