"""What a run must do, as data for sync and async tests: migrations and records before, and what comes out."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bson import Code, Decimal128, Int64, MaxKey, MinKey, ObjectId, Timestamp
from bson.binary import Binary, UuidRepresentation
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS

from quaestor import MigrationRegistry
from tests.functions import Broken


@dataclass(frozen=True)
class Scenario:
    """A registry, what its database holds, and what a run makes of it.

    Attributes:
        migrations: name -> names it depends on, in the order of registration.
        records: The documents in the records collection before the run.
        applied: What the run returns, and the order in which the functions are called.
        fails: The migration that raises, if any; `applied` is then what was recorded before it.
    """

    title: str
    migrations: dict[str, list[str]]
    applied: list[str]
    records: list[dict[str, Any]] = field(default_factory=list)
    fails: str | None = None

    def __str__(self) -> str:
        return self.title.replace(" ", "-")


def old_records(*names: str) -> list[dict[str, Any]]:
    """Records as mongo-quaestor 0.1.0 wrote them: with an ObjectId, and doubled where two instances ran at once."""
    return [{"_id": ObjectId(), "name": name, "appliedAt": datetime(2025, 1, 1, tzinfo=UTC)} for name in names]


SCENARIOS = [
    Scenario("nothing registered", {}, []),
    Scenario("one", {"a": []}, ["a"]),
    Scenario("alphabetical when independent", {"c": [], "a": [], "b": []}, ["a", "b", "c"]),
    Scenario("dependencies first", {"a": ["z"], "z": []}, ["z", "a"]),
    Scenario("not level by level", {"b": ["a"], "c": [], "a": []}, ["a", "b", "c"]),
    Scenario("diamond", {"top": [], "left": ["top"], "right": ["top"], "end": ["left", "right"]},
             ["top", "left", "right", "end"]),
    Scenario("a dependency named twice", {"b": ["a", "a"], "a": []}, ["a", "b"]),
    Scenario("all applied", {"a": [], "b": ["a"]}, [], old_records("a", "b")),
    Scenario("an applied dependency counts as met", {"a": ["z"], "b": [], "z": []}, ["a", "b"], old_records("z")),
    Scenario("an applied migration with a new dependency", {"a": ["z"], "b": ["a"], "z": []}, ["b", "z"],
             old_records("a")),
    Scenario("doubled records of the old tool", {"a": [], "b": []}, ["b"], old_records("a", "a", "a")),
    Scenario("records of an unknown release", {"a": []}, ["a"], old_records("from_tomorrow")),
    Scenario("records with odd ids", {"a": [], "b": [], "c": [], "d": [], "e": []}, ["e"],
             [{"_id": 1, "name": "a"}, {"_id": Binary(b"1234567890abcdef", 4), "name": "b"},
              {"_id": {"a": [1]}, "name": "c"}, {"_id": "c", "name": "d"}]),
    Scenario("records without a name", {"a": []}, ["a"], [{"_id": 1}, {"_id": 2, "name": 7}, {"_id": "other"},
              {"_id": 3, "name": Code("a")}]),
    Scenario("a failure ends the run", {"a": [], "b": [], "c": []}, ["a"], fails="b"),
    Scenario("a failure at the start", {"a": [], "b": []}, [], fails="a"),
    Scenario("names of all kinds", {"ünïcode ☃": ["with space"], "with space": [], "$dollar.dot": [], "0001": []},
             ["$dollar.dot", "0001", "with space", "ünïcode ☃"]),
]  # fmt: skip

BAD_PREFIXES = [
    (None, "must be a str, not None"),
    (7, "must be a str, not int"),
    ("", "must not be empty"),
    ("mongodb://user:se$cret@host/app", "looks like a URI"),
    ("app ", "must not start or end with white space: 'app '"),
    ("\u00a0app", "must not start or end with white space"),
    ("cafe\u0301", "must be in the Unicode form NFC, which is 'caf\\xe9'"),
    ("my$app", "can't contain '$'"),
    ("my\0app", "can't contain '\\x00'"),
    ("my..app", "can't contain '..'"),
    ("system.app", "must not start with 'system.'"),
    (".app", "must not start with '.'"),
    ("\ud800", "lone surrogates"),
    ("p" * 250, "bytes too long"),
]
"""What cannot be a prefix, and words of what is said of it."""

BAD_OPTIONS = [
    ({"lease_ttl": 0.5}, "lease_ttl must be a number of seconds, from 1 to 86,400, not 0.5"),
    ({"lease_ttl": None}, "lease_ttl must be a number of seconds, from 1 to 86,400, not None"),
    ({"lease_timeout": -1}, "lease_timeout must be a number of seconds, from 0 to 1,000,000,000, not -1"),
]
"""What cannot be a time, and words of what is said of it."""


def registry(scenario: Scenario, kind: str, calls: list[str]) -> MigrationRegistry:
    """The scenario's registry; its functions note their names in `calls` and leave a document."""
    registry = MigrationRegistry()
    for name, depends_on in scenario.migrations.items():
        registry.register(name, depends_on)(_function(name, kind, calls, fails=name == scenario.fails))
    return registry


def _function(name: str, kind: str, calls: list[str], *, fails: bool) -> Any:
    def called() -> None:
        if fails:
            raise Broken(name)
        calls.append(name)

    def function(db: Any) -> None:
        called()
        db.effects.insert_one({"migration": name})

    async def function_async(db: Any) -> None:
        called()
        await db.effects.insert_one({"migration": name})

    return {"sync": function, "async": function_async}[kind]


IDS: list[Any] = [
    MinKey(),
    None,
    float("nan"), float("-inf"), Decimal128("-1E6000"), -(2**40), -5, 0, 0.5, Decimal128("0.6"), 1, 2**31, Int64(2**62),
    Decimal128("1E6000"), float("inf"),
    "", "$a.b", "A", "a", "b" * 900, "\u00fc", "\U0001f600",
    {}, {"b": None}, {"a": 1}, {"a": 2, "b": {}}, {"a": {}},
    Binary(b""), Binary(b"ab"), Binary(b"abc"), Binary(b"abc", 128), uuid.UUID(int=7), Binary(b"0123456789abcdef", 5),
    ObjectId("0" * 24), ObjectId("f" * 24),
    False, True,
    DatetimeMS(-(2**62)), datetime(1, 1, 1), datetime(2026, 1, 1), DatetimeMS(2**62),  # noqa: DTZ001 - as they are read
    Timestamp(0, 1), Timestamp(2**32 - 1, 2**32 - 1),
    Code("a"), Code("b"),
    Code("a", {}), Code("a", {"b": 1}),
    MaxKey(),
]  # fmt: skip
"""What can be an `_id`, of all types, in the order of MongoDB."""

CODEC: CodecOptions[Any] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD, datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
"""Options with which all of these can be written, and read as they are."""
