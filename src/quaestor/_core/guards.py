"""Guards: the preconditions and verifications of a migration, and how a call of one ends."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from quaestor._core.definition import MigrationDefinition, is_async, name_function, takes_context
from quaestor._text import format_error
from quaestor.errors import (
    InvalidGuardError,
    PreconditionFailedError,
    UnfinishedMigrationError,
    VerificationFailedError,
)

GuardKind: TypeAlias = Literal["precondition", "verification"]


@dataclass(frozen=True, slots=True)
class Guard:
    """A precondition or a verification of a migration."""

    kind: GuardKind
    migration: str
    function: Callable[..., object]
    is_async: bool
    wants_context: bool
    transaction: bool = False  # whether its migration is a transaction

    @property
    def label(self) -> str:
        """The name of its function in messages, as `module.function`."""
        return name_function(self.function)

    def make_refusal(self, fault: str) -> InvalidGuardError:
        """Make the error of a guard that can't be used."""
        return InvalidGuardError(self.migration, self.kind, self.label, fault)

    def read_result(self, result: object) -> bool:
        """Say whether it holds, by what its function returned."""
        if result is None or isinstance(result, bool):
            return result is not False
        kind = type(result)
        name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
        raise self.make_refusal(f"returned a value of type {name}. Return False if it fails, and True or None if not")


def make_guards(kind: GuardKind, definition: MigrationDefinition) -> tuple[Guard, ...]:
    """Make the guards of a migration."""
    functions = definition.preconditions if kind == "precondition" else definition.verifications
    name, transaction = definition.name, definition.transaction
    return tuple(
        Guard(kind, name, function, is_async(function), takes_context(name, function), transaction)
        for function in functions
    )


async def check_guard(
    guard: Guard, call: Callable[[], Awaitable[object]], is_raised: Callable[[Exception], bool]
) -> None:
    """Call a guard, and raise its error if it fails. `call` returns whether it holds.

    `is_raised` chooses the exceptions to raise unchanged, such as interruptions.
    """
    try:
        holds = await call()
    except (InvalidGuardError, UnfinishedMigrationError):
        raise
    except Exception as error:
        if is_raised(error):
            raise
        failure = _make_failure(guard, f"raised {format_error(error)}")
        for note in getattr(error, "__notes__", ()):  # only the notes of the error itself are always shown
            failure.add_note(note)
        raise failure from error
    if not holds:
        raise _make_failure(guard, "returned False")


def _make_failure(guard: Guard, reason: str) -> PreconditionFailedError | VerificationFailedError:
    if guard.kind == "precondition":
        return PreconditionFailedError(guard.migration, guard.label, reason)
    return VerificationFailedError(guard.migration, guard.label, reason, guard.transaction)
