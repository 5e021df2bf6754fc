"""Functions of migrations that return before their work is done, with the words of the error about each."""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from typing import Any


async def write_late(db: Any) -> None:
    """Write at a time that never comes, unless somebody cancels this wait only."""
    await asyncio.Event().wait()
    await db.effects.insert_one({"_id": "late"})


async def drop_command(db: Any) -> None:
    """Forget the await of a driver's command."""
    db.effects.insert_one({"_id": "late"})


async def drop_helper(db: Any) -> None:
    """Forget the await of the user's own function."""
    write_late(db)


async def keep_in_local(db: Any) -> None:
    """Forget the await of what is in a variable."""
    work = write_late(db)
    await asyncio.sleep(0)
    assert work


async def return_list(db: Any) -> Any:
    """Return coroutines in a list."""
    return [write_late(db), write_late(db)]


async def return_dict(db: Any) -> Any:
    """Return a task in a dict."""
    return {"a": asyncio.create_task(write_late(db))}


async def leave_task(db: Any) -> None:
    """Leave a task running that has started."""
    task = asyncio.create_task(write_late(db))
    await asyncio.sleep(0)
    assert not task.done()


async def leave_future(db: Any) -> None:
    """Leave a task running that hasn't started."""
    asyncio.ensure_future(write_late(db))  # noqa: RUF006 - the mistake


async def leave_grandchild(db: Any) -> None:
    """Leave a task running that another task started."""

    async def start() -> None:
        asyncio.create_task(write_late(db))  # noqa: RUF006 - the mistake

    await asyncio.create_task(start())


async def leave_thread(db: Any) -> None:
    """Leave work in a thread running, which ends once the loop goes on."""
    gate, loop = threading.Event(), asyncio.get_running_loop()
    loop.run_in_executor(None, gate.wait)
    loop.call_soon(gate.set)


async def leave_cancelled_thread(db: Any) -> None:
    """Give up waiting for work in a thread, which goes on."""
    began, gate, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def work() -> None:
        loop.call_soon_threadsafe(began.set)
        gate.wait()

    future = loop.run_in_executor(None, work)
    await began.wait()
    future.cancel()
    loop.call_later(0.01, gate.set)


async def return_map(db: Any) -> Any:
    """Return a lazy iterator."""
    return map(db.effects.insert_one, [{"_id": "late"}])


def decorated(function: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    """Decorate a function as users do."""

    @functools.wraps(function)
    async def decorator(*args: Any) -> None:
        await function(*args)

    return decorator


UNFINISHED: list[tuple[Any, str]] = [
    (drop_command, "returned (without awaiting '.*'|while work in a thread was still running), so its work isn't done"),
    (drop_helper, "returned without awaiting 'write_late', so"),
    (decorated(drop_helper), "returned without awaiting 'write_late', so"),
    (functools.partial(drop_helper), "returned without awaiting 'write_late', so"),
    (keep_in_local, "returned without awaiting 'write_late', so"),
    (return_list, r"returned an awaitable \(coroutine\) in a list, so"),
    (return_dict, r"returned an awaitable \(Task\) in a dict, so"),
    (leave_task, "returned while the task 'write_late' was still running, so"),
    (leave_future, "returned while the task 'write_late' was still running, so"),
    (leave_grandchild, "returned while the task 'write_late' was still running, so"),
    (leave_thread, "returned while work in a thread was still running, so"),
    (leave_cancelled_thread, "returned while work in a thread was still running, so"),
    (return_map, r"returned an iterator that nothing has read \(map\), so"),
]
