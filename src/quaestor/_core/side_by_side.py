"""Carrying out a plan: one change after the other, or those that do not need each other side by side.

The steps of a change are a flow of their own, the same in both. Side by side such flows are branches of one: whatever
takes long in a branch is begun beside it (`Start`), and meanwhile the others go on, each as soon as what it waits for
has ended (`NextFinished`). All else that branches ask for is done one at a time, so that between two of its commands a
branch sees nothing of the others.
"""

from collections.abc import Callable, Sequence
from functools import partial

from quaestor._core.effects import (
    BranchFlow,
    CommitAgain,
    Effect,
    Execute,
    Finished,
    Flow,
    NextFinished,
    Sleep,
    Start,
    Transact,
)
from quaestor._core.scheduler import Begun, Schedule


def one_by_one(schedule: Schedule, carry_out: Callable[[Begun], Flow[None]]) -> Flow[None]:
    """Carry out a plan in order. What one raises ends it."""
    while (begun := schedule.begin()) is not None:
        yield from carry_out(begun)
        schedule.end(begun.change.name)


def side_by_side(schedule: Schedule, carry_out: Callable[[Begun], Flow[None]]) -> BranchFlow[None]:
    """Carry out a plan in branches. After the first failure nothing new begins, and what is under way comes to its end.

    Raises:
        Exception: What a branch has raised; a group of all that they have raised, if it is more than one.
        BaseException: What interrupted it, by way of `NextFinished`.
    """
    branches = _Branches(schedule)
    while True:
        while (begun := schedule.begin()) is not None:
            yield from branches.begin(begun, carry_out(begun))
        if not branches.under_way:
            break
        try:
            finished = yield from NextFinished()
        except GeneratorExit:  # the flow itself is thrown away
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised when those under way have ended
            branches.interrupt(error)
        else:
            yield from branches.go_on(finished)
    branches.raise_failures()


class _Branches:
    """Those under way, by their lanes; and what those that ended have raised."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._failures: list[BaseException] = []
        self._interruption: BaseException | None = None
        self.under_way: dict[int, tuple[str, Flow[None]]] = {}

    def begin(self, begun: Begun, branch: Flow[None]) -> BranchFlow[None]:
        self.under_way[begun.lane] = (begun.change.name, branch)
        yield from self._advance(begun.lane, partial(next, branch))

    def go_on(self, finished: Finished) -> BranchFlow[None]:
        """What a branch waited for has ended."""
        _, branch = self.under_way[finished.key]
        if finished.error is None:
            yield from self._advance(finished.key, partial(branch.send, finished.answer))
        else:
            yield from self._advance(finished.key, partial(branch.throw, finished.error))

    def interrupt(self, error: BaseException) -> None:
        """Those under way come to their end, and then it is raised."""
        self._schedule.stop()
        self._interruption = error

    def raise_failures(self) -> None:
        """Raise what is to be raised, now that nothing is under way."""
        if self._interruption is None:
            if self._failures:
                raise _together(self._failures)
            return
        # Those that it has ended have raised something like it.
        own = [one for one in self._failures if isinstance(one, Exception) and one is not self._interruption]
        raise self._interruption from (_together(own) if own else None)

    def _advance(self, lane: int, go_on: Callable[[], Effect]) -> BranchFlow[None]:
        """Go on with a branch until it waits for something that takes long, or ends."""
        name, branch = self.under_way[lane]
        while True:
            try:
                effect = go_on()
            except StopIteration:
                del self.under_way[lane]
                self._schedule.end(name)
                return
            except BaseException as error:  # noqa: BLE001 - it is raised when the others have ended
                del self.under_way[lane]
                self._schedule.stop()
                self._failures.append(error)
                return
            if self._interruption is not None and isinstance(effect, Execute | Transact):  # another attempt
                go_on = partial(branch.throw, self._interruption)
                continue
            try:
                if isinstance(effect, Execute | Transact | CommitAgain | Sleep):
                    yield from Start(lane, effect, is_told=isinstance(effect, Execute | Transact))
                    return
                answer = yield effect
            except GeneratorExit:
                raise
            except BaseException as error:  # noqa: BLE001 - it is the branch's
                go_on = partial(branch.throw, error)
            else:
                go_on = partial(branch.send, answer)


def _together(failures: Sequence[BaseException]) -> BaseException:
    if len(failures) == 1:
        return failures[0]
    return BaseExceptionGroup(f"{len(failures)} migrations failed", failures)  # one of Exceptions is an ExceptionGroup
