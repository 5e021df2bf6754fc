"""The checksum of a function's code, and where a function is."""

import functools
import json
import linecache
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from quaestor._source import compute_checksum, locate
from tests import checksums
from tests.checksums import load

Write = Callable[[str], Any]
"""Writes a new module, and returns its function `migrate`."""

BEFORE = '''
def migrate(db, size=100):
    """Set the names."""
    names = db.users.find({"name": None}, limit=size)
    for user in names:
        if user["age"] > 18 and not user.get("done"):
            db.users.update_one({"_id": user["_id"]}, {"$set": {"name": f"{user['first']:>10}"}})
        else:
            db.log(b"skipped", 1, True)

    def count(one):
        return one + 1

    class Old:
        name: str = ""

    try:
        db.count(count, Old)
    except ValueError:
        pass
    db.end()
'''

MEANING = {
    "a number": ("18", "19"),
    "the type of a number": (", 1,", ", 1.0,"),
    "a number for a bool": ("True", "1"),
    "a str": ('"age"', '"years"'),
    "bytes for a str": ('b"skipped"', '"skipped"'),
    "None for a str": ("None", '"None"'),
    "an operator": ("> 18", ">= 18"),
    "a condition": ("not user", "user"),
    "a bool operator": ("and", "or"),
    "an attribute": ("users.find", "people.find"),
    "an argument's name": ("limit=", "skip="),
    "an argument's place": ('b"skipped", 1', '1, b"skipped"'),
    "an argument more": ("limit=size", "limit=size, skip=1"),
    "the field of a document": ('"name": f', '"title": f'),
    "the format of a value": (":>10", ":<10"),
    "the conversion of a value": (":>10", "!r:>10"),
    "a default value": ("size=100", "size=1000"),
    "a parameter": ("size=100", "*, size=100"),
    "an exception": ("ValueError", "KeyError"),
    "a statement more": ("    db.end()", "    db.begin()\n    db.end()"),
    "a statement less": ("    db.end()\n", ""),
    "a statement in a block": ("    db.end()", "        db.end()"),
    "the order of statements": ("        db.count(count, Old)\n", "        db.end()\n        db.count(count, Old)\n"),
    "a nested function": ("one + 1", "one + 2"),
    "a decorator of a nested function": ("    def count", "    @db.twice\n    def count"),
    "a field of a nested class": ("name: str", "name: int"),
    "an early end": ("    try:", "    return\n    try:"),
    "async": ("def migrate", "async def migrate"),
}

NO_MEANING = {
    "a comment": ("    db.end()", "    # That's all.\n    db.end()  # the end"),
    "a docstring": ("Set the names.", "Give every user\n    a name."),
    "no docstring": ('    """Set the names."""\n', ""),
    "a docstring of a nested function": ("        return one", '        """Count."""\n        return one'),
    "blank lines": ("    db.end()", "\n\n    db.end()"),
    "other places": ("\ndef migrate", "import os\n\n\ndef migrate"),
    "indentation": ("        return one + 1", "                return one + 1"),
    "lines": ('find({"name": None}, limit=size)', 'find(\n        {\n"name": None},\n limit = size,\n)'),
    "brackets": ("one + 1", "((one) + (1))"),
    "quotes": ('"name": None', "'name': None"),
    "the form of a str": ('"done"', '"do" u"n\\x65"'),
    "the form of a number": ("18", "0x12"),
    "annotations": ("(db, size=100):", '(db: object, size: "int" = 100) -> None:'),
    "the annotation of a variable": ("names = db", "names: list[object] = db"),
    "an annotation alone": ("    db.end()", "    other: int\n    db.end()"),
    "pass": ("    db.end()", "    pass\n    db.end()"),
    "a value that isn't used": ("    db.end()", "    ...\n    db.end()"),
    "the name": ("def migrate", "def other"),
    "a decorator": ("def migrate", "@(lambda function: function)\ndef migrate"),
    "a decorator that wraps": ("def migrate", "@wrap(1)\n@wrap(2)\ndef migrate"),
}


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Write]:
    numbers = iter(range(1000))

    def write(source: str) -> Any:
        file = tmp_path / f"module_{next(numbers)}.py"
        file.write_text(WRAP + dedent(source) + "\nmigrate = globals().get('other') or migrate", encoding="utf-8")
        return load(file).migrate

    return write


WRAP = """
import functools

def wrap(number):
    def decorator(function):
        @functools.wraps(function)
        def wrapper(db):
            return function(db, number)
        return wrapper
    return decorator
"""


def test_checksums_on_every_python(tmp_path: Path) -> None:
    """The checksums of 300 functions are the same as on the Python that wrote them down."""
    expected = json.loads(checksums.EXPECTED.read_text(encoding="utf-8"))
    assert len(expected) >= 300
    assert None not in expected.values()
    assert checksums.compute(tmp_path) == expected


@pytest.mark.parametrize("change", MEANING)
def test_change_of_meaning(change: str, write: Write) -> None:
    """A change of what the function does changes its checksum."""
    before, after = MEANING[change]
    assert BEFORE.count(before) == 1
    checksum = compute_checksum(write(BEFORE.replace(before, after)))
    assert None is not checksum != compute_checksum(write(BEFORE))


@pytest.mark.parametrize("change", NO_MEANING)
def test_change_without_meaning(change: str, write: Write) -> None:
    """A change of what doesn't count keeps the checksum."""
    before, after = NO_MEANING[change]
    assert BEFORE.count(before) == 1
    checksum = compute_checksum(write(BEFORE.replace(before, after)))
    assert None is not checksum == compute_checksum(write(BEFORE))


def test_helpers_and_globals_do_not_count(write: Write) -> None:
    """The checksum is about the function alone: not the functions that it calls, nor values from outside."""
    one, other = (write(f"def work(db): db.a({n})\nSIZE = {n}\ndef migrate(db): work(db, SIZE)") for n in (1, 2))
    assert None is not compute_checksum(one) == compute_checksum(other)


def test_bound_values(write: Write) -> None:
    """What a partial binds counts: it's how one function becomes several migrations. Of an object, its type does."""

    def bind(arguments: str) -> str | None:
        return compute_checksum(write(f"def work(*a, **b): a[0].do()\nmigrate = functools.partial(work, {arguments})"))

    different = ["'a'", "'b'", "b'a'", "1", "1.0", "True", "None", "'a', 'b'", "['a', 'b']", "field='a'", "field='b'"]
    different += ["{'a': 1}", "{'a': 2}", "{'a': [1, {}]}", "object()", "len", ""]
    assert None not in map(bind, different)
    assert len(set(map(bind, different))) == len(different)
    assert bind("{'a': 1, 'b': 2}, c=1, d=object()") == bind("{'b': 2, 'a': 1}, d=object(), c=1")
    nested = "def work(*a): a[0].do()\nmigrate = functools.partial(wrap(1)(functools.partial(work, {})), {})"
    assert len({compute_checksum(write(nested.format(*order))) for order in ("12", "21", "11")}) == 3


def test_forms(write: Write) -> None:
    """The same function has the same checksum as it is, and inside of what is called in its place."""
    function = write("def migrate(db): db.a()")
    checksum = compute_checksum(function)

    class Migration:
        __call__ = function
        method = function
        static = staticmethod(function)
        of_class = classmethod(function)

    @functools.wraps(functools.partial(function))
    def wrapper(db: object) -> None: ...

    forms = [Migration(), Migration().method, Migration.static, Migration.of_class, wrapper, functools.cache(function)]
    assert {*map(compute_checksum, forms), compute_checksum(staticmethod(function))} == {checksum}


def test_lambdas_in_one_line(write: Write) -> None:
    """Each lambda of a line has its own checksum: beside, inside and as a default value of another one."""
    table = write(
        'migrate = [lambda db: "é🐍".a, lambda db: db.a, lambda db: db.b(), lambda db: lambda: db.c, '
        "lambda a=lambda db: db.d: a]"
    )
    closures = write("def make(one): return [lambda db: one.e, lambda db: one.f]\nmigrate = make(None)")
    functions = [*table, table[3](None), table[4].__defaults__[0], *closures]
    found = [compute_checksum(function) for function in functions]
    alone = ["lambda db: db.a", "lambda db: db.b()", "lambda db: (lambda: db.c)", "lambda: db.c", "lambda db: db.d"]
    assert None not in found
    assert len(set(found)) == len(functions)
    assert [found[1], found[2], found[3], found[5], found[6]] == [
        compute_checksum(write(f"migrate = {one}")) for one in alone
    ]


def test_lambda_over_lines(write: Write) -> None:
    """A lambda is found by where it starts, and the rest of its lines belongs to it."""
    one, other = (write(f"migrate = functools.partial(\n    lambda db: db.a(\n{n}\n), 1)") for n in (1, 2))
    assert None is not compute_checksum(one) != compute_checksum(other) is not None


def test_lambdas_that_look_alike(tmp_path: Path) -> None:
    """Where Python doesn't know the columns, a lambda beside others has a checksum only if they are all the same."""
    (tmp_path / "alike.py").write_text("same = [lambda db: db.a, lambda db: db.a]\nother = [lambda: 1, lambda: 2]\n")
    code = "from alike import *; from quaestor._source import compute_checksum as c; print([*map(c, [*same, *other])])"
    command = [sys.executable, "-B", "-X", "no_debug_ranges", "-c", code]
    found = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    first, *others = eval(found)  # noqa: S307 - a list of str and None
    assert others == [first, None, None]
    assert isinstance(first, str)


def test_in_a_zip_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    """The source is read by the loader of the module."""
    source = "def migrate(db): db.a()"
    with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
        archive.writestr("zipped.py", source)
    monkeypatch.syspath_prepend(tmp_path / "app.zip")
    import zipped  # type: ignore[import-not-found] # pyright: ignore[reportMissingImports] # written above

    assert None is not compute_checksum(zipped.migrate) == compute_checksum(write(source))
    monkeypatch.chdir(tmp_path)
    assert locate(zipped.migrate) == str(Path("app.zip", "zipped.py:1"))


def test_in_a_notebook(write: Write) -> None:
    """A notebook keeps the source of its cells where tracebacks look for it."""
    source, names = "def migrate(db): db.a()\n", {"__name__": "__main__"}
    for name in ("<ipython-input-1-0123>", "/tmp/ipykernel_1/0123.py"):  # noqa: S108 - nothing is there
        exec(compile(source, name, "exec"), names)  # noqa: S102
        linecache.cache[name] = (len(source), None, [source], name)
        assert None is not compute_checksum(names["migrate"]) == compute_checksum(write(source))


def test_without_source(tmp_path: Path, write: Write) -> None:
    """A function without source has no checksum, whatever the reason, and nothing is raised."""
    compiled = {}
    exec("def migrate(db): db.a()", compiled)  # noqa: S102
    removed = write("def migrate(db): db.a()")
    Path(removed.__code__.co_filename).unlink()
    broken, other = write("def migrate(db): db.a()"), write("def migrate(db): db.a()")
    Path(broken.__code__.co_filename).write_text("def migrate(:")
    Path(other.__code__.co_filename).write_text("def other(db): db.a()\n" * 20)
    for function in (
        compiled["migrate"],
        removed,
        broken,
        other,
        len,
        int,
        "".join,
        object(),
        None,
        functools.partial(len),
    ):
        assert compute_checksum(function) is None
    assert locate(compiled["migrate"]) is None
    assert locate(len) is None


def test_strange_objects() -> None:
    """What a callable object, its source or a bound value does wrong is no failure of a run."""

    class Strange:
        @property
        def __wrapped__(self) -> object:
            raise ZeroDivisionError

        def __call__(self, db: object) -> None: ...

    class Loader:
        def get_source(self, name: str) -> str:
            raise ZeroDivisionError

    def itself(db: object) -> None: ...

    itself.__wrapped__ = itself  # type: ignore[attr-defined]
    endless: list[object] = []
    endless.append(endless)
    loaded = compile("def migrate(db): ...", "nowhere.py", "exec")
    exec(loaded, names := {"__name__": "a", "__loader__": Loader()})  # noqa: S102
    assert compute_checksum(Strange()) is None
    assert compute_checksum(functools.partial(itself, endless)) is None
    assert compute_checksum(itself) is not None
    assert compute_checksum(names["migrate"]) is None


def test_interruption() -> None:
    """What the handler of a signal raises, such as a soft time limit, isn't taken for a missing source."""

    class Slow:
        @property
        def __wrapped__(self) -> object:
            signal.raise_signal(signal.SIGINT)

        def __call__(self, db: object) -> None: ...

    def handle(number: int, frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGINT, handle)
    try:
        with pytest.raises(TimeoutError):
            compute_checksum(Slow())
    finally:
        signal.signal(signal.SIGINT, before)


def test_changed_file(write: Write) -> None:
    """The source is read again when its file has changed, so a module that was loaded again has its new checksum."""
    function = write("def migrate(db): db.a()")
    before = compute_checksum(function)
    file = Path(function.__code__.co_filename)
    file.write_text(file.read_text().replace("db.a()", "db.longer()"))
    assert None is not compute_checksum(load(file).migrate) != before


def test_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    """A function is at its first line, with its decorators, in a file that is named from the working directory."""
    function = write("\n@wrap(1)\ndef migrate(db): db.a()")
    line = WRAP.count("\n") + 2
    monkeypatch.chdir(tmp_path)
    assert locate(functools.partial(function, 1)) == f"module_0.py:{line}"
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    assert locate(function) == f"{tmp_path / 'module_0.py'}:{line}"
