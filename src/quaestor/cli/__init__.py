"""The command line. Its dependencies are the extra `cli`; nothing else in the package imports it."""

import sys
from io import TextIOWrapper

_EXTRA = {"rich", "typer"}


def main() -> None:
    """The command `quaestor`."""
    try:
        from quaestor.cli.app import run  # here, so that the lack of the extra is a sentence
        from quaestor.cli.redaction import FALLBACK
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.stderr.write(f"quaestor: The command line needs {error.name}: pip install 'mongo-quaestor[cli]'\n")
        sys.exit(2)  # not 1, which is an answer of `check`
    except KeyboardInterrupt:
        sys.exit(130)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # a character that its encoding lacks must not be an error
            stream.reconfigure(errors=FALLBACK)
    run()
