"""Performing a flow dry: the same order of steps, with one read and nothing done."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar, assert_never

from quaestor._core.effects import (
    AcquireLease,
    AskForTransactions,
    BreakLease,
    CheckLease,
    CommitAgain,
    Effect,
    Emit,
    EndSessions,
    Execute,
    FindRecord,
    Flow,
    ForgetProgress,
    FreeLease,
    KeepLease,
    Now,
    OpenSessions,
    ReadLock,
    ReadProgress,
    ReadRecords,
    Record,
    ReleaseLease,
    RenewLease,
    SideBySide,
    Sleep,
    Transact,
    Unrecord,
)
from quaestor._core.lease import Lock, Terms
from quaestor._core.records import Records
from quaestor._core.transaction import Attempt, Ending
from quaestor.status import Lease

R = TypeVar("R")

_NEVER = datetime.min.replace(tzinfo=UTC)


def rehearsed(flow: Flow[R], terms: Terms) -> Flow[R]:
    """The flow with the first read of its records alone: all else is answered as if it had been done."""
    records: Records | None = None
    go_on: Callable[[], Effect] = partial(next, flow)
    while True:
        try:
            effect = go_on()
        except StopIteration as ended:
            result: R = ended.value
            return result
        try:
            if isinstance(effect, ReadRecords) and records is not None:
                answer: object = records
            else:
                answer = yield from _rehearse(effect, terms)
        except GeneratorExit:
            flow.close()
            raise
        except BaseException as error:  # noqa: BLE001 - it is the flow's
            go_on = partial(flow.throw, error)
        else:
            records = answer if isinstance(answer, Records) else records
            go_on = partial(flow.send, answer)


def _rehearse(effect: Effect, terms: Terms) -> Flow[object]:  # noqa: C901, PLR0911 - it is one table
    match effect:
        case ReadRecords() | AskForTransactions() | Now() | Sleep():  # the last two between attempts at the read
            return (yield from effect)
        case AcquireLease():
            return Lease(terms.owner, 0, "", 0, _NEVER, _NEVER, effect.migrations)
        case RenewLease() | CheckLease() | Record() | Unrecord() | FindRecord():
            return True
        case OpenSessions():
            return ()
        case ReadLock():
            return Lock()
        case ReadProgress():
            return {}
        case Execute():
            return 0.0
        case Transact() | CommitAgain():
            return Attempt(Ending.COMMITTED)
        case ForgetProgress() | BreakLease() | EndSessions() | FreeLease() | KeepLease() | ReleaseLease():
            return None
        case SideBySide() | Emit():
            return None
        case _:
            assert_never(effect)
