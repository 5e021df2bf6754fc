"""Definitions: what can be a migration, what can't, and whether it is async."""

import enum
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any
from unittest import mock

import pytest

from quaestor import (
    CircularDependencyError,
    DuplicateMigrationError,
    InvalidMigrationError,
    InvalidOptionError,
    MigrationDefinition,
    MigrationRegistry,
)
from quaestor._core.definition import check_text
from tests.functions import nothing, nothing_async


def passing(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that returns what the function returns."""

    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def awaiting(function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """A decorator that makes an `async def` of anything."""

    @functools.wraps(function)
    async def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def injecting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that gives the function a second argument."""

    @functools.wraps(function)
    def wrapper(db: object) -> Any:
        return function(db, "settings")

    return wrapper


class Called:
    def __call__(self, db: object) -> None: ...

    def method(self, db: object) -> None: ...

    async def method_async(self, db: object) -> None: ...

    static = staticmethod(nothing)

    @classmethod
    async def of_class(cls, db: object) -> None: ...


class CalledAsync:
    async def __call__(self, db: object) -> None: ...


class Blocking:
    """As asgiref's async_to_sync: wraps a coroutine function and waits for it."""

    def __init__(self, function: Callable[..., Any]) -> None:
        functools.update_wrapper(self, function)

    def __call__(self, db: object) -> None: ...


def with_options(db: object, *, size: int = 3) -> None: ...


def odd_signature(db: object) -> None: ...


odd_signature.__signature__ = "(db)"  # type: ignore[attr-defined]  # what a careless decorator may leave


def marked(db: object) -> Any: ...


KINDS = [
    (nothing, False),
    (nothing_async, True),
    (lambda db: None, False),
    (functools.partial(nothing), False),
    (functools.partial(functools.partial(nothing_async)), True),
    (functools.partial(with_options, size=1), False),
    (passing(nothing), False),
    (injecting(lambda db, settings: None), False),
    (odd_signature, False),
    (passing(passing(nothing_async)), True),
    (passing(functools.partial(nothing_async)), True),
    (passing(awaiting(nothing)), True),
    (awaiting(nothing), True),
    (functools.partial(passing(nothing_async)), True),
    (Called(), False),
    (CalledAsync(), True),
    (functools.partial(CalledAsync()), True),
    (passing(CalledAsync()), True),
    (Called().method, False),
    (Called().method_async, True),
    (Called.static, False),
    (Called.of_class, True),
    (staticmethod(nothing_async), True),
    (functools.cache(nothing_async), True),
    (Blocking(nothing_async), False),
    (print, False),
    (max, False),
    (mock.Mock(), False),
]
if hasattr(inspect, "markcoroutinefunction"):  # Python 3.12
    KINDS.append((inspect.markcoroutinefunction(marked), True))


@pytest.mark.parametrize(("function", "is_async"), KINDS)
def test_is_async(function: Callable[..., object], is_async: bool) -> None:
    """Whether a call returns something to await is found without a call."""
    assert MigrationDefinition("a", function).is_async is is_async


def generator(db: object) -> Iterator[None]:
    yield


async def generator_async(db: object) -> AsyncIterator[None]:
    yield


class CalledGenerator:
    def __call__(self, db: object) -> Iterator[None]:
        yield


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (None, "must be a function"),
        ("a", "must be a function"),
        (classmethod(nothing), "must be a function"),
        (Called, "must be a function"),
        (lambda: None, "as its arguments; its signature is ()"),
        (lambda db, context, other: None, "as its arguments; its signature is (db, context, other)"),
        (lambda *, db: None, "as its arguments; its signature is (*, db)"),
        (passing(lambda: None), "as its arguments"),
        (functools.partial(nothing, "db"), "as its arguments"),
        (generator, "generator function"),
        (generator_async, "generator function"),
        (functools.partial(generator), "generator function"),
        (CalledGenerator(), "generator function"),
        (staticmethod(generator), "generator function"),
    ],
)
def test_not_a_function(function: Any, words: str) -> None:
    """A function that can't be called with the database, or whose call would do nothing, is refused at once."""
    registry = MigrationRegistry()
    with pytest.raises(InvalidMigrationError, match="Migration 'a'") as caught:
        registry.register("a")(function)
    assert words in str(caught.value)
    assert dict(registry.migrations) == {}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (None, "must be a str, not None"),
        (1, "must be a str, not int (1)"),
        (b"a", "must be a str, not bytes (b'a')"),
        ("", "must not be empty"),
        ("a\0b", "can't contain NUL"),
        ("\ud800", "lone surrogates"),
        ("a ", "must not start or end with white space: 'a '"),
        ("\ta", "must not start or end with white space"),
        ("cafe\u0301", "must be in the Unicode form NFC, which is 'caf\\xe9'"),
        (nothing, 'Write @registry.register("its_name").'),
    ],
)
def test_bad_name(name: Any, words: str) -> None:
    """A name that can't be stored is refused before the decorator sees a function."""
    with pytest.raises(InvalidMigrationError) as caught:
        MigrationRegistry().register(name)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"depends_on": "first"}, "write ['first']"),
        ({"depends_on": ""}, "not a str"),
        ({"depends_on": 1}, "must be a list of names (str), not 1"),
        ({"depends_on": nothing}, "must be a list of names (str), not <function nothing"),
        ({"depends_on": ["first", 2]}, "must be a list of names (str), not ['first', 2]"),
        ({"depends_on": [nothing]}, "must be a list of names (str), not [<function nothing"),
        ({"depends_on": [None]}, "must be a list of names (str), not [None]"),
        *(({"transaction": value}, "transaction of migration 'a'") for value in (None, 1, "yes")),
        *(({"description": value}, "description of migration 'a' must be a str, not") for value in (7, b"", ["a"])),
    ],
)
def test_bad_argument(options: dict[str, Any], words: str) -> None:
    """An argument of the wrong type is refused, with the migration's name."""
    with pytest.raises(InvalidMigrationError, match="of migration 'a'") as caught:
        MigrationRegistry().register("a", **options)(nothing)
    assert words in str(caught.value)


def test_bad_name_of_a_backfill() -> None:
    """The names of other things are checked in the same way, each with an error of its own."""
    with pytest.raises(InvalidOptionError, match="The name of a backfill"):
        check_text("The name of a backfill", 7, InvalidOptionError)


def test_dependency_on_itself() -> None:
    """A migration that depends on itself is refused at once."""
    with pytest.raises(CircularDependencyError, match="a -> a") as caught:
        MigrationRegistry().register("a", depends_on=["b", "a"])(nothing)
    assert caught.value.cycle == ["a", "a"]


def test_definition() -> None:
    """The definition has all arguments; the decorator returns the function unchanged."""
    registry = MigrationRegistry()
    given = ["z", "b"]

    returned = registry.register("a", depends_on=given)(nothing)
    registry.register("b")(nothing_async)

    assert returned is nothing
    definition = registry.migrations["a"]
    assert (definition.name, definition.execute, definition.depends_on) == ("a", nothing, ["z", "b"])
    assert registry.migrations["b"].depends_on == []
    given.append("later")
    for names in (("z", "b"), iter(["z", "b"]), {"z": 1, "b": 2}.keys()):
        assert MigrationDefinition("a", nothing, names).depends_on == ["z", "b"]  # type: ignore[arg-type]  # an iterator
    assert definition.depends_on == ["z", "b"]
    assert list(registry.migrations) == ["a", "b"]
    same = MigrationDefinition("a", nothing, ["z", "b"], description="A `def` migration.")
    assert definition == same
    assert len({definition, same}) == 1


@pytest.mark.parametrize(
    ("function", "wants"),
    [
        (nothing, False),
        (nothing_async, False),
        (lambda db, context: None, True),
        (lambda db, anything: None, True),
        (lambda db, /, context: None, True),
        (lambda db, context=None: None, False),
        (lambda db, *, context=None: None, False),
        (lambda db, *rest: None, False),
        (lambda *both: None, False),
        (functools.partial(lambda size, db, context: None, 7), True),
        (functools.partial(lambda db, context, size: None, size=7), True),
        (passing(lambda db, context: None), True),
        (Called(), False),
        (max, False),
    ],
)
def test_wants_context(function: Any, wants: bool) -> None:
    """The context is the second argument, if that has no default."""
    assert MigrationDefinition("a", function).wants_context is wants
    assert MigrationDefinition("a", nothing, rollback=function).wants_context is False
    assert MigrationDefinition("a", function, rollback=nothing).can_backfill is wants
    assert MigrationDefinition("a", nothing, rollback=function).can_backfill is wants


@pytest.mark.parametrize(("function", "other"), [(nothing, nothing_async), (nothing_async, nothing)])
def test_guards_in_a_transaction(function: Any, other: Any) -> None:
    """With transaction=True a verification is of the migration's kind, because a transaction has one driver. A
    precondition comes before the transaction.
    """
    assert MigrationDefinition("a", function, verifications=(other,)).verifications == (other,)
    assert MigrationDefinition("a", function, transaction=True, verifications=(function,), preconditions=(other,))
    with pytest.raises(InvalidMigrationError, match=f"its verification tests.functions.{other.__name__} must be one"):
        MigrationDefinition("a", function, transaction=True, verifications=(function, other))


@pytest.mark.parametrize("kind", ["precondition", "verification"])
def test_guards_are_checked(kind: str) -> None:
    """A guard is a function that takes the database, and maybe the context. It makes no backfills possible."""
    guards: dict[str, Any] = {f"{kind}s": (lambda db, context: None,)}
    assert MigrationDefinition("a", nothing, **guards).can_backfill is False
    guards = {f"{kind}s": (nothing, lambda: None)}
    with pytest.raises(InvalidMigrationError, match=f"A {kind} of migration 'a' must take the database"):
        MigrationDefinition("a", nothing, **guards)


def test_migrations_are_read_only() -> None:
    """Only `register` registers; nothing is removed."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)

    with pytest.raises(TypeError):
        registry.migrations["b"] = registry.migrations["a"]  # type: ignore[index]  # what a checker refuses fails too
    with pytest.raises(AttributeError):
        registry.migrations["a"].name = "b"  # type: ignore[misc]  # likewise


def test_duplicate() -> None:
    """A name has one function; the error says which."""
    registry = MigrationRegistry()
    registry.register("a")(nothing)

    with pytest.raises(DuplicateMigrationError, match=r"'a' is already registered \(by .*functions.nothing\)"):
        registry.register("a")(nothing_async)
    assert registry.migrations["a"].execute is nothing


def test_name_from_an_enum() -> None:
    """A subclass of str becomes the plain str it is equal to, which messages and records show."""

    class Name(enum.StrEnum):
        FIRST = "first"

    definition = MigrationDefinition("second", nothing, [Name.FIRST])
    assert [type(name) for name in definition.depends_on] == [str]
    assert repr(MigrationDefinition(Name.FIRST, nothing).name) == "'first'"
