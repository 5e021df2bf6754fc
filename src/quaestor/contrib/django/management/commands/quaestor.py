"""`manage.py quaestor`: the command line with the settings of Django."""

import os
import sys
from argparse import REMAINDER
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.module_loading import module_has_submodule

from quaestor.cli import main, reports
from quaestor.cli.commands import writing
from quaestor.cli.loader import locate_error
from quaestor.cli.settings import Setting
from quaestor.contrib.django.configuration import MODULE, configure_cli, get_registry, read_setting

_NOTE = "The settings come from QUAESTOR. `new` and `squash` take --app LABEL, the app that gets the migration."
_NO_INIT = "Django needs no `init`: `manage.py quaestor new NAME --app LABEL` makes the package for migrations."
_NO_MIGRATIONS = "No migration is registered. Write one: `manage.py quaestor new NAME --app LABEL`."
_HELP = {"-h", "--help"}
_NEW = '"""The migrations of this app in MongoDB. `manage.py quaestor new` adds a module."""\n'


class Command(BaseCommand):
    """Runs the commands of quaestor on the database of the settings."""

    help = "Show, apply and roll back MongoDB migrations."
    requires_system_checks = ()  # one of them warns of the migrations that are about to be applied

    def add_arguments(self, parser: CommandParser) -> None:
        """Take everything: the command line has its own parser."""
        parser.add_argument("args", nargs=REMAINDER)

    def print_help(self, prog_name: str, subcommand: str) -> None:
        """Print the commands."""
        self.run_from_argv([prog_name, subcommand, "--help"])

    def run_from_argv(self, argv: list[str]) -> None:
        """Run a command of the terminal, and exit."""
        _, arguments = _split(argv[2:], "--settings", "--pythonpath")  # Django has read them
        if _HELP & {*arguments}:
            self.stdout.write(_NOTE)
        _run(arguments, f"{Path(argv[0]).name} {argv[1]}")

    def handle(self, *args: str, **options: Any) -> None:
        """Run a command for `call_command`. Raises Django's CommandError if it fails; stderr says why."""
        out, err = options.get("stdout") or sys.stdout, options.get("stderr") or sys.stderr
        try:
            with redirect_stdout(out), redirect_stderr(err):
                _run([*args])
        except SystemExit as end:
            if end.code:
                raise CommandError(f"quaestor {' '.join(args[:1])} failed.", returncode=int(end.code)) from None


def _run(arguments: list[str], program: str = "quaestor") -> None:
    reports.NO_MIGRATIONS = _NO_MIGRATIONS  # in this process, Django's is the only command line
    for command in writing.app.registered_commands:
        command.hidden = command.name == "init"
    try:
        arguments, settings = _configure(arguments)
        mistake = ""
    except ImproperlyConfigured as error:
        settings, mistake = {}, str(error)
    main(arguments, prog_name=program, settings=settings, mistake=mistake)


def _configure(arguments: list[str]) -> tuple[list[str], dict[str, Setting]]:
    """Return the arguments and the settings of the command line."""
    command = "--help" if not arguments or _HELP & {*arguments} else arguments[0]
    if command == "--help":
        return arguments, {}
    if command == "init":
        raise ImproperlyConfigured(_NO_INIT)
    is_squash = command == "squash" and any(one.partition("=")[0] == "--into" for one in arguments)
    if command == "new" or is_squash:
        (label,), arguments = _split(arguments, "--app")
        _prepare_new(label)
        settings = configure_cli() if is_squash else {}
        return arguments, {name: one for name, one in settings.items() if name != "registry"}
    return arguments, configure_cli()


def _split(arguments: Sequence[str], *options: str) -> tuple[list[str | None], list[str]]:
    """Take these options out of the arguments: their values, and the rest."""
    parser = CommandParser(add_help=False, allow_abbrev=False)
    for option in options:
        parser.add_argument(option)
    values, rest = parser.parse_known_args(arguments)
    return list(vars(values).values()), rest


def _prepare_new(label: str | None) -> None:
    """Tell `new` and `squash` where the registry and the migrations are: a new module needs the real places."""
    folder = _find_folder(label)  # first: the registry imports it, even if it's new
    try:
        get_registry()
    except ImproperlyConfigured:
        raise
    except Exception as error:
        raise ImproperlyConfigured(f"The migrations can't be imported: {locate_error(error)}") from error
    os.environ |= {"QUAESTOR_REGISTRY": read_setting("REGISTRY"), "QUAESTOR_MIGRATIONS": str(folder)}


def _find_folder(label: str | None) -> Path:
    """Find the package of migrations of an app, or make it if the app is named."""
    if label is None:
        found = [app for app in apps.get_app_configs() if app.module and module_has_submodule(app.module, MODULE)]
        if len(found) != 1:
            raise ImproperlyConfigured(f"{len(found)} apps have {MODULE}. Name the app that gets it: --app LABEL.")
        return Path(found[0].path) / MODULE
    try:
        folder = Path(apps.get_app_config(label).path) / MODULE
    except LookupError as error:
        labels = ", ".join(app.label for app in apps.get_app_configs())
        raise ImproperlyConfigured(f"There is no app {label!r}. The installed apps are {labels}.") from error
    if folder.with_suffix(".py").exists():
        raise ImproperlyConfigured(
            f"{folder.with_suffix('.py')} is a module. Make it a package: a folder with an __init__.py."
        )
    folder.mkdir(exist_ok=True)
    if not (init := folder / "__init__.py").exists():
        init.write_text(_NEW, encoding="utf-8")
    return folder
