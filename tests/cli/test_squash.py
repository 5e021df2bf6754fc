"""What `squash` writes, and its proof: on the real server."""

import ast
import re
import sys

import pytest

from quaestor.cli.names import find_changed, find_used, list_bound
from tests.cli.conftest import Project
from tests.cli.test_clients import CLIENTS

USERS = """
from shop.migrations import registry

@registry.register("users")
def users(db):
    db.create_collection("users")
"""
TIMED = """
import functools

LIMIT = 3

def timed(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)
    return wrapper
"""
FIRST = '''\
# All rights reserved

"""Split the first name.

Names may have an é.
"""

from __future__ import annotations

import logging
import os.path
import re as regex
from typing import TYPE_CHECKING, Any

from quaestor import MigrationContext

from . import registry
from .tools import LIMIT as MOST, timed

if TYPE_CHECKING:
    from bson import ObjectId
    from pymongo.database import Database

logger = logging.getLogger(__name__)
UNUSED = 1
SEPARATOR = " "
"""Between names."""

# What the codes mean.
CODES = {"é": 1}
CODES["ü"] = 2
calls = 0


# Only a few
# at a time.
def chunks(items: list[int], size: int = MOST) -> Any:
    """Cut a list."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def same(db: Database[Any], _id: ObjectId | None = None) -> bool:
    return db.users.count_documents({}) == LIMIT


LIMIT = 4


@registry.register("split_first", depends_on=["users"])
@timed
def migrate(db: Database[dict[str, Any]], context: MigrationContext) -> None:
    """Split the first name."""
    global calls
    calls += 1
    # Why it is so: é.
    logger.debug(f"é {SEPARATOR} {CODES['ü']} {os.path.sep}")
    for chunk in chunks([1, 2, 3, 4]):
        db.users.insert_many([{"_id": one, "first": regex.sub("a", "b", "a"), "at": now()} for one in chunk])
    context.logger.info("done")  # at the end


def now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


@registry.register_rollback("split_first")
def undo(db: Database[dict[str, Any]]) -> None:
    db.users.delete_many({})
'''
LAST = '''\
import logging
from typing import Any

from pymongo.database import Database

from shop.migrations import registry
from shop.migrations.split_first import same as is_full
from shop.migrations.tools import LIMIT

logger = logging.getLogger(__name__)
SEPARATOR = ","


def chunks(items: list[Any]) -> list[Any]:
    return [items, SEPARATOR]


@registry.register("split_last", depends_on=["split_first"])
def migrate(db: Database[dict[str, Any]]) -> None:
    """Split the last name."""
    logger.debug(f"{SEPARATOR} {chunks([LIMIT])}")
    db.users.create_index("last", sparse=True)
    assert is_full(db)


@registry.register_verification("split_last")
def has_index(db: Database[Any]) -> bool:
    return "last_1" in db.users.index_information()
'''
UNDO_LAST = """
from shop.migrations import registry
from shop.migrations.split_last import chunks

@registry.register_rollback("split_last")
def undo(db):
    assert chunks([])
    db.users.drop_index("last_1")
"""
SPLIT_NAMES = '''\
"""Split names: 2 migrations, squashed."""

from __future__ import annotations

import logging
import os.path
import re as regex
from typing import TYPE_CHECKING, Any

from pymongo.database import Database
from quaestor import MigrationContext

from shop.migrations import registry
from shop.migrations.tools import LIMIT as LIMIT_split_last
from shop.migrations.tools import LIMIT as MOST
from shop.migrations.tools import timed

if TYPE_CHECKING:
    from bson import ObjectId

# From shop.migrations.split_first
#
# Names may have an é.

logger = logging.getLogger(__name__)
SEPARATOR = " "
"""Between names."""

# What the codes mean.
CODES = {"é": 1}
CODES["ü"] = 2
calls = 0


# Only a few
# at a time.
def chunks(items: list[int], size: int = MOST) -> Any:
    """Cut a list."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def same(db: Database[Any], _id: ObjectId | None = None) -> bool:
    return db.users.count_documents({}) == LIMIT


LIMIT = 4


@timed
def migrate(db: Database[dict[str, Any]], context: MigrationContext) -> None:
    """Split the first name."""
    global calls
    calls += 1
    # Why it is so: é.
    logger.debug(f"é {SEPARATOR} {CODES['ü']} {os.path.sep}")
    for chunk in chunks([1, 2, 3, 4]):
        db.users.insert_many([{"_id": one, "first": regex.sub("a", "b", "a"), "at": now()} for one in chunk])
    context.logger.info("done")  # at the end


def now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def undo(db: Database[dict[str, Any]]) -> None:
    db.users.delete_many({})


# From shop.migrations.split_last

logger_split_last = logging.getLogger(__name__)
SEPARATOR_split_last = ","


def chunks_split_last(items: list[Any]) -> list[Any]:
    return [items, SEPARATOR_split_last]


def migrate_split_last(db: Database[dict[str, Any]]) -> None:
    """Split the last name."""
    logger_split_last.debug(f"{SEPARATOR_split_last} {chunks_split_last([LIMIT_split_last])}")
    db.users.create_index("last", sparse=True)
    assert same(db)


def has_index(db: Database[Any]) -> bool:
    return "last_1" in db.users.index_information()


# From shop.migrations.undo_last


def undo_undo_last(db):
    assert chunks_split_last([])
    db.users.drop_index("last_1")


@registry.register(
    "split_names",
    depends_on=["users"],
    replaces=["split_first", "split_last"],
)
def split_names(db: Database[dict[str, Any]], context: MigrationContext) -> None:
    """Split names: 2 migrations, squashed."""
    # Make it idempotent: it may run twice.
    migrate(db, context)
    migrate_split_last(db)


registry.register_verification("split_names")(has_index)


@registry.register_rollback("split_names")
def undo_split_names(db):
    """Undo them, in reverse order."""
    undo_undo_last(db)
    undo(db)
'''
DOES_THE_SAME = "does the same as what it replaces"
DEPLOY = "Deploy it beside the old modules."
HEAD = "from shop.migrations import registry\n"
PLAIN = (
    HEAD
    + """
@registry.register("{0}")
def {0}(db):
    db.{0}.insert_one({{"_id": 1}})
"""
)


@pytest.fixture
def shop(project: Project) -> Project:
    """A project without migrations."""
    for file in ("first", "second", "aside"):
        (project.folder / f"shop/migrations/{file}.py").unlink()
    return project


def write(project: Project, **modules: str) -> None:
    for name, text in modules.items():
        project.write(f"shop/migrations/{name}.py", text if "\n" in text else PLAIN.format(text))


def left(project: Project) -> list[str]:
    """The databases of proofs that are left on the server."""
    return [name for name in project.db.client.list_database_names() if name.startswith("quaestor_squash_")]


def read(project: Project, name: str = "both") -> str:
    return (project.folder / f"shop/migrations/{name}.py").read_text(encoding="utf-8")


def test_squash(shop: Project) -> None:
    """The module has everything that the functions use, as it was written, and can be used at once."""
    write(shop, users=USERS, tools=TIMED, split_first=FIRST, split_last=LAST, undo_last=UNDO_LAST)
    output, errors = shop.quaestor("squash", "split_last", "split_first", "--into", "split_names")
    assert read(shop, "split_names") == SPLIT_NAMES
    assert errors == ""
    assert output.splitlines() == [
        f"Written: {shop.folder}/shop/migrations/split_names.py",
        f"Proved: in an empty database, split_names {DOES_THE_SAME} (1 collection, 1 index, 4 documents).",
        f"Next: simplify the new module, and prove it again (quaestor squash --prove split_names). {DEPLOY}",
        "Remove those when every database has a record of split_names.",
    ]
    assert left(shop) == []
    assert shop.db.list_collection_names() == []

    shop.quaestor("run")
    assert shop.recorded() == {"users", "split_names", "split_first", "split_last"}
    assert shop.db.users.count_documents({}) == 4
    for old in ("split_first", "split_last", "undo_last"):
        (shop.folder / f"shop/migrations/{old}.py").unlink()
    shop.quaestor("check")
    shop.quaestor("rollback", "split_names", "--yes")
    assert shop.recorded() == {"users"}
    assert (shop.db.users.count_documents({}), len(shop.db.users.index_information())) == (0, 1)
    shop.quaestor("run")
    output, _ = shop.quaestor("squash", "--prove", "split_names", code=2)


def test_squash_where_the_old_are_applied(shop: Project) -> None:
    """Where the old migrations are applied, the next run only records the new one."""
    write(shop, one="one", two="two")
    shop.quaestor("run")
    shop.quaestor("squash", "one", "two", "--into", "both")
    shop.quaestor("run")
    assert shop.recorded() == {"one", "two", "both"}
    assert shop.db.one.count_documents({}) == 1


def test_a_rename(shop: Project) -> None:
    """One migration can be squashed too, which renames it."""
    write(shop, one="one")
    shop.quaestor("squash", "one", "--into", "Größe ändern")
    text = read(shop, "größe_ändern")
    assert 'replaces=["one"])\ndef größe_ändern(db):' in text
    shop.quaestor("run")
    assert shop.recorded() == {"one", "Größe ändern"}


def test_async(shop: Project) -> None:
    """Async functions are awaited, in transactions if all are, with a context if one takes it."""
    write(
        shop,
        one=HEAD + '@registry.register("one", transaction=True, after_crash="rerun", phase="post_deploy")\n'
        "async def up(db, context):\n    await db.one.insert_one({'name': context.name and 1})\n"
        '@registry.register_rollback("one")\ndef down(db): db.one.delete_many({})\n'
        '@registry.register_precondition("one")\ndef is_there(db): return True\n',
        two=HEAD + '@registry.register("two", depends_on=["one"], transaction=True, phase="post_deploy")\n'
        "async def up(db):\n    await db.two.insert_one({})\n",
    )
    output, _ = shop.quaestor("squash", "one", "two", "--into", "both")
    assert "It has no rollback, because 'two' has none." in output
    assert "Proved" in output
    text = read(shop)
    assert '    phase="post_deploy",\n    transaction=True,\n' in text
    assert "Change nothing but the database" in text
    assert "async def both(db, context):\n" in text
    assert "    await up(db, context)\n    await up_two(db)\n" in text
    assert 'registry.register_precondition("both")(is_there)\n' in text
    assert "rollback" not in text


@pytest.mark.parametrize("client", ["pymongo_async", "motor", "both", "plain", "mock"])
def test_the_applications_client(shop: Project, client: str) -> None:
    """The proof uses the application's own client, of any kind."""
    shop.write("shop/clients.py", CLIENTS)
    kind, wait = ("async def", "await ") if client in {"pymongo_async", "motor", "both"} else ("def", "")
    for name in ("one", "two"):
        write(
            shop,
            **{
                name: f"{HEAD}@registry.register('{name}')\n{kind} {name}(db):\n"
                f"    {wait}db.{name}.insert_one({{}})\n    {wait}db.{name}.create_index('a')\n"
            },
        )
    environ = {"QUAESTOR_CLIENT": f"shop.clients:{client}", "SHOP_URI": shop.environ.pop("QUAESTOR_URI")}
    output, _ = shop.quaestor("squash", "one", "two", "--into", "both", **environ)
    assert "(2 collections, 2 indexes, 2 documents)" in output
    assert left(shop) == []


def test_without_a_server(shop: Project) -> None:
    """Without a server there is the module, and what is left to do."""
    write(shop, one="one", two="two")
    shop.environ.pop("QUAESTOR_URI")
    output, _ = shop.quaestor("squash", "one", "two", "--into", "both")
    assert "Not proved, because no server is configured: quaestor squash --prove both --uri URI" in output
    output, _ = shop.quaestor("squash", "--prove", "both", "--uri", "mongomock://shop")
    assert "(2 collections, 0 indexes, 2 documents)" in output


def test_losses(shop: Project) -> None:
    """What a person has to think about is said."""
    delayed = 'depends_on=["one"], delay=__import__("datetime").timedelta(days=1), after_crash="stop"'
    write(
        shop,
        one=HEAD + '@registry.register("one", transaction=True, replaces=["older"])\ndef f(db): pass\n'
        '@registry.register_verification("one")\ndef seen(db): return True\n',
        two=HEAD + f'@registry.register("two", {delayed})\ndef f(db): pass\n'
        '@registry.register_precondition("two")\ndef ready(db): return True\n',
    )
    output, _ = shop.quaestor("squash", "one", "two", "--into", "both")
    assert output.splitlines()[1:6] == [
        "It is no transaction, because 'two' isn't: after a crash it runs again from its first step.",
        "It has no delay, unlike 'two'. If a database may still need it, add it (delay=).",
        "All its preconditions are checked before its first step. Do they hold there?",
        "All its verifications are checked after its last step. Do they hold there?",
        "Before you remove 'one', add the names that it replaces to those here.",
    ]
    assert 'after_crash="stop"' in read(shop)
    assert output.splitlines()[6] == "Proved: in an empty database, both runs. It changes nothing there."


LOOP = """
for name in ("one", "two"):
    @registry.register(name)
    def closure(db, name=name):
        pass
"""
REFUSED = {
    "unknown": ("", ["tow"], "There is no migration 'tow'. Did you mean 'two'?"),
    "star": ("from os.path import *\ndef f(db): join()\nregistry.register('x')(f)\n", ["x"], "`import *`"),
    "lambda": ("registry.register('x')(lambda db: None)\n", ["x"], "Can't copy migration 'x': it isn't a function"),
    "partial": (
        "from functools import partial\ndef f(n, db): pass\nregistry.register('x')(partial(f, 1))\n",
        ["x"],
        "Can't copy migration 'x'",
    ),
    "closure": (LOOP.replace('"one", "two"', '"x"'), ["x"], "Can't copy migration 'x'"),
    "method": (
        "class A:\n    def f(self, db): pass\nregistry.register('x')(A().f)\n",
        ["x"],
        "Can't copy migration 'x'",
    ),
    "rollback": (
        "def f(db): pass\nregistry.register('x')(f)\nregistry.register_rollback('x')(lambda db: None)\n",
        ["x"],
        "Can't copy the rollback of 'x'",
    ),
    "wrapped": (
        "import functools\ndef f(db): pass\n@functools.wraps(f)\ndef g(db): pass\nregistry.register('x')(g)\n",
        ["x"],
        "Can't copy migration 'x'",
    ),
    "kinds": (
        "@registry.register('x')\nasync def f(db): pass\n",
        ["one", "x"],
        "The functions of 'one' are `def`, and those of 'x' are `async def`. Squash each kind for itself.",
    ),
    "kinds of rollbacks": (
        (
            "@registry.register('x')\ndef f(db): pass\n@registry.register_rollback('x')\nasync def g(db): pass\n"
            "@registry.register('y')\ndef h(db): pass\n@registry.register_rollback('y')\ndef i(db): pass\n"
        ),
        ["x", "y"],
        "The rollbacks of 'y' are `def`, and those of 'x' are `async def`.",
    ),
    "phases": (
        "@registry.register('x', phase='post_deploy')\ndef f(db): pass\n",
        ["one", "x"],
        "'one' is of the phase deploy, and 'x' of post_deploy.",
    ),
    "between": (
        (
            "@registry.register('x', ['one'])\ndef f(db): pass\n@registry.register('y', ['x'])\ndef g(db): pass\n"
            "@registry.register('z', ['y'])\ndef h(db): pass\n"
        ),
        ["one", "z"],
        "'x', which isn't among them, depends on 'one', and 'z' needs it. Squash 'x' as well",
    ),
    "replaced": (
        "@registry.register('x', replaces=['one'])\ndef f(db): pass\n",
        ["one", "two"],
        "'x' replaces 'one' already. Squash 'x' instead.",
    ),
    "whole module": (
        "from shop.migrations import one\n@registry.register('x')\ndef f(db): one.one(db)\n",
        ["one", "x"],
        "shop.migrations.third imports shop.migrations.one, whose migrations are replaced",
    ),
    "import inside": (
        "@registry.register('x')\ndef f(db):\n    from shop.migrations.one import one\n    one(db)\n",
        ["one", "x"],
        "shop.migrations.third imports shop.migrations.one, whose migrations are replaced",
    ),
    "global": (
        "n = []\n@registry.register('x')\ndef f(db):\n    global n\n    n = [1]\n",
        ["four", "x"],
        "'n' means different things in the modules of these migrations, and can't be renamed in line",
    ),
    "own decorator": (
        "NAME = 'x'\nregister = registry.register\n@register(NAME)\ndef f(db): pass\n",
        ["x"],
        "The module for 'both' can't be imported: DuplicateMigrationError",
    ),
    "both": (
        (
            "import json\ntry:\n    import ujson as json\nexcept ImportError:\n    pass\n"
            "@registry.register('x')\ndef f(db): json.dumps(1)\n"
        ),
        ["x"],
        "shop.migrations.third both imports and defines 'json'.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(shop: Project, case: str) -> None:
    """What can't be squashed is refused with what to do, and nothing is written."""
    text, names, said = REFUSED[case]
    four = "n = []\n@registry.register('four')\ndef four(db): n.append(1)\n"
    five = "def os(): pass\n@registry.register('five')\ndef five(db): os()\n"
    write(shop, one="one", two="two", five=HEAD + five, four=HEAD + four, third=HEAD + text)
    _, errors = shop.quaestor("squash", *names, "--into", "both", code=2)
    assert said in errors
    assert not (shop.folder / "shop/migrations/both.py").exists()
    shop.quaestor("plan")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Pass the names of the migrations to replace, and --into"),
        (["one"], "Pass the names of the migrations to replace, and --into"),
        (["--into", "both"], "Pass the names of the migrations to replace, and --into"),
        (["one", "--prove", "two"], "Pass --prove alone"),
        (["one", "--into", "two"], "Migration 'two' exists already."),
        (["one", "--into", "gone"], "There was a migration 'gone' before, which is retired or replaced."),
        (["one", "--into", "old"], "There was a migration 'old' before, which is retired or replaced."),
        (["one", "--into", "a/b"], "'a/b' can't name a migration here"),
        (["one", "--into", "taken"], "taken.py or a package of that name exists already."),
        (["one", "--into", "both", "--db", "shop_*"], "`squash` works on one database."),
        (["--prove", "onne"], "There is no migration 'onne'. Did you mean 'one'?"),
        (["--prove", "one"], "Migration 'one' replaces nothing, so there is nothing to compare it with."),
        (["--prove", "two"], "'old' can't be applied any more, because the code is gone."),
        (["--prove", "three"], "Migration 'three' is replaced itself. Prove what replaces it."),
    ],
)
def test_misuse(shop: Project, arguments: list[str], said: str) -> None:
    write(
        shop,
        one="one",
        two=HEAD + "@registry.register('two', replaces=['old'])\ndef f(db): pass\nregistry.retire('gone')\n",
        three=HEAD + "@registry.register('three', replaces=['one'])\ndef f(db): pass\n"
        "@registry.register('four', replaces=['three'])\ndef g(db): pass\n"
        if "three" in arguments
        else "\n",
        taken="\n",
    )
    _, errors = shop.quaestor("squash", *arguments, code=2)
    assert said in errors
    assert not (shop.folder / "shop/migrations/both.py").exists()


def test_a_folder_that_is_not_imported(shop: Project) -> None:
    write(shop, one="one")
    shop.write("other/__init__.py", "")
    _, errors = shop.quaestor("squash", "one", "--into", "both", code=2, QUAESTOR_MIGRATIONS="other")
    assert "doesn't import the package" in errors


OLD = """
from bson import ObjectId
from datetime import UTC, datetime, timedelta

@registry.register("old")
def old(db):
    db.create_collection("a", validator={"x": {"$gt": "secret"}})
    db.create_collection("gone")
    db.create_collection("v", viewOn="a", pipeline=[{"$match": {"x": 1}}])
    db.b.create_index("i")
    db.b.create_index("j", sparse=True)
    db.b.insert_many([{"_id": n, "name": "secret", "n": n, "same": [1, {"a": 1}]} for n in (1, 2, 3)])
    db.c.insert_many([{"at": datetime.now(UTC), "id": ObjectId()}, {"at": datetime(2020, 1, 1), "k": "secret"}])
"""
NEW = """
@registry.register("new", replaces=["old"])
def new(db):
    db.create_collection("a", validator={"x": {"$gt": "other"}})
    db.create_collection("come")
    db.create_collection("v", viewOn="a", pipeline=[])
    db.b.create_index("i", sparse=True)
    db.b.create_index("k")
    db.b.insert_many([{"_id": n, "name": "secret", "n": n * 2.0, "same": [1, {"a": 1}]} for n in (1, 2)])
    db.c.insert_many([{"id": ObjectId(), "at": datetime.now(UTC)}, {"at": datetime(2021, 1, 1), "k": "secret"}])
"""


def test_differences(shop: Project) -> None:
    """The proof finds what differs, and shows no value; what only the time makes different doesn't count."""
    write(shop, old=HEAD + OLD + NEW)
    output, errors = shop.quaestor("squash", "--prove", "new", code=1)
    assert errors == ""
    assert output.splitlines() == [
        "new doesn't do the same as what it replaces:",
        "  a: other options: validator.",
        "  b: index i_1 differs.",
        "  b: index j_1 only with what it replaces.",
        "  b: index k_1 only with new.",
        "  b: 2 documents differ, in n.",
        "  b: 1 document only with what it replaces.",
        "  c: 1 document only with what it replaces.",
        "  c: 1 document only with new.",
        "  come: only with new.",
        "  gone: only with what it replaces.",
        "  v: other options: pipeline.",
    ]
    assert left(shop) == []


def test_a_difference_keeps_the_module(shop: Project) -> None:
    """A module that isn't right is there to be corrected, and what to do next is said."""
    write(
        shop,
        one=HEAD + "seen = []\n@registry.register('one')\ndef one(db):\n"
        "    seen.append(1)\n    db.seen.insert_one({'_id': 1, 'calls': len(seen)})\n",
        two=HEAD + "import sys\n@registry.register('two')\ndef two(db):\n"
        "    db.names.insert_one({'_id': 1, 'name': sys._getframe(1).f_code.co_name})\n",
    )
    output, _ = shop.quaestor("squash", "one", "two", "--into", "both", code=1)
    assert "names: 1 document differs, in name." in output
    assert read(shop)
    assert left(shop) == []


@pytest.mark.parametrize("failing", ["old", "new"])
def test_a_failure(shop: Project, failing: str) -> None:
    """A migration that fails in the proof ends it; the databases are dropped."""
    texts = {name: "raise ValueError('no')" if name == failing else "db.a.insert_one({})" for name in ("old", "new")}
    write(
        shop,
        old=HEAD + "@registry.register('old')\ndef old(db):\n    print('printed')\n    " + texts["old"] + "\n"
        "@registry.register('new', replaces=['old'])\ndef new(db): " + texts["new"] + "\n",
    )
    output, errors = shop.quaestor("squash", "--prove", "new", code=1)
    assert "ValueError: no" in errors
    assert f"in migration '{failing}', 1 of 1" in errors
    what = "the migrations that 'new' replaces" if failing == "old" else "'new'"
    assert f"while applying {what} to an empty database" in errors
    assert "printed" not in output
    assert left(shop) == []


def test_what_they_need(shop: Project) -> None:
    """What the old and the new need comes first in both databases, whatever replaces what."""
    write(
        shop,
        base=HEAD + "@registry.register('base', replaces=['gone'])\ndef base(db): db.a.insert_one({'_id': 'base'})\n",
        other=HEAD + "@registry.register('other')\ndef other(db): db.a.insert_one({'_id': 'other'})\n",
        one=HEAD + "@registry.register('one', ['gone'])\ndef one(db):\n"
        "    assert db.a.find_one('base')\n    db.a.insert_one({'_id': 1})\n",
        two=HEAD + "@registry.register('two', ['one', 'other'])\ndef two(db): db.a.insert_one({'_id': 2})\n",
        after=HEAD + "@registry.register('after', ['two'])\ndef after(db): raise ValueError\n",
    )
    output, _ = shop.quaestor("squash", "one", "two", "--into", "both")
    assert 'depends_on=["base", "other"]' in read(shop)
    assert "(1 collection, 0 indexes, 4 documents)" in output
    shop.quaestor("squash", "both", "--into", "again")
    assert 'replaces=["both"]' in read(shop, "again")
    text = read(shop, "again").replace('depends_on=["base", "other"], ', 'depends_on=["gone"], ')
    write(shop, again=text)
    assert "4 documents" in shop.quaestor("squash", "--prove", "again")[0]


def test_ctrl_c(shop: Project) -> None:
    """An interrupted proof drops its databases, too."""
    write(
        shop,
        old=HEAD + "import os, signal\n@registry.register('old')\ndef old(db):\n    db.a.insert_one({})\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n    signal.pause()\n"
        "@registry.register('new', replaces=['old'])\ndef new(db): pass\n",
    )
    shop.process("squash", "--prove", "new", code=143)
    assert left(shop) == []


def test_names() -> None:
    """A use of a name is told from a local name that is the same, as Python tells them."""
    text = """
@lib.decorated
def f(a: "Foo[Bar]", b=lib.x, *c, d: int = DEF) -> Ret:
    global COUNT
    COUNT += 1
    local = helper(a, local2=1)
    found: Note = [y + outer for y in it(c) if (w := y)]
    w + found
    def inner(z):
        nonlocal local
        local = z + deep
    class Kind(Base, meta=Meta):
        at = value
        def method(self): return at
    try: pass
    except Err as e: e
    match a:
        case Point(p, q): p
        case {"k": v, **rest}: rest
        case [*s]: s
    import os.path
    os
    return lambda u, dflt=dd: u + last
"""
    statement = ast.parse(text).body[0]
    names = {name for name, _ in find_used(statement)}
    assert names == {
        *("lib", "Foo", "Bar", "int", "DEF", "Ret", "COUNT", "helper", "Note", "outer", "it", "deep", "Base", "Meta"),
        *("value", "at", "Err", "Point", "dd", "last"),
    }
    assert [name for name, _ in list_bound([statement])] == ["f"]
    assert list(find_changed(statement)) == ["lib"]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has type parameters")
def test_type_parameters() -> None:
    statement = ast.parse("def f[T: Bound](a: T) -> list[T]: return other(T)").body[0]
    assert {name for name, _ in find_used(statement)} == {"Bound", "list", "other"}
    statement = ast.parse("class K[T: Bound]:\n    def f(self, a: T) -> Other: pass").body[0]
    assert {name for name, _ in find_used(statement)} == {"Bound", "Other"}


def test_written_modules_are_tidy(shop: Project) -> None:
    """Long lists have a line for each item, and no line ends in white space."""
    names = [f"a_rather_long_name_of_a_migration_{number}" for number in range(4)]
    write(shop, **{name: PLAIN.format(name) for name in names})
    shop.quaestor("squash", *names, "--into", "both")
    text = read(shop)
    assert all(f'        "{name}",\n' in text for name in names)
    assert not re.search(r"[ \t]$", text, re.MULTILINE)
    assert not re.search(r"\n\n\n\n", text)
    assert text.endswith("(db)\n")


KINDS = """
from functools import singledispatch

class Codes(dict):
    known = {}
    known["a"] = 1

    def find(self, id): return self.known[id]


@singledispatch
def show(value): return "?"

@show.register(int)
def _(value): return "int"

@show.register(str)
def _(value): return "str"

def id(value): return 7
for _number in (1, 2):
    if _number > 1:
        Codes.known[_number] = "two"
first = [1]; second = Codes(); first.append(2)
del first[0]

@registry.register("one")
def up(db):
    db.a.insert_one({"_id": show(1) + show("")})

@registry.register("two")
def up(db):
    '''The second one.'''
    db.b.insert_one({"_id": id(first[0]), "code": second.find("a"), "two": second.find(2)})

def letters(text): return [one for one in text if one in LETTERS]
LETTERS = ("a", "b")
CHANGED = {}
def count(text): CHANGED[text] = len(letters(text)); return len(CHANGED)
"""
NESTED = """
from ... import registry
from ..tools import LIMIT

def letters(text): return [one for one in text if one in LETTERS]
LETTERS = ("a", "b")
CHANGED = {}
def count(text): CHANGED[text] = len(letters(text)); return len(CHANGED)

@registry.register("three")
def up(db):
    from ..tools import timed
    from ...migrations.kinds import count as other_count
    db.c.insert_one({"_id": LIMIT, "same": id(db) == id(db), "text": letters("abc"), "count": [count("a"), count("b")]})
    db.c.insert_one({"_id": timed(id)(db) == id(db)})
"""


def test_all_kinds_of_statements(shop: Project) -> None:
    """Whatever the functions use comes along once, and means what it did."""
    nested = NESTED.replace("    from ...migrations.kinds import count as other_count\n", "")
    nested = nested.replace("from ... import", "from shop.migrations import")
    for package in ("old", "old/more"):
        shop.write(f"shop/migrations/{package}/__init__.py", "")
    shop.write("shop/migrations/old/tools.py", TIMED)
    shop.write("shop/migrations/old/more/three.py", nested)
    text = KINDS.replace("show(1)", "show(count('a'))")
    write(shop, kinds=HEAD + text)
    output, _ = shop.quaestor("squash", "one", "two", "three", "--into", "both")
    assert "(3 collections, 0 indexes, 4 documents)" in output
    written = read(shop)
    assert written.count("def letters(") == 1
    assert written.count("LETTERS = ") == 1
    assert [written.count(f"{name} = {{}}\n") for name in ("CHANGED", "CHANGED_three")] == [1, 1]
    assert 'def _(value): return "int"' in written
    assert "first = [1]\nsecond = Codes()\nfirst.append(2)\n" in written
    assert "    from shop.migrations.old.tools import timed\n" in written
    assert "def id_kinds(value)" in written
