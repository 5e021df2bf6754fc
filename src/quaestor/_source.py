"""The source of a migration's function: its checksum, and where it is.

The checksum covers the code of the function itself: its parameters and body, and the values that partials bind. It
doesn't cover the functions that it calls, values from outside (globals, closures), its decorators and its name, or
what has no effect: comments, format, docstrings and annotations.
"""

import ast
import functools
import hashlib
import linecache
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType
from typing import TypeAlias
from weakref import WeakKeyDictionary

from quaestor._text import is_of_signal

_Node: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
_Position: TypeAlias = tuple[int, int]  # line and column

_DIGITS = 16  # 64 bits: enough to notice a change, and short, because there may be 100,000 records
_IGNORED = ("ctx", "returns", "type_params")  # fields of types, and one that follows from the place of its node

_written: WeakKeyDictionary[CodeType, tuple[list[str], str | None]] = WeakKeyDictionary()
"""The text of each function, with the lines that it was found in: a probe may read the status every second."""


def compute_checksum(function: Callable[..., object]) -> str | None:
    """Compute the checksum of a function's code, the same on every version of Python. Never fails.

    It reads the source as it is now. None: there is no source, or several lambdas of one line can't be told apart.
    """
    try:
        inner, bound = _unwrap(function)
        text = _write_function(inner) if isinstance(inner, FunctionType) else None
        return None if text is None else hashlib.sha256(f"{text}{bound}".encode()).hexdigest()[:_DIGITS]
    except Exception as error:
        if is_of_signal(error):
            raise
        return None  # a file, a loader or a callable object may raise anything, and a run needs no checksum


def locate(function: Callable[..., object]) -> str | None:
    """Return the file and first line of a function, as "path:line". None: it has no file.

    The path is relative to the working directory if the file is inside.
    """
    code = getattr(_unwrap(function)[0], "__code__", None)
    if not isinstance(code, CodeType) or code.co_filename.startswith("<"):
        return None
    path = Path(code.co_filename)
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{code.co_firstlineno}"


def _unwrap(function: object) -> tuple[object, str]:
    """Find the function that was written, inside decorators, partials, methods and objects with a `__call__`.

    Returns the text of the values that partials bind as well.
    """
    bound = ""
    passed: set[int] = set()
    while id(function) not in passed:  # a decorator may wrap itself
        passed.add(id(function))
        if isinstance(function, functools.partial):
            bound += "".join(_write_value(one) for one in (function.args, function.keywords) if one)
            function = function.func
        elif isinstance(function, staticmethod | MethodType):
            function = function.__func__
        elif (wrapped := getattr(function, "__wrapped__", None)) is not None:
            function = wrapped
        elif not isinstance(function, FunctionType) and isinstance(call := type(function).__call__, FunctionType):
            function = call
    return function, bound


def _write_value(value: object) -> str:
    """Write a value that a partial binds. Of one that isn't plain data, only the type counts."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_write_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(sorted(f'{_write_value(key)}:{_write_value(one)}' for key, one in value.items()))}}}"
    is_plain = type(value) in {str, bytes, int, float, complex, bool, type(None)}
    return ascii(value) if is_plain else type(value).__qualname__


def _write_function(function: FunctionType) -> str | None:
    """Write the parameters and the body of a function in one form."""
    code = function.__code__
    linecache.checkcache(code.co_filename)
    # It also has the source in a zip file, by the module's loader, and that of a notebook's cells.
    lines = linecache.getlines(code.co_filename, function.__globals__)
    before, text = _written.get(code, (None, None))
    if before is not lines:
        texts = {f"{type(one).__name__}({_write(one.args)},{_write(one.body)})" for one in _find_nodes(code, lines)}
        text = texts.pop() if len(texts) == 1 else None
        _written[code] = (lines, text)
    return text


def _find_nodes(code: CodeType, lines: list[str]) -> list[_Node]:
    """Find the function in the syntax tree of its file. Several: it's one of these lambdas in one line."""
    nodes = _index("".join(lines), code.co_filename).get((code.co_firstlineno, code.co_name), [])
    places = list(_find_places(code)) if len(nodes) > 1 else []
    # Outer ones come first, and their bodies are around the inner ones.
    return [node for node in nodes if _is_around(node.body, places)][-1:] if places else nodes


def _find_places(code: CodeType) -> Iterator[tuple[_Position, _Position]]:
    """Find where the instructions come from, as far as Python knows."""
    for line, end_line, column, end_column in code.co_positions():
        if line is None or end_line is None or column is None or end_column is None:
            continue
        if (line, column) != (end_line, end_column):  # without a width, it is about the line
            yield (line, column), (end_line, end_column)


def _is_around(body: object, places: Iterable[tuple[_Position, _Position]]) -> bool:
    """Say whether these places are in this body of a lambda."""
    if not isinstance(body, ast.expr) or body.end_lineno is None or body.end_col_offset is None:
        return False
    first, last = (body.lineno, body.col_offset), (body.end_lineno, body.end_col_offset)
    return all(first <= start and end <= last for start, end in places)


@functools.lru_cache(maxsize=8)  # a file may have many migrations
def _index(source: str, path: str) -> Mapping[tuple[int, str], list[_Node]]:
    """Find the functions in a source by first line and name, outer ones first."""
    found: dict[tuple[int, str], list[_Node]] = {}
    for node in ast.walk(ast.parse(source, path)):
        match node:
            case ast.Lambda():
                found.setdefault((node.lineno, "<lambda>"), []).append(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                line = min(one.lineno for one in (node, *node.decorator_list))
                found.setdefault((line, node.name), []).append(node)
    return found


def _write(part: object, *, in_class: bool = False) -> str:
    """Write a part of a syntax tree: the names of nodes and fields, and values. Empty fields are left out.

    The syntax trees of two versions of Python differ, but not in what is written.
    """
    match part:
        case ast.Constant():
            text = f"Constant({part.value!a})"  # repr escapes by Python's version of Unicode
        case ast.arg():
            text = part.arg
        case ast.JoinedStr():  # Python 3.12 adds empty constants
            text = f"JoinedStr({_write([one for one in part.values if getattr(one, 'value', None) != ''])})"
        case ast.AnnAssign(value=ast.expr() as value) if not in_class:
            text = _write(ast.Assign([part.target], value))
        case ast.AST():
            in_class = isinstance(part, ast.ClassDef) or (in_class and not isinstance(part, _Node))
            fields = [
                (name, value) for name, value in ast.iter_fields(part) if value is not None and name not in _IGNORED
            ]
            texts = [f"{name}={text}" for name, value in fields if (text := _write(value, in_class=in_class)) != "[]"]
            text = f"{type(part).__name__}({','.join(texts)})"
        case list():
            kept = [one for one in part if not _is_idle(one, in_class=in_class)]
            text = f"[{','.join(_write(one, in_class=in_class) for one in kept)}]"
        case _:
            text = ascii(part)
    return text


def _is_idle(part: object, *, in_class: bool) -> bool:
    """Say whether a statement does nothing: `pass`, a docstring, or, outside of a class, an annotation alone."""
    match part:
        case ast.Pass() | ast.Expr(ast.Constant()):
            return True
        case ast.AnnAssign(value=None):
            return not in_class
    return False
