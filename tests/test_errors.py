"""The errors as values: their sentences, their data, and that they survive a pickle."""

import pickle

import pytest

from quaestor import errors
from tests.world import lease

EXAMPLES = [
    (errors.InvalidMigrationError("A name must not be empty."), ValueError, "must not be empty"),
    (errors.DuplicateMigrationError("a", "app.a"), ValueError, "'a' is already registered (by app.a)"),
    (errors.DuplicateMigrationError("a", "app.b", True), ValueError, "'a' already has a rollback (app.b)"),
    (
        errors.UnknownMigrationError({"aa": "a", "zz": None}),
        ValueError,
        "'aa'. Did you mean 'a'? There is no migration",
    ),
    (errors.MissingDependencyError("b", "aa", "a"), ValueError, "'b' depends on 'aa', which is not registered. Did"),
    (errors.MissingDependencyError("b", "zz"), ValueError, "Register it"),
    (errors.CircularDependencyError(["a", "b", "a"]), ValueError, "Circular dependency: a -> b -> a"),
    (errors.InvalidPrefixError("The prefix must not be empty."), ValueError, "prefix"),
    (errors.InvalidDatabaseError("db must be a database."), TypeError, "database"),
    (errors.MissingDatabaseError(["a", "b"], "sync_db"), ValueError, "`def` functions: a, b. Pass sync_db="),
    (errors.MissingDatabaseError(["a"], "async_db"), ValueError, "`async def` functions: a. Pass async_db="),
    (errors.RecordConflictError(["a"]), ValueError, "Nothing has run"),
    (
        errors.UnknownRecordsError(["y", "z"]),
        ValueError,
        "The database has migrations that the code does not have: y, z. A newer release has migrated it",
    ),
    (
        errors.IrreversibleMigrationError(["b", "a"]),
        ValueError,
        "No rollback is registered for b, a. Write one with @registry.register_rollback('b'), or",
    ),
    (
        errors.DependencyConflictError({"b": ["a"], "d": ["a", "c"]}),
        ValueError,
        "dependencies that are not recorded: 'b' needs 'a'; 'd' needs 'a', 'c'. Mark these together.",
    ),
    (errors.InvalidOptionError("on_event must be a plain function."), ValueError, "on_event"),
    (errors.UnfinishedMigrationError("a", "a generator"), TypeError, "'a' returned a generator"),
    (
        errors.LeaseTimeoutError(2.5, lease()),
        TimeoutError,
        "Waited 2.5 s for the migrations of host (process 7), since",
    ),
    (errors.LeaseLostError("a"), RuntimeError, "This run did not get to the record of 'a'"),
    (errors.LeaseLostError(None), RuntimeError, "Nothing was left half done."),
    (errors.LeaseLostError("a", True), RuntimeError, "whoever runs it next goes on from there"),
    (errors.TransactionsUnsupportedError(["a", "b"]), ValueError, "transaction=True: a, b. This server has no"),
    (
        errors.TransactionsUnsupportedError(["a"], True),
        ValueError,
        "'a' calls for_each_batch with transaction=True, and this server has no transactions",
    ),
    (errors.TransactionFailedError("a", 3, 121.0, True), RuntimeError, "transactionLifetimeLimitSeconds"),
    (errors.TransactionFailedError("a", 200, 9.0, False), RuntimeError, "'a' was aborted 200 times in 9 s"),
    (
        errors.TransactionFailedError("a", 3, 121.0, True, True),
        RuntimeError,
        "of a batch of migration 'a' was aborted 3 times in 121 s and is not tried again",
    ),
    (errors.TransactionFailedError("a", 3, 121.0, True, True), RuntimeError, "Make the batches smaller"),
    (errors.BatchesInTransactionError("a"), RuntimeError, "'a' wants to go over a collection in batches inside a"),
    (errors.CollectionChangedError("a", "users"), RuntimeError, "'users' was dropped, renamed or replaced while"),
]


@pytest.mark.parametrize(("error", "base", "words"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_error(error: errors.QuaestorError, base: type[Exception], words: str) -> None:
    """Each is a QuaestorError and of a built-in kind, says it in a sentence, and keeps its data through a pickle."""
    copy = pickle.loads(pickle.dumps(error))

    assert isinstance(error, errors.QuaestorError)
    assert isinstance(error, base)
    assert words in str(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))


def test_every_error_has_an_example() -> None:
    """No error is left out above."""
    assert {type(error) for error, _, _ in EXAMPLES} == set(errors.QuaestorError.__subclasses__())


def test_tree_is_complete() -> None:
    """The tree in the docstring names every error."""
    for error in errors.QuaestorError.__subclasses__():
        assert f"── {error.__name__} " in str(errors.__doc__)
