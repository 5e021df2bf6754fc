"""Reading the histories of other tools, and registering their files as they are."""

import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from quaestor import (
    ImportedMigration,
    ImportResult,
    InvalidMigrationError,
    InvalidOptionError,
    MigrationRegistry,
    UnknownMigrationError,
    UnplacedMigration,
)
from quaestor._core.catalog import Catalog
from quaestor._core.imports import make_source, plan_import
from quaestor._core.plan import Records
from quaestor.adapters import find_adapter, register_folder
from quaestor.status import Tool
from tests.histories import FIRST, HISTORIES, LATER, SECOND, THIRD, History, make_beanie, make_changes

each_history = pytest.mark.parametrize("history", HISTORIES, ids=[history.tool for history in HISTORIES])


def make_catalog(names: Iterable[str], retired: Iterable[str] = ()) -> Catalog:
    registry = MigrationRegistry()
    for name in names:
        registry.register(name)(lambda db: None)
    registry.retire(*retired)
    return Catalog(dict(registry.migrations), frozenset(registry.retired))


def read(
    tool: Tool, documents: list[dict[str, Any]], known: Iterable[str], recorded: Iterable[str] = (), **options: Any
) -> ImportResult:
    """What an import of these documents, with dates as a store reads them, would do."""
    catalog = make_catalog(known)
    source = make_source(find_adapter(tool), catalog, **options)
    naive = [
        {key: value.replace(tzinfo=None) if isinstance(value, datetime) else value for key, value in document.items()}
        for document in documents
    ]
    todo, result = plan_import(source, naive, catalog, Records(dict.fromkeys(recorded, (FIRST,))), {})
    assert [change.name for change in todo] == [one.name for one in result.imported]
    return result


def names(unplaced: Iterable[UnplacedMigration]) -> list[str]:
    return [one.name for one in unplaced]


@each_history
def test_two_of_three_are_applied(history: History) -> None:
    """The two that the tool has applied are imported with their dates, and the one that was rolled back isn't."""
    result = read(history.tool, history.documents, history.ours)

    assert result.collection == history.collection
    assert result.imported == tuple(
        ImportedMigration(ours, theirs, date)
        for ours, theirs, date in zip(history.ours, history.theirs, (FIRST, SECOND), strict=False)
    )
    assert result.unplaced == result.recorded == ()
    assert names(result.not_applied) == ([history.theirs[2]] if history.keeps_undone else [])


@each_history
def test_names_that_nobody_knows(history: History) -> None:
    """They are listed, with a similar name if there is one; a mapping places them."""
    result = read(history.tool, history.documents, ["first", "second"])
    mapped = read(history.tool, history.documents, ["first", "second"], names={history.theirs[0]: "first"})

    assert result.imported == ()
    assert names(result.unplaced) == list(history.theirs[:2])
    assert {one.reason for one in result.unplaced} == {"no migration here has this name"}
    assert mapped.imported == (ImportedMigration("first", history.theirs[0], FIRST),)
    assert names(mapped.unplaced) == [history.theirs[1]]


@each_history
def test_damaged_documents(history: History) -> None:
    """A record without a name or a date is listed, whatever else is there."""
    damaged = [{}, {"_id": 7}, *({**one, **dict.fromkeys(one.keys() - {"_id"}, 7)} for one in history.documents)]
    result = read(history.tool, damaged, history.ours)

    assert result.imported == ()


@each_history
def test_what_is_recorded_already(history: History) -> None:
    """Records that are here stay as they are."""
    result = read(history.tool, history.documents, history.ours, recorded=history.ours[:1])

    assert [one.name for one in result.imported] == [history.ours[1]]
    assert result.recorded == (history.ours[0],)


def test_what_a_person_has_marked() -> None:
    """Whoever has checked what is half done, and marked it as applied here, isn't asked again."""
    documents = [{"_id": "1", "status": "failed", "applied_at": FIRST}]
    result = read("mongomig", documents, ["1"], recorded=["1"])

    assert (result.recorded, result.unplaced, result.imported) == (("1",), (), ())


def test_similar_name() -> None:
    """A misspelled name is suggested."""
    result = read("mongrator", [{"_id": "split_name", "direction": "up", "applied_at": FIRST}], ["split_names"])

    assert result.unplaced == (
        UnplacedMigration("split_name", "no migration here has this name; did you mean split_names?"),
    )


def test_many_names_that_nobody_knows() -> None:
    """Only the first ones get a suggestion, because finding one is slow."""
    documents = [{"_id": f"split_{number:02}", "direction": "up", "applied_at": FIRST} for number in range(99)]
    result = read("mongrator", documents, ["split_names"])

    assert ["did you mean" in one.reason for one in result.unplaced] == [True] * 10 + [False] * 89


def test_no_digits() -> None:
    """Digits are looked for at the beginning of our names, and nothing else is."""
    documents = [{"_id": name, "migration_datetime": name, "created_at": FIRST} for name in ("", ".", "a")]

    assert names(read("mongodb-migrations", documents, ["a_b"]).unplaced) == ["", ".", "a"]


def test_two_of_theirs_for_one_of_ours() -> None:
    """Neither is placed, because one of the dates would be wrong."""
    documents = [{"_id": name, "direction": "up", "applied_at": FIRST} for name in "ab"]
    result = read("mongrator", documents, ["a"], names={"b": "a"})

    assert result.imported == ()
    assert result.unplaced == (
        UnplacedMigration("a", "it would be a here, and so would b"),
        UnplacedMigration("b", "it would be a here, and so would a"),
    )


def test_one_of_theirs_for_two_of_ours() -> None:
    """Digits alone don't say which migration is meant."""
    documents = [{"_id": 1, "migration_datetime": "2026", "created_at": FIRST}]
    result = read("mongodb-migrations", documents, ["2026_a", "2026_b", "20261_c"])

    assert result.unplaced == (UnplacedMigration("2026", "it may be 2026_a or 2026_b here"),)


def test_records_that_contradict_each_other() -> None:
    """pymongo-migrate replaces a record without an index on its name, so there can be two."""
    documents = [{"_id": 1, "name": "a", "applied": FIRST}, {"_id": 2, "name": "a", "applied": None}]
    result = read("pymongo-migrate", documents, ["a"])

    assert names(result.unplaced) == ["a"]
    assert "several records" in result.unplaced[0].reason


def test_record_without_a_date() -> None:
    """A date isn't invented."""
    result = read("mongrator", [{"_id": "a", "direction": "up"}], ["a"])

    assert result.unplaced == (UnplacedMigration("a", "its record has no date"),)


def test_file_that_was_applied_again() -> None:
    """migrate-mongo has a record for each hash of a file: the last date counts."""
    documents = [
        {"_id": place, "fileName": "1-a.js", "fileHash": str(date), "appliedAt": date}
        for place, date in enumerate((SECOND, FIRST))
    ]

    assert read("migrate-mongo", documents, ["1_a"]).imported == (ImportedMigration("1_a", "1-a.js", SECOND),)


@pytest.mark.parametrize("known", ["1-a.js", "1-a", "1_a"])
def test_names_of_scripts(known: str) -> None:
    """The name here may be that of the file, with or without its suffix, and with underscores."""
    documents = [{"_id": 1, "fileName": "1-a.js", "appliedAt": FIRST}]

    assert [one.name for one in read("migrate-mongo", documents, [known]).imported] == [known]


def test_revision_of_its_own_name() -> None:
    """A revision may be registered under its id, without the name of its file."""
    documents = [{"_id": "4c1f", "status": "applied", "applied_at": FIRST}]

    assert [one.name for one in read("mongomig", documents, ["4c1f", "20260101_0930_4c1f_split"]).imported] == ["4c1f"]


@pytest.mark.parametrize("status", ["failed", "running", "paused"])
def test_mongomig_that_is_half_done(status: str) -> None:
    """Whoever reads `failed` or `running` doesn't know what is done."""
    documents = [{"_id": "1", "status": status, "applied_at": FIRST}]

    assert names(read("mongomig", documents, ["1"]).unplaced) == ["1"]


class TestBeanie:
    """Its log has an entry for each step, and one that is current."""

    def test_back_to_the_first(self) -> None:
        """A step back from the first file leads to "root": nothing is applied."""
        documents = make_beanie(("1_a.py", FIRST), ("root", SECOND), current="root")
        result = read("beanie", documents, ["1_a"])

        assert (names(result.not_applied), result.imported, result.unplaced) == (["1_a.py"], (), ())

    def test_no_current_one(self) -> None:
        """Beanie starts over then, so nothing counts as applied."""
        result = read("beanie", make_beanie(("1_a.py", FIRST), ("2_b.py", SECOND)), ["1_a", "2_b"])

        assert result.imported == ()
        assert result.not_applied == (
            UnplacedMigration("1_a.py", "Beanie has no current migration"),
            UnplacedMigration("2_b.py", "Beanie has no current migration"),
        )

    def test_forward_again(self) -> None:
        """What was undone and applied again has the later date; what was only stepped back to has its own."""
        steps = [("1_a.py", FIRST), ("2_b.py", SECOND), ("1_a.py", THIRD), ("2_b.py", LATER)]
        result = read("beanie", make_beanie(*steps, current="2_b.py"), ["1_a", "2_b"])

        assert {one.name: one.applied_at for one in result.imported} == {"1_a": FIRST, "2_b": LATER}

    def test_several_current_ones(self) -> None:
        """Two runs at once leave two: what is between them isn't certain."""
        documents = [
            one | {"is_current": True} for one in make_beanie(("1_a.py", FIRST), ("2_b.py", SECOND), current="2_b.py")
        ]
        result = read("beanie", documents, ["1_a", "2_b"])

        assert [one.name for one in result.imported] == ["1_a"]
        assert names(result.unplaced) == ["2_b.py"]

    def test_file_that_was_merged_late(self) -> None:
        """Beanie takes what sorts before the current one for applied, although it never ran. A person has to say."""
        documents = make_beanie(("1_a.py", FIRST), ("3_c.py", SECOND), current="3_c.py")
        result = read("beanie", documents, ["1_a", "2_b", "3_c", "4_d", "01_other", "bootstrap"])

        assert [one.name for one in result.imported] == ["1_a", "3_c"]
        assert names(result.unplaced) == ["2_b.py"]
        assert "its log doesn't have it" in result.unplaced[0].reason

    def test_step_back_to_a_file_that_was_merged_late(self) -> None:
        """It is current, but never ran."""
        documents = make_beanie(("1_a.py", FIRST), ("3_c.py", SECOND), ("2_b.py", THIRD), current="2_b.py")
        result = read("beanie", documents, ["1_a", "2_b", "3_c"])

        assert [one.name for one in result.imported] == ["1_a"]
        assert names(result.unplaced) == ["2_b.py"]


@pytest.mark.parametrize(
    ("states", "is_applied"),
    [
        ([None], True),  # Mongock 3
        (["FAILED", "EXECUTED"], True),
        (["EXECUTED", "ROLLED_BACK", "EXECUTED"], True),
        (["EXECUTED", "IGNORED"], True),
        (["EXECUTED", "ROLLED_BACK"], False),
        (["EXECUTED", "ROLLBACK_FAILED"], None),
        (["FAILED"], None),
        (["PAUSED"], None),
        (["IGNORED"], False),
    ],
    ids=str,
)
def test_mongock(states: list[str | None], is_applied: bool | None) -> None:
    """The newest entry of a change counts, unless it was ignored."""
    dates = [FIRST, SECOND, THIRD]
    documents = make_changes(*(("a", state, date) for state, date in zip(states, dates, strict=False)))
    result = read("mongock", documents[::-1], ["a"])

    assert bool(result.imported) is (is_applied is True)
    assert bool(result.unplaced) is (is_applied is None)


@pytest.mark.parametrize(
    ("states", "is_applied"),
    [
        (["STARTED"], None),
        (["APPLIED", "STARTED"], True),
        (["STARTED", "EXECUTED"], True),
        (["STARTED", "FAILED", "ROLLED_BACK"], False),
        (["STARTED", "FAILED", "MANUAL_MARKED_AS_APPLIED"], True),
        (["MANUAL_MARKED_AS_ROLLED_BACK", "APPLIED"], False),
    ],
    ids=str,
)
def test_flamingock_with_one_date(states: list[str], is_applied: bool | None) -> None:
    """Of several entries with one date, the later state counts, in whatever order they are read."""
    result = read("flamingock", make_changes(*(("a", state, FIRST) for state in states)), ["a"])

    assert bool(result.imported) is (is_applied is True)
    assert bool(result.unplaced) is (is_applied is None)


def test_local_time() -> None:
    """Dates are those of the zone, in summer and winter; without a zone they are taken for UTC."""
    documents = [
        {"_id": month, "migration_datetime": str(month), "created_at": datetime(2026, month, 1, 12, tzinfo=UTC)}
        for month in (1, 7)
    ]
    dates = [
        [one.applied_at.hour for one in read("mongodb-migrations", documents, ["1", "7"], timezone=zone).imported]
        for zone in (None, "Europe/Berlin")
    ]

    assert dates == [[12, 12], [11, 10]]


def test_date_that_is_out_of_range() -> None:
    """A date that isn't one in UTC can't be recorded."""
    document = {"_id": 1, "migration_datetime": "1", "created_at": datetime(1, 1, 1, tzinfo=UTC)}
    (unplaced,) = read("mongodb-migrations", [document], ["1"], timezone="Asia/Tokyo").unplaced

    assert unplaced == UnplacedMigration("1", "its date, in UTC, is before the year 1 or after 9999")


def test_order_is_that_of_the_dependencies() -> None:
    """Dependencies are recorded first, and one that is pending doesn't matter: what ran has run."""
    registry = MigrationRegistry()
    registry.register("a", ["b"])(lambda db: None)
    registry.register("b", ["c"])(lambda db: None)
    registry.register("c")(lambda db: None)
    catalog = Catalog(dict(registry.migrations))
    documents = [{"_id": name, "direction": "up", "applied_at": FIRST.replace(tzinfo=None)} for name in "ab"]
    _, result = plan_import(make_source(find_adapter("mongrator"), catalog), documents, catalog, Records({}), {})

    assert [one.name for one in result.imported] == ["b", "a"]


def test_retired_names_are_placed() -> None:
    """A migration whose code is gone may be recorded, so `status` doesn't miss it."""
    catalog = make_catalog(["b"], retired=["a"])
    documents = [{"_id": "a", "direction": "up", "applied_at": FIRST.replace(tzinfo=None)}]
    _, result = plan_import(make_source(find_adapter("mongrator"), catalog), documents, catalog, Records({}), {})

    assert [one.name for one in result.imported] == ["a"]


@pytest.mark.parametrize(
    ("tool", "options", "error", "message"),
    [
        ("mongratr", {}, InvalidOptionError, "Did you mean 'mongrator'?"),
        (7, {}, InvalidOptionError, "tool must be one of 'pymongo-migrate', "),
        ("mongrator", {"names": ["a"]}, InvalidOptionError, "names must be a mapping"),
        ("mongrator", {"names": {"a": 7}}, InvalidOptionError, "names must be a mapping"),
        ("mongrator", {"names": {"a": "apples"}}, UnknownMigrationError, "Did you mean 'apple'?"),
        ("mongrator", {"collection": 7}, InvalidOptionError, "collection must be a str"),
        ("mongrator", {"collection": "a$b"}, InvalidOptionError, "must be the name of a collection"),
        ("mongrator", {"timezone": "Europe/Berlin"}, InvalidOptionError, "stores its dates in UTC"),
        ("beanie", {"timezone": "Europe/Brlin"}, InvalidOptionError, "There is no time zone 'Europe/Brlin'"),
        ("beanie", {"timezone": "../etc"}, InvalidOptionError, "There is no time zone"),
        ("beanie", {"timezone": 7}, InvalidOptionError, "timezone must be a str"),
    ],
)
def test_bad_input(tool: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    """It's refused with the reason."""
    with pytest.raises(error) as caught:
        make_source(find_adapter(tool), make_catalog(["apple"]), **options)
    assert message in str(caught.value)


class FakeDatabase:
    """Notes what is done with it."""

    def __init__(self) -> None:
        self.done: list[str] = []


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def register(folder: Path, tool: Any) -> MigrationRegistry:
    registry = MigrationRegistry()
    register_folder(registry, folder, tool=tool)
    return registry


PYMONGO_MIGRATE = '''
"""Step {number}.

More.
"""
from dataclasses import dataclass

name = "m{number}_step"
dependencies = {dependencies}

@dataclass
class Helper:
    text: "str"

def upgrade(db: "pymongo.database.Database"):
    db.done.append("up {number}")

def downgrade(db: "pymongo.database.Database"):
    db.done.append("down {number}")
'''
MONGODB_MIGRATIONS = """
from mongodb_migrations.base import BaseMigration

class Migration(BaseMigration):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.done = self.db.done

    def upgrade(self):
        self.done.append("up {number}")

    def downgrade(self):
        self.done.append("down {number}")
"""
MONGRATOR = """
def up(db):
    db.done.append("up {number}")

def down(db):
    db.done.append("down {number}")
"""


@pytest.mark.parametrize(
    ("tool", "text", "stems"),
    [
        ("pymongo-migrate", PYMONGO_MIGRATE, ["m1_step", "m2_step"]),
        ("mongodb-migrations", MONGODB_MIGRATIONS, ["1_step", "10_step"]),
        ("mongrator", MONGRATOR, ["1_step", "2_step"]),
    ],
)
def test_folder(tmp_path: Path, tool: Any, text: str, stems: list[str]) -> None:
    """Each file is a migration with its rollback, under its own name, and depends on what it depends on there."""
    for number, stem in enumerate(stems, 1):
        dependencies = [] if number == 1 else stems[:1]
        write(tmp_path, **{stem: text.format(number=number, dependencies=dependencies)})
    write(tmp_path, __init__="1 / 0")
    registry = MigrationRegistry()

    assert register_folder(registry, str(tmp_path), tool=tool) == stems

    found, db = [registry.migrations[stem] for stem in stems], FakeDatabase()
    assert [list(one.depends_on) for one in found] == [[], stems[:1]]
    for one in found:
        assert not one.is_async
        assert not one.wants_context
        assert one.rollback is not None
        one.execute(db)
        one.rollback(db)
    assert db.done == ["up 1", "down 1", "up 2", "down 2"]
    assert found[0].description == ("Step 1." if tool == "pymongo-migrate" else "")
    assert "mongodb_migrations.base" not in sys.modules


def test_folder_needs_no_installed_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed mongodb-migrations stays as it was, and isn't used: its classes connect to a server of their own."""
    installed = ModuleType("mongodb_migrations.base")
    monkeypatch.setitem(sys.modules, "mongodb_migrations.base", installed)

    register(write(tmp_path, **{"1_a": MONGODB_MIGRATIONS.format(number=1)}), "mongodb-migrations")

    assert sys.modules["mongodb_migrations.base"] is installed


@pytest.fixture
def operations(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`mongrator.ops`, as far as it is needed here."""

    class Operation:
        def __init__(self, name: str, *, is_reversible: bool = True) -> None:
            self.description, self.is_reversible = name, is_reversible

        def apply(self, db: FakeDatabase) -> None:
            db.done.append(f"apply {self.description}")

        def revert(self, db: FakeDatabase) -> None:
            db.done.append(f"revert {self.description}")

    Operation.__module__ = "mongrator.ops"
    package, module = ModuleType("mongrator"), ModuleType("mongrator.ops")
    vars(package)["ops"] = module
    vars(module)["make"] = Operation
    monkeypatch.setitem(sys.modules, "mongrator", package)
    monkeypatch.setitem(sys.modules, "mongrator.ops", module)
    return Operation


OPERATIONS = """
from mongrator import ops

def up(db):
    return [ops.make("a"), ops.make("b", is_reversible={is_reversible})]
"""


@pytest.mark.usefixtures("operations")
def test_operations(tmp_path: Path) -> None:
    """Operations that `up` returns are applied, and reverted in reverse order where there is no `down`."""
    found = register(write(tmp_path, m=OPERATIONS.format(is_reversible=True)), "mongrator").migrations["m"]
    db = FakeDatabase()

    assert found.rollback is not None
    found.execute(db)
    found.rollback(db)

    assert db.done == ["apply a", "apply b", "revert b", "revert a"]


@pytest.mark.usefixtures("operations")
def test_operations_that_are_irreversible(tmp_path: Path) -> None:
    """Nothing is reverted if one can't be."""
    found = register(write(tmp_path, m=OPERATIONS.format(is_reversible=False)), "mongrator").migrations["m"]
    db = FakeDatabase()

    assert found.rollback is not None
    with pytest.raises(InvalidMigrationError, match=r"can't be undone without a down\(\): b\."):
        found.rollback(db)
    assert db.done == []


@pytest.mark.usefixtures("operations")
def test_async_operations(tmp_path: Path) -> None:
    """mongrator applies them to a sync database, which an async migration doesn't have."""
    text = OPERATIONS.format(is_reversible=True).replace("def up", "async def up")
    found = register(write(tmp_path, m=text), "mongrator").migrations["m"]

    assert found.is_async
    assert found.rollback is None
    running: Any = found.execute(FakeDatabase())
    with pytest.raises(InvalidMigrationError, match="Make it a `def`"):
        running.send(None)


def test_async_file(tmp_path: Path) -> None:
    """An `async def up` is an async migration."""
    text = MONGRATOR.replace("def up", "async def up").replace("def down", "async def down").format(number=1)
    found = register(write(tmp_path, m=text), "mongrator").migrations["m"]
    db = FakeDatabase()

    running: Any = found.execute(db)
    with pytest.raises(StopIteration):
        running.send(None)
    assert found.is_async
    assert db.done == ["up 1"]


def test_file_without_a_way_back(tmp_path: Path) -> None:
    """It has no rollback."""
    registry = register(write(tmp_path, m="def up(db): ..."), "mongrator")

    assert registry.migrations["m"].rollback is None


def test_checksum_is_that_of_the_file(tmp_path: Path) -> None:
    """A change of the method changes the checksum, although a function around it is registered."""
    from quaestor._source import compute_checksum

    checksums = []
    for place, number in enumerate((1, 1, 2)):
        folder = tmp_path / str(place)
        folder.mkdir()
        write(folder, **{"1_a": MONGODB_MIGRATIONS.format(number=number)})
        checksums.append(compute_checksum(register(folder, "mongodb-migrations").migrations["1_a"].execute))

    assert None not in checksums
    assert checksums[0] == checksums[1] != checksums[2]


@pytest.mark.parametrize(
    ("tool", "files", "error", "message"),
    [
        ("beanie", {"a": ""}, InvalidOptionError, "tool must be one of 'pymongo-migrate', 'mongodb-migrations'"),
        ("mongrator", {}, InvalidOptionError, "has no migrations of mongrator"),
        ("mongodb-migrations", {"a": ""}, InvalidOptionError, "has no migrations of mongodb-migrations"),
        ("mongrator", {"a": ""}, InvalidMigrationError, "a.py has no function up()"),
        ("mongrator", {"a": "up = 7"}, InvalidMigrationError, "a.py has no function up()"),
        ("mongrator", {"a": "def up(): ..."}, InvalidMigrationError, "a.py must take the database"),
        ("mongrator", {"a": "def up(db): yield"}, InvalidMigrationError, "a.py is a generator function"),
        ([], {"a": ""}, InvalidOptionError, "tool must be one of"),
        ("pymongo-migrate", {"a": "name = 'b'"}, InvalidMigrationError, "which must be that of the file: 'a'"),
        ("pymongo-migrate", {"a": ""}, InvalidMigrationError, "has no list of dependencies"),
        ("pymongo-migrate", {"a": "dependencies = []"}, InvalidMigrationError, "has no function upgrade()"),
        ("mongodb-migrations", {"1_a": ""}, InvalidMigrationError, "has no class Migration(BaseMigration)"),
        (
            "mongodb-migrations",
            {
                "1_a": "from mongodb_migrations.base import BaseMigration\n\nclass Migration(BaseMigration): ...",
            },
            InvalidMigrationError,
            "has no function upgrade()",
        ),
        (
            "mongodb-migrations",
            {"1_a": MONGODB_MIGRATIONS.format(number=1) + "\n    downgrade = 7\n"},
            InvalidMigrationError,
            "has no function downgrade()",
        ),
        ("mongodb-migrations", {"1_a": "", "1_b": ""}, InvalidMigrationError, "begin with the same digits"),
        ("mongrator", {"a": "1 / 0"}, ZeroDivisionError, "division by zero"),
    ],
)
def test_bad_folder(tmp_path: Path, tool: Any, files: dict[str, str], error: type[Exception], message: str) -> None:
    """It's refused with the reason; an error of a file is raised as it is, with a note, and nothing stays imported."""
    before = {*sys.modules}
    with pytest.raises(error) as caught:
        register(write(tmp_path, **files), tool)
    assert message in str(caught.value)
    if error is ZeroDivisionError:
        assert caught.value.__notes__ == [f"quaestor: while importing {tmp_path / 'a.py'}"]
        assert {*sys.modules} == before


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidOptionError, match="isn't a folder"):
        register(tmp_path / "nowhere", "mongrator")
