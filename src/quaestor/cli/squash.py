"""The module of `quaestor squash`: a migration that calls the functions of those that it replaces, in order."""

import ast
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from quaestor import MigrationDefinition
from quaestor._text import find_similar, format_count
from quaestor.cli.bundle import Bundle
from quaestor.cli.imports import WIDTH, fold, write_imports
from quaestor.cli.loader import Location, locate_error
from quaestor.cli.scaffold import IDEMPOTENT, RETRIED, choose_file, literal, write
from quaestor.cli.settings import CommandError
from quaestor.cli.sources import Definition
from quaestor.errors import UnknownMigrationError
from quaestor.registry import MigrationRegistry


class Squashed(NamedTuple):
    """What was written."""

    file: Path
    notes: list[str]  # what the replacement lacks


def squash(registry: MigrationRegistry, names: Sequence[str], into: str, folder: Path, location: Location) -> Squashed:
    """Write a module with a migration that replaces others, and import it.

    If it can't be imported, there is no file.
    """
    file = choose_file(folder, into, registry, location)
    if into in registry.retired or into in find_replaced(registry):
        raise CommandError(f"There was a migration {into!r} before, which is retired or replaced. Choose another name.")
    package = _find_package(folder)
    old = _choose(registry, names)
    options = _choose_options(old)
    text = _Module(registry, old, into, file.stem, location, package=package).write(find_needed(registry, old), options)
    write(file, text)
    importlib.invalidate_caches()
    try:
        importlib.import_module(f"{package}.{file.stem}")
    except (Exception, SystemExit) as error:
        file.unlink()
        raise CommandError(
            f"The module for {into!r} can't be imported: {locate_error(error)} It isn't written. Simplify the modules "
            "of the migrations first."
        ) from error
    return Squashed(file, list(_list_losses(old)))


def find_replaced(registry: MigrationRegistry) -> dict[str, str]:
    """Find the replaced names, with the migrations that replace them."""
    return {old: one.name for one in registry.migrations.values() for old in one.replaces}


def find_dependencies(registry: MigrationRegistry, without: str = "") -> dict[str, list[str]]:
    """Find what each migration depends on in a new database, where nothing replaced is left.

    Without a migration, it's as if that had never been registered.
    """
    replaced = {old: name for old, name in find_replaced(registry).items() if name != without}

    def find(name: str) -> str:
        return find(replaced[name]) if name in replaced else name

    return {
        name: list(dict.fromkeys(map(find, one.depends_on)))
        for name, one in registry.migrations.items()
        if name not in replaced and name != without
    }


def find_needed(registry: MigrationRegistry, migrations: Iterable[MigrationDefinition]) -> list[str]:
    """Find the other migrations that these depend on. None of them may depend on one of these."""
    names, needs = [one.name for one in migrations], find_dependencies(registry)
    needed = {other: name for name in reversed(names) for other in reversed(needs[name]) if other not in names}
    for first, name in needed.items():
        ahead, passed = [first], {first}
        while ahead:
            other = ahead.pop()
            if inner := next((one for one in needs[other] if one in names), None):
                raise CommandError(
                    f"{other!r}, which isn't among them, depends on {inner!r}, and {name!r} needs it. Squash {other!r} "
                    f"as well, or leave {inner!r} or {name!r} out."
                )
            ahead += set(needs[other]) - passed
            passed.update(needs[other])
    return [one.name for one in registry.sort() if one.name in needed]


def is_async(function: Callable[..., object]) -> bool:
    """Say whether a function is `async def`, as the registry sees it."""
    return MigrationDefinition("any", function).is_async


def _find_package(folder: Path) -> str:
    """Find the package whose modules are in a folder, among the imported ones."""
    for name, module in [*sys.modules.items()]:
        for path in getattr(module, "__dict__", {}).get("__path__") or ():
            if isinstance(path, str) and Path(path).resolve() == folder.resolve():
                return name
    raise CommandError(f"The registry's module doesn't import the package {folder}. Discover the modules in it first.")


def _choose(registry: MigrationRegistry, names: Sequence[str]) -> list[MigrationDefinition]:
    """Find the migrations to squash, in the order in which they run."""
    known, replaced = registry.migrations, find_replaced(registry)
    if unknown := {name: find_similar(name, known) for name in names if name not in known}:
        raise UnknownMigrationError(unknown)
    for name in names:
        if name in replaced:
            raise CommandError(f"{replaced[name]!r} replaces {name!r} already. Squash {replaced[name]!r} instead.")
    return [one for one in registry.sort() if one.name in names]


def _choose_options(old: Sequence[MigrationDefinition]) -> list[str]:
    """Choose the options of the replacement; refuse migrations that can't be one."""
    _check_kinds("functions", {one.name: is_async(one.execute) for one in old})
    if all(one.rollback is not None for one in old):
        _check_kinds("rollbacks", {one.name: is_async(one.rollback) for one in old if one.rollback is not None})
    phases: dict[str, str] = {one.phase: one.name for one in old}
    if len(phases) > 1:
        raise CommandError(
            f"{phases['deploy']!r} is of the phase deploy, and {phases['post_deploy']!r} of post_deploy. Squash each "
            "phase for itself."
        )
    options = [] if "deploy" in phases else ['phase="post_deploy"']
    if all(one.transaction for one in old):
        options.append("transaction=True")
    if any(one.after_crash == "stop" for one in old):
        options.append('after_crash="stop"')
    return options


def _list_losses(old: Sequence[MigrationDefinition]) -> Iterator[str]:
    """List what the replacement doesn't have, or does otherwise."""
    no_rollback = [one.name for one in old if one.rollback is None]
    if 0 < len(no_rollback) < len(old):
        yield f"It has no rollback, because {_list(no_rollback)} has none."
    plain = [one.name for one in old if not one.transaction]
    if 0 < len(plain) < len(old):
        yield f"It is no transaction, because {_list(plain)} isn't: after a crash it runs again from its first step."
    if delayed := [one.name for one in old if one.delay is not None]:
        yield f"It has no delay, unlike {_list(delayed)}. If a database may still need it, add it (delay=)."
    if any(one.preconditions for one in old[1:]):
        yield "All its preconditions are checked before its first step. Do they hold there?"
    if any(one.verifications for one in old[:-1]):
        yield "All its verifications are checked after its last step. Do they hold there?"
    if chained := [one.name for one in old if one.replaces]:
        yield f"Before you remove {_list(chained)}, add the names that it replaces to those here."


def _check_kinds(what: str, kinds: Mapping[str, bool]) -> None:
    if len(set(kinds.values())) > 1:
        names = [[name for name, is_async in kinds.items() if is_async is kind] for kind in (False, True)]
        raise CommandError(
            f"The {what} of {_list(names[0])} are `def`, and those of {_list(names[1])} are `async def`. Squash each "
            "kind for itself."
        )


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


class _Module:
    """The text of the new module."""

    def __init__(
        self,
        registry: MigrationRegistry,
        old: Sequence[MigrationDefinition],
        into: str,
        function: str,
        location: Location,
        *,
        package: str,
    ) -> None:
        self._old, self._into, self._function, self._location = old, into, function, location
        functions = [function for one in old for function in (one.execute, one.rollback) if function is not None]
        self._bundle = bundle = Bundle(
            registry,
            location.attribute,
            going={one.__module__ for one in functions if hasattr(one, "__module__")} - {location.module},
            package=package,
            taken=[function, f"undo_{function}"],
        )
        self._functions = [bundle.add(f"migration {one.name!r}", one.execute) for one in old]
        self._guards = {
            (kind, bundle.add(f"a {kind} of {one.name!r}", guard)): None
            for one in old
            for kind, guards in (("precondition", one.preconditions), ("verification", one.verifications))
            for guard in guards
        }
        can_undo = all(one.rollback is not None for one in old)
        undone = reversed(old) if can_undo else ()
        self._rollbacks = [bundle.add(f"the rollback of {one.name!r}", one.rollback) for one in undone]

    def write(self, needed: Sequence[str], options: Sequence[str]) -> str:
        """Return the text."""
        sections = self._bundle.write()
        title = self._function.replace("_", " ").strip().capitalize()
        summary = f'"""{title}: {format_count(len(self._old))}, squashed."""'
        hint = RETRIED if "transaction=True" in options else IDEMPOTENT
        names = [literal(one.name) for one in self._old]
        depends_on = [fold("depends_on=[", map(literal, needed), "]", WIDTH - 5)] if needed else []
        replaces = fold("replaces=[", names, "]", WIDTH - 5)
        register = f"@{self._location.attribute}.register"
        into = literal(self._into)
        head = fold(f"{register}(", [into, *depends_on, *options, replaces], ")")
        call = self._write_function(self._function, self._functions, [one.execute for one in self._old])
        parts = [f"{head}\n{call[0]}\n    {summary}\n    # {hint}\n{call[1]}"]
        if self._guards:
            lines = [f"{register[1:]}_{kind}({into})({self._bundle.name(one)})" for kind, one in self._guards]
            parts.append("\n".join(lines))
        if self._rollbacks:
            undone = [one.rollback for one in reversed(self._old)]
            define, body = self._write_function(f"undo_{self._function}", self._rollbacks, undone)
            doc = f'    """Undo {"it" if len(self._old) == 1 else "them"}, in reverse order."""'
            parts.append(f"{register}_rollback({into})\n{define}\n{doc}\n{body}")
        copied = [self._write_section(module, texts) for module, texts in sections.items() if texts]
        body = "\n\n\n".join([*copied, *parts])
        imports = write_imports(self._bundle, self._location)
        return f"{summary}\n\n{imports}\n\n{body}\n"

    def _write_section(self, module: str, texts: Sequence[str]) -> str:
        """Write what is copied from a module, under a comment that names it."""
        first, _, more = self._bundle.find_docstring(module).partition("\n")
        is_known = first in {one.description for one in self._old}  # a function says so, too
        lines = [f"From {module}", *([] if is_known or not first else ["", first]), *more.rstrip().splitlines()]
        text, was_block = "\n".join(f"# {line}".rstrip() for line in lines), False
        for number, one in enumerate(texts):
            is_block = isinstance(ast.parse(one).body[0], ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            is_apart = number == 0 or one.startswith("\n")
            text += "\n" * (3 if is_block or was_block else 1 + is_apart) + one.lstrip("\n")
            was_block = is_block
        return text

    def _write_function(self, name: str, copied: Sequence[Definition], functions: Sequence[Any]) -> tuple[str, str]:
        """Write the first line and the body of a function that calls the copies of others."""
        wants = [MigrationDefinition("any", one).wants_context for one in functions]
        is_coroutine = is_async(functions[0])
        db = self._bundle.find_annotation(copied[0])
        parameters = ["db" if db is None else f"db: {db}"]
        if any(wants):
            kind = "AsyncMigrationContext" if is_coroutine else "MigrationContext"
            parameters.append("context" if db is None else f"context: {self._bundle.use('quaestor', kind)}")
        start = f"{'async ' if is_coroutine else ''}def {name}("
        define = fold(start, parameters, "):" if db is None else ") -> None:")
        calls = [
            f"    {'await ' if is_coroutine else ''}{self._bundle.name(one)}({'db, context' if wanted else 'db'})"
            for one, wanted in zip(copied, wants, strict=True)
        ]
        return define, "\n".join(calls)
