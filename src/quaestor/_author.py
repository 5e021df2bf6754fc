"""Who writes records and history: the run, its process, and the release of the application."""

import contextlib
import os
import socket
import sys
from functools import cache
from importlib.metadata import version

from quaestor._core.definition import check_text
from quaestor._core.lease import Author
from quaestor.errors import InvalidOptionError

_LONGEST = 200  # characters of a release


def make_author(run: str, release: str | None) -> Author:
    """Make the author of a run in this process."""
    return Author(run, _make_storable(socket.gethostname()), find_user(), release, find_version())


def find_release(release: object = None) -> str | None:
    """Check the release of the application. None: the environment variable QUAESTOR_RELEASE, if it is set."""
    given = release if release is not None else os.environ.get("QUAESTOR_RELEASE") or None
    if given is None:
        return None
    checked = check_text("The release", given, InvalidOptionError)
    if len(checked) > _LONGEST or not checked.isprintable():
        raise InvalidOptionError(f"The release must be printable, and have at most {_LONGEST} characters.")
    return checked


def find_user() -> str | None:
    """Find the name of the operating system's user, or the number of one without a name."""
    if sys.platform == "win32":
        return os.environ.get("USERNAME")
    return find_name(os.geteuid())


@cache  # by user, because a process may change it; a directory service may take long
def find_name(uid: int) -> str:
    import pwd  # late: Windows has none

    try:
        return _make_storable(pwd.getpwuid(uid).pw_name)
    except (KeyError, OSError):  # in a container, the user may have no entry
        return str(uid)


@cache
def find_version() -> str | None:
    with contextlib.suppress(Exception):  # an application may be shipped without the metadata of its packages
        return version("mongo-quaestor")
    return None


def _make_storable(name: str) -> str:
    return name.encode(errors="replace").decode()  # names of the operating system may hold lone surrogates
