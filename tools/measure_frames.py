"""Measure how many of our frames are above a failing migration, with each driver. See tools/measure.py."""

import asyncio
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

from pymongo import AsyncMongoClient, MongoClient

from tools.measure_runs import NAME, Driver, Row, by_driver, drivers, is_own, make_registry, reset, shorten


class FailedError(Exception):
    """Raised by the functions below, and by nothing else."""


def _fail(_: object) -> None:
    raise FailedError


async def _fail_async(_: object) -> None:
    raise FailedError


def _fail_together(_: object) -> None:
    time.sleep(0.2)  # so that all are running when the first one fails
    raise FailedError


async def _fail_together_async(_: object) -> None:
    await asyncio.sleep(0.2)
    raise FailedError


def _fail_in_batch(db: Any, context: Any) -> None:
    context.for_each_batch(db.things, _fail, transaction=False)


async def _fail_in_batch_async(db: Any, context: Any) -> None:
    await context.for_each_batch(db.things, _fail_async, transaction=False)


def _fail_in_transaction(db: Any, context: Any) -> None:
    context.for_each_batch(db.things, _fail)


async def _fail_in_transaction_async(db: Any, context: Any) -> None:
    await context.for_each_batch(db.things, _fail_async)


# By the name of the row: its target, and its variants as (sync function, async function, how many of it, concurrency).
Variant = tuple[Callable[..., Any], Callable[..., Any], int, int]
FAILURES: Mapping[str, tuple[int, tuple[Variant, ...]]] = {
    "plain": (10, ((_fail, _fail_async, 1, 1),)),
    "concurrent": (12, ((_fail, _fail_async, 1, 4), (_fail_together, _fail_together_async, 3, 4))),
    "body of a batch": (14, ((_fail_in_batch, _fail_in_batch_async, 1, 1),)),
    "body of a batch in a transaction": (18, ((_fail_in_transaction, _fail_in_transaction_async, 1, 1),)),
}


def frames(uri: str) -> Iterator[Row]:
    """Count our frames above a failing function, in the traceback that the caller gets; the worst driver counts."""
    with MongoClient[dict[str, Any]](uri) as client, drivers(uri) as found:
        for failure, (target, variants) in FAILURES.items():
            seen = {driver.name: _worst(client, driver, variants, is_async=driver.is_async) for driver in found}
            worst = max(seen.values(), key=len)
            counts = by_driver({name: len(own) for name, own in seen.items()})
            yield Row(f"own frames above a failure: {failure}", f"{len(worst)} ({counts})", str(target), tuple(worst))
        for driver in found:
            kind = "`def`" if driver.is_async else "`async def`"
            crossed = [
                str(len(_worst(client, driver, variants, is_async=not driver.is_async, other=_other(driver, uri))))
                for _, variants in FAILURES.values()
            ]
            yield Row(f"the same four, of {kind} on {driver.name}", " / ".join(crossed))


def _other(driver: Driver, uri: str) -> Mapping[str, Callable[[], Any]]:
    """Make the option that a run needs to call functions of the other kind; with Motor it needs none."""
    if driver.name == "Motor":
        return {}
    if driver.is_async:
        return {"sync_db": lambda: MongoClient(uri)[NAME]}
    return {"async_db": lambda: AsyncMongoClient(uri)[NAME]}  # a new one for each run: it is closed at the run's end


def _worst(
    client: MongoClient[dict[str, Any]],
    driver: Driver,
    variants: Iterable[Variant],
    *,
    is_async: bool,
    other: Mapping[str, Callable[[], Any]] | None = None,
) -> list[str]:
    """Return our frames above the failing function, of the variant that has the most."""
    seen = []
    for sync_function, async_function, count, concurrency in variants:
        reset(client)
        client[NAME].things.insert_many({} for _ in range(3))
        registry = make_registry(async_function if is_async else sync_function, count)
        databases = {option: make() for option, make in (other or {}).items()}
        try:
            driver.apply(registry, concurrency=concurrency, on_event=_ignore, **databases)
        except (FailedError, ExceptionGroup) as error:
            seen.append(own_frames(error))
        finally:
            if "sync_db" in databases:
                databases["sync_db"].client.close()
    return max(seen, key=len)


def own_frames(error: BaseException) -> list[str]:
    """List the package's frames above the function that failed; of a group, its own and those of its worst member.

    Raises:
        BaseException: The error itself, if it is not from one of the failing functions.
    """
    stack = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, BaseExceptionGroup):
        return [*_own(stack), *max(map(own_frames, error.exceptions), key=len)]
    if not isinstance(error, FailedError):
        raise error
    return _own(stack)  # a failing function calls nothing: all frames are above it


def _own(stack: Iterable[FrameType]) -> list[str]:
    codes = [frame.f_code for frame in stack]
    return [f"{shorten(code.co_filename)}: {code.co_qualname}" for code in codes if is_own(code.co_filename)]


def _ignore(_: object) -> None:
    """Keep a failing run out of the log."""
