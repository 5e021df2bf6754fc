"""What is shown of errors: of a driver's, its code and no value of a document."""

import logging
import re
import signal
from collections.abc import Callable
from typing import Any

import bson
import pytest
from bson.errors import BSONError, InvalidDocument
from hypothesis import example, given
from hypothesis import strategies as st
from pymongo import MongoClient, errors

from quaestor import Event, MigrationFailed, RunFailed, RunStarted, log_event
from quaestor._hosts.calls import guard
from quaestor._text import format_error, format_traceback
from quaestor.cli import signals
from quaestor.cli.endings import report_errors
from quaestor.cli.event_lines import to_json

OFFLINE: Any = MongoClient("mongodb://h", connect=False)
PLACE = ("shop", "app", "r1", "a", 1, 1)
DUPLICATE = 'E11000 duplicate key error collection: shop.users index: email_1 dup key: { email: "ada" }'
REPLY = {"$clusterTime": {"signature": {"hash": b"s3cret"}}, "keyValue": {"email": "ada"}}


def failed(code: int, message: str, **more: Any) -> dict[str, Any]:
    return {"index": 0, "code": code, "errmsg": message, "op": {"ssn": "ada"}, **more}


def bulk(*write_errors: dict[str, Any], concern_errors: tuple[dict[str, Any], ...] = ()) -> dict[str, Any]:
    return {"writeErrors": list(write_errors), "writeConcernErrors": list(concern_errors), "nInserted": 0}


def encoded(value: object) -> InvalidDocument:
    with pytest.raises(InvalidDocument) as caught:
        bson.encode({"a": value, "ssn": "ada"})
    return caught.value


class Odd:
    def __repr__(self) -> str:
        return "ada, of type: ada"


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (
            errors.DuplicateKeyError(DUPLICATE, 11000, REPLY),
            "DuplicateKeyError 11000 (DuplicateKey): E11000 duplicate key error collection: shop.users index: email_1",
        ),
        (
            errors.DuplicateKeyError(f"Index build failed: 127e: Collection x :: caused by :: {DUPLICATE}", 11000),
            "DuplicateKeyError 11000 (DuplicateKey): E11000 duplicate key error collection: shop.users index: email_1",
        ),
        (errors.DuplicateKeyError("E11000 Duplicate Key Error", 11000), "11000 (DuplicateKey): E11000 Duplicate Key"),
        (
            errors.BulkWriteError(bulk(*[failed(11000, DUPLICATE)] * 992)),
            "BulkWriteError 11000 (DuplicateKey): 992 write errors, the first: E11000 duplicate key error",
        ),
        (
            errors.BulkWriteError(bulk(failed(121, "Document failed validation", errInfo={"consideredValue": "ada"}))),
            "BulkWriteError 121 (DocumentValidationFailure): 1 write error: Document failed validation",
        ),
        (
            errors.BulkWriteError(
                bulk(concern_errors=({"code": 79, "codeName": "UnknownReplWriteConcern", "errmsg": "No mode 'ada'"},))
            ),
            "BulkWriteError 79 (UnknownReplWriteConcern): No mode…",
        ),
        (
            errors.ClientBulkWriteException({"error": None, **bulk(failed(11000, DUPLICATE))}, verbose=True),
            "ClientBulkWriteException 11000 (DuplicateKey): 1 write error: E11000",
        ),
        (
            errors.ClientBulkWriteException({"error": errors.OperationFailure("x: ada", 2), **bulk()}, verbose=True),
            "OperationFailure 2 (BadValue): x…",
        ),
        (
            errors.WriteError("Cannot create field 'b' in element {a: \"ada\"}", 28, failed(28, "")),
            "WriteError 28 (PathNotViable): Cannot create field 'b' in element…",
        ),
        (
            errors.OperationFailure("Failed to parse number 'ada' in $convert", 241, {"codeName": "ConversionFailure"}),
            "OperationFailure 241 (ConversionFailure): Failed to parse number…",
        ),
        (
            errors.OperationFailure("$size's argument has type string", 17124, {"codeName": "Location17124"}),
            "OperationFailure 17124: $size's argument has type string",
        ),
        (errors.WriteConcernError("Not enough nodes", 100, {"errInfo": "ada"}), "100: Not enough nodes"),
        (errors.NotPrimaryError("not primary", {"ada": 1}), "NotPrimaryError: not primary"),
        (errors.ServerSelectionTimeoutError("h:1: refused, Timeout: 1s, Topology: ada"), "Error: h:1: refused"),
        (errors.AutoReconnect("127.0.0.1:1: refused (configured timeouts: x)"), "AutoReconnect: 127.0.0.1:1: refused"),
        (errors.ConfigurationError("Unknown option: x."), "ConfigurationError: Unknown option: x."),
        (errors.InvalidURI('Bad database name "ada"'), "InvalidURI: Bad database name…"),
        (errors.CollectionInvalid("collection users already exists"), "CollectionInvalid: collection users already"),
        (errors.InvalidOperation("No operations to execute"), "InvalidOperation: No operations to execute"),
        (encoded(Odd()), "InvalidDocument: cannot encode an object of type <class 'tests.test_shown_errors.Odd'>"),
        (errors.DocumentTooLarge("BSON document too large (17000245 bytes)"), "BSON document too large…"),
    ],
)
def test_drivers_error(error: Exception, shown: str) -> None:
    """Class, code, name and message up to where a value may begin; of a bulk write, how many errors and the first."""
    text = format_error(error)
    assert shown in text
    for secret in ("ada", "clusterTime", "full error", "s3cret"):
        assert secret not in text


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (lambda: OFFLINE.a.b.bulk_write([{"ssn": "ada"}]), "TypeError: …"),
        (lambda: bson.ObjectId("ada"), "InvalidId: …"),
        (
            lambda: bson.decode(b"\x10\0\0\0\x02a\0\x04\0\0\0\xff\xfe\xfd\0\0"),
            "InvalidBSON: 'utf-8' codec can't decode",
        ),
    ],
)
def test_raised_by_a_driver(call: Callable[[], object], shown: str) -> None:
    """An error that a driver's code raised is shown as the driver's own are, whatever its class is."""
    with pytest.raises((TypeError, BSONError)) as caught:
        call()
    assert format_error(caught.value).startswith(shown)


TEMPLATES = [
    ("Cannot create field 'b' in element {a: \"%\"}", 28),
    ("Failed to parse number '%' in $convert with no onError value: Bad digit \"x\" while parsing %", 241),
    ("Executor error during find command :: caused by :: uncaught exception: %", 8),
    ("language override unsupported: %", 17262),
    ('replacement document must evaluate to an object, but was: "%". Input document: {_id: 0, a: "%"}', 40228),
    ('Can\'t extract geo keys: { loc: "%" }  geo element must be an array or object: loc: "%"', 16755),
    ('E11000 duplicate key error collection: shop.users index: email_1 dup key: { email: "%" }', 11000),
    ("Invalid document: cannot encode object: %, of type: <class 'app.Odd'>", None),
]


@given(value=st.text("ÞÆØ \"'`{}[]():;,.$%&1\n"), template=st.sampled_from(TEMPLATES))
@example('"} dup key: { Þ, full error: Þ', TEMPLATES[0])
@example("E11000 duplicate key error collection: Þ index: Þ dup key: Þ", TEMPLATES[0])
@example("field 'Þ', of type: <class 'Þ'>", TEMPLATES[1])
@example("1, of type: <class 'Þ'>", TEMPLATES[7])
def test_no_value(value: str, template: tuple[str, int | None]) -> None:
    """No letter of a document's value appears, whatever is in it and wherever the server writes it."""
    message, code = template[0].replace("%", value), template[1]
    document = {"email": value, "more": {"values": [value]}}
    reply = {"code": code, "errmsg": message, "keyValue": document, "errInfo": {"details": document}, "op": document}
    for error in (
        errors.WriteError(message, code, reply),
        errors.BulkWriteError(bulk(reply, reply)),
        errors.EncryptionError(errors.OperationFailure(message, code, reply)),
        InvalidDocument(message, document),
    ):
        assert not set("ÞÆØ") & set(format_error(error))


def test_own_error() -> None:
    """A user's own exception is shown with its text, cut after 2,000 characters."""
    assert format_error(ValueError("bad {'ssn': 'ada'}")) == "ValueError: bad {'ssn': 'ada'}"
    assert format_error(ValueError("x" * 3000)) == f"ValueError: {'x' * 2000}…"


def test_json() -> None:
    """In JSON the code is a field."""
    assert to_json(errors.BulkWriteError(bulk(failed(11000, DUPLICATE))), str) == {
        "type": "BulkWriteError",
        "message": "1 write error: E11000 duplicate key error collection: shop.users index: email_1",
        "code": 11000,
        "code_name": "DuplicateKey",
        "write_errors": 1,
    }


def test_log_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """The message of an event is one line, and only one of the events of a failure has the text of the error."""
    error = ValueError("first\nsecond")
    error.add_note("quaestor: in migration 'a', 1 of 1")
    for event in (MigrationFailed(*PLACE, error), RunFailed("shop", "app", "r1", error)):
        log_event(event)
    assert [record.getMessage() for record in caplog.records] == [
        "[shop/app] Failed to apply 'a' (1 of 1): ValueError: first second",
        "[shop/app] Run failed in migration 'a', 1 of 1",
    ]


def test_hook_that_fails_after_a_driver(caplog: pytest.LogCaptureFixture) -> None:
    """The log of a hook's exception has the traceback of its context, and no document."""

    def hook(event: Event) -> None:
        raise ValueError("hook")

    def fail() -> None:
        raise errors.BulkWriteError(bulk(failed(11000, DUPLICATE)))

    with caplog.at_level(logging.ERROR):
        try:
            fail()
        except errors.BulkWriteError:
            guard(hook)(RunStarted("shop", "app", "r1", ()))
    assert re.search(r"1 write error: E11000.*in hook\n.*ValueError: hook$", caplog.text.strip(), re.DOTALL)
    assert "ada" not in caplog.text


def test_traceback_of_causes_in_a_circle() -> None:
    """Causes that cause each other are shown once each."""
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert format_traceback(first) == "ValueError: second\nValueError: first"


def test_failure_beside_an_interruption(capsys: pytest.CaptureFixture[str]) -> None:
    """A failure of a migration that came to its end after Ctrl-C is reported too."""
    with pytest.raises(SystemExit), report_errors(str):
        raise KeyboardInterrupt from ValueError("boom")
    assert capsys.readouterr().err == "quaestor: ValueError: boom.\nquaestor: Interrupted.\n"


@pytest.mark.parametrize(("echo", "handled"), [(float("inf"), [signal.SIGTERM]), (0, [signal.SIGTERM] * 2)])
def test_signal_that_comes_twice(monkeypatch: pytest.MonkeyPatch, echo: float, handled: list[int]) -> None:
    """`timeout` sends a signal twice at once: that isn't the second signal, which ends the release of the lease."""
    monkeypatch.setattr(signals, "_ECHO", echo)
    seen: list[int] = []
    handler = signals.skip_echoes(seen.append)
    for _ in range(2):
        handler(signal.SIGTERM, None)
    assert seen == handled
