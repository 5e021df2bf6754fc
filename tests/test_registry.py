"""Rollbacks and descriptions: what is registered beside a migration's function."""

import contextlib
import functools
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import mongomock
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor import (
    CircularDependencyError,
    DuplicateMigrationError,
    GraphError,
    InvalidMigrationError,
    MigrationDefinition,
    MigrationRegistry,
    MissingDependencyError,
    UnknownMigrationError,
)
from tests.functions import nothing


def undone(db: object) -> None: ...


def test_rollback() -> None:
    """The rollback becomes part of the definition; the decorator returns the function unchanged."""
    registry = MigrationRegistry()
    registry.register("a", ["b"], transaction=True, description="Does it.")(nothing)
    registry.register("b")(nothing)

    assert registry.register_rollback("a")(undone) is undone

    assert registry.migrations["a"] == MigrationDefinition(
        "a", nothing, ["b"], transaction=True, description="Does it.", rollback=undone
    )
    assert registry.migrations["b"].rollback is None
    assert list(registry.migrations) == ["a", "b"]


def test_rollback_of_nothing() -> None:
    """A rollback comes after its migration: the error has the closest name, at once."""
    registry = MigrationRegistry()
    registry.register("create_users")(nothing)

    with pytest.raises(UnknownMigrationError, match="Did you mean 'create_users'") as caught:
        registry.register_rollback("create_user")
    assert caught.value.suggestions == {"create_user": "create_users"}
    with pytest.raises(UnknownMigrationError, match="There is no migration 'x'"):
        registry.register_rollback("x")


def test_two_rollbacks() -> None:
    """A migration has one rollback; the error says which."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)
    registry.register_rollback("a")(undone)

    with pytest.raises(
        DuplicateMigrationError, match=r"'a' already has a rollback \(.*test_registry.undone\)"
    ) as caught:
        registry.register_rollback("a")(nothing)
    assert caught.value.rollback is True
    assert registry.migrations["a"].rollback is undone


def of_module(name: str, qualname: str) -> Callable[[object], None]:
    """A function that is defined in a module."""

    def function(db: object) -> None: ...

    function.__module__, function.__qualname__ = name, qualname
    return function


@pytest.mark.parametrize(
    ("module", "qualname", "again", "replaceable"),
    [
        ("__main__", "a", "__main__.a", True),  # a cell of a notebook that is run again
        ("__main__", "b", None, True),
        ("other", "a", None, False),
        ("app", "a", "app.a", True),  # has the file of __main__
        (None, "a", None, False),  # of C
    ],
)
@pytest.mark.parametrize("rollback", [False, True])
def test_registered_again(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    module: str,
    qualname: str,
    again: str | None,
    replaceable: bool,
    rollback: bool,
) -> None:
    """The same function of the same module or file is most likely one that is registered again, and may replace it."""
    (tmp_path / "link").symlink_to(tmp_path)
    for name, file in {"__main__": tmp_path / "app.py", "app": tmp_path / "link" / "app.py", "other": None}.items():
        made = ModuleType(name)
        made.__file__ = None if file is None else str(file)
        monkeypatch.setitem(sys.modules, name, made)
    first, second = of_module("__main__", "a"), of_module(module, qualname)
    registry = MigrationRegistry()
    registry.register("a", description="Before.")(nothing if rollback else first)
    registry.register_rollback("a")(first if rollback else undone)
    register = registry.register_rollback if rollback else registry.register

    with pytest.raises(DuplicateMigrationError) as caught:
        register("a")(second)
    assert caught.value.args == ("a", "__main__.a", rollback, again, "")

    with contextlib.nullcontext() if replaceable else pytest.raises(DuplicateMigrationError):
        register("a", replace=True)(second)
    kept = registry.migrations["a"]
    assert (kept.rollback if rollback else kept.execute) is (second if replaceable else first)
    assert (kept.execute if rollback else kept.rollback) is (nothing if rollback else undone)
    assert kept.description == ("Before." if rollback or not replaceable else "")


each_guard = pytest.mark.parametrize("kind", ["precondition", "verification"])


def guards(registry: MigrationRegistry, kind: str) -> tuple[Callable[..., object], ...]:
    """The guards of `a`."""
    found: tuple[Callable[..., object], ...] = getattr(registry.migrations["a"], f"{kind}s")
    return found


@each_guard
def test_guards(kind: str) -> None:
    """Guards become part of the definition, in the order of registration; the decorator returns them unchanged."""
    registry = MigrationRegistry()
    registry.register("a", transaction=True)(nothing)
    register = getattr(registry, f"register_{kind}")
    assert register("a")(undone) is undone
    register("a")(nothing)
    assert guards(registry, kind) == (undone, nothing)
    both = registry.migrations["a"]
    assert {both.preconditions, both.verifications} == {(undone, nothing), ()}
    registry.register_rollback("a")(undone)
    registry.register("a", transaction=True, replace=True)(nothing)
    assert guards(registry, kind) == (undone, nothing)


@each_guard
@pytest.mark.parametrize(
    ("module", "qualname", "is_same"),
    [("app", "b", True), ("app", "c", False), ("other", "b", False), (None, "b", False)],
)
def test_guard_registered_again(kind: str, module: str, qualname: str, is_same: bool) -> None:
    """A second guard of the same name is most likely the same one, and may replace it, in its place."""
    first, second, last = of_module("app", "b"), of_module(module, qualname), of_module("app", "d")
    registry = MigrationRegistry()
    registry.register("a")(nothing)
    register = getattr(registry, f"register_{kind}")
    for function in (first, last):
        register("a")(function)
    if is_same:
        with pytest.raises(DuplicateMigrationError, match=f"'a' already has the {kind} app.b. Give") as caught:
            register("a")(second)
        assert caught.value.guard == kind
        assert guards(registry, kind) == (first, last)
    register("a", replace=True)(second)
    assert guards(registry, kind) == ((second, last) if is_same else (first, last, second))


@each_guard
def test_guard_of_nothing(kind: str) -> None:
    """A guard comes after its migration; its name is checked at once."""
    registry = MigrationRegistry()
    registry.register("create_users")(nothing)
    register = getattr(registry, f"register_{kind}")
    with pytest.raises(UnknownMigrationError, match="Did you mean 'create_users'"):
        register("create_user")
    with pytest.raises(InvalidMigrationError, match=rf"@registry\.register_{kind}\("):
        register(nothing)


def test_replace_during_a_run() -> None:
    """A run applies what was registered when it started; the next one has the replacement."""
    registry, calls = MigrationRegistry(), list[str]()

    def register(name: str, word: str) -> None:
        @registry.register(name, replace=True)
        def function(db: object) -> None:
            calls.append(word)
            register("b", "new b")

    register("a", "a")
    register("b", "b")
    client = mongomock.MongoClient()
    assert registry.run_sync(client["one"], "app") == ["a", "b"]
    assert registry.run_sync(client["two"], "app") == ["a", "b"]
    assert calls == ["a", "b", "a", "new b"]


def generator(db: object) -> Any:
    yield


bad_functions = pytest.mark.parametrize(
    ("function", "words"),
    [
        (None, "must be a function that takes the database, not None"),
        (lambda: None, "must take the database, and may take the context, as its arguments; its signature is ()"),
        (generator, "is a generator function"),
        (MigrationRegistry, "must be a function"),
    ],
)


@bad_functions
def test_bad_rollback(function: Any, words: str) -> None:
    """A rollback that can't be called with the database is refused; the migration stays as it was."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)
    decorate = registry.register_rollback("a")

    with pytest.raises(InvalidMigrationError, match="The rollback of migration 'a'") as caught:
        decorate(function)
    assert words in str(caught.value)
    assert registry.migrations["a"].rollback is None


@bad_functions
@each_guard
def test_bad_guard(kind: str, function: Any, words: str) -> None:
    """So is a precondition or a verification."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)
    decorate = getattr(registry, f"register_{kind}")("a")

    with pytest.raises(InvalidMigrationError, match=f"A {kind} of migration 'a'") as caught:
        decorate(function)
    assert words in str(caught.value)
    assert guards(registry, kind) == ()


def test_hint_of_a_missing_name() -> None:
    """The hint for a decorator without its argument names the decorator that was used."""
    with pytest.raises(InvalidMigrationError, match=r"@registry\.register_rollback\("):
        MigrationRegistry().register_rollback(nothing)  # type: ignore[arg-type]  # the mistake


def documented(db: object) -> None:
    """The first line. And more of it.

    The rest.
    """


async def documented_async(db: object) -> None:
    """
    Begins in the second line.
    """


@functools.wraps(documented)
def wrapping(*args: object) -> None: ...


class Called:
    """What the object is."""

    def __call__(self, db: object) -> None:
        """What the call does."""


def of(value: object) -> Callable[[object], None]:
    """A function with this for a docstring."""

    def function(db: object) -> None: ...

    function.__doc__ = value  # type: ignore[assignment]  # it may be anything
    return function


@pytest.mark.parametrize(
    ("function", "description"),
    [
        (documented, "The first line. And more of it."),
        (documented_async, "Begins in the second line."),
        (wrapping, "The first line. And more of it."),
        (functools.partial(documented), "The first line. And more of it."),
        (Called(), "What the call does."),
        (undone, ""),
        (lambda db: None, ""),
        (of(""), ""),
        (of("\n\n"), ""),
        (of("  spaces\n"), "spaces"),
        (of(7), ""),
    ],
)
def test_first_line_of_the_docstring(function: Any, description: str) -> None:
    """The description is the first line of the function's own docstring, or "", unless it is explicit."""
    registry = MigrationRegistry()
    registry.register("a")(function)
    assert registry.migrations["a"].description == description
    for explicit in ("Says it.", ""):
        assert MigrationDefinition("a", function, description=explicit).description == explicit


def test_sort() -> None:
    """Dependencies come first, then the alphabet decides; a graph that can't be sorted is an error."""
    registry = MigrationRegistry()
    for name, depends_on in {"a": ["c"], "c": [], "b": []}.items():
        registry.register(name, depends_on)(nothing)
    assert [migration.name for migration in registry.sort()] == ["b", "c", "a"]

    registry.register("d", ["e"])(nothing)
    with pytest.raises(GraphError, match="'d' depends on 'e'"):
        registry.sort()


# Over several releases


def replacing(**changes: Any) -> MigrationRegistry:
    """A registry with `new`, which replaces `old`."""
    registry = MigrationRegistry()
    registry.register("new", **{"replaces": ["old"]} | changes)(nothing)
    return registry


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"replaces": "old"}, "replaces of migration 'new'"),
        ({"replaces": ["old", 7]}, "replaces of migration 'new'"),
        ({"replaces": [""]}, "name"),
        ({"replaces": ["old", "new"]}, "'new' replaces itself"),
        ({"depends_on": ["old"]}, "'new' replaces 'old', which it depends on"),
        ({"phase": "later"}, r"'deploy' or 'post_deploy', not str \('later'\)"),
        ({"phase": ["deploy"]}, "'deploy' or 'post_deploy'"),
        ({"delay": 7}, "a timedelta above zero"),
        ({"delay": timedelta(), "depends_on": ["x"]}, "a timedelta above zero"),
        ({"delay": timedelta(days=7)}, "depends on nothing"),
    ],
)
def test_bad_options_of_a_life(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidMigrationError, match=words):
        replacing(**options)


def test_replaced_twice() -> None:
    """Only one migration can replace a name. None can replace itself by way of others."""
    registry = replacing()
    with pytest.raises(InvalidMigrationError, match="'new' and 'other' both replace 'old'"):
        registry.register("other", replaces=["x", "old"])(nothing)
    with pytest.raises(InvalidMigrationError, match="'old' replaces itself, by way of new"):
        registry.register("old", replaces=["new"])(nothing)
    registry.register("new", replaces=["x"], replace=True)(nothing)
    registry.register("other", replaces=["old", "new"])(nothing)
    assert {one.name: one.replaces for one in registry.migrations.values()} == {"new": ("x",), "other": ("old", "new")}
    registry.register("last", ["x", "old"])(nothing)
    assert [(one.name, one.depends_on) for one in registry.sort()] == [("other", []), ("last", ["other"])]


def test_retired_name() -> None:
    """A retired name is neither registered nor replaced. Nothing is retired if one of them can't be."""
    registry = replacing()
    for names, words in {("a", "new"): "'new' is registered", ("a", "old"): "'new' replaces 'old'"}.items():
        with pytest.raises(InvalidMigrationError, match=words):
            registry.retire(*names)
    with pytest.raises(InvalidMigrationError, match="A retired name"):
        registry.retire("a", 7)  # type: ignore[arg-type]
    assert registry.retired == set()
    registry.retire("gone", "x")
    registry.retire("gone")
    assert registry.retired == {"gone", "x"}
    with pytest.raises(InvalidMigrationError, match="'gone' is registered, but it was retired"):
        registry.register("gone")(nothing)
    with pytest.raises(InvalidMigrationError, match="'x' is replaced by 'more', but it was retired"):
        registry.register("more", replaces=["x"])(nothing)


steps = st.tuples(st.sampled_from("abcd"), st.lists(st.sampled_from("abcd"), max_size=2, unique=True), st.booleans())


@given(st.lists(steps, max_size=4, unique_by=lambda step: step[0]), st.data())
def test_order_of_registration(given: list[tuple[str, list[str], bool]], data: st.DataObject) -> None:
    """What is refused doesn't depend on the order."""

    def is_refused(order: list[tuple[str, list[str], bool]]) -> bool:
        registry = MigrationRegistry()
        try:
            for name, replaces, is_retired in order:
                if is_retired:
                    registry.retire(name)
                else:
                    registry.register(name, replaces=replaces)(nothing)
        except InvalidMigrationError:
            return True
        return False

    assert is_refused(given) is is_refused(data.draw(st.permutations(given)))


def test_graph_of_replaced_migrations() -> None:
    """What is registered and replaced is checked, too: in a database with some of it, the rest runs."""
    registry = replacing()
    registry.register("old", ["nowhere"])(nothing)
    with pytest.raises(MissingDependencyError, match="'old' depends on 'nowhere'"):
        registry.sort()
    registry.register("old", ["between"], replace=True)(nothing)
    registry.register("between", ["new"])(nothing)
    with pytest.raises(CircularDependencyError) as caught:
        registry.sort()
    assert caught.value.cycle == ["between", "new", "old", "between"]
    registry.register("old", replace=True)(nothing)
    registry.register("newest", ["old"], replaces=["new"])(nothing)
    with pytest.raises(CircularDependencyError) as caught:
        registry.sort()
    assert caught.value.cycle == ["newest", "newest"], "by a chain, it replaces what it depends on"


def test_dependency_on_a_retired_name() -> None:
    """The error doesn't ask to register it."""
    registry = MigrationRegistry()
    registry.register("next", ["gone"])(nothing)
    registry.retire("gone")
    with pytest.raises(MissingDependencyError, match="'next' depends on 'gone', which was retired"):
        registry.sort()
    registry.register("next", replace=True)(nothing)
    with pytest.raises(UnknownMigrationError, match="'gone' was retired"):
        registry.run_sync(mongomock.MongoClient().db, "app", targets=["gone"])
