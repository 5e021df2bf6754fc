"""The two drivers of a flow: perform each effect, give the flow its answer or throw in what went wrong.

A flow is always run to its end or thrown into, never abandoned, so that its own `try` and `finally` decide what
happens after a failure, a cancellation or Ctrl-C. The inner loop stands in the `try`, for Python may raise
KeyboardInterrupt between any two steps.
"""

from collections.abc import Awaitable, Callable, Generator
from inspect import GEN_CLOSED, getgeneratorstate
from typing import TypeVar

E = TypeVar("E")
R = TypeVar("R")


def drive(flow: Generator[E, object, R], perform: Callable[[E], object]) -> R:
    """Run a flow to its end, with plain calls."""
    thrown: BaseException | None = None
    while True:
        try:
            effect = next(flow) if thrown is None else flow.throw(thrown)
            while True:
                effect = flow.send(perform(effect))
        except BaseException as error:
            if getgeneratorstate(flow) == GEN_CLOSED:
                if isinstance(error, StopIteration):
                    result: R = error.value
                    return result
                if isinstance(thrown, StopIteration) and error.__cause__ is thrown:
                    # A generator cannot be left by a StopIteration (PEP 479), but a migration can, by `next(cursor)`:
                    # the RuntimeError that Python made of it gives back what it stands for
                    for note in getattr(error, "__notes__", ()):
                        thrown.add_note(note)
                    raise thrown from thrown.__cause__
                raise
            thrown = error


async def drive_async(flow: Generator[E, object, R], perform: Callable[[E], Awaitable[object]]) -> R:
    """Run a flow to its end, awaiting every effect.

    A StopIteration cannot leave a coroutine: Python makes a RuntimeError of it, with the StopIteration as its cause.
    """
    thrown: BaseException | None = None
    while True:
        try:
            effect = next(flow) if thrown is None else flow.throw(thrown)
            while True:
                effect = flow.send(await perform(effect))
        except BaseException as error:
            if getgeneratorstate(flow) == GEN_CLOSED:
                if isinstance(error, StopIteration):
                    result: R = error.value
                    return result
                raise
            thrown = error
