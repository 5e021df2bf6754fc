"""The command line. Its dependencies are the extra `cli`; nothing else in the package imports it."""

import sys
from collections.abc import Mapping, Sequence
from io import TextIOWrapper

from quaestor.cli.settings import Setting

_EXTRA = {"rich", "typer"}


def main(
    arguments: Sequence[str] | None = None,
    *,
    prog_name: str = "quaestor",
    settings: Mapping[str, Setting] | None = None,
    mistake: str = "",
) -> None:
    """The command `quaestor`, or, under another name, a command of a framework with settings of its own.

    Args:
        arguments: Those of the command line; None: those of the process.
        prog_name: The name of the command, for its help.
        settings: The framework's own; only options count more. `new` takes none: it needs the registry's real place.
        mistake: What is wrong with the settings of the framework; the command reports it, and does nothing.
    """
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
    run(sys.argv[1:] if arguments is None else arguments, prog_name, settings or {}, mistake)
