"""What a migration is given beside the database, if it takes a second argument."""

import logging
from collections.abc import Callable

from quaestor.core.events import Event, MigrationProgressed, Place
from quaestor.errors import InvalidOptionError


class MigrationContext:
    """The migration as it runs.

    Attributes:
        name: The name of the migration (str).
        logger: A logger to write to (logging.Logger): `quaestor.migration`.
    """

    def __init__(self, place: Place, tell: Callable[[Event], None], *, undo: bool) -> None:
        self._place = place
        self._tell = tell
        self._undo = undo
        self.name = place.name
        self.logger = logging.getLogger("quaestor.migration")

    def progress(self, done: int, total: int | None = None) -> None:
        """Say how far the migration is: an event `MigrationProgressed`, which the command line shows as a bar.

        Args:
            done: How much is done, in whatever it counts.
            total: How much there is to do in all; None if that is not known.

        Raises:
            InvalidOptionError: One of them is not a whole number.
        """
        for number in (done, total):
            if number is not None and not isinstance(number, int):
                raise InvalidOptionError(f"progress() takes whole numbers (int), not {number!r:.40}.")
        self._tell(MigrationProgressed(*self._place, done, total, undo=self._undo))
