"""Performing a flow and, beside it, what it starts: in threads, or in tasks. Both in pairs."""

import asyncio
import contextvars
import itertools
import threading
from collections.abc import Awaitable, Callable, Generator
from functools import partial
from queue import PriorityQueue
from typing import Generic, TypeAlias, TypeVar

from quaestor._core.effects import Finished, NextFinished, Start
from quaestor._hosts.bodies import Cancellation, Outcome, outcome, outcome_async, result_of
from quaestor._hosts.drive import drive, drive_async
from quaestor._hosts.shield import apart, ended

E = TypeVar("E")
R = TypeVar("R")

_Queued: TypeAlias = tuple[bool, int, Finished | BaseException]
_numbers = itertools.count()


class Threads(Generic[E]):
    """Performs a flow in a thread, and each effect that it starts in another one.

    So nothing interrupts them (Ctrl-C comes to the main thread): the flow is told, and those effects that are to be.

    Args:
        perform: Performs an effect.
    """

    def __init__(self, perform: Callable[[E], object]) -> None:
        self._performed = perform
        self._cancellation = Cancellation()
        self._ended: PriorityQueue[_Queued] = PriorityQueue()

    def drive(self, flow: Generator[E | Start[E] | NextFinished, object, R]) -> R:
        """Run the flow to its end, whatever interrupts this."""
        return apart(partial(drive, flow, self._perform), self._interrupt)

    def _interrupt(self, error: BaseException) -> None:
        self._ended.put(_queued(error))  # first, so that nothing begins when a function ends because it was told
        self._cancellation.cancel(error)

    def _perform(self, effect: E | Start[E] | NextFinished) -> object:
        match effect:
            case Start():
                if effect.is_told:
                    self._cancellation.check()
                context = contextvars.copy_context()
                threading.Thread(target=context.run, args=(self._do, effect), name="quaestor").start()
                return None
            case NextFinished():
                return _finished(self._ended.get())
            case _:
                return self._performed(effect)

    def _do(self, start: Start[E]) -> None:
        if start.is_told:
            self._cancellation.tell()
        self._ended.put(_queued(Finished(start.key, *outcome(partial(self._performed, start.effect)))))


class Tasks(Generic[E]):
    """The same in tasks of the running event loop: no cancellation of the caller reaches them.

    Args:
        perform: Performs an effect.
    """

    def __init__(self, perform: Callable[[E], Awaitable[object]]) -> None:
        self._performed = perform
        self._ended: asyncio.PriorityQueue[_Queued] = asyncio.PriorityQueue()
        self._under_way: dict[asyncio.Task[Outcome[object]], Start[E]] = {}
        self._is_interrupted = False

    async def drive(self, flow: Generator[E | Start[E] | NextFinished, object, R]) -> R:
        """Run the flow to its end, whatever interrupts this."""
        driven = asyncio.create_task(outcome_async(drive_async(flow, self._perform)))
        try:
            return result_of(await asyncio.shield(driven))
        except asyncio.CancelledError as cancelled:
            if not driven.done():
                self._interrupt(cancelled)
                await ended(driven)
            failure = None if driven.cancelled() else driven.result()[1]
            if isinstance(failure, Exception):  # it came when nothing waited any more
                raise cancelled from failure
            raise

    def _interrupt(self, error: BaseException) -> None:
        self._is_interrupted = True
        for task, start in self._under_way.items():
            if start.is_told:
                task.cancel()
        self._ended.put_nowait(_queued(error))

    async def _perform(self, effect: E | Start[E] | NextFinished) -> object:
        match effect:
            case Start():
                if self._is_interrupted and effect.is_told:
                    raise asyncio.CancelledError
                task = asyncio.create_task(self._outcome(effect))
                self._under_way[task] = effect
                task.add_done_callback(self._end)
                return None
            case NextFinished():
                return _finished(await self._ended.get())
            case _:
                return await self._performed(effect)

    async def _outcome(self, start: Start[E]) -> Outcome[object]:
        return await outcome_async(self._performed(start.effect))

    def _end(self, task: asyncio.Task[Outcome[object]]) -> None:
        # A task that is cancelled before it begins has no outcome.
        outcome = (None, asyncio.CancelledError()) if task.cancelled() else task.result()
        self._ended.put_nowait(_queued(Finished(self._under_way.pop(task).key, *outcome)))


def _queued(what: Finished | BaseException) -> _Queued:
    """What has ended, in the order of ends; and before that what interrupts all, so that nothing begins after it."""
    return isinstance(what, Finished), next(_numbers), what


def _finished(queued: _Queued) -> Finished:
    what = queued[2]
    if isinstance(what, BaseException):
        raise what
    return what
