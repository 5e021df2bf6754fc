"""Beanie and MongoEngine: advice for their errors in a migration. They are recognised, never imported. Pure."""

import traceback
from typing import Final

from quaestor._text import add_note, message_of
from quaestor.errors import PreconditionFailedError, VerificationFailedError

_ADVICE: Final = {
    "beanie": (
        "Beanie's documents use the client that `init_beanie` was given. Call it before the run, with a database of "
        "the run's client (with the CLI: in the async function that --client names), or in the migration itself, with "
        "its `db` and without transaction=True."
    ),
    "mongoengine": (
        "MongoEngine's documents use the client of `connect()`. Call it once, before the run, and pass its database, "
        "`mongoengine.get_db()`, to the run (with the CLI: --client mongoengine:get_connection). A transaction can't "
        "create an index on a collection with documents: call `ensure_indexes()` before the run."
    ),
}
_NOT_CONNECTED: Final = {
    ("beanie.exceptions", "CollectionWasNotInitialized"),
    ("mongoengine.connection", "ConnectionFailure"),
}
_MISPLACED: Final = ("in transactions", "multi-document transaction", "bound session", "different event loop")
"""Words of the server and of the driver: the ODM wants indexes or a list of collections, or has another client."""


def find_advice(error: BaseException) -> str | None:
    """Find advice for the error of an ODM that has no client, or another one than the run."""
    modules = []
    if (type(error).__module__, type(error).__name__) in _NOT_CONNECTED:
        modules = [type(error).__module__]
    elif isinstance(error, AttributeError):  # the fields of a class that `init_beanie` doesn't know
        owner = error.obj if isinstance(error.obj, type) else object
        modules = [cls.__module__ for cls in owner.__mro__ if error.name in getattr(owner, "model_fields", ())]
    elif any(words in message_of(error) for words in _MISPLACED):
        modules = [str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__)]
    return next((_ADVICE[odm] for module in modules if (odm := module.partition(".")[0]) in _ADVICE), None)


def add_advice(error: BaseException) -> None:
    """Add a note with advice to the error of an ODM, or of a guard that it is the cause of."""
    is_of_guard = isinstance(error, PreconditionFailedError | VerificationFailedError)
    cause = error.__cause__ if is_of_guard else error
    if cause is not None and (advice := find_advice(cause)) is not None:
        add_note(error, advice)
