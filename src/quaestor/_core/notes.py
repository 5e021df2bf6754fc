"""Notes on other people's exceptions."""

import contextlib


def add_note(error: BaseException, note: str) -> None:
    """Add a note, unless the exception refuses it, as a frozen dataclass does: the exception itself matters more."""
    with contextlib.suppress(Exception):
        error.add_note(f"quaestor: {note}")
