"""The order of steps of a run over many databases, which have nothing to do with each other."""

from collections.abc import Collection, Generator
from dataclasses import dataclass
from typing import TypeAlias

from quaestor._core import plan
from quaestor._core.effects import Ask, NextFinished, Start


@dataclass(frozen=True, slots=True)
class DatabaseResult:
    """What became of one of many databases.

    Attributes:
        database: Its name (str).
        applied: The names applied by this call, in the order in which they were recorded (list of str); also those that
            were before an error.
        error: What its run raised (BaseException); None if it went well. It carries its notes, of where that was.
    """

    database: str
    applied: list[str]
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class Migrate(Ask[DatabaseResult]):
    """Run the migrations of one database, and say what became of it.

    Attributes:
        number: Which, from 0.
    """

    number: int


ManyFlow: TypeAlias = Generator[Migrate | Start[Migrate] | NextFinished, object, list[DatabaseResult]]
"""A flow over databases."""


def many(definitions: plan.Definitions, targets: Collection[str] | None, number: int, concurrency: int) -> ManyFlow:
    """Migrate so many databases, some of them at once, the next as soon as one has ended. Returns their results, in
    order.

    Raises:
        QuaestorError: What is wrong with the graph or the targets would be so in each of them; nothing has begun.
        BaseException: What interrupted it, when the runs under way have ended: nothing new begins then.
    """
    plan.validated(definitions)
    if targets is not None:
        plan.check_known(targets, definitions)
    results: dict[int, DatabaseResult] = {}
    interruption: BaseException | None = None
    begun = ended = 0
    while True:
        try:
            while interruption is None and begun < number and begun - ended < concurrency:
                yield from Start(begun, Migrate(begun), is_told=True)
                begun += 1
            if begun == ended:
                break
            finished = yield from NextFinished()
        except GeneratorExit:  # the flow itself is thrown away
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised when those under way have ended
            interruption = error
            continue
        ended += 1
        if isinstance(finished.answer, DatabaseResult):
            results[finished.key] = finished.answer
        else:  # it was cancelled before it began
            interruption = interruption or finished.error
    if interruption is not None:
        raise interruption
    return [results[one] for one in range(number)]
