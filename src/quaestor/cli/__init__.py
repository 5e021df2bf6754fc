"""The command line. Its dependencies are the extra `cli`; nothing else in the package imports it."""

import sys

_EXTRA = {"igraph", "rich", "typer"}


def main() -> None:
    """The command `quaestor`."""
    try:
        from quaestor.cli.app import app  # here, so that the lack of the extra is a sentence
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.exit(f"quaestor: The command line needs {error.name}. Install it: pip install 'mongo-quaestor[cli]'")
    app(prog_name="quaestor")  # also as python -m quaestor
