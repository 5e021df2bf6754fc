"""The commands that write code: init, new, squash."""

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from quaestor.cli import endings, scaffold
from quaestor.cli.answers import out, print_report
from quaestor.cli.command import Command, command
from quaestor.cli.endings import FAILED
from quaestor.cli.loader import locate
from quaestor.cli.options import argument, complete_names, option
from quaestor.cli.redaction import escape
from quaestor.cli.settings import CommandError
from quaestor.cli.target import Target

app: typer.Typer = typer.Typer()


@app.command("init", cls=Command, epilog="Examples:\n\nquaestor init\n\nquaestor init shop.migrations --prefix shop")
def _init(
    package: Annotated[
        str, typer.Argument(metavar="PACKAGE", help="The package to create, such as shop.migrations.")
    ] = "migrations",
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="NAME", help="The prefix of quaestor's collections.")
    ] = "app",
) -> None:
    """Create a package for migrations, and add the settings to pyproject.toml."""
    with endings.report_errors(str):
        for file in scaffold.init(Path.cwd(), package, prefix):
            out.print(f"Written: {file}", soft_wrap=True)
    out.print("Next: quaestor new NAME, and quaestor status --uri mongodb://127.0.0.1:27017/NAME")


@command(app, "new", "quaestor new split_names", "quaestor new order_cents -d split_names", has_json=False)
def _new(
    target: Target,
    *,
    name: Annotated[str, argument("The name of the migration, such as split_names.")],
    depends_on: Annotated[
        list[str] | None,
        typer.Option(
            "--depends-on",
            "-d",
            metavar="NAME",
            autocompletion=complete_names,
            help="A migration that it depends on; repeat the option for several. Defaults to all migrations that no "
            "other depends on.",
            show_default=False,
        ),
    ] = None,
    independent: Annotated[bool, typer.Option("--independent", help="Let it depend on no other migration.")] = False,
    transaction: Annotated[bool, typer.Option("--transaction", help="Run it in a transaction.")] = False,
    is_async: Annotated[
        bool | None,
        typer.Option(
            "--async/--sync",
            help="Write `async def` or `def` functions. Defaults to those of the other migrations.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write a module for a new migration and its rollback, to fill in."""
    if independent and depends_on:
        raise CommandError("Pass --depends-on or --independent, not both.")
    settings = target.settings
    file = scaffold.new(
        settings.folder("migrations") / settings.value("migrations"),
        name,
        target.registry,
        locate(settings.value("registry"), settings.folder("registry")),
        depends_on=[] if independent else depends_on,
        is_async=is_async,
        transaction=transaction,
    )
    out.print(f"Written: {file}", soft_wrap=True)
    if file.stem != name:
        out.print(f"It is recorded as {name!r}; its function is {file.stem}.", soft_wrap=True)


@command(
    app,
    "squash",
    "quaestor squash split_first_name split_last_name --into split_names",
    "quaestor squash --prove split_names",
    has_json=False,
)
def _squash(
    target: Target,
    *,
    names: Annotated[list[str] | None, argument("The migrations to replace, in any order.")] = None,
    into: Annotated[str | None, option("--into", "NAME", "The name of the migration to write.")] = None,
    proved: Annotated[
        str | None,
        option(
            "--prove", "NAME", "Prove this migration, which replaces others, again. Nothing is written.", completes=True
        ),
    ] = None,
) -> None:
    """Write a migration that replaces several, for you to finish, and prove that it does the same.

    The proof calls the functions of the old migrations in an empty database, and that of the new one in another.
    Both are dropped afterwards. The exit code is 1 if they differ; the new module stays.
    """
    from quaestor.cli.squash import squash  # here: only this command needs it

    if proved is not None:
        if names or into is not None:
            raise CommandError("Pass --prove alone, or the names of migrations and --into.")
        _prove(target, proved)
        return
    if not names or into is None:
        raise CommandError("Pass the names of the migrations to replace, and --into with that of the new one.")
    settings = target.settings
    _ = target.db if target.has_server else ""  # reports wrong settings before anything is written
    file, notes = squash(
        target.registry,
        names,
        into,
        settings.folder("migrations") / settings.value("migrations"),
        locate(settings.value("registry"), settings.folder("registry")),
    )
    print_report([escape(line) for line in (f"Written: {file}", *notes)])
    prove = f"quaestor squash --prove {quote(into)}"
    if target.has_server:
        _prove(target, into)
    else:
        print_report([f"Not proved, because no server is configured: {prove} --uri URI"])
    print_report([f"Next: simplify the new module, and prove it again ({prove}). Deploy it beside the old modules."])
    print_report([f"Remove those when every database has a record of {escape(into)}."])


def _prove(target: Target, name: str) -> None:
    """Prove a replacement, or exit."""
    from quaestor.cli.proof import prove  # here: only this command needs it

    differences, found = prove(target, name)
    if differences:
        print_report(
            [escape(f"{name} doesn't do the same as what it replaces:"), *(f"  {escape(one)}" for one in differences)]
        )
        raise typer.Exit(FAILED)
    said = f"{name} does the same as what it replaces ({found})"
    print_report(
        [escape(f"Proved: in an empty database, {said if found else f'{name} runs. It changes nothing there'}.")]
    )
