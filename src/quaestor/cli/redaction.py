"""What is safe to show: texts without passwords, without characters that steer a terminal, in any encoding."""

import codecs
import re
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias
from urllib.parse import quote, quote_plus, unquote_plus

from quaestor._text import format_error, read_error
from quaestor.events import Event, MigrationFailed

Clean: TypeAlias = Callable[[str], str]
"""Removes secrets from a text: the password of a URI."""

_LONGEST: Final = 2000

FALLBACK: Final = "quaestor.fallback"
"""The error handler of encodings: signs that an encoding lacks become ASCII, other characters Python's escapes."""

_ASCII: Final = dict(zip("✓○▸✗●…│─├┤┼╰╯┴", "+->x*~|-+++`'+", strict=True))


def _replace(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that an encoding lacks. A sign of ours stays one cell wide, so tables stay straight."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    escaped = (letter.encode("ascii", "backslashreplace").decode("ascii") for letter in lacking)
    return "".join(map(_ASCII.get, lacking, escaped)), error.end


codecs.register_error(FALLBACK, _replace)


def redact(text: str, uri: str) -> str:
    """Replace each password of the URI in the text by `***`, in any spelling.

    The URI may be broken: anything in the place of a password counts as one.
    """
    written = {form for secret in _secrets(uri) for form in _forms(secret) if form}
    return re.sub("|".join(map(re.escape, sorted(written, key=len, reverse=True))), "***", text) if written else text


def is_doubtful(uri: str) -> bool:
    """Say whether a password may be read as a host or database: there is an `@` after the first `@`, `/` or `?`."""
    address = uri.partition("://")[2] or uri  # the scheme may be missing
    return "@" in "".join(re.split("[@/?]", address, maxsplit=1)[1:])


def _secrets(uri: str) -> Iterator[str]:
    """Find possible passwords: up to the last `@` that could end one, and in options named so."""
    address = uri.partition("://")[2] or uri  # the scheme may be missing
    for part in (re.split("[/?]", address, maxsplit=1)[0], address):
        yield part.rpartition("@")[0].partition(":")[2]
    yield from re.findall(r"(?:password|token)[=:]([^&,]+)", uri, re.IGNORECASE)


def _forms(secret: str) -> set[str]:
    """Spell a password: unchanged, with and without percent-encoding, and in a Python literal."""
    plain = unquote_plus(secret)
    encoded = [quoted(plain, safe, errors="surrogatepass") for quoted in (quote, quote_plus) for safe in ("", "/")]
    forms = {secret, plain, *encoded}
    return forms | {repr(form)[1:-1] for form in forms}


def escape(text: str) -> str:
    r"""Escape, as Python does, what can't be printed or steers a terminal (a newline: \n)."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def format_message(event: Event, clean: Clean) -> str:
    """Return the message of an event in one line that is safe to print, cut after 2000 characters.

    The command reports the error of a migration at its end, so only its class and code are in the line.
    """
    message = str(event)
    if isinstance(event, MigrationFailed) and message.endswith(text := format_error(event.error)):
        message = message.removesuffix(text) + str(read_error(event.error))
    text = escape(" ".join(clean(message).split()))  # cleaned first: a secret may hold blanks
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
