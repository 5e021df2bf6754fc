"""Traces and metrics of runs, for OpenTelemetry. Needs the extra `opentelemetry`."""

from dataclasses import dataclass, field
from importlib.metadata import version
from time import perf_counter, time_ns

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, MeterProvider
from opentelemetry.trace import Span, StatusCode, TracerProvider
from pymongo.errors import OperationFailure

from quaestor.events import (
    BackfillReset,
    BackfillStarted,
    ChangesAccepted,
    DatabaseFinished,
    Event,
    HistoryImported,
    HistoryNotWritten,
    LeaseAwaited,
    MajorityAwaited,
    MigrationApplied,
    MigrationEvent,
    MigrationFailed,
    MigrationProgressed,
    MigrationRolledBack,
    MigrationStarted,
    RecordsMarked,
    RollbackFinished,
    RollbackStarted,
    RunFailed,
    RunFinished,
    RunStarted,
    ServerAwaited,
)

_BOUNDARIES = (0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3600.0, 36000.0)
"""The buckets of durations, in seconds. The default ones are made for milliseconds."""

_NEVER_FIRST = (DatabaseFinished, HistoryNotWritten, MajorityAwaited, ServerAwaited)
"""Events that also come outside of a run."""

_WORK: dict[type[Event], str] = {
    RunFinished: "run",
    RollbackFinished: "rollback",
    RecordsMarked: "mark",
    HistoryImported: "mark",
    ChangesAccepted: "mark",
    BackfillReset: "mark",
}


@dataclass
class _Open:
    """A span in progress, and the attributes of its metric. `inner` is the context in which it is the current span."""

    span: Span
    inner: Context
    outer: Context
    attributes: dict[str, str]
    began: float = field(default_factory=perf_counter)


@dataclass
class _Backfill:
    """A backfill, after its last batch. `ended` is in nanoseconds since 1970, as OpenTelemetry has it."""

    collection: str
    done: int
    ended: int = field(default_factory=time_ns)


@dataclass
class _Migration:
    """A migration in progress."""

    open: _Open
    backfills: dict[str, _Backfill] = field(default_factory=dict)


@dataclass
class _Run:
    """A run in progress. `waits_since` is when it began to wait for the lease, by `perf_counter`."""

    open: _Open
    migrations: dict[str, _Migration] = field(default_factory=dict)
    waits_since: float | None = None


class OpenTelemetryHook:
    """An `on_event` hook that makes a span of each run, of each migration in it, and of each batch of a backfill.

    The span of a migration is the current one while its function runs, so spans of the driver and of your own code
    become its children. The attributes follow the semantic conventions for databases: `db.system.name`,
    `db.namespace`, `db.operation.name`, `db.collection.name`, `db.response.status_code` and `error.type`. No span has a
    document or a password. Other events are span events.

    The metrics are `quaestor.run.duration`, `quaestor.migration.duration` and `quaestor.lease.wait.duration`, in
    seconds, and `quaestor.backfill.documents`. What failed has an `error.type`.

    A hook takes the place of the log. To keep the log, call `quaestor.log_event` and this in a hook of your own.

    Args:
        tracer_provider: Where the spans go. Defaults to the global one, which `opentelemetry-instrument` sets.
        meter_provider: Where the metrics go. Defaults to the global one.
    """

    def __init__(
        self, tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
    ) -> None:
        release = version("mongo-quaestor")
        self._tracer = trace.get_tracer("quaestor", release, tracer_provider)
        meter = metrics.get_meter("quaestor", release, meter_provider)

        def create_histogram(name: str, description: str) -> Histogram:
            return meter.create_histogram(name, "s", description, explicit_bucket_boundaries_advisory=_BOUNDARIES)

        self._run_seconds = create_histogram("quaestor.run.duration", "How long runs, rollbacks and marks took")
        self._migration_seconds = create_histogram("quaestor.migration.duration", "How long migrations took")
        self._wait_seconds = create_histogram("quaestor.lease.wait.duration", "How long runs waited for the lease")
        self._documents = meter.create_counter(
            "quaestor.backfill.documents", "{document}", "How many documents backfills have processed"
        )
        self._runs: dict[tuple[str, str, str], _Run] = {}  # by database, prefix and id

    def __call__(self, event: Event) -> None:
        """Handle an event. Called by the run."""
        run = self._runs.get(_identify(event))
        if isinstance(event, MigrationEvent):
            # A thread that a function has left behind may report progress after the migration or the run has ended.
            if run is not None and (isinstance(event, MigrationStarted) or event.name in run.migrations):
                self._handle_migration(run, event)
        # The others may come after the run, from the heartbeat, or without a run.
        elif run is not None or not isinstance(event, _NEVER_FIRST):
            self._handle_run(run or self._start_run(event), event)

    def _handle_run(self, run: _Run, event: Event) -> None:
        match event:
            case RunStarted() | RollbackStarted():
                run.open.span.set_attribute("quaestor.planned", len(event.plan))
                self._end_wait(run)
            case _ if type(event) in _WORK:
                self._end_run(run, event, _WORK[type(event)])
            case RunFailed():
                # An interruption may have come just before `MigrationFailed`.
                for failed in (run.open, *(migration.open for migration in run.migrations.values())):
                    _fail(failed, event, event.error)
                self._end_run(run, event, event.work)
            case _:
                if isinstance(event, LeaseAwaited) and run.waits_since is None:
                    run.waits_since = perf_counter()
                _add_event(run.open.span, event)

    def _handle_migration(self, run: _Run, event: MigrationEvent) -> None:
        if isinstance(event, MigrationStarted):
            attributes = {
                **run.open.attributes,
                "db.operation.name": "rollback" if event.undo else "apply",
                "quaestor.migration.name": event.name,
            }
            opened = self._open(f"{attributes['db.operation.name']} {event.name}", attributes, run.open.inner)
            run.migrations[event.name] = _Migration(opened)
            context.attach(opened.inner)
            return
        migration = run.migrations[event.name]
        match event:
            case BackfillStarted():
                migration.backfills[event.backfill] = _Backfill(event.collection, event.done)
                _add_event(migration.open.span, event)
            case MigrationProgressed():
                if event.backfill is not None:  # the function's own progress may come for each document
                    self._add_batch(migration, event.backfill, event.done)
            case MigrationFailed():
                _fail(migration.open, event, event.error)
                self._end_migration(run, event.name)
            case MigrationApplied() | MigrationRolledBack():
                self._end_migration(run, event.name)
            case _:
                _add_event(migration.open.span, event)

    def _open(self, name: str, attributes: dict[str, str], outer: Context) -> _Open:
        span = self._tracer.start_span(name, outer, attributes=attributes)
        return _Open(span, trace.set_span_in_context(span, outer), outer, attributes)

    def _start_run(self, event: Event) -> _Run:
        attributes = {"db.system.name": "mongodb", "db.namespace": event.database}
        opened = self._open(f"run {event.database}", attributes, context.get_current())
        opened.span.set_attributes({"quaestor.prefix": event.prefix, "quaestor.run.id": event.run})
        run = self._runs[_identify(event)] = _Run(opened)
        context.attach(opened.inner)
        return run

    def _end_wait(self, run: _Run) -> None:
        if run.waits_since is not None:
            self._wait_seconds.record(perf_counter() - run.waits_since, run.open.attributes)
            run.waits_since = None

    def _add_batch(self, migration: _Migration, name: str, done: int) -> None:
        """Make the span of a batch that has ended. It began when the one before it ended."""
        backfill, opened = migration.backfills[name], migration.open
        began, documents = backfill.ended, done - backfill.done
        backfill.done, backfill.ended = done, time_ns()
        where = {"db.operation.name": "backfill", "db.collection.name": backfill.collection}
        attributes = {**opened.attributes, **where, "quaestor.backfill.name": name}
        batch = self._tracer.start_span(
            f"backfill {backfill.collection}", opened.inner, attributes=attributes, start_time=began
        )
        batch.set_attribute("quaestor.documents", documents)
        batch.end(backfill.ended)
        self._documents.add(documents, attributes)

    def _end_migration(self, run: _Run, name: str) -> None:
        opened = run.migrations.pop(name).open
        self._migration_seconds.record(perf_counter() - opened.began, opened.attributes)
        _close(opened)

    def _end_run(self, run: _Run, event: Event, work: str) -> None:
        for name in list(run.migrations):
            self._end_migration(run, name)
        self._end_wait(run)
        opened = self._runs.pop(_identify(event)).open
        opened.span.update_name(f"{work} {event.database}")
        opened.attributes["db.operation.name"] = work
        opened.span.set_attributes(opened.attributes)
        self._run_seconds.record(perf_counter() - opened.began, opened.attributes)
        _close(opened)


def _identify(event: Event) -> tuple[str, str, str]:
    return event.database, event.prefix, event.run  # a run over many databases has one id


def _fail(opened: _Open, event: Event, error: BaseException) -> None:
    """Mark a span and its metric as failed. Not `record_exception`, because a driver's message shows documents."""
    kind = type(error)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    opened.attributes["error.type"] = name
    opened.span.set_attribute("error.type", name)
    if isinstance(error, OperationFailure) and error.code is not None:
        opened.span.set_attribute("db.response.status_code", str(error.code))
    opened.span.set_status(StatusCode.ERROR, str(event))


def _add_event(span: Span, event: Event) -> None:
    span.add_event(type(event).__name__, {"message": str(event)})


def _close(opened: _Open) -> None:
    """End a span. Make the context before it the current one again, unless this is another task or thread."""
    opened.span.end()
    if trace.get_current_span() is opened.span:
        context.attach(opened.outer)
