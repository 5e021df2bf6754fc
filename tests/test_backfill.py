"""Backfills on a server in memory, in all three ways, and what can go wrong at each call."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quaestor._core.backfill import AHEAD, LAG_POLL, MOST_TYPES
from quaestor._core.checkpoint import Checkpoint, Document
from quaestor._core.definition import MigrationDefinition
from quaestor._core.store import Ending
from quaestor._core.transaction import MOST_EXPIRED
from quaestor.errors import (
    BackfillChangedError,
    CollectionChangedError,
    DuplicateBackfillError,
    InvalidOptionError,
    LeaseLostError,
    OutageError,
    TransactionFailedError,
    TransactionsUnsupportedError,
    UnknownMigrationError,
)
from quaestor.events import (
    BackfillReset,
    BackfillRestarted,
    BackfillStarted,
    CollectionMissing,
    Event,
    MajorityAwaited,
    MigrationProgressed,
    MigrationRetried,
    ReplicasAwaited,
    ServerAwaited,
)
from tests.fake_store import (
    PATIENCE,
    TTL,
    WHERE,
    Choose,
    FakeCollection,
    FakeContext,
    Key,
    Process,
    Server,
    Stored,
    Task,
    order,
)
from tests.world import LONG_AGO

PLACE = (*WHERE, "m", 1, 1)
KEY = Key("m", undo=False, backfill="orders")
MIXED: list[object] = [None, 1, 2.5, 3, 7, "a", "b", "c", b"x", b"y"]
"""`_id`s of four types, in order."""
WAYS = {
    "loop": ("loop", {}),
    "function that rests": ("give", {"pause": 1.0, "max_lag": 5.0}),
    "transaction": ("transact", {}),
    "transaction that rests": ("transact", {"pause": 1.0, "max_lag": 5.0}),
}
each_way = pytest.mark.parametrize("way", WAYS)
each_basic_way = pytest.mark.parametrize("way", ["loop", "transaction"])
E = TypeVar("E", bound=Event)
Body = Callable[[FakeContext], Any]


def go_over(context: FakeContext, way: str, collection: FakeCollection, size: int = 2, **options: Any) -> Any:
    method, rests = WAYS[way]
    return getattr(context, method)(collection, size, **(rests | options))


def is_exact(way: str) -> bool:
    return way.startswith("transaction")


def start(server: Server, body: Body, *, undo: bool = False, **options: Any) -> Process:
    """A process that runs a migration with this body, or rolls it back."""

    async def function(db: object, context: FakeContext) -> None:
        await body(context)

    async def do_nothing(db: object) -> None: ...

    functions = (do_nothing, function) if undo else (function, None)
    known = {"m": MigrationDefinition("m", functions[0], rollback=functions[1])}
    process = Process(server, known, f"run {server.token}", **options)
    return process.roll_back("m") if undo else process.run()


def fill(server: Server, way: str, collection: FakeCollection, size: int = 2, **options: Any) -> Process:
    """A process whose migration goes over a collection in this way."""
    names = {"work", "filter", "name", "pause", "max_lag"}
    own = {name: options.pop(name) for name in names & options.keys()}
    return start(server, lambda context: go_over(context, way, collection, size, **own), **options)


def cut_off(server: Server, collection: FakeCollection, **options: Any) -> None:
    """Let a process die in the second batch."""
    process = fill(server, "loop", collection, 2, **options)
    while sum(call.name == "body" for call in process.log) < 1 or process.reach("body") is None:
        process.step(process.ready[0])
    process.reach("body")
    process.kill()


def find(process: Process, kind: type[E]) -> list[E]:
    return [event for event in process.events if isinstance(event, kind)]


def lost_lease(process: Process) -> LeaseLostError:
    process.is_undisturbed = False
    with pytest.raises(LeaseLostError) as caught:
        process.finish()
    assert process.server.records == set()
    return caught.value


# All documents, whatever goes wrong


@each_way
def test_all_documents(way: str) -> None:
    """Each matching document is seen once, in order; no batch has two types in it, and none is empty."""
    server, collection = Server(), FakeCollection(MIXED)
    process = fill(server, way, collection)
    process.finish()
    assert collection.done == [[None], [1, 2.5], [3, 7], ["a", "b"], ["c"], [b"x", b"y"]]
    assert [event.done for event in find(process, MigrationProgressed)] == [1, 3, 5, 7, 8, 10]
    assert server.checkpoints == {}, "they go with the record"
    saves = {call.name for call in process.log} & {"save_checkpoint", "commit"}
    assert ("commit" in saves) is is_exact(way)
    collection = FakeCollection(MIXED)
    collection.insert(2, 4, "d", kind="new")
    fill(Server(), way, collection, 5, filter={"kind": "new"}).finish()
    assert collection.done == [[2, 4], ["d"]], "types without any make no batch"


def check(collection: FakeCollection, expected: list[object], *, size: int, first: int, reached: int, way: str) -> int:
    """Check that the batches from the `first` on are documents in order, from where an earlier attempt has `reached`;
    or from the batch before, which may be seen again. Returns how far that is.
    """
    batches = collection.done[first:]
    if not batches:
        return reached
    assert max(map(len, batches)) <= size
    again = len(collection.done[first - 1]) if first and not is_exact(way) else 0
    begins = expected.index(batches[0][0])
    assert begins in {reached, reached - again}
    ids = [one for batch in batches for one in batch]
    assert ids == expected[begins : begins + len(ids)]
    return max(reached, begins + len(ids))


@each_way
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("size", [2, 20])
def test_crash_at_every_call(way: str, after: bool, size: int) -> None:
    """Wherever a process dies, the next run resumes: at most one batch is seen twice, and none in transactions."""
    whole = fill(Server(), way, FakeCollection(MIXED), size)
    whole.finish()
    for at in range(len(whole.log)):
        server, collection = Server(), FakeCollection(MIXED)
        fill(server, way, collection, size, strike_at=at, strike_after=after).finish()
        reached = check(collection, MIXED, size=size, first=0, reached=0, way="loop")
        first = len(collection.done)
        assert set(server.transactions) <= server.sessions
        successor = fill(server, way, collection, size)
        successor.finish()
        check(collection, MIXED, size=size, first=first, reached=reached, way=way)
        assert set(collection.ids_done) == set(MIXED)
        assert len(collection.ids_done) - len(MIXED) <= (0 if is_exact(way) else size)
        assert not find(successor, BackfillRestarted)
        assert not find(successor, MigrationRetried)
        assert server.records == {"m"}


@each_way
@pytest.mark.parametrize("fault", ["request lost", "answer lost"])
def test_answer_lost_at_every_call(way: str, fault: str) -> None:
    """Each command can be repeated: the backfill sees each document once."""
    whole = fill(Server(), way, FakeCollection(MIXED, kind="new"), filter={"kind": "new"})
    whole.finish()
    for at in range(len(whole.log)):
        collection = FakeCollection(MIXED, kind="new")
        process = fill(Server(), way, collection, filter={"kind": "new"}, faults={at: fault})
        assert process.finish() == ["m"]
        assert collection.ids_done == MIXED


@each_basic_way
def test_no_answers_any_more(way: str) -> None:
    """If no answer comes for longer than the patience, that is an error. The next run resumes."""
    whole = fill(Server(), way, FakeCollection(MIXED))
    whole.finish()
    last = [call.name for call in whole.log].index("function m")
    for at in range(last):
        if not any(call.lose for call in whole.log[at:last]):
            continue
        server, collection = Server(), FakeCollection(MIXED)
        process = fill(server, way, collection, faults=dict.fromkeys(range(at, 10_000), "request lost"))
        with pytest.raises(OutageError):
            process.finish()
        first, reached = len(collection.done), len(collection.ids_done)
        fill(server, way, collection).finish()
        check(collection, MIXED, size=2, first=first, reached=reached, way=way)
        assert set(collection.ids_done) == set(MIXED)


@pytest.mark.parametrize(
    ("way", "commands", "what"),
    [
        ("loop", {"read_batch"}, "to continue the backfill 'orders'"),
        ("loop", {"save_checkpoint"}, "to continue the backfill 'orders'"),
        ("transaction", {"commit", "commit again"}, "to commit the transaction of 'm'"),
        ("transaction", {"find_ids", "read_checkpoint"}, "to continue the backfill 'orders'"),
    ],
)
@pytest.mark.parametrize("no_majority", [False, True])
def test_patience(way: str, commands: set[str], what: str, no_majority: bool) -> None:
    """A backfill that waits for a batch, or for a majority to confirm its checkpoint, says so after 5 s and every 30 s.
    It ends after the patience of the run, and the next run resumes.
    """
    server, collection = Server(), FakeCollection([1, 2, 3])
    process = fill(server, way, collection)
    process.reach("body")
    process.step(process.main)
    with pytest.raises(OutageError) as caught:
        process.finish_without(lambda call: call.name in commands, "no majority" if no_majority else "request lost")
    assert (caught.value.what, caught.value.no_majority) == (what, no_majority)
    assert caught.value.seconds == pytest.approx(PATIENCE, abs=1)
    awaited = find(process, MajorityAwaited if no_majority else ServerAwaited)
    assert [event.seconds for event in awaited] == pytest.approx([5, 35], abs=1)
    assert {event.what for event in awaited} == {what}
    assert (server.holder, server.records) == (None, set())
    fill(server, way, collection).finish()
    assert collection.done == ([[1, 2], [1, 2], [3]] if commands == {"save_checkpoint"} else [[1, 2], [3]])


def test_interrupted_while_a_checkpoint_waits() -> None:
    """An interruption ends the wait for a checkpoint soon, however long the patience is."""
    server, collection = Server(), FakeCollection([1, 2, 3])
    process = fill(server, "loop", collection)
    process.reach("body")
    process.step(process.main)
    process.reach("read_batch")
    interrupted_at = server.now
    process.main.go_on(error=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        process.finish_without(lambda call: call.name == "save_checkpoint", "request lost")
    assert server.now - interrupted_at < 10
    assert server.holder is None
    fill(server, "loop", collection).finish()
    assert collection.done == [[1, 2], [1, 2], [3]]


IDS = st.one_of(st.none(), st.integers(-50, 50), st.text("abc", max_size=3), st.binary(max_size=2))
FAULTS = st.dictionaries(st.integers(0, 80), st.sampled_from(["request lost", "answer lost"]), max_size=10)


@settings(max_examples=60)
@given(
    ids=st.sets(IDS, max_size=25),
    sizes=st.lists(st.integers(1, 9), min_size=5, max_size=5),
    crashes=st.lists(st.tuples(st.integers(0, 80), st.booleans()), max_size=4),
    faults=FAULTS,
    way=st.sampled_from(sorted(WAYS)),
)
def test_any_crashes(
    ids: set[object], sizes: list[int], crashes: list[tuple[int, bool]], faults: Mapping[int, str], way: str
) -> None:
    """However often processes die or lose answers, and whatever the size of batches: each document is seen, in order,
    and each death repeats one batch at most; in transactions nothing is seen twice.
    """
    server, collection, expected = Server(), FakeCollection(ids), sorted(ids, key=order)
    reached = 0
    for (at, after), size in zip([*crashes, (100_000, False)], sizes, strict=False):
        first = len(collection.done)
        fill(server, way, collection, size, strike_at=at, strike_after=after, faults=faults).finish()
        reached = check(collection, expected, size=size, first=first, reached=reached, way=way)
        if "m" in server.recorded:
            break
    assert set(collection.ids_done) == ids
    assert reached == len(expected)
    assert not is_exact(way) or collection.ids_done == expected


@each_basic_way
@pytest.mark.parametrize("after", [False, True])
def test_crash_in_several_backfills(way: str, after: bool) -> None:
    """Backfills of one migration and of its rollback are kept apart: a finished one isn't repeated. Checkpoints go with
    the record, so a later run starts over.
    """
    one, two, server = FakeCollection(), FakeCollection(), Server()

    async def migrate(context: FakeContext) -> None:
        await go_over(context, way, one)
        await go_over(context, way, two, name="two")
        await go_over(context, way, two, name="again")

    def perform(undo: bool, **options: Any) -> Process:
        process = start(server, migrate, undo=undo, **options)
        process.finish()
        assert {event.undo for event in find(process, BackfillStarted)} <= {undo}
        return process

    def begin(undo: bool) -> None:
        nonlocal one, two, server
        one, two = FakeCollection([1, 2, 3]), FakeCollection([1, 2, "a"])
        server = Server(recorded={"m": LONG_AGO} if undo else {})
        server.checkpoints[Key("m", not undo, "orders")] = Stored(Checkpoint((), finished=True), 0)

    for undo in (False, True):
        begin(undo)
        for at in range(len(perform(undo).log)):
            begin(undo)
            perform(undo, strike_at=at, strike_after=after)
            perform(undo)
            assert set(one.ids_done) == {1, 2, 3}
            assert [two.ids_done.count(number) >= 2 for number in (1, 2, "a")] == [True] * 3
            twice = len(one.ids_done) + len(two.ids_done) - 9
            assert 0 <= twice <= (0 if is_exact(way) else 2)
            assert server.records == (set() if undo else {"m"})
            one.done, two.done = [], []
            perform(not undo)
            assert (one.done, two.done) == ([[1, 2], [3]], [[1, 2], ["a"]] * 2)


def test_body_that_fails() -> None:
    """What it raises leaves as it came; the batch is handed over again by the next run."""
    server, collection = Server(), FakeCollection([1, 2, 3, 4])
    error = ValueError()

    def fail(batch: list[Document]) -> None:
        if batch[0]["_id"] == 3:
            raise error

    for way in WAYS:
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - it is looked at
            fill(server, way, collection, work=fail).finish()
        assert caught.value is error
        assert collection.done == [[1, 2]]
    fill(server, "loop", collection).finish()
    assert collection.done == [[1, 2], [3, 4]]


def test_loop_that_is_left() -> None:
    """A loop that is left hasn't done its last batch, and is refused a second time under the same name."""
    server, collection = Server(), FakeCollection([1, 2, 3, 4, 5])

    async def leave(context: FakeContext) -> None:
        backfill, _ = context.open(collection, 2)
        assert await backfill.next() == [{"_id": 1}, {"_id": 2}]
        assert await backfill.next() == [{"_id": 3}, {"_id": 4}]
        await context.loop(collection)

    with pytest.raises(DuplicateBackfillError):
        start(server, leave).finish()
    fill(server, "loop", collection).finish()
    assert collection.done == [[3, 4], [5]]


def test_second_unnamed_backfill() -> None:
    """A second backfill of one name is refused before its first batch; the first keeps its checkpoint."""
    server, collection = Server(), FakeCollection([1, 2, 3])

    async def twice(context: FakeContext) -> None:
        await context.loop(collection)
        await context.transact(collection)

    with pytest.raises(DuplicateBackfillError):
        start(server, twice).finish()
    assert collection.done == [[1, 2], [3]]
    assert server.checkpoints[KEY].checkpoint.finished
    fill(server, "loop", collection).finish()
    assert collection.done == [[1, 2], [3]]


def test_backfill_after_an_error() -> None:
    """A function that catches the error of its backfill can start it again, and resumes."""
    collection = FakeCollection([1, 2, 3, 4, 5])

    def fail(batch: list[Document]) -> None:
        if batch[0]["_id"] == 3:
            raise ValueError

    async def again(context: FakeContext) -> None:
        with pytest.raises(ValueError):  # noqa: PT011 - the one above
            await context.transact(collection, work=fail)
        await context.transact(collection)

    process = start(Server(), again)
    process.finish()
    assert collection.done == [[1, 2], [3, 4], [5]]
    assert [event.done for event in find(process, BackfillStarted)] == [0, 2]


def test_interrupted_backfill() -> None:
    """A loop in a thread ends at its next batch when the run is interrupted."""
    collection = FakeCollection(range(10))
    process = fill(Server(), "loop", collection)
    process.host.check_interruption = lambda: interrupt() if collection.done else None  # type: ignore[method-assign]

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process.finish()
    assert collection.done == [[0, 1]]


# Workers


class Workers:
    """Bodies in progress, which end in an order of the test's."""

    def __init__(self, ids: Iterable[object], size: int = 1, workers: int = 3, **options: Any) -> None:
        self.server, self.collection = options.pop("server", None) or Server(), FakeCollection(ids)
        self.most = 0
        own = {name: options.pop(name) for name in {"work", "pause", "filter"} & options.keys()}

        async def migrate(context: FakeContext) -> None:
            await context.share(self.collection, size, workers=workers, **own)

        self.process = start(self.server, migrate, **options)

    def bodies(self) -> list[Task]:
        found = [task for task in self.process.ready if task.call is not None and task.call.name == "body"]
        self.most = max(self.most, len(found))
        return found

    def choose(self, draw: Callable[[int], int]) -> Choose:
        """Choose the next task: bodies last, and among them as it's drawn."""

        def choose(ready: Sequence[Task]) -> Task:
            bodies = self.bodies()
            others = [task for task in ready if task not in bodies]
            return others[0] if others else bodies[draw(len(bodies))]

        return choose

    def settle(self) -> list[Task]:
        """Let everything but the bodies go on, until only these are left."""
        while others := [task for task in self.process.ready if task not in self.bodies()]:
            self.process.step(others[0])
        return self.bodies()


@pytest.mark.parametrize("last", [False, True])
def test_workers(last: bool) -> None:
    """Batches are worked on at the same time, and no more than there are workers. Each document is seen once."""
    run = Workers(MIXED)
    run.process.finish(run.choose(lambda count: count - 1 if last else 0))
    assert sorted(run.collection.ids_done, key=order) == MIXED
    assert (run.collection.ids_done == MIXED) is not last
    assert run.most == 3
    assert [event.done for event in find(run.process, MigrationProgressed)] == list(range(1, 11))
    assert run.server.records == {"m"}
    rests = Workers(MIXED, pause=1.0)
    rests.process.finish()
    assert len(rests.process.find("sleep")) == 9


def test_workers_without_matches() -> None:
    """If no document matches, no body is called."""
    run = Workers(range(3), filter={"status": "new"})
    run.process.finish()
    assert run.collection.done == []
    assert run.server.records == {"m"}


def test_workers_without_a_gap() -> None:
    """While the first batch isn't done, no checkpoint is saved, and after some batches no more are started."""
    run = Workers(range(20))
    while len(bodies := run.settle()) > 1:
        run.process.step(bodies[-1])
    assert sorted(run.collection.ids_done) == list(range(1, AHEAD * 3))
    assert run.server.checkpoints[KEY].checkpoint.done == 0
    run.process.step(bodies[0])
    run.settle()
    assert run.server.checkpoints[KEY].checkpoint.done == 6
    run.process.kill()
    again = Workers(range(20), server=run.server)
    again.process.finish()
    assert again.collection.ids_done == list(range(6, 20))


@pytest.mark.parametrize("failing", [[0], [1], [2], [2, 1], [0, 1, 2]])
def test_workers_that_fail(failing: list[int]) -> None:
    """After a failure no batch starts, and those in progress end. What is done without a gap is saved; the first error
    is raised, with a note of its batch, and of others.
    """
    errors = [ValueError(), KeyError(), OSError()]

    def fail(batch: list[Document]) -> None:
        if (one := batch[0]["_id"]) in failing:
            raise errors[one]

    run = Workers(range(9), work=fail)
    bodies = run.settle()
    for one in failing:
        run.process.step(bodies[one])
    with pytest.raises((ValueError, KeyError, OSError)) as caught:
        run.process.finish()
    assert caught.value is errors[failing[0]]
    notes = [f"quaestor: at the ({failing[0]}, {failing[0]}) of the backfill 'orders'"]
    if len(failing) > 1:
        others = ", ".join(type(errors[one]).__name__ for one in failing[1:])
        notes.append(f"quaestor: other batches that were in progress failed as well: {others}")
    assert caught.value.__notes__[:-1] == notes
    assert run.collection.ids_done == [one for one in (0, 1, 2) if one not in failing]
    assert run.server.checkpoints[KEY].checkpoint.done == min(failing)
    assert run.server.holder is None


def test_workers_that_are_interrupted() -> None:
    """Ctrl-C starts nothing more; what the batches in progress have done is saved, and the interruption goes on."""
    run = Workers(range(9))
    first = run.settle()[0]
    run.process.interrupt()
    run.process.step(first)
    with pytest.raises(KeyboardInterrupt):
        run.process.finish()
    assert run.collection.ids_done == [0, 1, 2]
    assert run.server.checkpoints[KEY].checkpoint.done == 3


def test_workers_that_lose_the_lease() -> None:
    """Once the lease is lost no batch starts; the error is the lease's."""
    run = Workers(range(9))
    run.settle()
    run.server.expire()
    assert lost_lease(run.process).migration == "m"
    assert run.collection.ids_done == [0, 1, 2]


@settings(max_examples=60)
@given(
    ids=st.sets(IDS, max_size=20),
    workers=st.integers(2, 4),
    crashes=st.lists(st.integers(0, 100), max_size=3),
    faults=FAULTS,
    random=st.randoms(use_true_random=False),
)
def test_workers_that_crash(
    ids: set[object], workers: int, crashes: list[int], faults: Mapping[int, str], random: Random
) -> None:
    """Whatever ends first, and however often processes die: each document is seen, and what comes again is bounded."""
    server, done = Server(), list[object]()
    for at in (*crashes, 100_000):
        run = Workers(ids, 2, workers, server=server, strike_at=at, faults=faults)
        run.process.finish(run.choose(random.randrange))
        saved = server.checkpoints[KEY].checkpoint.done if KEY in server.checkpoints else None
        done += run.collection.ids_done
        assert saved is None or set(sorted(ids, key=order)[:saved]) <= set(done)
        if "m" in server.recorded:
            break
    assert set(done) == ids
    assert len(done) - len(ids) <= 2 * AHEAD * workers * len(crashes)


# The lease, and holders that have lost it


@each_way
def test_lease_lost_at_each_check(way: str) -> None:
    """The backfill ends before the next batch, with an error that names the migration. Nothing is seen twice."""
    whole = fill(Server(), way, FakeCollection(MIXED))
    whole.finish()
    last = [call.name for call in whole.log].index("function m")
    renewals = whole.find_renewals(by_heartbeat=False)
    checks = [at for at, call in enumerate(whole.log[:last]) if call in renewals]
    assert len(checks) >= 6
    for number, at in enumerate(checks):
        server, collection = Server(), FakeCollection(MIXED)
        process = fill(server, way, collection, strike_at=at, strike=server.expire)
        error = lost_lease(process)
        assert (error.migration, error.in_batches) == ("m", True)
        before = 2 if is_exact(way) else 1  # for the session, and the claim of the checkpoint
        assert len(collection.done) == max(0, number - before)
        fill(server, way, collection).finish()
        assert collection.ids_done == MIXED


@each_way
@pytest.mark.parametrize("is_new", [False, True])
def test_claim_by_force(way: str, is_new: bool) -> None:
    """If the lease document was dropped, tokens start over: a checkpoint with a higher one than that of the lease's
    holder belongs to no later run, and the backfill resumes from it.
    """
    server, collection = Server(), FakeCollection(MIXED)
    process = fill(server, way, collection)
    stored = Stored(Checkpoint((9, b"y"), (3,), 2, 3), 7)
    if is_new:
        process.reach("find_highest")  # it came after this run had looked
    server.checkpoints[KEY] = stored
    process.finish()
    assert collection.ids_done == (MIXED if is_new else [3, 7, b"x", b"y"])
    assert [call.details for call in process.find("claim_checkpoint")] == [False, True]


@each_way
def test_checkpoint_that_is_gone(way: str) -> None:
    """A checkpoint that is removed just before the claim ends the backfill: only a run with the lease removes it."""
    server, collection = Server(), FakeCollection(MIXED)
    server.checkpoints[KEY] = Stored(Checkpoint((9,)), 0)
    process = fill(server, way, collection)
    process.reach("claim_checkpoint")
    server.checkpoints.clear()
    error = lost_lease(process)
    assert (error.migration, error.in_batches) == ("m", True)
    assert (collection.done, server.checkpoints) == ([], {})


@each_way
def test_save_refused(way: str) -> None:
    """If a later run has claimed the checkpoint, nothing more is handed over."""
    server, collection = Server(), FakeCollection(MIXED)
    seen: list[Stored] = []

    def claim(batch: list[Document]) -> None:
        seen.append(replace(server.checkpoints[KEY], token=7))
        server.checkpoints[KEY] = seen[0]

    error = lost_lease(fill(server, way, collection, work=claim))
    assert (error.migration, error.in_batches) == ("m", True)
    assert collection.done == ([] if is_exact(way) else [[None]])
    assert server.checkpoints[KEY] == seen[0]
    assert len(seen) == 1


@each_basic_way
@pytest.mark.parametrize("batches", [0, 1, 99])
@pytest.mark.parametrize("answered", [False, True])
def test_frozen_holder_wakes(way: str, batches: int, answered: bool) -> None:
    """A process that was frozen past its lease can neither save nor commit when it wakes: whatever the next holder has
    done stays. Outside a transaction, only the batch that it was in is done.
    """
    whole = fill(Server(), way, FakeCollection(MIXED))
    whole.finish()
    names = [call.name for call in whole.log]
    for at in range(names.index("delete_checkpoints"), names.index("function m")):
        server, collection = Server(), FakeCollection(MIXED)
        frozen = fill(server, way, collection)
        for _ in range(at):
            frozen.step(frozen.ready[0])
        call = frozen.ready[0].call
        assert call is not None
        if answered:
            frozen.answer(call)
        frozen_in = call.name
        later = fill(server, way, collection)
        later.reach("claim_checkpoint")
        later.step(later.main)
        while len(later.find("body")) < batches and (later.main.call is None or not later.main.call.is_function):
            later.step(later.ready[0])
        theirs, checkpoints, records = list(collection.done), dict(server.checkpoints), server.records
        frozen.is_undisturbed = False
        with pytest.raises(LeaseLostError):
            frozen.finish()
        assert server.checkpoints == checkpoints
        assert server.records == records
        assert len(collection.done) - len(theirs) == (frozen_in == "body" and not answered and way == "loop")
        later.finish()
        assert set(collection.ids_done) == set(MIXED)
        assert way == "loop" or collection.ids_done == MIXED


# Transactions


@pytest.mark.parametrize("fault", ["request lost", "answer lost"])
@pytest.mark.parametrize("again", [[], [Ending.UNKNOWN, Ending.UNKNOWN], [Ending.EXPIRED]])
def test_commit_unknown(fault: str, again: list[Ending | None]) -> None:
    """A commit is repeated; if that doesn't tell, the checkpoint does. The batch is done once."""
    collection = FakeCollection([1, 2, 3, 4, 5])
    process = fill(Server(), "transaction", collection)
    process.reach("commit")
    process.step(process.main)
    process.reach("commit")
    process.step(process.main, fault)
    process.endings = again[:]
    if fault == "request lost" and again[:1] == [Ending.EXPIRED]:
        process.server.transactions.clear()
    process.finish()
    assert collection.done == [[1, 2], [3, 4], [5]]


def test_aborted_again_and_again() -> None:
    """There is an end to attempts. The error says that it was a batch; the batches before it stay."""
    server, collection = Server(), FakeCollection([1, 2, 3])
    process = fill(server, "transaction", collection, endings=[None, *[Ending.EXPIRED] * 1_000])
    with pytest.raises(TransactionFailedError) as caught:
        process.finish()
    assert (caught.value.name, caught.value.expired, caught.value.in_batches) == ("m", True, True)
    assert caught.value.attempts == MOST_EXPIRED
    assert isinstance(caught.value.__cause__, ConnectionError)
    assert collection.done == [[1, 2]]
    fill(server, "transaction", collection).finish()
    assert collection.done == [[1, 2], [3]]


def test_no_transactions() -> None:
    """A server without transactions is found before anything is done. The error says that it was a backfill."""
    process = fill(Server(), "transaction", FakeCollection(MIXED), has_transactions=False)
    with pytest.raises(TransactionsUnsupportedError) as caught:
        process.finish()
    assert (caught.value.migrations, caught.value.in_batches) == (["m"], True)
    assert process.server.checkpoints == {}


# Changes under a backfill


@each_way
def test_inserts_meanwhile(way: str) -> None:
    """Documents inserted behind, right behind the last one, beyond the bounds, or with a new type of `_id`, don't
    prolong the backfill; those ahead are seen.
    """
    collection = FakeCollection([1, 3, 5, 7, 9, "b"])

    def insert(batch: list[Document]) -> None:
        last = batch[-1]["_id"]
        collection.insert(0, 1.5, b"new", None)
        if isinstance(last, (int, float)):
            collection.insert(last + 0.5, 10 + last, 8.5)
        else:
            collection.insert("c" * len(collection.documents))

    fill(Server(), way, collection, work=insert).finish()
    assert collection.done == [[1, 3], [5, 7], [8.5, 9], ["b"]]


def test_removals_meanwhile() -> None:
    """A backfill goes on behind a removed document, also if the next batch was to start there."""
    collection = FakeCollection([1, 2, 3, 4, 5])
    fill(Server(), "loop", collection, work=lambda _: collection.documents.pop(3, None)).finish()
    assert collection.done == [[1, 2], [4, 5]]

    collection = FakeCollection([1, 2, 3, "a"])
    fill(Server(), "loop", collection, work=lambda _: collection.documents.clear()).finish()
    assert collection.done == [[1, 2]]


@each_way
@pytest.mark.parametrize("uuid", [b"two", b""])
def test_collection_replaced(way: str, uuid: bytes) -> None:
    """A dropped or replaced collection is found at the end. The next run starts over, with an event, and warns of a
    missing one. In transactions it does nothing until the backfill is restarted.
    """
    server, collection = Server(), FakeCollection([1, 2, 3])
    process = fill(server, way, collection, work=lambda _: setattr(collection, "uuid", uuid))
    with pytest.raises(CollectionChangedError) as caught:
        process.finish()
    assert (caught.value.name, caught.value.collection) == ("m", "orders")
    collection.done.clear()
    if is_exact(way):
        refuse(server, way, collection, "collection")
        assert restart(server) == ["orders"]
    successor = fill(server, way, collection)
    successor.finish()
    assert collection.done == [[1, 2], [3]]
    restarts = [] if is_exact(way) else [BackfillRestarted(*PLACE, "orders", "orders")]
    assert find(successor, BackfillRestarted) == restarts
    missing = [] if uuid else [CollectionMissing(*PLACE, "orders", "orders")]
    assert find(successor, CollectionMissing) == missing


@each_way
def test_collection_replaced_before_it_resumes(way: str) -> None:
    """An interrupted backfill starts over if its name means another collection; a finished one is done."""
    server, collection = Server(), FakeCollection([1, 2, 3])
    cut_off(server, collection)
    collection.uuid = b"two"
    if is_exact(way):
        refuse(server, way, collection, "collection")
        restart(server)
    successor = fill(server, way, collection)
    successor.reach("function m")
    assert collection.done == [[1, 2], [1, 2], [3]]
    assert len(find(successor, BackfillRestarted)) == (not is_exact(way))
    successor.kill()
    collection.uuid = b"three"
    third = fill(server, way, collection)
    third.finish()
    assert len(collection.done) == 3
    assert not [event for event in third.events if isinstance(event, (BackfillStarted, BackfillRestarted))]


def refuse(server: Server, way: str, collection: FakeCollection, changed: str, **options: Any) -> None:
    """Check that an exact backfill is refused, because something has changed, and that nothing is done."""
    before = list(collection.done), server.checkpoints[KEY].checkpoint
    with pytest.raises(BackfillChangedError, match="quaestor restart-backfill m --backfill orders") as caught:
        fill(server, way, collection, **options).finish()
    assert (caught.value.name, caught.value.backfill, caught.value.changed) == ("m", "orders", changed)
    assert (collection.done, server.checkpoints[KEY].checkpoint) == before


def restart(server: Server, name: str = "m", backfill: str | None = None) -> list[str]:
    process = Process(server, {"m": MigrationDefinition("m", lambda db: None)}, "restarter")
    names: list[str] = process.start(process.engine.restart_backfill(name, backfill)).finish()
    assert find(process, BackfillReset) == [BackfillReset(*WHERE, ("m",), one) for one in names]
    return names


def test_restart() -> None:
    """One backfill is restarted, in either direction; of several it has to be named. Unknown names are refused."""
    server, collection = Server(), FakeCollection([1, 2, 3])
    assert restart(server) == []
    with pytest.raises(UnknownMigrationError):
        restart(server, "n")
    cut_off(server, collection)
    server.checkpoints[KEY._replace(backfill="other", undo=True)] = server.checkpoints[KEY]
    for backfill in (None, "more"):
        with pytest.raises(InvalidOptionError, match="'orders', 'other'"):
            restart(server, backfill=backfill)
    assert restart(server, backfill="other") == ["other"]
    assert list(server.checkpoints) == [KEY]
    assert restart(server) == ["orders"]
    assert (server.checkpoints, server.records, server.holder) == ({}, set(), None)


@each_basic_way
def test_checkpoint_of_an_earlier_release(way: str) -> None:
    """A backfill resumes from a checkpoint with the fingerprint of an earlier release, and gives it today's."""
    server, collection = Server(), FakeCollection([1, 2, 3, 4])
    cut_off(server, collection)
    server.checkpoints[KEY] = replace(server.checkpoints[KEY], fingerprint="as an earlier release wrote it")
    process = fill(server, way, collection)
    process.reach("body")
    assert server.checkpoints[KEY].fingerprint == "all"
    process.finish()
    assert collection.done == [[1, 2], [3, 4]]
    assert not find(process, BackfillRestarted)


@each_way
def test_filter_changed(way: str) -> None:
    """A backfill whose filter has changed since the last attempt starts over, with an event, or is refused in
    transactions; others aren't touched.
    """
    server, collection, other = Server(), FakeCollection([1, 2, 3], kind="new"), FakeCollection([4])
    cut_off(server, collection)
    if is_exact(way):
        refuse(server, way, collection, "filter", filter={"kind": "new"})
        return
    collection.done.clear()

    async def migrate(context: FakeContext) -> None:
        await go_over(context, way, collection, filter={"kind": "new"})
        await go_over(context, way, other, name="other")

    process = start(server, migrate)
    process.finish()
    assert (collection.done, other.done) == ([[1, 2], [3]], [[4]])
    assert find(process, BackfillRestarted) == [BackfillRestarted(*PLACE, "orders", "orders")]
    assert [event.done for event in find(process, BackfillStarted)] == [0, 0]


def test_ids_that_do_not_survive() -> None:
    """If the highest `_id`, as it was read, is never found again, the backfill doesn't look forever."""
    process = fill(Server(), "loop", FakeCollection([1]))
    for _ in range(MOST_TYPES + 1):
        process.reach("find_highest")
        process.main.go_on((0.5,))
    with pytest.raises(InvalidOptionError):
        process.finish()
    assert process.server.checkpoints == {}


# Progress and rests


@pytest.mark.parametrize(("count", "total"), [(7, 7), (..., None)])
def test_total(count: Any, total: int | None) -> None:
    """The total is the server's estimate, if it can make one."""
    collection = FakeCollection([1])
    collection.count = count
    process = fill(Server(), "loop", collection)
    process.finish()
    assert [event.total for event in find(process, BackfillStarted)] == [total]


def test_resumed_progress() -> None:
    """A backfill that resumes doesn't count again. It reports earlier work; the rate is that of this attempt."""
    server, collection = Server(), FakeCollection([1, 2, 3, 4, 5])
    cut_off(server, collection)
    collection.insert(6)
    process = fill(server, "loop", collection, latency=0.5)
    process.finish()
    assert not process.find("estimate_count")
    assert find(process, BackfillStarted) == [BackfillStarted(*PLACE, "orders", "orders", 2, 5)]
    # A read and a check each; then a read, a save beside it and a check.
    assert find(process, MigrationProgressed) == [
        MigrationProgressed(*PLACE, 4, 5, 2 / 1.0, backfill="orders"),
        MigrationProgressed(*PLACE, 5, 5, 3 / 2.5, backfill="orders"),
    ]


def test_lag() -> None:
    """A backfill waits until replicas have caught up. It says so at once, and then every 30 s; its lease is renewed."""
    lags = [99.0, *[7.0] * 62, 5.0, 6.0, 0.0]
    process = fill(Server(), "loop", FakeCollection([1, 2, 3]), 1, max_lag=5.0, lags=lags)
    process.finish()
    assert find(process, ReplicasAwaited) == [
        ReplicasAwaited(*PLACE, 7.0, 0.0),
        ReplicasAwaited(*PLACE, 7.0, 30.0),
        ReplicasAwaited(*PLACE, 7.0, 60.0),
        ReplicasAwaited(*PLACE, 6.0, 0.0),
    ]
    assert [call.details for call in process.find("sleep")] == [LAG_POLL] * 63
    assert not lags


def test_lease_lost_while_replicas_are_awaited() -> None:
    """A backfill that has lost the lease doesn't wait any longer."""
    process = fill(Server(), "loop", FakeCollection([1, 2, 3]), 1, max_lag=5.0, lags=[0.0, *[7.0] * 1_000])
    process.reach("sleep")
    process.server.expire()
    assert lost_lease(process).migration == "m"
    assert process.server.now < 1_000 + TTL


@each_basic_way
def test_pause(way: str) -> None:
    """Between two batches a backfill pauses, when its checkpoint is saved. It doesn't ask for replicas."""
    process = fill(Server(), way, FakeCollection([1, 2, 3]), 1, pause=2.5)
    process.finish()
    assert [call.details for call in process.find("sleep")] == [(2.5, 2.5)] * 2
    assert not process.find("read_lag")
    names = [call.name for call in process.log if call.name in {"body", "save_checkpoint", "sleep", "commit"}]
    save = "save_checkpoint" if way == "loop" else "commit"
    assert names[:6] == ["body", save, "sleep"] * 2


def test_checkpoint_is_saved_beside_the_read() -> None:
    """The checkpoint is saved while the next batch is read; nothing is handed over before both have an answer."""
    for late in ("both", "main"):
        process = fill(Server(), "loop", FakeCollection([1, 2, 3]))
        process.reach("body")
        process.step(process.main)
        tasks = {task.key: task for task in process.ready}
        assert {key: task.call.name for key, task in tasks.items() if task.call} == {
            "both": "save_checkpoint",
            "main": "read_batch",
        }
        process.step(tasks["main" if late == "both" else "both"])
        names = [task.call.name for task in process.tasks if task.call is not None]
        assert "renew_lease" not in names
        process.finish()
