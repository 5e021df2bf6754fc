"""What is safe to show: texts without passwords, and without characters that steer a terminal."""

from collections.abc import Callable
from typing import Final, TypeAlias

from quaestor._text import format_error
from quaestor.events import Event

Clean: TypeAlias = Callable[[str], str]
"""Removes secrets from a text: the password of a URI."""

_LONGEST: Final = 2000


def escape(text: str) -> str:
    r"""Escape, as Python does, what can't be printed or steers a terminal (a newline: \n)."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def format_message(event: Event, clean: Clean) -> str:
    """Return the message of an event in one line that is safe to print, cut after 2000 characters."""
    text = _join_lines(str(event), clean)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def format_reason(error: BaseException, clean: Clean) -> str:
    """Return the class of an error and its message in one line that is safe to print."""
    return _join_lines(format_error(error), clean)


def _join_lines(text: str, clean: Clean) -> str:
    return escape(" ".join(clean(text).split()))  # cleaned first: a secret may hold blanks
