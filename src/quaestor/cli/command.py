"""How a function becomes a command."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from quaestor.cli.endings import FAILED, report_errors
from quaestor.cli.options import make_shared_options
from quaestor.cli.redaction import redact
from quaestor.cli.target import LEASE, Target

_JSON = ("as_json",)  # not of every command
_WRITES = (*LEASE, "release", "on_event")


class _Help:
    """Makes help show the metavar of a value, where Typer would show a type, such as `<list[str]>`."""

    def get_params(self, ctx: Any) -> Any:
        """Return the parameters, each with its metavar alone."""
        parent: Any = super()
        parameters = parent.get_params(ctx)
        for parameter in parameters:
            shown = parameter.metavar or "" if parameter.param_type_name == "option" else ""
            vars(parameter)["display_type_rich"] = lambda ctx, shown=shown: shown  # noqa: ARG005 - Typer passes it
        return parameters


class Command(_Help, TyperCommand):
    """A command of the command line."""


class Commands(_Help, TyperGroup):
    """The command line."""


def command(
    app: typer.Typer,
    name: str,
    *examples: str,
    has_json: bool = True,
    has_lease: bool = False,
    takes_pattern: bool = False,
    failed: int = FAILED,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function that takes a `Target` as a command that takes the options of the target instead.

    Typer reads the options of a command from its signature, so this adds them there. `failed` is its exit code for
    errors that have no other.
    """
    others = (() if has_json else _JSON) + (() if has_lease else _WRITES)
    shared = [option for option in make_shared_options(takes_pattern=takes_pattern) if option.name not in others]

    def decorator(function: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter.replace(kind=parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(function).parameters.values()
            if parameter.name != "target"
        ]

        def run(*, ctx: typer.Context, traceback: bool, **arguments: Any) -> None:
            report = partial(report_errors, failed=failed, trace=traceback)
            with report(partial(redact, uri=arguments["uri"] or "")):
                options = {one.name: arguments.pop(one.name) for one in shared if one.name != "traceback"}
                target = Target(name, framework=(name != "new" and ctx.obj) or {}, **options)
            with report(target.clean, source=target.settings.source), target.stack:
                function(target, **arguments)

        parameters = [*own, *shared, inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # PEP 362
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__doc__ = function.__doc__
        app.command(name, cls=Command, epilog="\n\n".join(["Examples:", *examples]))(run)
        return function

    return decorator
