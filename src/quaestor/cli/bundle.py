"""Copy functions, and everything of their modules that they use, into the text of one new module.

Statements are copied as they are written, comments included. A name that means different things in two modules is
changed in the second one.
"""

import ast
import inspect
import re
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from operator import attrgetter
from types import FunctionType, ModuleType
from typing import Any, Final, TypeAlias

from quaestor.cli.names import find_used, list_bound
from quaestor.cli.settings import CommandError
from quaestor.cli.sources import Definition, Edit, Import, Source, identify, list_decorators
from quaestor.registry import MigrationRegistry

_CHANGEABLE = ast.Call | ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp | ast.GeneratorExp

Meaning: TypeAlias = Import | Definition | None
"""What a name means. None: something of Python, or nothing."""

_OURS: Final = Import("", None, "")
"""The registry."""

_Place: TypeAlias = tuple[str, int]
"""A statement: its module and its index."""


class Bundle:
    """The functions to copy.

    Args:
        registry: The registry.
        registry_name: Its name in the new module.
        going: The modules that will be removed: what is imported from them is copied as well.
        package: The package of the new module.
        taken: Other names that the new module has.
    """

    def __init__(
        self,
        registry: MigrationRegistry,
        registry_name: str,
        *,
        going: Collection[str],
        package: str,
        taken: Iterable[str],
    ) -> None:
        self._registry, self._registry_name, self._going, self._package = registry, registry_name, going, package
        self._sources: dict[str, Source] = {}
        self._uses: dict[_Place, list[tuple[Any, str, Meaning]]] = {}  # of each statement to copy
        self._edits: dict[_Place, list[Edit]] = {}
        self._imports: dict[Import, bool] = {}  # whether they are for types only
        self._names: dict[Import | Definition, str] = {_OURS: registry_name}
        self._claimed: dict[str, Meaning] = dict.fromkeys([*taken, registry_name.partition(".")[0]])
        self._words: set[str] = set()  # in the modules: no new name may be one
        self._left_out: set[_Place] = set()  # statements that say the same as another one

    def add(self, label: str, function: Any) -> Definition:
        """Add a function, which errors name by the label."""
        inner = inspect.unwrap(function)
        module = sys.modules.get(getattr(inner, "__module__", ""))
        if isinstance(inner, FunctionType) and module is not None:
            source, place = self._open(module), (inner.__code__.co_name, inner.__code__.co_firstlineno)
            for index, node in enumerate(source.body):
                if (getattr(node, "name", None), source.heads[index]) == place:  # no class has code
                    self._copy(source, index)
                    found = source.define(place[0], index)
                    if found.at >= 0 and (inner is function or list_decorators(node)):
                        return found
        raise CommandError(
            f"Can't copy {label}: it isn't a function at the top level of a module with nothing but decorators around "
            "it, but a lambda, a partial, a method or a nested function, say. Write it as one first."
        )

    def name(self, found: Import | Definition) -> str:
        """Return the name that something copied or imported has in the new module."""
        return self._names[identify(found)]

    def use(self, module: str, attribute: str) -> str:
        """Import something that the new module needs itself; return its name there."""
        self._imports[found := Import(module, attribute, attribute)] = False
        self._claim(found, module)
        return self._names[found]

    def find_annotation(self, function: Definition) -> str | None:
        """Return the annotation of the first parameter of a copied function, as it is in the new module."""
        node: Any = self._sources[function.module].body[function.at]
        first = [*node.args.posonlyargs, *node.args.args][:1]
        return ast.unparse(first[0].annotation) if first and first[0].annotation else None

    def find_docstring(self, module: str) -> str:
        """Return the docstring of a module that something is copied from; "" if it has none."""
        return inspect.cleandoc(self._sources[module].module.__doc__ or "")

    @property
    def imports(self) -> dict[Import, bool]:
        """What the new module imports; whether it's for types only."""
        return dict(self._imports)

    @property
    def has_future(self) -> bool:
        """Whether the new module needs `from __future__ import annotations`."""
        return any(source.has_future for source in self._sources.values())

    def write(self) -> dict[str, list[str]]:
        """Choose the names, and return the statements by the module that they come from."""
        order = self._order()
        places = [key for module in order for key in sorted(self._uses) if key[0] == module]
        for _, name, meaning in (use for key in places for use in self._uses[key]):
            if meaning is None:
                self._claimed.setdefault(name, None)  # of Python: it keeps its meaning
        for key in places:
            source = self._sources[key[0]]
            for name, _ in list_bound([source.body[key[1]]]):
                self._claim(source.define(name, key[1]), source.name, key)
            for _, _, meaning in self._uses[key]:
                if isinstance(meaning, Import):
                    self._claim(meaning, source.name)
        written = {key: self._write(*key) for key in places if key not in self._left_out}
        return {module: [text for key, text in written.items() if key[0] == module] for module in order}

    def _order(self) -> dict[str, None]:
        """Put the modules in order: those first of which others use something."""
        order: dict[str, None] = {}

        def visit(module: str, above: tuple[str, ...]) -> None:
            uses = (one for key, uses in self._uses.items() if key[0] == module for _, _, one in uses)
            for needed in dict.fromkeys(one.module for one in uses if isinstance(one, Definition)):
                if needed not in above:  # otherwise they import from each other, inside of functions
                    visit(needed, (*above, needed))
            order.setdefault(module)

        for module in self._sources:
            visit(module, (module,))
        return order

    def _open(self, module: ModuleType) -> Source:
        if module.__name__ not in self._sources:
            self._sources[module.__name__] = source = Source(module)
            self._words.update(re.findall(r"\w+", source.text.decode()))
        return self._sources[module.__name__]

    def _copy(self, source: Source, index: int) -> None:
        """Copy a statement, and what it uses."""
        place, node = (source.name, index), source.body[index]
        if place in self._uses:
            return
        uses, edits = self._uses.setdefault(place, []), self._edits.setdefault(place, [])
        decorators = list_decorators(node)
        # What is above a decorator of ours isn't called by a run.
        ours = max((number for number, one in enumerate(decorators, 1) if self._is_ours(source, one)), default=0)
        for one in decorators[:ours]:
            edits.append(Edit(source.find_place(one.lineno, 0), source.find_place((one.end_lineno or 0) + 1, 0), ""))
        del decorators[:ours]
        edits.extend(self._move_imports(source, node))
        for name, used in find_used(node):
            meaning = self._find(source, name)
            uses.append((used, name, meaning))
            if isinstance(meaning, Definition):
                self._need(meaning)
        for name, _ in list_bound([node]):
            self._need(source.define(name, index))

    def _need(self, definition: Definition) -> None:
        source = self._sources[definition.module]
        for index in source.find_statements(definition):
            self._copy(source, index)

    def _is_ours(self, source: Source, decorator: ast.expr) -> bool:
        """Say whether a decorator registers something: one of a registry, or any that takes a migration's name."""
        match decorator:
            case ast.Call(_, [ast.Constant(name), *_]) if name in self._registry.migrations:
                return True
            case ast.Call(ast.Attribute(owner)):
                with suppress(AttributeError):
                    return isinstance(attrgetter(ast.unparse(owner))(source.module), MigrationRegistry)
        return False

    def _find(self, source: Source, name: str) -> Meaning:
        """Find what a name of a module means."""
        if vars(source.module).get(name) is self._registry:
            return _OURS
        found: Meaning = None
        for one in source.imports.get(name, ()):
            full = one.module if one.attribute is None else f"{one.module}.{one.attribute}"
            if full in self._going:
                raise _refuse_import(source, full)
            if one.module in self._going:
                found = self._find(self._open(sys.modules[one.module]), one.attribute or "")
            if found is not None:
                return found
            self._imports[one] = self._imports.get(one, True) and one in source.for_types
            found = identify(one)
        return source.define(name) if found is None and name in source.bound else found

    def _move_imports(self, source: Source, statement: ast.stmt) -> Iterator[Edit]:
        """Make the imports inside of a statement absolute, if its package changes."""
        for node in ast.walk(statement):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom):
                module = source.resolve(node)
                names = [module, *(f"{module}.{one.name}" for one in node.names)]
                if node.level and source.package != self._package:
                    start = source.find_place(node.lineno, node.col_offset)
                    end = source.text.index(b"import", start)
                    yield Edit(start, end, f"from {module} ")
                    node.module, node.level = module, 0
            elif isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            if going := next((name for name in names if name in self._going), None):
                raise _refuse_import(source, going)

    def _claim(self, meaning: Import | Definition, module: str, place: _Place | None = None) -> None:
        """Choose the name of something in the new module."""
        if meaning in self._names:
            return
        name, other = meaning.name, self._claimed.get(meaning.name)
        if place is not None and self._is_same(meaning, other):
            self._left_out.add(place)
        elif name in self._claimed:
            stem = f"{name}_{module.rpartition('.')[2]}"
            names = (stem, *(f"{stem}_{number}" for number in range(2, len(self._words) + 3)))
            name = next(one for one in names if one not in self._claimed and one not in self._words)
        self._claimed[name] = self._claimed.get(name, meaning)
        self._names[meaning] = name

    def _is_same(self, one: Meaning, other: Meaning, assumed: Collection[object] = ()) -> bool:
        """Say whether two names mean the same, or can: constants or functions that are the same, word for word."""
        if one == other or (one, other) in assumed:
            return True
        if not (isinstance(one, Definition) and isinstance(other, Definition)):
            return False
        places = [(each.module, self._sources[each.module].find_statements(each)) for each in (one, other)]
        if any(len(found) > 1 for _, found in places):
            return False
        keys = [(module, found[0]) for module, found in places]
        nodes = [self._sources[module].body[index] for module, index in keys]
        return (
            _is_fixed(nodes[0])
            and ast.dump(nodes[0]) == ast.dump(nodes[1])
            and all(
                self._is_same(first, second, (*assumed, (one, other)))
                for (_, _, first), (_, _, second) in zip(*(self._uses[key] for key in keys), strict=True)
            )
        )

    def _write(self, module: str, index: int) -> str:
        """Write a statement with the names of the new module."""
        source, edits = self._sources[module], self._edits[module, index]
        node = source.body[index]

        def replace(node: Any, place: int, old: str, new: str) -> None:
            if place < 0 or not source.text.startswith(old.encode(), place):
                raise CommandError(
                    f"{old!r} means different things in the modules of these migrations, and can't be renamed in line "
                    f"{node.lineno} of {module}. Give it another name in that module."
                )
            edits.append(Edit(place, place + len(old.encode()), new))

        bound: list[tuple[Any, str, Meaning]] = [
            (one, name, source.define(name, index)) for name, one in list_bound([node])
        ]
        for one, name, meaning in (*self._uses[module, index], *bound):
            new = name if meaning is None else self._names[meaning]
            match one if new != name else None:
                case ast.Name():
                    replace(one, source.find_place(one.lineno, one.col_offset), name, new)
                    one.id = new
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    place = source.find_place(one.lineno, one.col_offset)
                    replace(one, source.text.find(f" {name}".encode(), place) + 1, name, new)
                    one.name = new
                case ast.AST():  # such as `global` or an import, whose text says more than the name
                    replace(one, -1, name, new)
        text = source.write(index, edits)
        if ast.unparse(ast.parse(text)) != ast.unparse(ast.Module([node], [])):
            raise CommandError(f"Can't copy line {source.heads[index]} of {module}. Simplify it first.")
        return text


def _is_fixed(node: ast.stmt) -> bool:
    """Say whether two of it can be one: a function, a class, or a name with a value that can't change."""
    values: list[ast.AST] = []
    match node:
        case ast.FunctionDef(args=arguments) | ast.AsyncFunctionDef(args=arguments):
            values = [arguments]
        case ast.ClassDef(body=body):
            values = [one for one in body if not isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)]
        case ast.Assign([ast.Name()], value) | ast.AnnAssign(ast.Name(), _, ast.expr() as value):
            values = [value]
        case _:
            return False
    return not any(isinstance(one, _CHANGEABLE) for value in values for one in ast.walk(value))


def _refuse_import(source: Source, module: str) -> CommandError:
    return CommandError(
        f"{source.name} imports {module}, whose migrations are replaced, so it will be removed. Import the names that "
        f"it needs from there instead, at the top: from {module} import ..."
    )
