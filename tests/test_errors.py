"""The errors as values: their sentences, their data, and that they survive a pickle."""

import builtins
import pickle
import re

import pytest

from quaestor import errors
from tests.world import LONG_AGO, lease

EXAMPLES = [
    (errors.InvalidMigrationError("A name must not be empty."), ValueError, "must not be empty"),
    (errors.DuplicateMigrationError("a", "app.a"), ValueError, "'a' is already registered (by app.a)"),
    (errors.DuplicateMigrationError("a", "app.b", True), ValueError, "'a' already has a rollback (app.b)"),
    (
        errors.DuplicateMigrationError("a", "app.a", again="app.a"),
        ValueError,
        "Its code ran twice: in a notebook, pass",
    ),
    (
        errors.DuplicateMigrationError("a", "app.a", again="__main__.a"),
        ValueError,
        "Its file ran twice, also as __main__.a: import",
    ),
    (
        errors.DuplicateMigrationError("a", "app.check", guard="verification"),
        ValueError,
        "'a' already has the verification app.check. Give one of the two functions another name.",
    ),
    (errors.NoMigrationsError("app.m", [], "app", []), ValueError, "The package 'app.m' has no modules. Add"),
    (errors.NoMigrationsError("m", ["m", "m.a"], "app", []), ValueError, "in this registry: m, m.a. Use @reg"),
    (
        errors.NoMigrationsError("m", ["m"], "app", ["x", "y"]),
        ValueError,
        "another one exists, created in x, y.",
    ),
    (
        errors.UnknownMigrationError({"aa": "a", "zz": None}),
        ValueError,
        "'aa'. Did you mean 'a'? There is no migration",
    ),
    (errors.MissingDependencyError("b", "aa", "a"), ValueError, "'b' depends on 'aa', which is not registered. Did"),
    (errors.MissingDependencyError("b", "zz"), ValueError, "Register it"),
    (
        errors.MissingDependencyError("b", "old", is_retired=True),
        ValueError,
        "'b' depends on 'old', which was retired.",
    ),
    (errors.CircularDependencyError(["a", "b", "a"]), ValueError, "a -> b -> a"),
    (errors.InvalidPrefixError("The prefix must not be empty."), ValueError, "prefix"),
    (errors.InvalidDatabaseError("db must be a database."), TypeError, "database"),
    (errors.MissingDatabaseError(["a", "b"], "sync_db"), ValueError, "a, b. Pass sync_db="),
    (errors.MissingDatabaseError(["a"], "async_db"), ValueError, "a. Pass async_db="),
    (errors.RecordConflictError(["a"]), ValueError, "Nothing has run"),
    (errors.UnknownRecordsError(["y", "z"]), ValueError, "y, z"),
    (
        errors.HistoryMissingError("mongrator", "old", "shop"),
        LookupError,
        "The database 'shop' has no collection 'old', so mongrator has applied nothing there",
    ),
    (
        errors.PartlyReplacedError("c", ["a"], ["b d", "e"]),
        RuntimeError,
        "'c' replaces migrations of which only some are applied: a, but not b d, e. Let a release",
    ),
    (errors.PartlyReplacedError("c", ["a"], ["b d", "e"]), RuntimeError, "`quaestor mark applied 'b d' e` if it is"),
    (errors.MigrationReplacedError({"a": "b"}), ValueError, "'a' is replaced by 'b', which is applied"),
    (
        errors.UnknownRecordsError(["y", "z"], undo=True),
        ValueError,
        "The migrations to roll back include some that this release can't undo: y, z. Only a release that has them can",
    ),
    (
        errors.MigrationDelayedError({"a": LONG_AGO, "b": None}),
        RuntimeError,
        "is one of them or depends on one: 'a' (until 2026-01-01 00:00 UTC), 'b' (its dependencies are pending). Run",
    ),
    (
        errors.IrreversibleMigrationError(["b", "a"]),
        ValueError,
        "for b, a. Write one with @registry.register_rollback('b') and one with @registry.register_rollback('a'), or",
    ),
    (
        errors.InterruptedMigrationError({"b": LONG_AGO, "a": LONG_AGO}),
        RuntimeError,
        "'b' (started 2026-01-01 00:00:00 UTC), 'a' (started",
    ),
    (
        errors.InterruptedMigrationError({"b": LONG_AGO, "a": LONG_AGO}),
        RuntimeError,
        "`quaestor run --retry b --retry a` or run(retry=['b', 'a']), undo them with `quaestor rollback b a`",
    ),
    (errors.InterruptedMigrationError({"a b": LONG_AGO}), RuntimeError, "`quaestor run --retry 'a b'`"),
    (errors.DependencyConflictError({"b": ["a"], "d": ["a", "c"]}), ValueError, "'b' needs 'a'; 'd' needs 'a', 'c'"),
    (
        errors.DependencyConflictError({"b": ["a"]}, True),
        ValueError,
        "'b' needs 'a'. They would run in the wrong",
    ),
    (
        errors.DependencyConflictError({"b": ["a"]}, undo=True),
        ValueError,
        "Roll it back, too. Nothing was rolled back.",
    ),
    (errors.InvalidOptionError("on_event must be a plain function."), ValueError, "on_event"),
    (errors.UnfinishedMigrationError("a", "a generator"), TypeError, "'a' returned a generator"),
    (
        errors.PreconditionFailedError("a", "app.check", "returned False"),
        RuntimeError,
        "'a' didn't begin, because its precondition app.check returned False. Correct the data",
    ),
    (
        errors.PreconditionFailedError("a", "app.check", "raised ValueError: Two are the same!"),
        RuntimeError,
        "raised ValueError: Two are the same! Correct",
    ),
    (
        errors.VerificationFailedError("a", "app.verify", "returned False"),
        RuntimeError,
        "'a' isn't recorded, because its verification app.verify returned False. What it changed stays changed.",
    ),
    (
        errors.VerificationFailedError("a", "app.verify", "returned False", True),
        RuntimeError,
        "Nothing of it is applied: its transaction was aborted.",
    ),
    (
        errors.InvalidGuardError("a", "precondition", "app.check", "returned a value of type int"),
        TypeError,
        "The precondition app.check of migration 'a' returned a value of type int.",
    ),
    (
        errors.PlanChangedError("01", "23", ["a", "b"]),
        RuntimeError,
        "expected 01, but this would be 23, which applies a, b",
    ),
    (
        errors.LeaseTimeoutError(2.5, lease()),
        TimeoutError,
        "Waited 2.5 s for the lease, held by host (process 7), since",
    ),
    (errors.LeaseLostError("a"), RuntimeError, "'a' may have run"),
    (errors.LeaseLostError(None), RuntimeError, "Nothing was left half done."),
    (errors.LeaseLostError("a", True), RuntimeError, "'a' was stopped at a batch"),
    (errors.OutageError("to record 'a'", 300.2, False), TimeoutError, "Waited 300 s to record 'a': the server can't"),
    (errors.OutageError("to record 'a'", 300.2, True), TimeoutError, "a data-bearing member is down or behind"),
    (
        errors.PrimaryRequiredError("h:1", "a secondary", "h:2"),
        RuntimeError,
        "h:1, a secondary of a replica set, whose primary is h:2",
    ),
    (errors.PrimaryRequiredError("h:1", "an arbiter", None), RuntimeError, "which has no primary now. Connect to"),
    (errors.ServerUnsupportedError(["$inc", "x"]), RuntimeError, "This server evaluates $inc, x differently"),
    (errors.DatabaseSkippedError(["t1", "t2"]), RuntimeError, "Not started, because 2 databases in a row found no"),
    (errors.TransactionsUnsupportedError(["a", "b"]), ValueError, "transaction=True: a, b. This server has no"),
    (
        errors.TransactionsUnsupportedError(["a"], True),
        ValueError,
        "'a' calls for_each_batch with transaction=True, but this server has no transactions",
    ),
    (errors.TransactionFailedError("a", 3, 121.0, True), RuntimeError, "transactionLifetimeLimitSeconds"),
    (errors.TransactionFailedError("a", 200, 9.0, False), RuntimeError, "'a' was aborted 200 times in 9 s"),
    (
        errors.TransactionFailedError("a", 200, 9.0, False, error="OperationFailure 112 (WriteConflict)"),
        RuntimeError,
        "Something else writes the same documents, or the servers have a problem. The last error: OperationFailure 112",
    ),
    (
        errors.TransactionFailedError("a", 5, 0.1, True, went_on=True),
        RuntimeError,
        "An operation failed inside it, which ends a transaction, but the function caught the error",
    ),
    (
        errors.TransactionFailedError("a", 3, 121.0, True, True),
        RuntimeError,
        "a batch of migration 'a' was aborted 3 times in 121 s",
    ),
    (errors.TransactionFailedError("a", 3, 121.0, True, True), RuntimeError, "Make the batches smaller"),
    (errors.BatchesInTransactionError("a"), RuntimeError, "'a' starts a backfill inside a transaction"),
    (errors.DuplicateBackfillError("a", "users"), ValueError, "'a' already has a backfill named 'users'"),
    (errors.DuplicateBackfillError("a", "users"), ValueError, "Pass name="),
    (errors.BackfillChangedError("a", "users", "filter"), RuntimeError, "To resume, use the same filter as before."),
    (
        errors.BackfillChangedError("a", "users", "filter"),
        RuntimeError,
        "`quaestor restart-backfill a --backfill users`",
    ),
    (errors.CollectionChangedError("a", "users"), RuntimeError, "'users' was dropped, renamed or replaced"),
]


@pytest.mark.parametrize(("error", "base", "words"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_error(error: errors.QuaestorError, base: type[Exception], words: str) -> None:
    """Each is a QuaestorError and of a built-in kind, says it in a sentence, and keeps its data through a pickle."""
    copy = pickle.loads(pickle.dumps(error))

    assert isinstance(error, errors.QuaestorError)
    assert isinstance(error, base)
    assert words in str(error)
    assert (str(copy), vars(copy)) == (str(error), vars(error))


BASES = {errors.QuaestorError, errors.GraphError, errors.LeaseError, errors.TransactionError}
ERRORS = {value for value in vars(errors).values() if isinstance(value, type)}


def test_every_error_has_an_example() -> None:
    """No error is left out above."""
    assert {type(error) for error, _, _ in EXAMPLES} == ERRORS - BASES


def test_tree() -> None:
    """The tree in the docstring has every error, below its base, and its built-in base."""
    tree: dict[str, tuple[str, str]] = {}
    above = ["QuaestorError"]
    for indent, name, built_in in re.findall(
        r"^    ([│ ]*)[├└]── (\w+) +(?:\((\w+)\))?", str(errors.__doc__), re.MULTILINE
    ):
        above = [*above[: len(indent) // 4 + 1], name]
        tree[name] = above[-2], built_in
    assert set(tree) == {error.__name__ for error in ERRORS - {errors.QuaestorError}}
    for name, (base, built_in) in tree.items():
        error = getattr(errors, name)
        assert getattr(errors, base) in error.__bases__
        assert issubclass(error, getattr(builtins, built_in or "Exception"))
