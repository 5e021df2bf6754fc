"""The module of `quaestor squash`: a migration that calls the functions of those that it replaces, in order."""

import ast
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from quaestor import MigrationDefinition
from quaestor._text import find_similar, format_count
from quaestor.cli.bundle import bundle
from quaestor.cli.loader import Location, locate_error
from quaestor.cli.scaffold import IDEMPOTENT, RETRIED, choose_file, literal, write
from quaestor.cli.settings import CommandError
from quaestor.errors import UnknownMigrationError
from quaestor.registry import MigrationRegistry

_WIDTH = 88  # columns


def squash(
    registry: MigrationRegistry, names: Sequence[str], into: str, folder: Path, location: Location
) -> tuple[Path, list[str]]:
    """Write a module with a migration that replaces others, and import it.

    Returns the file, and what the migration lacks. If the module can't be imported, there is no file.
    """
    file = choose_file(folder, into, registry, location)
    if into in registry.retired or into in find_replaced(registry):
        raise CommandError(f"There was a migration {into!r} before, which is retired or replaced. Choose another name.")
    package = _find_package(folder)
    old = _choose(registry, names)
    text = _write(registry, old, into, file.stem, location)
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
    return file, [*_list_losses(old, text, location.module)]


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


def reach(needs: Mapping[str, Sequence[str]], names: Iterable[str]) -> list[str]:
    """Find these migrations and all that they depend on."""
    found: dict[str, None] = {}
    ahead = list(names)
    while ahead:
        if (name := ahead.pop()) not in found:
            found[name] = None
            ahead.extend(needs[name])
    return [*found]


def find_needed(registry: MigrationRegistry, migrations: Iterable[MigrationDefinition]) -> list[str]:
    """Find the other migrations that these depend on. None of them may depend on one of these."""
    names, needs = [one.name for one in migrations], find_dependencies(registry)
    for other in reach(needs, names):
        inner = next((one for one in needs[other] if one in names), None)
        if other not in names and inner is not None:
            name = next(one for one in names if other in reach(needs, [one]))
            raise CommandError(
                f"{other!r}, which isn't among them, depends on {inner!r}, and {name!r} needs it. Squash {other!r} "
                f"as well, or leave {inner!r} or {name!r} out."
            )
    needed = {other for name in names for other in needs[name]}.difference(names)
    return [one.name for one in registry.sort() if one.name in needed]


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
    used: dict[str, list[Any]] = {"functions": [one.execute for one in old], "rollbacks": [one.rollback for one in old]}
    for what, functions in used.items():
        kinds = {one.name: None not in functions and _define(f).is_async for one, f in zip(old, functions, strict=True)}
        names = [[name for name, is_async in kinds.items() if is_async is kind] for kind in (False, True)]
        if all(names):
            raise CommandError(
                f"The {what} of {_list(names[0])} are `def`, and those of {_list(names[1])} are `async def`. Squash "
                "each kind on its own."
            )
    phases: dict[str, str] = {one.phase: one.name for one in old}
    if len(phases) > 1:
        raise CommandError(
            f"{phases['deploy']!r} is of the phase deploy, and {phases['post_deploy']!r} of post_deploy. Squash each "
            "phase on its own."
        )
    options = [] if "deploy" in phases else ['phase="post_deploy"']
    if all(one.transaction for one in old):
        options.append("transaction=True")
    if any(one.after_crash == "stop" for one in old):
        options.append('after_crash="stop"')
    return options


def _list_losses(old: Sequence[MigrationDefinition], text: str, own: str) -> Iterator[str]:
    """List what the replacement doesn't have, or does otherwise."""
    no_rollback = [one.name for one in old if one.rollback is None]
    if 0 < len(no_rollback) < len(old):
        yield f"It has no rollback, because {_list(no_rollback)} has none."
    plain = [one.name for one in old if not one.transaction]
    if 0 < len(plain) < len(old):
        yield f"It isn't a transaction, because {_list(plain)} isn't: after a crash it runs again from its first step."
    if delayed := [one.name for one in old if one.delay is not None]:
        yield f"It has no delay, unlike {_list(delayed)}. If a database may still need it, add it (delay=)."
    if any(one.preconditions for one in old[1:]):
        yield "All its preconditions are checked before its first step. Do they hold there?"
    if any(one.verifications for one in old[:-1]):
        yield "All its verifications are checked after its last step. Do they hold there?"
    if chained := [one.name for one in old if one.replaces]:
        yield f"Before you remove {_list(chained)}, add the names that it replaces to those here."
    imported = set(_list_imported_modules(text))
    for module in dict.fromkeys(one.execute.__module__ for one in old):
        if module != own and module in imported:
            yield f"It imports {module}, which it has copied. Use the copy before you remove that module."


def _list_imported_modules(text: str) -> Iterator[str]:
    """List the modules that a text imports, and everything that may be one."""
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Import(names):
                yield from (one.name for one in names)
            case ast.ImportFrom(str(module), names):
                yield from (module, *(f"{module}.{one.name}" for one in names))


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _write(
    registry: MigrationRegistry, old: Sequence[MigrationDefinition], into: str, function: str, location: Location
) -> str:
    """Write the text of the new module."""
    options, needed, attribute = _choose_options(old), find_needed(registry, old), location.attribute
    executes: list[Any] = [one.execute for one in old]
    undos: list[Any] = [one.rollback for one in reversed(old)]
    undos = [] if None in undos else undos
    guards: list[tuple[str, MigrationDefinition, Any]] = [
        (kind, one, guard)
        for one in old
        for kind, guards in (("precondition", one.preconditions), ("verification", one.verifications))
        for guard in guards
    ]
    labels: dict[Any, str] = {one.execute: f"migration {one.name!r}" for one in old}
    labels |= {one.rollback: f"the rollback of {one.name!r}" for one in old if undos}
    labels |= {guard: f"a {kind} of {one.name!r}" for kind, one, guard in guards}
    header = f"from {location.module} import {attribute.partition('.')[0]}"
    text, nodes = bundle(registry, labels, header, [function, f"undo_{function}"])
    name, register = literal(into), f"{attribute}.register"
    summary = f'"""{function.replace("_", " ").strip().capitalize()}: {format_count(len(old))}, squashed."""'
    hint = f"# {RETRIED if 'transaction=True' in options else IDEMPOTENT}"
    depends_on = [_fold("depends_on=[", map(literal, needed), "]")] if needed else []
    replaces = _fold("replaces=[", (literal(one.name) for one in old), "]")
    decorator = _fold(f"@{register}(", [name, *depends_on, *options, replaces], ")")
    parts = [f"{summary}\n\n{text}", decorator + _write_function(function, executes, nodes, summary, hint)]
    if guards:
        calls = [f"{register}_{kind}({name})({nodes[guard].name})" for kind, _, guard in guards]
        parts.append("\n".join(dict.fromkeys(calls)))
    if undos:
        doc = f'"""Undo {"it" if len(old) == 1 else "them"}, in reverse order."""'
        parts.append(f"@{register}_rollback({name})" + _write_function(f"undo_{function}", undos, nodes, doc))
    return "\n\n\n".join(parts) + "\n"


def _write_function(name: str, functions: Sequence[Any], nodes: Mapping[Any, Any], *start: str) -> str:
    """Write a function that calls the copies of others, with the parameters of one of them."""
    wants = [_define(one).wants_context for one in functions]
    model = nodes[functions[wants.index(max(wants))]]
    parameters = [*model.args.posonlyargs, *model.args.args][: 1 + max(wants)]
    define, call = ("async def", "await ") if _define(functions[0]).is_async else ("def", "")
    head = _fold(f"{define} {name}(", map(ast.unparse, parameters), ") -> None:" if model.returns else "):")
    calls = [
        f"{call}{nodes[one].name}({', '.join(each.arg for each in parameters[: 1 + wanted])})"
        for one, wanted in zip(functions, wants, strict=True)
    ]
    return "\n    ".join([f"\n{head}", *start, *calls])


def _define(function: Any) -> MigrationDefinition:
    """Read a function as the registry does."""
    return MigrationDefinition("any", function)


def _fold(start: str, items: Iterable[str], end: str) -> str:
    """Write a list in one line, or each item in a line of its own."""
    items = list(items)
    line = start + ", ".join(items) + end
    if "\n" not in line and len(line) < _WIDTH:
        return line
    return "\n".join([start, *(f"    {one},".replace("\n", "\n    ") for one in items), end])
