"""Functions with all of Python's syntax, and their checksums, which are the same on every Python.

python -m tests.checksums --write  # after a new function, or a change that is meant to give other checksums
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from textwrap import indent
from types import ModuleType

from quaestor._source import compute_checksum

EXPECTED = Path(__file__).with_suffix(".json")

EXPRESSIONS = r"""
db.users.update_many({}, {"$set": {"active": True}})
db["users"].find({"age": {"$gte": 18, "$lt": 1_000}}, limit=10, **db.options)
[one["_id"] for one in db.users.find() if one["name"] if not one.get("done")]
{one: two for one, two in db.pairs}
{one for one in db.names}
(one async for one in db.names) if db.is_async else (one for one in db.names)
{**db.first, "second": [*db.second, *db.third], None: 1}
lambda one, /, two=1, *three, four, five=5, **six: (one, two, three, four, five, six)
db.a + db.b - db.c * db.d / db.e // db.f % db.g ** db.h @ db.i << db.j >> db.k & db.l | db.m ^ db.n
-db.a + ~db.b - (not db.c)
db.a < 1 <= db.b != 2 == db.c > 3 >= db.d is None is not db.e in db.f not in db.g
db.a and db.b and (db.c or db.d) or db.e
db.a if db.b else db.c if db.d else None
db.names[1:2], db.names[:], db.names[::3], db.names[-1], db.names[1:, ...]
(first := db.first) + first
print(*db.names, sep="", **{"end": "x"})
db, 1, 1.0, 1e999, 1j, True, None, ..., b"bytes\x00\xff", "", 0xFF, 0o17, 0b11, 10**20
db, "one" "two", 'it\'s "quoted"', "tab\t\\", r"\d+\N", u"u", "\N{EM DASH}\u00e9\U0001F40D", "é🐍"
db, "\U0001FADF\U0001FAE8\U0001C89A\u1C89\U0002EBF0"
f"{db.name}", f"", f"text", f"a{{b}}c", "a" f"{db.a}" "b" f"{db.b}"
f"{db.name!r:>{db.width}}", f"{db.a:{db.b}}", f"{db.a:{db.b}.{db.c}}", f"{db.a:{{}}}"
f"{db.a:%Y-%m-%d}", f"{db.a!s}{db.b!a}", f"{db.a:a{db.b}b{db.c}c}", f"{db.a,}"
f"{db.name=}", f"{ db.a  =  !r:^10}", f"{f'{db.a:{db.b}}':>{db.c}}", rf"\n{db.a}\d"
f"{(lambda: 1)()}", f"{db['a']}", f"{ {'a': 1}['a'] }", f"{db.a:{'>'}{10}}"
f"{db.a:{db.b}}" + "" + "x", f"{db.a}" "", "" f"{db.a:}"
"$name", {"$set": {"a.b": "$c"}}, {"$expr": {"$eq": ["$a", "$b"]}}
db.command("collMod", "users", index={"keyPattern": {"email": 1}, "prepareUnique": True})
db.users.create_index([("email", 1), ("name", -1)], unique=True, partialFilterExpression={"a": {"$exists": 1}})
(db.users.drop_index("email_1"), db.users.rename("people", dropTarget=True))
[update(one, two) for one in db.names for two in one if (last := two)] if (update := db.update) else []
db(*db.a, *db.b, c=1, **db.d, e=2)(lambda: db.f)[0].g(not_a_keyword=(yes := None))
sorted(db.names, key=lambda one: (-one.age, one.name))[::-1], max((one for one in db), default=0)
db.users.aggregate([{"$match": {"a": {"$in": [1, 2]}}}, {"$out": {"db": "x", "coll": "y"}}], allowDiskUse=True)
"""

STATEMENTS = r'''
"""Says what it does."""
db.a.drop()
---
pass
---
...
---
count: int = 1
other: "str"
db.count: int = count
---
count = other = 1
count += 1; other -= 1; count **= 2; other //= 3; count @= db; count >>= 1
---
(first, *others), [last] = db.names, [1]
---
del db.names[0], db.name
---
for one, (two, three) in db.users.find():
    if one: continue
    elif two:
        break
    else:
        pass
else:
    db.done()
---
while db.next():
    if db.done: break
else:
    return None
---
with db.start() as session, session.begin(), (db.other()) as (first, second):
    db.do(session)
---
with (
    db.start() as session,
    db.other(),
):
    return session
---
try:
    db.do()
except ValueError:
    raise
except (KeyError, TypeError) as error:
    raise RuntimeError("no") from error
else:
    return 1
finally:
    db.end()
---
try:
    db.do()
except* ValueError as group:
    print(group.exceptions)
---
match db.get():
    case {"type": "a", "value": [first, *others], **rest} if first:
        db.a(first)
    case [1, -2.5, "x", None, True, b"y"] | (3 | 4):
        db.b()
    case dict(name=str() as name) | db.Kind(name, other=_):
        db.c(name)
    case db.CONSTANT:
        pass
    case other:
        return other
---
def helper(a, /, b: int = 1, *args: int, c, d=2, **kwargs) -> None:
    """Helps."""
    nonlocal_value = 1
    def inner():
        nonlocal nonlocal_value
        nonlocal_value += 1
    return inner
db.each(helper)
---
@db.decorator
@db.other(1, two=3)
def helper():
    yield 1
    value = yield
    yield from db.names
db.each(helper)
---
class Old(db.Document, metaclass=db.Meta):
    """An old form of the model."""
    name: str
    age: int = 0
    if db.debug:
        tags: list[str] = []
    def method(self, one: int) -> int:
        value: int = one
        return self.__secret + value
    @property
    def size(self): ...
db.each(Old)
---
import os.path, json as j
from collections import OrderedDict as Ordered, abc
from . import sibling
from ..parent import other
---
global counter
counter = 1
---
assert db.name, "no name"
assert db.name
---
raise
---
return
---
# a comment
if db.a: return 1   # another
return \
    2
---
users = db.users
for user in users.find({"name": {"$exists": False}}).batch_size(100):
    first, _, last = user["full_name"].partition(" ")
    users.update_one({"_id": user["_id"]}, {"$set": {"first": first, "last": last}, "$unset": {"full_name": ""}})
'''

ASYNC = r"""
await db.users.update_many({}, {"$set": {"a": 1}})
---
async for one in db.users.find():
    await db.users.update_one(one, {"$inc": {"n": 1}})
else:
    return
---
async with await db.start() as session, session.begin():
    await db.do(session)
---
return [await one async for one in db.names if await one]
---
async def helper(one):
    async with one: yield one
await db.each(helper)
"""

HEAD = """
import functools

def decorate(function):
    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)
    return wrapper

FUNCTIONS = {}
"""

AROUND_EXPRESSIONS = {
    "function": "def migrate(db: object) -> object:\n    return {}",
    "async": "@decorate\nasync def migrate(db, context):\n    value: int = {}\n    return value",
    "lambda": "migrate = [lambda db: 0, lambda db: ({}), lambda db: 0][1]",
    "default": "def migrate(db, one=lambda db: ({})): return one",
    "partial": "def work(field, db, *, size): return {}\nmigrate = functools.partial(decorate(work), 'a', size=10)",
}
AROUND_STATEMENTS = {
    "function": ("{} migrate(db):\n", "    ", ""),
    "nested": (
        "def make(size):\n    {} migrate(db):\n",
        " " * 8,
        "        return size\n    return migrate\nmigrate = make(1)",
    ),
    "object": ("class Migration:\n    {} __call__(self, db):\n", " " * 8, "migrate = Migration()"),
    "method": ("class Migrations:\n    @decorate\n    {} one(self, db):\n", " " * 8, "migrate = Migrations().one"),
    "static": ("class Migrations:\n    @staticmethod\n    {} one(db):\n", " " * 8, "migrate = Migrations.one"),
}


def write_module() -> str:
    """Write the source of a module that has each function by its name in FUNCTIONS."""
    return HEAD + "".join(f"{code}\nFUNCTIONS[{name!r}] = migrate\n" for name, code in _write_functions())


def _write_functions() -> Iterator[tuple[str, str]]:
    for form, around in AROUND_EXPRESSIONS.items():
        for number, expression in enumerate(EXPRESSIONS.strip().split("\n"), 1):
            yield f"expression {number}, {form}", around.replace("{}", expression)
    for form, (before, margin, after) in AROUND_STATEMENTS.items():
        for keyword, blocks in {"def": STATEMENTS, "async def": ASYNC}.items():
            for number, block in enumerate(blocks.strip().split("\n---\n"), 1):
                code = f"{before.format(keyword)}{indent(block, margin)}\n{after}"
                yield f"{keyword} {number}, {form}", code


def load(file: Path) -> ModuleType:
    """Import a file as a module."""
    spec = spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compute(folder: Path) -> Mapping[str, str | None]:
    """Compute the checksums of all functions, from a file in the folder."""
    file = folder / "corpus.py"
    file.write_text(write_module(), encoding="utf-8")
    return {name: compute_checksum(function) for name, function in load(file).FUNCTIONS.items()}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        made = json.dumps(compute(Path(folder)), indent=0)
    if "--write" in sys.argv:
        EXPECTED.write_text(made + "\n", encoding="utf-8")
    else:
        print(made)
