"""The source of a module: its statements, what they bind and import, and their text."""

import ast
import inspect
from collections.abc import Iterable
from importlib.util import resolve_name
from types import ModuleType
from typing import NamedTuple

from quaestor.cli.names import find_changed, find_documented, list_bound
from quaestor.cli.settings import CommandError

NAMED = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
"""The statements that define a name, and stand for it alone."""


class Import(NamedTuple):
    """A module, or an attribute of one, that is imported under a name."""

    module: str
    attribute: str | None
    name: str


class Definition(NamedTuple):
    """What a module itself gives a name: by one of its statements, or by all that bind it (-1)."""

    module: str
    name: str
    at: int = -1


class Edit(NamedTuple):
    """A part of a text, by the places of its bytes, and what to write instead."""

    start: int
    end: int
    text: str


class Source:
    """A module: its statements, and what they bind."""

    def __init__(self, module: ModuleType) -> None:
        try:
            text = inspect.getsource(module)
        except (OSError, TypeError):
            raise CommandError(f"The module {module.__name__!r} has no source to copy from.") from None
        self.module, self.name, self.package = module, module.__name__, module.__package__ or ""
        self.text = text.encode()
        self.lines = self.text.splitlines(keepends=True)
        self.body = ast.parse(text).body
        # The first line of each. The decorators are taken off later.
        self.heads = [min([node.lineno, *(one.lineno for one in list_decorators(node))]) for node in self.body]
        self.has_future = False  # from __future__ import annotations
        self.imports: dict[str, list[Import]] = {}  # several: `import a.b` and `import a.c` both bind `a`
        self.for_types: set[Import] = set()  # in `if TYPE_CHECKING:`
        self.bound: dict[str, list[int]] = {}  # names with the other statements that bind them
        self.changed: dict[str, list[int]] = {}  # likewise, see `find_changed`
        for index, statement in enumerate(self.body):
            match statement:
                case ast.Import() | ast.ImportFrom():
                    self._import(statement)
                case ast.If(ast.Name("TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING"), body, []) if all(
                    isinstance(one, ast.Import | ast.ImportFrom) for one in body
                ):
                    self.for_types.update(found for one in body for found in self._import(one))
                case _:
                    for name in dict.fromkeys(name for name, _ in list_bound([statement])):
                        self.bound.setdefault(name, []).append(index)
                    documented = find_documented(self.body[index - 1], statement) if index else ()
                    for name in (*find_changed(statement), *documented):
                        self.changed.setdefault(name, []).append(index)
        if twice := self.imports.keys() & self.bound.keys():
            raise CommandError(f"{self.name} both imports and defines {min(twice)!r}. Rename one of the two.")

    def _import(self, statement: ast.stmt) -> list[Import]:
        found: list[Import] = []
        match statement:
            case ast.Import(names):
                found = [_read_alias(one) for one in names]
            case ast.ImportFrom("__future__"):
                self.has_future = True
            case ast.ImportFrom(names=names):
                if any(one.name == "*" for one in names):
                    raise CommandError(
                        f"{self.name}, line {statement.lineno}: what `import *` imports can't be copied. Import names."
                    )
                found = [Import(self.resolve(statement), one.name, one.asname or one.name) for one in names]
        for one in found:
            before = self.imports.get(one.name, [])
            self.imports[one.name] = [*(each for each in before if identify(each) == identify(one)), one]
        return found

    def resolve(self, statement: ast.ImportFrom) -> str:
        """Find the full name of the module from which something is imported."""
        return resolve_name("." * statement.level + (statement.module or ""), self.package)

    def define(self, name: str, index: int | None = None) -> Definition:
        """Return what a name is defined as: of several functions the last one, or the one in this statement."""
        places = self.bound[name]
        is_function = all(isinstance(self.body[place], NAMED) for place in places)
        return Definition(self.name, name, (places[-1] if index is None else index) if is_function else -1)

    def find_statements(self, definition: Definition) -> list[int]:
        """Find the statements that a definition needs."""
        name, index = definition.name, definition.at
        return [*(self.bound[name] if index < 0 else [index]), *self.changed.get(name, [])]

    def find_place(self, line: int | None, column: int | None) -> int:
        """Find the place in the text that a syntax tree gives in this way."""
        return sum(map(len, self.lines[: (line or 1) - 1])) + (column or 0)

    def write(self, index: int, edits: Iterable[Edit]) -> str:
        """Return the text of a statement with these edits, and with the comments and the empty line above it."""
        node = self.body[index]
        first = head = self.heads[index]
        while first > 1 and node.col_offset == 0 and self.lines[first - 2].startswith(b"#"):
            first -= 1
        first = head if first == 1 else first  # the comments at the top are about the file
        position = self.find_place(first, node.col_offset)
        end, line_end = self.find_place(node.end_lineno, node.end_col_offset), self.find_place(node.end_lineno, 0)
        line_end += len(self.lines[(node.end_lineno or 1) - 1])
        if not self.text[end:line_end].lstrip().startswith(b";"):  # another statement in this line
            end = line_end
        pieces: list[bytes] = []
        for edit in sorted(set(edits)):
            pieces += [self.text[position : edit.start], edit.text.encode()]
            position = edit.end
        is_apart = first > 1 and not self.lines[first - 2].strip()
        return "\n" * is_apart + b"".join([*pieces, self.text[position:end]]).decode().rstrip()


def _read_alias(alias: ast.alias) -> Import:
    package, dot, name = alias.name.rpartition(".")
    if dot and alias.asname:  # import a.b as c
        return Import(package, name, alias.asname)
    return Import(alias.name, None, alias.asname or alias.name.partition(".")[0])


def identify(found: Import | Definition) -> Import | Definition:
    """Return what an import binds: `import a.b` binds `a`."""
    if isinstance(found, Import) and found.attribute is None and found.module.startswith(f"{found.name}."):
        return Import(found.name, None, found.name)
    return found


def list_decorators(node: ast.stmt) -> list[ast.expr]:
    """Return the decorators of a statement, as the list in it."""
    return node.decorator_list if isinstance(node, NAMED) else []
