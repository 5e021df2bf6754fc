"""The system check for pending migrations."""

import os
from typing import Any

import pymongo
from django.core.checks import CheckMessage, Error, Warning  # noqa: A004 - Django's name for it
from django.core.exceptions import ImproperlyConfigured
from django.db import Error as DatabaseError
from pymongo.errors import ConnectionFailure, PyMongoError

from quaestor import SyncRunner
from quaestor._text import format_count, format_error, format_list
from quaestor.contrib.django.configuration import find_connection, get_database, get_registry, read_setting
from quaestor.errors import QuaestorError

_VARIABLE = "QUAESTOR_CHECK_TIMEOUT"
_TIMEOUT = "2"  # seconds: nearly every command of Django's runs the checks, also where there is no server


def check_migrations(**_kwargs: Any) -> list[CheckMessage]:
    """Warn of pending migrations. Says nothing if no server answers within 2 s, or QUAESTOR_CHECK_TIMEOUT."""
    try:
        timeout = _read_timeout()
        registry, prefix = get_registry(), read_setting("PREFIX")
        find_connection()  # first: it imports Django's backend, which takes time
        with pymongo.timeout(timeout):
            pending = SyncRunner(registry, get_database(), prefix).status().names("pending")
    except (ImproperlyConfigured, QuaestorError) as error:
        return [Error(str(error), id="quaestor.E001")]
    except (PyMongoError, DatabaseError) as error:  # Django's, if the server is too old for its backend
        if isinstance(error, ConnectionFailure) or getattr(error, "timeout", False):
            return []
        return [Warning(f"Can't read which migrations are applied: {format_error(error)}", id="quaestor.W002")]
    if not pending:
        return []
    text = f"{format_count(len(pending), 'pending MongoDB migration')}{format_list(pending)}."
    return [Warning(text, hint="Apply what is pending: manage.py quaestor run.", id="quaestor.W001")]


def _read_timeout() -> float:
    given = os.environ.get(_VARIABLE, _TIMEOUT)
    if given.isdecimal():
        return float(given)
    raise ImproperlyConfigured(f"{_VARIABLE} must be a whole number of seconds, not {given!r}.")
