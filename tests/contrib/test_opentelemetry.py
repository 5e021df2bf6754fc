"""Traces and metrics of runs, by the SDK, and spans of the driver by its own instrumentation, on the real server."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import mongomock
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.pymongo import CommandTracer
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pymongo import AsyncMongoClient, MongoClient
from pymongo.errors import DuplicateKeyError

from quaestor import Event, LeaseAwaited, LeaseTimeoutError, MigrationRegistry, MigrationStarted, SyncRunner
from quaestor.contrib.opentelemetry import OpenTelemetryHook


class Telemetry:
    """What a hook has made."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        # PyMongo's instrumentation registers it for all clients, and forever.
        self.listener = CommandTracer(self.tracer_provider.get_tracer("pymongo"))
        self.hook = OpenTelemetryHook(self.tracer_provider, MeterProvider([self.reader]))

    @property
    def spans(self) -> list[ReadableSpan]:
        """All spans that have ended, in this order."""
        return list(self.exporter.get_finished_spans())

    def find(self, name: str) -> ReadableSpan:
        """The one span of a name."""
        (span,) = (span for span in self.spans if span.name == name)
        return span

    def parent(self, span: ReadableSpan) -> str | None:
        """The name of the parent of a span."""
        names = {each.context.span_id: each.name for each in self.spans}
        return None if span.parent is None else names[span.parent.span_id]

    def points(self, metric: str) -> list[tuple[dict[str, Any], Any]]:
        """The attributes of each point of a metric, and its sum, or the count of a histogram."""
        data = self.reader.get_metrics_data()
        found = [] if data is None else data.resource_metrics[0].scope_metrics[0].metrics
        points: list[Any] = [point for each in found if each.name == metric for point in each.data.data_points]
        return [(dict(point.attributes), getattr(point, "count", getattr(point, "value", None))) for point in points]


@pytest.fixture
def telemetry() -> Telemetry:
    """A hook with providers of its own."""
    return Telemetry()


@pytest.fixture
def client(uri: str, telemetry: Telemetry) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client whose commands become spans."""
    with MongoClient[dict[str, Any]](uri, event_listeners=[telemetry.listener]) as opened:
        yield opened


@pytest.fixture
def registry() -> MigrationRegistry:
    """Two sync and two async migrations, each of which sends one command."""
    registry = MigrationRegistry()
    for name in ("a", "b"):

        @registry.register(f"sync_{name}")
        def insert(db: Any, name: str = name) -> None:
            db.done.insert_one({"_id": f"sync_{name}"})

        @registry.register(f"async_{name}")
        async def insert_async(db: Any, name: str = name) -> None:
            await db.done.insert_one({"_id": f"async_{name}"})

    return registry


def run_sync(registry: MigrationRegistry, uri: str, name: str, telemetry: Telemetry, **options: Any) -> None:
    listeners = [telemetry.listener]
    with MongoClient[dict[str, Any]](uri, event_listeners=listeners) as client:
        async_db = AsyncMongoClient[dict[str, Any]](uri, event_listeners=listeners)[name]
        registry.run_sync(client[name], async_db=async_db, **options)


def run_async(registry: MigrationRegistry, uri: str, name: str, telemetry: Telemetry, **options: Any) -> None:
    async def run() -> None:
        listeners = [telemetry.listener]
        async with AsyncMongoClient[dict[str, Any]](uri, event_listeners=listeners) as client:
            with MongoClient[dict[str, Any]](uri, event_listeners=listeners) as sync_client:
                await registry.run(client[name], sync_db=sync_client[name], **options)

    asyncio.run(run())


def run_many_sync(registry: MigrationRegistry, uri: str, name: str, telemetry: Telemetry, **options: Any) -> None:
    listeners = [telemetry.listener]
    with MongoClient[dict[str, Any]](uri, event_listeners=listeners) as client:
        (result,) = registry.run_many_sync(
            [client[name]], async_db=lambda name: AsyncMongoClient(uri, event_listeners=listeners)[name], **options
        )
        assert result.error is None


def run_many_async(registry: MigrationRegistry, uri: str, name: str, telemetry: Telemetry, **options: Any) -> None:
    async def run() -> None:
        listeners = [telemetry.listener]
        async with AsyncMongoClient[dict[str, Any]](uri, event_listeners=listeners) as client:
            with MongoClient[dict[str, Any]](uri, event_listeners=listeners) as sync_client:
                (result,) = await registry.run_many([client[name]], sync_db=sync_client.get_database, **options)
                assert result.error is None

    asyncio.run(run())


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("run", [run_sync, run_async, run_many_sync, run_many_async])
def test_commands_of_functions_belong_to_their_migration(
    run: Callable[..., None],
    concurrency: int,
    uri: str,
    name: str,
    registry: MigrationRegistry,
    telemetry: Telemetry,
) -> None:
    """A command that a function sends is a child of the span of its migration, which is a child of the run's."""
    run(registry, uri, name, telemetry, on_event=telemetry.hook, concurrency=concurrency)

    migrations = {span.name: telemetry.parent(span) for span in telemetry.spans if span.name.startswith("apply ")}
    assert migrations == {f"apply {migration}": f"run {name}" for migration in registry.migrations}
    inserted = [
        telemetry.parent(span)
        for span in telemetry.spans
        if "done" in dict(span.attributes or {}).values()  # not its record, which has the same parent
    ]
    assert sorted(filter(None, inserted)) == sorted(migrations)
    assert telemetry.find(f"run {name}").parent is None
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_attributes(client: MongoClient[dict[str, Any]], name: str, telemetry: Telemetry) -> None:
    """Spans follow the semantic conventions for databases; they aren't calls of a database themselves."""
    registry = MigrationRegistry()
    registry.register("a")(lambda db: None)

    registry.run_sync(client[name], on_event=telemetry.hook)

    run, migration = telemetry.find(f"run {name}"), telemetry.find("apply a")
    assert {run.kind, migration.kind} == {SpanKind.INTERNAL}
    assert {run.status.status_code, migration.status.status_code} == {StatusCode.UNSET}
    common = {"db.system.name": "mongodb", "db.namespace": name}
    assert run.attributes is not None
    assert {**common, "db.operation.name": "run", "quaestor.prefix": "app", "quaestor.planned": 1}.items() <= dict(
        run.attributes
    ).items()
    assert migration.attributes == {**common, "db.operation.name": "apply", "quaestor.migration.name": "a"}


def test_failure(client: MongoClient[dict[str, Any]], name: str, telemetry: Telemetry) -> None:
    """A failed migration and its run have the status, the type and the server's code of the error; no document."""
    registry = MigrationRegistry()

    @registry.register("a")
    def insert_twice(db: Any) -> None:
        db.users.insert_one({"_id": "ada@example.com"})
        db.users.insert_one({"_id": "ada@example.com"})

    with pytest.raises(DuplicateKeyError):
        registry.run_sync(client[name], on_event=telemetry.hook)

    for span in (telemetry.find(f"run {name}"), telemetry.find("apply a")):
        assert span.status.status_code is StatusCode.ERROR
        assert span.attributes is not None
        assert span.attributes["error.type"] == "pymongo.errors.DuplicateKeyError"
        assert span.attributes["db.response.status_code"] == "11000"
        assert "ada@example.com" not in span.to_json()
    (attributes, count) = telemetry.points("quaestor.migration.duration")[0]
    assert (attributes["error.type"], count) == ("pymongo.errors.DuplicateKeyError", 1)
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_rollback_and_mark(client: MongoClient[dict[str, Any]], name: str, telemetry: Telemetry) -> None:
    """Rollbacks and marks have spans and durations of their own names."""
    registry = MigrationRegistry()
    registry.register("a")(lambda db: None)
    registry.register_rollback("a")(lambda db: None)
    runner = SyncRunner(registry, client[name], on_event=telemetry.hook)

    runner.mark_applied(["a"])
    runner.rollback(["a"])

    assert telemetry.parent(telemetry.find("rollback a")) == f"rollback {name}"
    assert telemetry.find(f"mark {name}").parent is None
    operations = [attributes["db.operation.name"] for attributes, _ in telemetry.points("quaestor.run.duration")]
    assert sorted(operations) == ["mark", "rollback"]


@pytest.mark.parametrize("way", ["batches", "transaction", "workers"])
def test_batches(way: str, client: MongoClient[dict[str, Any]], name: str, telemetry: Telemetry) -> None:
    """Each batch is a span in its migration, one after the other, with its collection and its number of documents."""
    registry = MigrationRegistry()
    client[name].orders.insert_many([{"_id": number} for number in range(25)])

    @registry.register("a")
    def backfill(db: Any, context: Any) -> None:
        if way == "batches":
            for _ in context.batches(db.orders, size=10):
                context.progress(1)  # of its own: no batch
        else:
            workers = {"workers": 3, "transaction": False} if way == "workers" else {}
            context.for_each_batch(db.orders, lambda orders: None, size=10, **workers)

    registry.run_sync(client[name], on_event=telemetry.hook)

    batches = [span for span in telemetry.spans if span.name == "backfill orders"]
    migration = telemetry.find("apply a")
    assert [telemetry.parent(span) for span in batches] == ["apply a"] * 3
    assert [span.attributes["quaestor.documents"] for span in batches if span.attributes] == [10, 10, 5]
    assert {span.attributes["db.collection.name"] for span in batches if span.attributes} == {"orders"}
    times = [migration.start_time, *(time for span in batches for time in (span.start_time, span.end_time))]
    assert times == sorted(filter(None, times))
    assert [count for _, count in telemetry.points("quaestor.backfill.documents")] == [25]


def test_backfills_side_by_side(client: MongoClient[dict[str, Any]], name: str, telemetry: Telemetry) -> None:
    """The batches of two backfills in one migration are distinguished."""
    registry = MigrationRegistry()
    for collection in ("orders", "users"):
        client[name][collection].insert_many([{"_id": number} for number in range(2)])

    @registry.register("a")
    def backfill(db: Any, context: Any) -> None:
        for _ in zip(context.batches(db.orders, size=1), context.batches(db.users, size=1), strict=True):
            pass

    registry.run_sync(client[name], on_event=telemetry.hook)

    names = [span.name for span in telemetry.spans if span.name.startswith("backfill ")]
    assert sorted(names) == ["backfill orders"] * 2 + ["backfill users"] * 2


def test_lease_wait(client: MongoClient[dict[str, Any]], name: str, telemetry: Telemetry) -> None:
    """A wait for the lease is an event of the run's span, and is measured, also if it ends in an error."""
    registry = MigrationRegistry()

    @registry.register("a")
    def run_another(db: Any) -> None:
        other = MigrationRegistry()
        other.register("b")(lambda db: None)
        with pytest.raises(LeaseTimeoutError):
            other.run_sync(client[name], on_event=telemetry.hook, lease_timeout=0.1)

    registry.run_sync(client[name], on_event=telemetry.hook)

    failed, succeeded = (span for span in telemetry.spans if span.name == f"run {name}")
    assert LeaseAwaited.__name__ in [event.name for event in failed.events]
    assert (failed.status.status_code, succeeded.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert telemetry.parent(failed) == "apply a"
    assert [count for _, count in telemetry.points("quaestor.lease.wait.duration")] == [1]
    assert trace.get_current_span() is trace.INVALID_SPAN


class Interrupts:
    """A hook that raises KeyboardInterrupt when the first migration starts, after another hook has seen it."""

    def __init__(self, hook: OpenTelemetryHook) -> None:
        self.hook = hook
        self.has_raised = False

    def __call__(self, event: Event) -> None:
        self.hook(event)
        if isinstance(event, MigrationStarted) and not self.has_raised:
            self.has_raised = True
            raise KeyboardInterrupt


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("run", [run_sync, run_async])
def test_interruption(
    run: Callable[..., None], concurrency: int, uri: str, name: str, registry: MigrationRegistry, telemetry: Telemetry
) -> None:
    """After an interruption at the worst moment all spans have ended, as failed, and none is the current one."""
    with pytest.raises(KeyboardInterrupt):
        run(registry, uri, name, telemetry, on_event=Interrupts(telemetry.hook), concurrency=concurrency)

    assert telemetry.find(f"run {name}").status.status_code is StatusCode.ERROR
    assert telemetry.find("apply async_a").status.status_code is StatusCode.ERROR
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_cancelled_run(uri: str, name: str, telemetry: Telemetry) -> None:
    """A cancelled run leaves no span open, and the task its own current span."""
    registry = MigrationRegistry()
    started = asyncio.Event()

    @registry.register("a")
    async def wait(db: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    async def cancel() -> None:
        async with AsyncMongoClient[dict[str, Any]](uri) as client:
            with telemetry.tracer_provider.get_tracer("test").start_as_current_span("own") as own:
                task = asyncio.ensure_future(registry.run(client[name], on_event=telemetry.hook))
                await started.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert trace.get_current_span() is own

    asyncio.run(cancel())

    assert telemetry.parent(telemetry.find(f"run {name}")) == "own"
    assert telemetry.find("apply a").status.status_code is StatusCode.ERROR


def test_late_progress(
    client: MongoClient[dict[str, Any]], name: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    """Progress of a thread that a function has left behind is ignored: no error, and no span that never ends."""
    registry = MigrationRegistry()
    reports: list[Callable[[int], None]] = []
    registry.register("a")(lambda db, context: reports.append(context.progress))
    registry.register("b", depends_on=["a"])(lambda db: reports[0](1))

    registry.run_sync(client[name], on_event=telemetry.hook)
    reports[0](2)

    assert not caplog.records
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_without_providers(caplog: pytest.LogCaptureFixture) -> None:
    """In an application that sets up no OpenTelemetry, the hook does nothing."""
    registry = MigrationRegistry()
    registry.register("a")(lambda db: None)

    assert registry.run_sync(mongomock.MongoClient().shop, on_event=OpenTelemetryHook()) == ["a"]

    assert not caplog.records
