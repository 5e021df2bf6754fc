"""Migrations before a Celery worker takes tasks. Needs the extra `celery`."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, TypeVar

from celery import Celery
from celery.bootsteps import Step
from celery.platforms import signals

F = TypeVar("F", bound=Callable[[], object])


def run_before_tasks(app: Celery) -> Callable[[F], F]:
    """Call the decorated function when a worker of the app starts, before it forks its pool and takes tasks.

    The function runs once for each `celery worker`, in its main process, so call `MigrationRegistry.run_sync` in it.
    Open the client in it too, and close it: a client that is open when the pool forks doesn't work in the children.

    What it raises ends the worker: it takes no task, and exits with 1. SIGTERM raises SystemExit(143) in it, so the run
    ends after the current batch, releases the lease, and the worker exits with 143.

    Example::

        @run_before_tasks(app)
        def migrate():
            with MongoClient(uri) as client:
                registry.run_sync(client["shop"], "app")
    """

    def decorate(function: F) -> F:
        def run() -> None:
            try:
                with _stop_on_sigterm():
                    function()
            except BaseException as error:
                # A detached worker has no stderr. Only the class, because a driver's message shows documents.
                logging.getLogger("quaestor").critical(
                    "The worker takes no tasks: %s raised %s", function.__qualname__, type(error).__name__
                )
                raise

        # A bootstep, because Celery only logs what a handler of the signal worker_init raises, and starts the worker.
        class RunBeforeTasks(Step):
            name = f"{function.__module__}.{function.__qualname__}:{id(function)}"  # one name, one step

            def create(self, parent: object) -> None:  # noqa: ARG002 - Celery's signature
                """Run the function. All steps are created before the first is started, which forks the pool."""
                run()

        app.steps["worker"].add(RunBeforeTasks)
        return function

    return decorate


@contextmanager
def _stop_on_sigterm() -> Iterator[None]:
    """Let SIGTERM interrupt the run. Celery sets its own handler later; until then SIGTERM would kill the process."""

    def stop(number: int, _: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    before: Any = signals["TERM"]
    signals["TERM"] = stop  # does nothing in a worker that starts in another thread than the main one
    try:
        yield
    finally:
        signals["TERM"] = before
