"""What targets, rollbacks, marks and the status are tried with, as data for sync and async tests."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from bson import ObjectId
from bson.binary import Binary

from quaestor import MigrationRegistry
from tests.functions import Broken

LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)

DIAMOND = {"aside": [], "end": ["left", "right"], "left": ["top"], "right": ["top"], "top": []}
CHAIN = {"a": [], "b": ["a"], "c": ["b"], "d": ["c"]}


@dataclass(frozen=True)
class Case:
    """What is asked for, and what comes of it.

    Attributes:
        needs: name -> names it depends on.
        recorded: What is applied before.
        targets: What is asked for; None: all.
        planned: What is applied, or undone, in order: name -> reason.
    """

    title: str
    needs: Mapping[str, Sequence[str]]
    recorded: Sequence[str]
    targets: Sequence[str] | None
    planned: Mapping[str, str]

    def __str__(self) -> str:
        return self.title.replace(" ", "-")


ASKED = "asked for"

TARGETS = [
    Case("all", CHAIN, [], None, dict.fromkeys("abcd", ASKED)),
    Case("one and what it needs", DIAMOND, [], ["left"], {"top": "needed by left", "left": ASKED}),
    Case("needed by several", DIAMOND, [], ["end"],
         {"top": "needed by left, right", "left": "needed by end", "right": "needed by end", "end": ASKED}),
    Case("two, given backwards and twice", DIAMOND, [], ["top", "aside", "top"], {"aside": ASKED, "top": ASKED}),
    Case("what is applied counts as met", CHAIN, ["b"], ["d"], {"c": "needed by d", "d": ASKED}),
    Case("none", CHAIN, [], [], {}),
    Case("unknown records are left alone", {"a": []}, ["from tomorrow"], ["a"], {"a": ASKED}),
    Case("names of all kinds", {"ünïcode ☃": ["$a.b"], "$a.b": [], "c": []}, [], ["ünïcode ☃"],
         {"$a.b": "needed by ünïcode ☃", "ünïcode ☃": ASKED}),
]  # fmt: skip
"""Of `run` and `plan`."""

ROLLBACKS = [
    Case("the last", CHAIN, "abcd", ["d"], {"d": ASKED}),
    Case("one that others need", CHAIN, "abcd", ["b"], {"d": "needs c", "c": "needs b", "b": ASKED}),
    Case("in reverse order", DIAMOND, [*DIAMOND], ["top"],
         {"end": "needs left, right", "right": "needs top", "left": "needs top", "top": ASKED}),
    Case("all", DIAMOND, [*DIAMOND], [*DIAMOND], dict.fromkeys(["end", "right", "left", "top", "aside"], ASKED)),
    Case("a part is applied", DIAMOND, ["top", "left"], ["top"], {"left": "needs top", "top": ASKED}),
    Case("by way of one that is not applied", CHAIN, "abd", ["b"], {"d": "needs c", "b": ASKED}),
    Case("one that is not applied, of one that is", CHAIN, "acd", ["b"], {"d": "needs c", "c": "needs b"}),
    Case("one that is not applied", CHAIN, "a", ["b"], {}),
    Case("none", CHAIN, "abcd", [], {}),
    Case("unknown records are left alone", {"a": []}, ["a", "from tomorrow"], ["a"], {"a": ASKED}),
    Case("names of all kinds", {"ünïcode ☃": ["$a.b"], "$a.b": []}, ["ünïcode ☃", "$a.b"], ["$a.b"],
         {"ünïcode ☃": "needs $a.b", "$a.b": ASKED}),
]  # fmt: skip
"""Of `rollback` and `plan_rollback`."""

MARKS_APPLIED = [
    Case("all", DIAMOND, [], [*DIAMOND], dict.fromkeys(["aside", "top", "left", "right", "end"], ASKED)),
    Case("the first", CHAIN, [], ["a"], {"a": ASKED}),
    Case("the next", CHAIN, "ab", ["c"], {"c": ASKED}),
    Case("given backwards and twice", CHAIN, [], ["b", "a", "b"], {"a": ASKED, "b": ASKED}),
    Case("some are applied", CHAIN, "a", ["a", "b"], {"b": ASKED}),
    Case("one that is applied", CHAIN, "a", ["a"], {}),
    Case("none", CHAIN, [], [], {}),
]
"""Of `mark_applied`."""

MARKS_PENDING = [
    Case("all", DIAMOND, [*DIAMOND], [*DIAMOND], dict.fromkeys(["end", "right", "left", "top", "aside"], ASKED)),
    Case("the last", CHAIN, "abcd", ["d"], {"d": ASKED}),
    Case("given in order and twice", CHAIN, "abcd", ["c", "d", "c"], {"d": ASKED, "c": ASKED}),
    Case("nothing that is applied needs it", CHAIN, "ab", ["b", "c"], {"b": ASKED}),
    Case("one that is not applied", CHAIN, "a", ["b"], {}),
    Case("unknown ones", {"a": []}, ["a", "z", "from tomorrow"], ["z", "a", "from tomorrow"],
         {"from tomorrow": ASKED, "z": ASKED, "a": ASKED}),
    Case("none", CHAIN, "abcd", [], {}),
]  # fmt: skip
"""Of `mark_pending`."""

BAD_NAMES = [
    ("a", "must be a list of names, not a str: write ['a']"),
    (7, "must be a list of names (str), not 7"),
    (["a", 7], "must be a list of names (str), not ['a', 7]"),
]
"""What cannot be a list of names, and words of what is said of it."""

BREAKS = {
    "doubled": [{"_id": ObjectId(), "name": "a", "appliedAt": LONG_AGO} for _ in range(3)],
    "with ids of all kinds": [
        {"_id": 1, "name": "a"},
        {"_id": Binary(b"1234567890abcdef", 4), "name": "a", "appliedAt": LONG_AGO},
        {"_id": {"of": ["a"]}, "name": "a", "appliedAt": "yesterday"},
        {"_id": "another", "name": "a", "appliedAt": None},
    ],
    "without a date": [{"_id": "a", "name": "a"}],
    "ours and old": [
        {"_id": "a", "name": "a", "appliedAt": LONG_AGO},
        {"_id": ObjectId(), "name": "a", "appliedAt": LONG_AGO},
    ],
}
"""Records of `a` that may be found."""


def records(*names: str) -> list[dict[str, Any]]:
    """Records of a long time ago."""
    return [{"_id": name, "name": name, "appliedAt": LONG_AGO} for name in names]


def registry(
    needs: Mapping[str, Sequence[str]],
    kind: str,
    calls: list[str],
    *,
    transaction: bool = False,
    irreversible: Collection[str] = (),
    fails: str | None = None,
) -> MigrationRegistry:
    """Migrations that note `name` in `calls` and leave a document, and rollbacks that note `undo name` and remove it.

    Args:
        needs: name -> names it depends on.
        kind: Whether the functions are "sync" or "async".
        calls: Where they note that they are called.
        transaction: As for `register`.
        irreversible: Those without a rollback.
        fails: What is noted last: that function removes its document as well, and raises Broken then.
    """
    registry = MigrationRegistry()
    for name, depends_on in needs.items():
        registry.register(name, depends_on, transaction=transaction)(_applies(name, kind, calls))
        if name not in irreversible:
            registry.register_rollback(name)(_undoes(name, kind, calls, fails))
    return registry


def _applies(name: str, kind: str, calls: list[str]) -> Any:
    def function(db: Any) -> None:
        calls.append(name)
        db.effects.insert_one({"_id": name})

    async def function_async(db: Any) -> None:
        calls.append(name)
        await db.effects.insert_one({"_id": name})

    return {"sync": function, "async": function_async}[kind]


def _undoes(name: str, kind: str, calls: list[str], fails: str | None) -> Any:
    def called() -> None:
        calls.append(f"undo {name}")
        if calls[-1] == fails:
            raise Broken(name)

    def function(db: Any) -> None:
        db.effects.delete_one({"_id": name})
        called()

    async def function_async(db: Any) -> None:
        await db.effects.delete_one({"_id": name})
        called()

    return {"sync": function, "async": function_async}[kind]
