"""Find the names of a module that a statement in it binds, uses and changes."""

import ast
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from typing import Any


def list_bound(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """List the names that these nodes bind in their scope, with the node of each."""
    for node in nodes:
        inner: Iterable[ast.AST] = ast.iter_child_nodes(node)
        match node:
            case ast.FunctionDef(name) | ast.AsyncFunctionDef(name) | ast.ClassDef(name):
                yield name, node
                inner = ()
            case ast.Lambda():
                inner = ()
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                inner = (one.target for one in ast.walk(node) if isinstance(one, ast.NamedExpr))
            case ast.Name(name, ast.Store() | ast.Del()):
                yield name, node
            case ast.alias(name, renamed):
                yield renamed or name.partition(".")[0], node
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(str(name)):
                yield name, node
            case ast.MatchMapping(rest=str(name)):
                yield name, node
        yield from list_bound(inner)


def find_changed(statement: ast.stmt) -> Iterator[str]:
    """Find the names whose values a statement changes without binding them, as X in `X["a"] = 1` or `X.append(1)`.

    Also those with a method that decorates its function, as functools.singledispatch has one.
    """
    for place in _list_places(statement):
        node = place.func if isinstance(place, ast.Call) else place
        if isinstance(node, ast.Attribute | ast.Subscript):
            while isinstance(node, ast.Attribute | ast.Subscript):
                node = node.value
            if isinstance(node, ast.Name):
                yield node.id


def _list_places(statement: ast.AST) -> list[ast.expr]:
    """List what a statement assigns to, removes or calls."""
    match statement:
        case ast.Expr(value):
            return [value]
        case ast.Assign(targets) | ast.Delete(targets):
            return targets
        case ast.AugAssign(target):
            return [target]
        case ast.FunctionDef(decorator_list=decorators) | ast.AsyncFunctionDef(decorator_list=decorators):
            return decorators
        case ast.If() | ast.For() | ast.While() | ast.With() | ast.Try():
            simple = ast.Expr, ast.Assign, ast.Delete, ast.AugAssign
            return [place for one in ast.walk(statement) if isinstance(one, simple) for place in _list_places(one)]
    return []


def find_documented(before: ast.stmt, statement: ast.stmt) -> list[str]:
    """Find the names that a statement documents, if it's a string right after their assignment."""
    match statement:
        case ast.Expr(ast.Constant(str())) if isinstance(before, ast.Assign | ast.AnnAssign):
            return [name for name, _ in list_bound([before])]
    return []


def find_used(statement: ast.stmt) -> list[tuple[str, ast.AST | None]]:
    """Find where a statement of a module uses names of that module, or of Python.

    Each has its node, a Name or a Global; None: it's in an annotation that is a string.
    """
    finder = _Finder()
    finder.visit(statement)
    return finder.found


class _Finder(ast.NodeVisitor):
    """Knows the names of the functions, and of the class, that it is in."""

    def __init__(self) -> None:
        self.found: list[tuple[str, ast.AST | None]] = []
        self._local: frozenset[str] = frozenset()
        self._in_class: frozenset[str] = frozenset()  # the functions in the class don't see them

    def visit_Name(self, node: ast.Name) -> None:
        if node.id not in self._local | self._in_class:
            self.found.append((node.id, node))

    def visit_Global(self, node: ast.Global) -> None:
        self.found.extend((name, node) for name in node.names)

    def visit_arg(self, node: ast.arg) -> None:
        self._visit_annotation(node.annotation)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._visit_annotation(node.annotation)
        for one in (node.target, node.value):
            if one is not None:
                self.visit(one)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        before, parameters = self._local, _list_type_parameters(node)
        types = {one.name for one in parameters}
        for decorator in node.decorator_list:
            self.visit(decorator)
        self._local |= types
        for one in (*parameters, node.args):
            self.visit(one)
        self._visit_annotation(node.returns)
        self._local = before
        self._enter(node.body, {*types, *_list_parameters(node)})

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the name that NodeVisitor looks for

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.args)
        self._enter([node.body], _list_parameters(node))

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        parameters = _list_type_parameters(node)
        for one in (*node.decorator_list, *node.bases, *node.keywords, *parameters):
            self.visit(one)
        types = {one.name for one in parameters}
        self._enter(node.body, types, in_class={name for name, _ in list_bound(node.body)})

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        first = node.generators[0]
        self.visit(first.iter)
        others = [one for one in ast.iter_child_nodes(node) if one is not first]
        self._enter([first.target, *first.ifs, *others], {name for name, _ in list_bound(node.generators)})

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp  # noqa: N815 - likewise

    def _enter(self, nodes: Iterable[ast.AST], local: Collection[str], in_class: Collection[str] | None = None) -> None:
        """Visit a scope: of a function, if `in_class` is None."""
        nodes, before = list(nodes), (self._local, self._in_class)
        bound = {name for name, _ in list_bound(nodes)} if in_class is None else set()
        of_module = {
            name for node in nodes for one in ast.walk(node) if isinstance(one, ast.Global) for name in one.names
        }
        self._local |= {*local, *bound} - of_module
        self._in_class = frozenset(in_class or ()) - of_module
        for node in nodes:
            self.visit(node)
        self._local, self._in_class = before

    def _visit_annotation(self, node: ast.expr | None) -> None:
        if node is None:
            return
        self.visit(node)
        for one in ast.walk(node):
            if isinstance(one, ast.Constant) and isinstance(one.value, str):
                with suppress(SyntaxError):  # of Literal, say
                    inner = ast.walk(ast.parse(one.value, mode="eval"))
                    self.found.extend((name.id, None) for name in inner if isinstance(name, ast.Name))


def _list_parameters(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> list[str]:
    return [one.arg for one in ast.iter_child_nodes(node.args) if isinstance(one, ast.arg)]


def _list_type_parameters(node: ast.AST) -> list[Any]:
    return getattr(node, "type_params", [])  # Python 3.12 and later
