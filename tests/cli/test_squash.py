"""What `squash` writes, and its proof: on the real server."""

import re

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from tests.cli.conftest import Project
from tests.cli.test_clients import CLIENTS

USERS = """
from shop.migrations import registry

@registry.register("users")
def users(db):
    db.create_collection("users")
"""
TOOLS = """
import functools

LIMIT = 3

def timed(function):
    @functools.wraps(function)
    def wrapper(*arguments):
        return function(*arguments)
    return wrapper
"""
FIRST = '''\
"""Split the first name."""

from __future__ import annotations

import logging
import re as regex
from typing import TYPE_CHECKING, Any

from . import registry
from .tools import LIMIT as MOST, timed

if TYPE_CHECKING:
    from pymongo.database import Database

logger = logging.getLogger(__name__)
SEPARATOR = " "
"""Between names."""

# What the codes mean.
CODES = {"é": 1}
CODES["ü"] = 2


# Only a few
# at a time.
def chunks(items: list[int], size: int = MOST) -> Any:
    from .tools import LIMIT

    for start in range(0, len(items), size):
        yield items[start : start + LIMIT]


@registry.register("split_first", depends_on=["users"])
@timed
def migrate(db: Database[dict[str, Any]], context: Any) -> None:
    """Split the first name."""
    # Why it is so: é.
    logger.debug(f"é {SEPARATOR} {CODES['ü']}")
    for chunk in chunks([1, 2, 3, 4]):
        db.users.insert_many([{"_id": one, "first": regex.sub("a", "b", "a")} for one in chunk])
    context.logger.info("done")  # at the end


@registry.register_rollback("split_first")
def undo(db: Database[dict[str, Any]]) -> None:
    db.users.delete_many({})
'''
LAST = """\
import logging

from shop.migrations import registry
from shop.migrations.tools import LIMIT

logger = logging.getLogger(__name__)
SEPARATOR = ","
UNUSED = [1]


def chunks(items):
    return [items, SEPARATOR]


@registry.register("split_last", depends_on=["split_first"])
def migrate(db):
    logger.debug(f"{SEPARATOR} {chunks([LIMIT])}")
    db.users.create_index("last", sparse=True)


@registry.register_verification("split_last")
def has_index(db):
    return "last_1" in db.users.index_information()
"""
UNDO_LAST = """
from shop.migrations import registry

def undo(db):
    db.users.drop_index("last_1")

registry.register_rollback("split_last")(undo)
"""
SPLIT_NAMES = '''\
"""Split names: 2 migrations, squashed."""

from __future__ import annotations
import logging
import re as regex
from typing import TYPE_CHECKING, Any
from shop.migrations import registry
from shop.migrations.tools import LIMIT as MOST, timed
from shop.migrations.tools import LIMIT

# From shop.migrations.split_first

if TYPE_CHECKING:
    from pymongo.database import Database

logger = logging.getLogger(__name__)
SEPARATOR = " "
"""Between names."""

# What the codes mean.
CODES = {"é": 1}
CODES["ü"] = 2


# Only a few
# at a time.
def chunks(items: list[int], size: int = MOST) -> Any:
    from shop.migrations.tools import LIMIT

    for start in range(0, len(items), size):
        yield items[start : start + LIMIT]


@timed
def migrate(db: Database[dict[str, Any]], context: Any) -> None:
    """Split the first name."""
    # Why it is so: é.
    logger.debug(f"é {SEPARATOR} {CODES['ü']}")
    for chunk in chunks([1, 2, 3, 4]):
        db.users.insert_many([{"_id": one, "first": regex.sub("a", "b", "a")} for one in chunk])
    context.logger.info("done")  # at the end


def undo(db: Database[dict[str, Any]]) -> None:
    db.users.delete_many({})


# From shop.migrations.split_last

SEPARATOR_split_last = ","
UNUSED = [1]


def chunks_split_last(items):
    return [items, SEPARATOR_split_last]


def migrate_split_last(db):
    logger.debug(f"{SEPARATOR_split_last} {chunks_split_last([LIMIT])}")
    db.users.create_index("last", sparse=True)


def has_index(db):
    return "last_1" in db.users.index_information()


# From shop.migrations.undo_last


def undo_undo_last(db):
    db.users.drop_index("last_1")


@registry.register(
    "split_names",
    depends_on=["users"],
    replaces=["split_first", "split_last"],
)
def split_names(db: Database[dict[str, Any]], context: Any) -> None:
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
    write(shop, users=USERS, tools=TOOLS, split_first=FIRST, split_last=LAST, undo_last=UNDO_LAST)
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


def test_where_the_old_are_applied(shop: Project) -> None:
    """Where the old migrations are applied, the next run only records the new one, which may be a rename."""
    write(shop, one="one")
    shop.quaestor("run")
    shop.quaestor("squash", "one", "--into", "Größe ändern")
    assert 'replaces=["one"])\ndef größe_ändern(db):' in read(shop, "größe_ändern")
    shop.quaestor("run")
    assert shop.recorded() == {"one", "Größe ändern"}
    assert shop.db.one.count_documents({}) == 1


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
        "It isn't a transaction, because 'two' isn't: after a crash it runs again from its first step.",
        "It has no delay, unlike 'two'. If a database may still need it, add it (delay=).",
        "All its preconditions are checked before its first step. Do they hold there?",
        "All its verifications are checked after its last step. Do they hold there?",
        "Before you remove 'one', add the names that it replaces to those here.",
    ]
    assert 'after_crash="stop"' in read(shop)
    assert output.splitlines()[6] == "Proved: in an empty database, both runs. It changes nothing there."


LOOP = "for n in ['seven']:\n    def g(db): pass\n    registry.register(n)(g)\n"
REFUSED = {
    "unknown": ("", ["tow"], "There is no migration 'tow'. Did you mean 'two'?"),
    "lambda": ("registry.register('x')(lambda db: None)\n", ["x"], "Can't copy migration 'x': it isn't a function"),
    "partial": (
        "from functools import partial\ndef f(n, db): pass\nregistry.register('x')(partial(f, 1))\n",
        ["x"],
        "Can't copy migration 'x'",
    ),
    "closure": (LOOP, ["seven"], "Can't copy migration 'seven'"),
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
        "The functions of 'one' are `def`, and those of 'x' are `async def`. Squash each kind on its own.",
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
    "collision": (
        "n = [2]\n@registry.register('x')\ndef f(db):\n    global n\n    n = [1]\n",
        ["four", "x"],
        "'n' in shop.migrations.third means something else in another of the modules, or in Python",
    ),
    "collision with a member": (
        "class A:\n    n = 1\nn = [2]\n@registry.register('x')\ndef f(db): A().n\n",
        ["four", "x"],
        "and can't be renamed there. Give it another name first.",
    ),
    "twice": (
        "@registry.register('x')\ndef up(db): pass\n@registry.register('y')\ndef up(db): pass\n",
        ["x", "y"],
        "'up' in shop.migrations.third has several meanings",
    ),
    "not importable": (
        LOOP + "@registry.register('x')\ndef f(db): pass\n",
        ["x"],
        "The module for 'both' can't be imported: DuplicateMigrationError",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(shop: Project, case: str) -> None:
    """What can't be squashed is refused with what to do, and nothing is written."""
    text, names, said = REFUSED[case]
    four = "n = []\n@registry.register('four')\ndef four(db): n.append(1)\n"
    write(shop, one="one", two="two", four=HEAD + four, third=HEAD + text)
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
    db.create_collection("w", viewOn="a", pipeline=[{"$sort": {"x": 1, "y": 1}}])
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
    db.create_collection("w", viewOn="a", pipeline=[{"$sort": {"y": 1, "x": 1}}])
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
        "  b: index j_1 only in the database of the old migrations.",
        "  b: index k_1 only in the database of new.",
        "  b: 2 documents differ, in n.",
        "  b: 1 document only in the database of the old migrations.",
        "  c: 1 document only in the database of the old migrations.",
        "  c: 1 document only in the database of new.",
        "  come: only in the database of new.",
        "  gone: only in the database of the old migrations.",
        "  v: other options: pipeline.",
        "  w: other options: pipeline.",
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


def test_databases_that_cannot_be_dropped(shop: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed first is said first, and what is left."""
    write(
        shop,
        old=HEAD + "@registry.register('old')\ndef old(db): raise ValueError('no')\n"
        "@registry.register('new', replaces=['old'])\ndef new(db): pass\n",
    )

    def refuse(*_: object) -> None:
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(MongoClient, "drop_database", refuse)
    _, errors = shop.quaestor("squash", "--prove", "new", code=1)
    assert "ValueError: no" in errors
    assert "while applying the migrations that 'new' replaces to an empty database" in errors
    assert re.search(r"and can't drop quaestor_squash_\w+_old and quaestor_squash_\w+_new, which were only", errors)
    monkeypatch.undo()
    for name in left(shop):
        shop.db.client.drop_database(name)


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


PLENTY = """
from . import registry
from datetime import timedelta; import json
from functools import singledispatch
try:
    import ujson as json
except ImportError:
    pass

codes = {}; codes["a"] = 1
wanted = 1  # by `other` too

@singledispatch
def show(value): return "?"

@show.register(int)
def _(value): return "int"

def id(value): return 7
def helper(x): return {"x": x, "id": id(x), "wanted": wanted}
def only_others(x): return timedelta(x)

NAME = "one"
register = registry.register
@register(NAME)
def up(db):
    x = helper(1)
    db.a.insert_one({"_id": show(1), "code": codes["a"], "x": x["x"], "json": json.dumps([])})

@registry.register("other")
def other(db):
    assert wanted
    only_others(1)
"""
NESTED = """
from ... import registry
from ..tools import LIMIT
from ...plenty import helper

x = 5
def show(value): return value + x

@registry.register("three")
def up(db, show=show):
    x = id(db) == id(db)
    db.c.insert_one({"_id": LIMIT, "same": x, "helped": helper(3)})
"""


def test_all_kinds_of_statements(shop: Project) -> None:
    """Everything of the modules comes along but what only other migrations use, and means what it did."""
    for package in ("old", "old/more"):
        shop.write(f"shop/migrations/{package}/__init__.py", "")
    shop.write("shop/migrations/old/tools.py", TOOLS)
    shop.write("shop/migrations/old/more/three.py", NESTED.replace("def up(db, show=show)", "def up(db)"))
    write(shop, plenty=PLENTY)
    output, _ = shop.quaestor("squash", "one", "three", "--into", "both")
    assert "(2 collections, 0 indexes, 2 documents)" in output
    assert "It imports shop.migrations.plenty, which it has copied." in output
    text = read(shop)
    assert "def id_plenty(value)" in text
    assert '"id": id_plenty(x)' in text
    assert "helper as helper_three" in text
    assert "show_three(value): return value + x\n" in text
    assert "from shop.migrations.old.tools import LIMIT\n" in text
    assert "wanted = 1  # by `other` too" in text
    assert "other(db)" not in text
    assert "only_others" not in text


STATE = """
from . import registry
from .{tools} import *

seen = set()
FIELDS = []
FIELDS.append("{name}")
COUNT = 0
COUNT += 1
COUNT += 1

@registry.register("{name}")
@timed("{name}")
def up(db):
    seen.add("{name}")
    db.a.insert_one({{"_id": "{name}", "seen": len(seen), "fields": FIELDS, "count": COUNT, "show": show()}})
"""


TAKEN = """
import functools

def show():
    return "{}"

def timed(name):
    def decorate(function):
        @functools.wraps(function)
        def wrapper(db):
            function(db)
            db.timed.insert_one({{"_id": name}})
        return wrapper
    return decorate
"""


def test_what_changes_is_not_shared(shop: Project) -> None:
    """Each module keeps its own objects, its own meaning of `import *`, and calls that only take a migration's name."""
    for tools in ("tools", "more"):
        shop.write(f"shop/migrations/{tools}.py", TAKEN.format(tools))
    write(shop, one=STATE.format(name="one", tools="tools"), two=STATE.format(name="two", tools="more"))
    output, _ = shop.quaestor("squash", "one", "two", "--into", "both")
    assert "Proved: " in output
    text = read(shop)
    assert "seen_two = set()" in text
    assert "from shop.migrations.more import show as show_two, timed as timed_two\n" in text
    assert text.count("COUNT += 1") == 2


@pytest.mark.parametrize("statement", ["from . import one", "import shop.migrations.one as one"])
def test_an_import_of_what_is_copied(shop: Project, statement: str) -> None:
    """An import of a module that goes away later is noticed, however it is written."""
    two = f'{statement}\n@registry.register("two")\ndef two(db): one.__name__\n'
    write(shop, one="one", two=HEAD + two)
    output, _ = shop.quaestor("squash", "one", "two", "--into", "both")
    assert "It imports shop.migrations.one, which it has copied." in output


def test_a_registry_with_migrations(shop: Project) -> None:
    """A module can have the registry itself, and migrations that are named by it as well."""
    shop.write(
        "shop/migrations/__init__.py",
        "from quaestor import MigrationRegistry\n\nregistry = MigrationRegistry()\nSIZE = 3\n\n\n"
        "@registry.register('one')\ndef one(db):\n    db.a.insert_one({'_id': SIZE})\n\n\n"
        "registry.discover(__name__)\n",
    )
    shop.quaestor("squash", "one", "--into", "both")
    assert read(shop).count("registry.") == 1


def test_a_factory(shop: Project) -> None:
    """The new module has to import the registry, so a function that returns it doesn't do."""
    write(shop, one="one")
    shop.write("shop/factory.py", "from shop.migrations import registry\ndef make(): return registry\n")
    _, errors = shop.quaestor("squash", "one", "--into", "both", code=2, QUAESTOR_REGISTRY="shop.factory:make")
    assert "'make' is a factory, whose registry a module can't import." in errors
    shop.quaestor(
        "squash", "one", "--into", "both", "--registry=shop.migrations:registry", QUAESTOR_REGISTRY="shop.factory:make"
    )
