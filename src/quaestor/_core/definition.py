"""A migration as it was registered: its name, its functions, what it depends on, and their colours."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from quaestor.errors import CircularDependencyError, InvalidMigrationError

Colour: TypeAlias = Literal["sync", "async"]
"""Whether a function is `def` or `async def`. The word is Bob Nystrom's ("What Color is Your Function?", 2015)."""


@dataclass(frozen=True, slots=True)
class MigrationDefinition:
    """One registered migration. Making one checks it, so that no run ever meets an invalid one.

    Attributes:
        name: The name it is recorded under (str, not empty).
        execute: The function as it was given; called with the database, and with the context if it takes that.
        depends_on: The names of the migrations that must be applied before it (list of str, as given).
        transaction: Whether the function and its record are one transaction (bool); likewise its rollback.
        description: What it does, in one line (str); may be empty.
        rollback: The function that undoes it, called likewise; None if there is none.
        colour: "async" for an `async def` function, else "sync".
        wants_context: Whether it takes a second argument, the context (bool). One that has a default does not count.
        keeps_progress: Whether it or its rollback does (bool), and so can go over collections in batches.

    Raises:
        InvalidMigrationError: The name, the dependencies or the function cannot be used.
        CircularDependencyError: It depends on itself.
    """

    name: str
    execute: Callable[..., object]
    depends_on: Sequence[str] = field(default=(), hash=False)
    transaction: bool = False
    description: str = ""
    rollback: Callable[..., object] | None = None
    colour: Colour = field(init=False)
    wants_context: bool = field(init=False)
    keeps_progress: bool = field(init=False)

    def __post_init__(self) -> None:
        # Frozen for everybody else: these are the checked and normalised values of the same fields.
        object.__setattr__(self, "name", checked_name(self.name))
        object.__setattr__(self, "depends_on", _checked_dependencies(self.name, self.depends_on))
        object.__setattr__(self, "wants_context", wants_context(f"Migration {self.name!r}", self.execute))
        undo_wants_context = self.rollback is not None and wants_context(
            f"The rollback of migration {self.name!r}", self.rollback
        )
        object.__setattr__(self, "keeps_progress", self.wants_context or undo_wants_context)
        if not isinstance(self.transaction, bool):
            raise InvalidMigrationError(
                f"transaction of migration {self.name!r} must be True or False, not {_kind(self.transaction)}."
            )
        if not isinstance(self.description, str):
            raise InvalidMigrationError(
                f"The description of migration {self.name!r} must be a str, not {_kind(self.description)}."
            )
        object.__setattr__(self, "colour", colour_of(self.execute))


def checked_name(name: object, decorator: str = "register") -> str:
    """The name as a plain `str`; it must be one that MongoDB can store and people can read in a message."""
    if not isinstance(name, str):
        hint = f' Write @registry.{decorator}("its_name").' if callable(name) else ""
        raise InvalidMigrationError(f"A migration's name must be a str, not {_kind(name)}.{hint}")
    if not name:
        raise InvalidMigrationError("A migration's name must not be empty.")
    if "\0" in name:
        raise InvalidMigrationError(f"A migration's name must not hold NUL: {name!r}.")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise InvalidMigrationError(
            f"A migration's name must be valid Unicode, without lone surrogates: {name!r}."
        ) from None
    return str.__str__(name)  # an enum member or another subclass becomes the plain str that it is equal to


def colour_of(function: Callable[..., object]) -> Colour:
    """Tell, without a call, whether a call returns something to await.

    Of a decorated function every layer is looked at, for most decorators return what the function below them returns:
    it is asynchronous if one of them is `async def`. An object with a `__call__` of its own is what that is.
    """
    innermost = inspect.unwrap(_entered(function), stop=inspect.iscoroutinefunction)
    return "async" if inspect.iscoroutinefunction(_entered(innermost)) else "sync"


def summary(function: Callable[..., object]) -> str:
    """The first line of the function's own docstring; "" without one."""
    documented = inspect.unwrap(_entered(function)).__doc__ if callable(function) else None
    return next(iter(inspect.cleandoc(documented).splitlines()), "") if isinstance(documented, str) else ""


def wants_context(subject: str, function: Callable[..., object]) -> bool:
    """Whether a function takes the context beside the database.

    Raises:
        InvalidMigrationError: It cannot be called with the database, or a call would do nothing.
    """
    if isinstance(function, type) or not callable(function):
        raise InvalidMigrationError(f"{subject} must be a function that takes the database, not {function!r}.")
    entered = _entered(function)
    if inspect.isgeneratorfunction(entered) or inspect.isasyncgenfunction(entered):
        raise InvalidMigrationError(f"{subject} is a generator function: a call would do nothing. Remove its `yield`.")
    try:
        signature = inspect.signature(function, follow_wrapped=False)
        if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
            signature = inspect.signature(function)  # a decorator that takes anything: what it wraps tells more
    except (TypeError, ValueError):
        return False  # some callables, of C or of odd make, do not tell their arguments
    for arguments in (("db",), ("db", "context")):
        with contextlib.suppress(TypeError):
            signature.bind(*arguments)
            return len(arguments) > 1
    raise InvalidMigrationError(
        f"{subject} must take the database, and may take the context, as its arguments; its signature is {signature}."
    )


def _checked_dependencies(name: str, depends_on: object) -> list[str]:
    if isinstance(depends_on, str):
        raise InvalidMigrationError(
            f"depends_on of migration {name!r} must be a list of names, not a str: write [{depends_on!r}]."
        )
    if not isinstance(depends_on, Iterable):
        raise InvalidMigrationError(
            f"depends_on of migration {name!r} must be a list of names, not {_kind(depends_on)}."
        )
    dependencies = list(depends_on)
    for dependency in dependencies:
        if not isinstance(dependency, str):
            raise InvalidMigrationError(
                f"depends_on of migration {name!r} must hold names (str), not {_kind(dependency)}."
            )
    if name in dependencies:
        raise CircularDependencyError([name, name])
    return [str.__str__(dependency) for dependency in dependencies]


def _entered(function: Callable[..., object]) -> Callable[..., object]:
    """The function that a call enters first: inside a partial, a static method, an object with a `__call__`."""
    while not inspect.iscoroutinefunction(function):
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, staticmethod):
            function = function.__func__
        elif inspect.isfunction(call := type(function).__call__):
            function = call
        else:
            break
    return function


def _kind(value: object) -> str:
    return "None" if value is None else f"{type(value).__name__} ({value!r})"
