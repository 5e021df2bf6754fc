"""A registered migration: its name, functions and dependencies, checked."""

import contextlib
import functools
import inspect
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from quaestor.errors import CircularDependencyError, InvalidMigrationError, InvalidOptionError, QuaestorError
from quaestor.status import AfterCrash, Phase

_LONGEST_DELAY = timedelta(days=3650)  # a date with it always exists
_MOST_AT_ONCE = 100  # each may be a thread, and a session of the server


@dataclass(frozen=True, slots=True)
class MigrationDefinition:
    """A registered migration. Making one checks it.

    Attributes:
        name: The name in its record.
        execute: Its function, called with the database, and with the context if it takes that.
        depends_on: The names of the migrations that must be applied before it.
        transaction: Whether the function and its record are one transaction; likewise its rollback.
        description: What it does, in one line; may be empty.
        rollback: The function that undoes it, called likewise; None if there is none.
        preconditions: Functions that must hold before it begins, called likewise.
        verifications: Functions that must hold before it is recorded, called likewise.
        after_crash: Whether a run repeats it after it was interrupted or failed halfway: "rerun" or "stop".
        replaces: The names of the migrations that it replaces.
        phase: When a rollout applies it: "deploy" or "post_deploy".
        delay: How long its dependencies must have been applied before it runs; None if that doesn't matter.
        is_async: Whether `execute` is `async def`.
        wants_context: Whether `execute` takes the context. A second argument with a default doesn't count.
        can_backfill: Whether `execute` or `rollback` takes the context, and so can have backfills.

    Raises:
        InvalidMigrationError: The name, the dependencies, the function or an option can't be used.
        CircularDependencyError: It depends on itself.
    """

    name: str
    execute: Callable[..., object]
    depends_on: Sequence[str] = field(default=(), hash=False)
    transaction: bool = False
    description: str = ""
    rollback: Callable[..., object] | None = None
    preconditions: tuple[Callable[..., object], ...] = ()
    verifications: tuple[Callable[..., object], ...] = ()
    after_crash: AfterCrash = "rerun"
    replaces: tuple[str, ...] = ()
    phase: Phase = "deploy"
    delay: timedelta | None = None
    is_async: bool = field(init=False)
    wants_context: bool = field(init=False)
    can_backfill: bool = field(init=False)

    def __post_init__(self) -> None:
        # Frozen from here on: these are the checked and normalised values of the fields.
        object.__setattr__(self, "name", check_name(self.name))
        dependencies = check_names(f"depends_on of migration {self.name!r}", self.depends_on, InvalidMigrationError)
        if self.name in dependencies:
            raise CircularDependencyError([self.name, self.name])
        object.__setattr__(self, "depends_on", dependencies)
        object.__setattr__(self, "wants_context", takes_context(f"Migration {self.name!r}", self.execute))
        undo_wants_context = self.rollback is not None and takes_context(
            f"The rollback of migration {self.name!r}", self.rollback
        )
        object.__setattr__(self, "can_backfill", self.wants_context or undo_wants_context)
        if not isinstance(self.transaction, bool):
            raise InvalidMigrationError(
                f"transaction of migration {self.name!r} must be True or False, not {_kind(self.transaction)}."
            )
        if not isinstance(self.description, str):
            raise InvalidMigrationError(
                f"The description of migration {self.name!r} must be a str, not {_kind(self.description)}."
            )
        if self.after_crash not in ("rerun", "stop"):  # a tuple, because it may be unhashable
            raise InvalidMigrationError(
                f"after_crash of migration {self.name!r} must be 'rerun' or 'stop', not {_kind(self.after_crash)}."
            )
        if self.stops and self.transaction:
            raise InvalidMigrationError(
                f"Migration {self.name!r} has transaction=True and after_crash='stop'. A transaction leaves nothing "
                "half done, so there is nothing to stop for: leave out one of the two."
            )
        self._check_release_options()
        object.__setattr__(self, "is_async", is_async(self.execute))
        for function in self.preconditions:
            takes_context(f"A precondition of migration {self.name!r}", function)
        for function in self.verifications:
            takes_context(f"A verification of migration {self.name!r}", function)
            if self.transaction and is_async(function) != self.is_async:
                kinds = ("`async def`", "`def`") if self.is_async else ("`def`", "`async def`")
                raise InvalidMigrationError(
                    f"Migration {self.name!r} is a transaction of an {kinds[0]} function, and its verification "
                    f"{name_function(function)} must be one, too, because a transaction has one driver. It is "
                    f"{kinds[1]}."
                )

    def _check_release_options(self) -> None:
        """Check replaces, phase and delay, the options that matter over several releases."""
        replaced = check_names(f"replaces of migration {self.name!r}", self.replaces, InvalidMigrationError)
        for old in replaced:
            check_name(old)
        if wrong := next((old for old in replaced if old == self.name or old in self.depends_on), None):
            relation = "itself" if wrong == self.name else f"{wrong!r}, which it depends on"
            raise InvalidMigrationError(f"Migration {self.name!r} replaces {relation}.")
        object.__setattr__(self, "replaces", tuple(replaced))
        if self.phase not in ("deploy", "post_deploy"):  # a tuple, because it may be unhashable
            raise InvalidMigrationError(
                f"phase of migration {self.name!r} must be 'deploy' or 'post_deploy', not {_kind(self.phase)}."
            )
        if self.delay is None:
            return
        if not isinstance(self.delay, timedelta) or not timedelta() < self.delay <= _LONGEST_DELAY:
            raise InvalidMigrationError(
                f"delay of migration {self.name!r} must be a timedelta above zero, and at most 3,650 days, not "
                f"{_kind(self.delay)}."
            )
        if not self.depends_on:
            raise InvalidMigrationError(
                f"Migration {self.name!r} has a delay, which counts from when its dependencies were applied, but it "
                "depends on nothing. Say what it waits for (depends_on)."
            )

    @property
    def stops(self) -> bool:
        """Whether a start mark is written before it, because a run doesn't repeat it unasked."""
        return self.after_crash == "stop"


def check_name(name: object, decorator: str = "register") -> str:
    """Check a migration's name. Returns a plain `str`."""
    hint = f' Write @registry.{decorator}("its_name").' if callable(name) else ""
    return check_text("A migration's name", name, InvalidMigrationError, hint)


def check_text(subject: str, name: object, error: type[QuaestorError], hint: str = "") -> str:
    """Check a name that is stored. Returns a plain `str`. The hint is for values of other types."""
    if not isinstance(name, str):
        raise error(f"{subject} must be a str, not {_kind(name)}.{hint}")
    if not name:
        raise error(f"{subject} must not be empty.")
    if "\0" in name:
        raise error(f"{subject} can't contain NUL: {name!r}.")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise error(f"{subject} must be valid Unicode, without lone surrogates: {name!r}.") from None
    if fault := find_look_alike(name):
        raise error(f"{subject} {fault}: {name!r}.")
    return str.__str__(name)  # of a subclass, such as an enum member


def find_look_alike(name: str) -> str | None:
    """Say why a name could be taken for another one that looks the same; None if it couldn't."""
    if name != name.strip():
        return "must not start or end with white space"
    normal = unicodedata.normalize("NFC", name)
    return None if name == normal else f"must be in the Unicode form NFC, which is {normal!a}"


def check_names(argument: str, names: object, error: type[QuaestorError] = InvalidOptionError) -> list[str]:
    """Check a list of names. Returns each name once, as a plain `str`."""
    if isinstance(names, str):
        raise error(f"{argument} must be a list of names, not a str: write [{names!r}].")
    given: list[Any] = list(names) if isinstance(names, Iterable) else [names]
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in given):
        raise error(f"{argument} must be a list of names (str), not {names!r:.80}.")
    return list(dict.fromkeys(map(str.__str__, given)))


def is_async(function: Callable[..., object]) -> bool:
    """Say whether a call of the function returns something to await.

    A decorated function is async if any of its layers is `async def`, because most decorators return what the function
    below them returns. An object with a `__call__` is async if that is.
    """
    innermost = inspect.unwrap(_find_entry(function), stop=inspect.iscoroutinefunction)
    return inspect.iscoroutinefunction(_find_entry(innermost))


def summarize(function: Callable[..., object]) -> str:
    """Return the first line of the function's own docstring; "" if it has none."""
    documented = inspect.unwrap(_find_entry(function)).__doc__ if callable(function) else None
    return next(iter(inspect.cleandoc(documented).splitlines()), "") if isinstance(documented, str) else ""


def identify(registered: Callable[..., object]) -> tuple[str, str]:
    """Identify a function by its module and its qualified name."""
    function = getattr(registered, "func", registered)  # a partial has no name
    return function.__module__, getattr(function, "__qualname__", type(function).__name__)


def name_function(function: Callable[..., object]) -> str:
    """Name a function in a message, as `module.function`."""
    module, name = identify(function)
    return f"{module}.{name}"


def takes_context(subject: str, function: Callable[..., object]) -> bool:
    """Say whether a function, which must take the database and be no generator, takes the context as well."""
    if isinstance(function, type) or not callable(function):
        raise InvalidMigrationError(f"{subject} must be a function that takes the database, not {function!r}.")
    entered = _find_entry(function)
    if inspect.isgeneratorfunction(entered) or inspect.isasyncgenfunction(entered):
        raise InvalidMigrationError(f"{subject} is a generator function: a call would do nothing. Remove its `yield`.")
    try:
        signature = inspect.signature(function, follow_wrapped=False)
        if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
            signature = inspect.signature(function)  # a decorator that takes anything: what it wraps says more
    except (TypeError, ValueError):
        return False  # some callables, as of C, have no signature
    for arguments in (("db",), ("db", "context")):
        with contextlib.suppress(TypeError):
            signature.bind(*arguments)
            return len(arguments) > 1
    raise InvalidMigrationError(
        f"{subject} must take the database, and may take the context, as its arguments; its signature is {signature}."
    )


def _find_entry(function: Callable[..., object]) -> Callable[..., object]:
    """Find the function that a call enters first, inside a partial, a static method or an object with a `__call__`."""
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


def check_concurrency(value: object, option: str = "concurrency") -> None:
    """Check how many migrations, databases or batches may be in progress at once."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST_AT_ONCE:
        raise InvalidOptionError(f"{option} must be a whole number, from 1 to {_MOST_AT_ONCE}, not {value!r:.40}.")
