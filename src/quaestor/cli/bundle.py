"""Put the statements of several modules into one, as they are written.

A name that means something else in an earlier module is changed.
"""

import ast
import builtins
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.util import resolve_name
from itertools import product
from operator import attrgetter
from symtable import SymbolTable, symtable
from types import FunctionType, ModuleType
from typing import Any, NamedTuple, TypeAlias

from quaestor.cli.settings import CommandError
from quaestor.registry import MigrationRegistry

_BLOCKS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_IMPORTS = ast.Import | ast.ImportFrom
_DISPLAYS = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp | ast.GeneratorExp
_Edit: TypeAlias = tuple[int, int, str, str]  # a line, a column (in bytes), what is there, and what to write instead
_KINDS = {ast.FunctionDef: "def", ast.AsyncFunctionDef: "async def", ast.ClassDef: "class"}


def bundle(
    registry: MigrationRegistry, functions: Mapping[Any, str], header: str, taken: Iterable[str]
) -> tuple[str, dict[Any, Any]]:
    """Copy the modules of functions, which have labels for errors; `header` is the import of the registry.

    Returns the text, and the syntax tree of each function in it.
    """
    sources: dict[str, _Source] = {}
    places: dict[Any, tuple[_Source, int]] = {}
    for function, label in functions.items():
        inner = inspect.unwrap(function)
        name = inner.__module__ if isinstance(inner, FunctionType) else ""
        if name in sys.modules and name not in sources:
            sources[name] = _Source(sys.modules[name], registry, header)
        index = sources[name].find(function) if name in sources else None
        if index is None or not (inner is function or sources[name].chunks[index].node.decorator_list):
            raise CommandError(
                f"Can't copy {label}: it isn't a function at the top level of a module with nothing but decorators "
                "around it, but a lambda, a partial, a method or a nested function, say. Write it as one first."
            )
        places[function] = sources[name], index
    names = dict.fromkeys([*dir(builtins), *taken], "") | {header.rpartition(" ")[2]: header}
    words = {word for source in sources.values() for word in re.findall(r"\w+", source.text)}
    imports, sections, written = dict[str, None](), dict[str, str](), {""}
    for name, source in sources.items():
        source.leave_out_others({index for other, index in places.values() if other is source})
        source.choose_names(names, words)
        for chunk in source.kept:
            if isinstance(chunk.node, _IMPORTS):
                imports.setdefault(chunk.text)
            elif (text := chunk.text.strip()) not in written or not chunk.names:
                start = f"# From {name}\n\n" + "\n" * isinstance(chunk.node, _BLOCKS)
                sections[name] = f"{sections[name]}\n{chunk.text}" if name in sections else start + text
        written.update(one.text.strip() for one in source.kept)
    imports.setdefault(header)
    first = "\n".join(sorted(imports, key=lambda text: not text.startswith("from __future__")))
    text = f"{first}\n\n" + "\n\n\n".join(sections.values())
    return text, {function: source.chunks[index].node for function, (source, index) in places.items()}


class _Chunk(NamedTuple):
    """A statement with the comments above it. If a line has several, the first one has all of the text."""

    node: Any
    start: int  # the line of the statement or its first decorator
    text: str  # without registrations
    tables: list[SymbolTable]
    names: dict[str, str]  # that it binds, and what they mean: an import, or its text


class _Source:
    """A module to copy from. No change of its text changes the number of a line."""

    def __init__(self, module: ModuleType, registry: MigrationRegistry, header: str) -> None:
        try:
            self.text = inspect.getsource(module)
        except (OSError, TypeError):
            raise CommandError(f"The module {module.__name__!r} has no source to copy from.") from None
        self._module, self._registry, self._header = module, registry, header
        edits: list[_Edit] = []
        tree = ast.parse(self.text)
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                name = "." * node.level + (node.module or "")
                absolute = resolve_name(name, module.__package__ or "")
                edits.append((node.lineno, node.col_offset, f"from {name}", f"from {absolute}"))
                if node.names[0].name == "*" and absolute in sys.modules:
                    found = _list_public(sys.modules[absolute])
                    names = sorted(used.intersection(found) or found)
                    edits.append((node.names[0].lineno, node.names[0].col_offset, "*", ", ".join(names) or "*"))
        self.text = _change(self.text, edits)
        self.chunks = [*self._split()]
        self._left_out: set[int] = set()
        for index, one in enumerate(self.chunks):
            match one.node:
                case ast.Expr(ast.Call(function) as call) if self._is_ours(call) or self._takes_name(function):
                    self._left_out.add(index)  # a registration
                case ast.Expr(ast.Constant()) if index == 0:
                    self._left_out.add(index)  # the docstring
                case ast.Assign() | ast.AnnAssign() if {*one.names.values()} == {header}:
                    self._left_out.add(index)  # the registry itself

    @property
    def kept(self) -> list[_Chunk]:
        return [one for index, one in enumerate(self.chunks) if index not in self._left_out]

    def find(self, function: Any) -> int | None:
        """Find the chunk of a function."""
        code = getattr(function := inspect.unwrap(function), "__code__", None)
        if code is None or function.__module__ != self._module.__name__:
            return None
        found = [(one.start, getattr(one.node, "name", "")) for one in self.chunks]
        place = code.co_firstlineno, code.co_name
        return found.index(place) if place in found else None

    def leave_out_others(self, wanted: Collection[int]) -> None:
        """Leave out other migrations' functions that no wanted one uses, and what only they use."""
        known = self._registry.migrations.values()
        registered = [f for one in known for f in (one.execute, one.rollback, *one.preconditions, *one.verifications)]
        others = {index for one in registered if (index := self.find(one)) is not None}.difference(wanted)
        rest = {*range(len(self.chunks))} - self._left_out - others

        def is_used(index: int, by: set[int]) -> bool:
            tables = [table for other in by - {index} for table in self.chunks[other].tables]
            return any(name in table.get_identifiers() for name in self.chunks[index].names for table in tables)

        while used := {index for index in others if is_used(index, rest)}:
            others, rest = others - used, rest | used
        while more := {one for one in rest.difference(wanted) if is_used(one, others) and not is_used(one, rest)}:
            others, rest = others | more, rest - more
        self._left_out |= others
        for name in [name for index in wanted for name in self.chunks[index].names]:
            if sum(name in one.names for one in self.kept) > 1:
                raise self._refuse(name, "has several meanings")

    def choose_names(self, taken: dict[str, str], words: set[str]) -> None:
        """Change the names that mean something else already, and take all."""
        text, tree, changes = self.text, ast.parse(self.text), dict[str, str]()
        while True:
            meanings: dict[str, str] = {}
            for name, meaning in [item for one in self.kept for item in one.names.items()]:
                meanings[name] = meanings.get(name, "") + meaning
            clashes = [name for name, meaning in meanings.items() if taken.get(name, meaning) != meaning]
            if not clashes:
                taken.update(meanings)
                return
            for name in clashes:
                changes[name] = f"{name}_{self._module.__name__.rpartition('.')[2]}"
                while changes[name] in words:
                    changes[name] += "_"
                words.add(changes[name])
            self.text = _change(text, [edit for old, new in changes.items() for edit in _find_name(tree, old, new)])
            self.chunks = [*self._split()]
            tables = [table for one in self.kept for table in one.tables]
            for (old, new), table in product(changes.items(), tables):
                names = table.get_identifiers()
                if old in names or (table.get_type() == "class" and new in names and table.lookup(new).is_assigned()):
                    raise self._refuse(old, "means something else in another of the modules, or in Python")

    def _split(self) -> Iterator[_Chunk]:
        lines, end = self.text.split("\n"), 0
        for node in ast.parse(self.text).body:
            decorators: list[Any] = getattr(node, "decorator_list", [])
            start = min([node.lineno, *(one.lineno for one in decorators)])
            ours = _find_last(decorators, self._is_ours) or _find_last(decorators, self._takes_name)
            skipped = {line for one in decorators[:ours] for line in range(one.lineno, one.end_lineno + 1)}
            del decorators[:ours]  # also those above ours, which a run doesn't call
            first, end = start if isinstance(node, _IMPORTS) else end + 1, node.end_lineno or 0
            text = "\n".join(lines[number - 1] for number in range(first, end + 1) if number not in skipped)
            tables = [*_list_tables(symtable(text, self._module.__name__, "exec"))]
            bound = [one.get_name() for one in tables[0].get_symbols() if one.is_assigned() or one.is_imported()]
            imported = {} if isinstance(node, _BLOCKS) else dict(_list_imported(node))
            meaning = f"{self._module.__name__}: {text}" if _makes_objects(node) else text.strip()
            names = {name: imported.get(name, meaning) for name in bound}
            names |= {name: self._header for name in bound if vars(self._module).get(name) is self._registry}
            yield _Chunk(node, start, text, tables, names)

    def _is_ours(self, node: ast.expr) -> bool:
        """Say whether it calls a method of a registry."""
        match node:
            case ast.Call(ast.Call() as inner):
                return self._is_ours(inner)
            case ast.Call(function):
                with suppress(AttributeError):
                    method = attrgetter(ast.unparse(function))(self._module)
                    return isinstance(getattr(method, "__self__", None), MigrationRegistry)
        return False

    def _takes_name(self, node: ast.expr) -> bool:
        """Say whether it looks like a function of the application that registers: a call with a migration's name."""
        match node:
            case ast.Call(_, [ast.Constant(name), *_]):
                return name in self._registry.migrations
        return False

    def _refuse(self, name: str, problem: str) -> CommandError:
        return CommandError(
            f"{name!r} in {self._module.__name__} {problem}, and can't be renamed there. Give it another name first."
        )


def _find_last(decorators: Sequence[ast.expr], is_wanted: Callable[[ast.expr], bool]) -> int:
    """Find how many decorators there are up to the last wanted one."""
    return max((number for number, one in enumerate(decorators, 1) if is_wanted(one)), default=0)


def _change(text: str, edits: Iterable[_Edit]) -> str:
    """Change a text where it is as expected."""
    lines = text.encode().split(b"\n")
    for line, column, old, new in sorted(edits, reverse=True):
        before, after = lines[line - 1][:column], lines[line - 1][column:]
        if after.startswith(old.encode()):
            lines[line - 1] = before + new.encode() + after.removeprefix(old.encode())
    return b"\n".join(lines).decode()


def _find_name(tree: ast.AST, old: str, new: str) -> Iterator[_Edit]:
    """Find where to change a name. Where it may be one of another scope only, it stays, and is refused later."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(name) if name == old:
                yield node.lineno, node.col_offset, old, new
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name) if name == old:
                yield node.lineno, node.col_offset, f"{_KINDS[type(node)]} {old}", f"{_KINDS[type(node)]} {new}"
            case ast.alias(name, None) if name == old:
                yield node.lineno, node.col_offset, old, f"{old} as {new}"
            case ast.alias(_, name) if name == old:
                yield node.lineno, (node.end_col_offset or 0) - len(old.encode()), old, new


def _list_public(module: ModuleType) -> Sequence[str]:
    """List the names that `import *` takes from a module."""
    return getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]


def _makes_objects(statement: ast.stmt) -> bool:
    """Say whether a statement may make an object that changes later, so that each module needs its own."""
    return not isinstance(statement, _BLOCKS) and any(
        isinstance(node, _DISPLAYS) or (isinstance(node, ast.Call) and "getLogger" not in ast.unparse(node.func))
        for node in ast.walk(statement)
    )


def _list_tables(table: SymbolTable) -> Iterator[SymbolTable]:
    yield table
    for inner in table.get_children():
        yield from _list_tables(inner)


def _list_imported(statement: ast.stmt) -> Iterator[tuple[str, str]]:
    """List the names that a statement imports, and what they mean."""
    for node in ast.walk(statement):
        for one in node.names if isinstance(node, _IMPORTS) else ():
            name = one.asname or one.name.partition(".")[0]
            start = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
            yield name, f"{start}import {one.name if start or one.asname else name}"
