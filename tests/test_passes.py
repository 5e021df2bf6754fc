"""The order of steps of a pass, fed by hand: no database, no event loop."""

import contextlib
import itertools
from collections.abc import Callable, Generator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from unittest.mock import ANY

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quaestor._core import leasing, passes, transaction
from quaestor._core.checkpoint import COUNTED, LOOKED_EVERY, SAMPLE, Checkpoint, Document, Pace, PassKey, Source
from quaestor._core.effects import AskForTransactions, CheckLease, Command, Emit, Now, Sleep, Unknown
from quaestor._core.lease import Terms, Turn
from quaestor._core.pass_effects import (
    ClaimCheckpoint,
    CountAll,
    CountMatching,
    CountSampled,
    FindHighest,
    FindPasses,
    HandOver,
    IdentifyCollection,
    PassEffect,
    PassFlow,
    ReadBatch,
    ReadBeside,
    ReadLag,
    SaveCheckpoint,
    TakeSession,
    TransactBatch,
)
from quaestor._core.passes import Loop, Passes
from quaestor._core.transaction import Attempt, Ending
from quaestor._hosts.drive import drive
from quaestor.errors import (
    CollectionChangedError,
    InvalidOptionError,
    LeaseLostError,
    TransactionFailedError,
    TransactionsUnsupportedError,
)
from quaestor.events import (
    Event,
    MigrationProgressed,
    MigrationRetried,
    PassChanged,
    PassStarted,
    Place,
    ReplicasAwaited,
)
from tests.passing import Aborted, Collection, Passing, begun, order
from tests.world import Crash, Kept, Server, World, lease

WHERE = Place("shop", "app", "m", 1, 1)
TTL = 30.0
KEY = PassKey("m", False, "all", 0)
UNKNOWN = Unknown(ConnectionError("lost"))
MIXED: list[object] = [None, 1, 2.5, 3, 7, "a", "b", "c", b"x", b"y"]
"""`_id`s of four types, in order."""

F = TypeVar("F", bound=Event)

Mode = Callable[[Passing, Source, int], None]
"""How a migration goes over a collection, in batches of a size."""


def in_loop(passing: Passing, source: Source, size: int = 2) -> None:
    passing.loop(source, size)


def to_body(passing: Passing, source: Source, size: int = 2) -> None:
    passing.each(source, size, transaction=False)


def with_rests(passing: Passing, source: Source, size: int = 2) -> None:
    passing.loop(source, pace=Pace(size, pause=1.0, max_lag=5.0))


def in_transactions(passing: Passing, source: Source, size: int = 2) -> None:
    passing.each(source, size)


def in_transactions_with_rests(passing: Passing, source: Source, size: int = 2) -> None:
    passing.each(source, pace=Pace(size, pause=1.0, max_lag=5.0))


PLAIN = [in_loop, to_body, with_rests]
TRANSACTIONAL = [in_transactions, in_transactions_with_rests]
each_mode = pytest.mark.parametrize("mode", PLAIN + TRANSACTIONAL)


def attempt(server: Server, ttl: float = TTL, **options: Any) -> Passing:
    """A run that takes the lease when that of the last one has ended."""
    server.now = max(server.now, server.ends_at)
    return begun(World(server, Terms(f"run {server.token}", ttl)), **options)


def crashing(server: Server, crash_at: int, *, after: bool) -> Passing:
    """The same, in a process that dies at this effect, or just after it."""
    passing = attempt(server)
    passing.world.crash_at, passing.world.crash_after = crash_at, after
    return passing


def told(passing: Passing, kind: type[F]) -> list[F]:
    return [event for event in passing.world.events if isinstance(event, kind)]


def follow(flow: PassFlow[None], steps: list[tuple[object, PassEffect]]) -> None:
    """Feed a flow its answers, each beside the effect that must follow it; then True, with which it ends."""
    for answer, expected in steps:
        assert flow.send(answer) == expected
    with pytest.raises(StopIteration):
        flow.send(True)


def documents(*ids: object) -> list[Document]:
    return [{"_id": one} for one in ids]


def started(done: int = 0, whole: int | None = 3) -> Emit:
    return Emit(PassStarted(*WHERE, "orders", done, whole))


def progressed(done: int, rate: float | None, *, due: bool = False) -> Emit:
    return Emit(MigrationProgressed(*WHERE, done, 3, rate, due=due))


SOURCE = Collection([1, 2, 3]).source()
FRESH = Checkpoint((3,), total=3, collection_id=b"one")
FIRST = replace(FRESH, start=(3,), batches=1, done=2)
SECOND = replace(FRESH, bounds=(), batches=2, done=3)


def beginning() -> list[tuple[object, PassEffect]]:
    return [
        (b"one", FindHighest(SOURCE, ())),
        ((3,), FindHighest(SOURCE, (3,))),
        ((), CountAll(SOURCE)),
        (3, Now()),
        (10.0, CheckLease(lease())),
        (True, Now()),
        (10.0, ClaimCheckpoint(KEY, "orders", FRESH, 1)),
        (FRESH, Now()),
        (10.0, started()),
    ]


def steps_of_batches(body: Callable[[list[Document]], object], pause: float = 0.0) -> list[tuple[object, PassEffect]]:
    return [
        *beginning(),
        (None, ReadBatch(SOURCE, FRESH, 3)),
        (documents(1, 2, 3), Now()),
        (11.0, CheckLease(lease())),
        (True, Now()),
        (11.0, HandOver(documents(1, 2), body, "all 0 0")),
        (None, Now()),
        (14.0, progressed(2, 2 / (4 + pause))),
        (None, ReadBeside(ReadBatch(SOURCE, FIRST, 3), SaveCheckpoint(KEY, FIRST, 1))),
        ((documents(3), True), Now()),
        (40.0, CheckLease(lease())),
        (True, Now()),
        (40.0, HandOver(documents(3), body, "all 0 1")),
        (None, Now()),
        (40.0, progressed(3, 3 / (30 + pause), due=True)),
        (None, IdentifyCollection(SOURCE)),
        (b"one", SaveCheckpoint(KEY, replace(SECOND, finished=True), 1)),
    ]


def fed() -> Passes:
    """The passes of a migration whose run has just taken its lease."""
    return Passes(WHERE, Turn(lease(), TTL, 10.0), undo=False)


def test_steps() -> None:
    """See what was left, check the lease, claim the checkpoint; read, check the lease, hand over; keep the checkpoint
    beside the read of the next batch. In the end look whether it was one collection all along.
    """
    flow = fed().over(SOURCE, Pace(2), list)
    follow(
        flow,
        [(None, FindPasses("m", False)), ({}, IdentifyCollection(SOURCE)), *steps_of_batches(list)],
    )


def at_the_second_read() -> PassFlow[None]:
    """A pass that has just asked for its second batch, and for its checkpoint to be kept beside that."""
    flow = fed().over(SOURCE, Pace(2), list)
    answers: list[object] = [None, {}, *(answer for answer, _ in steps_of_batches(list)[:17])]
    *_, beside = [flow.send(answer) for answer in answers]
    assert beside == ReadBeside(ReadBatch(SOURCE, FIRST, 3), SaveCheckpoint(KEY, FIRST, 1))
    return flow


def test_read_without_answer() -> None:
    """Where only the read beside a save has no answer, that alone is sent again; then it is waited out."""
    flow = at_the_second_read()
    assert flow.send((UNKNOWN, True)) == ReadBatch(SOURCE, FIRST, 3)
    assert flow.send(UNKNOWN) == Now()
    assert flow.send(15.0) == Sleep(*leasing.PAUSE)
    assert flow.send(None) == ReadBatch(SOURCE, FIRST, 3)
    assert flow.send(documents(3)) == Now()


def test_save_without_answer() -> None:
    """Where only the save beside a read has no answer it is sent again, and nothing is handed over before it has one;
    what was read is used.
    """
    flow = at_the_second_read()
    assert flow.send((documents(3), UNKNOWN)) == SaveCheckpoint(KEY, FIRST, 1)
    assert flow.send(UNKNOWN) == Now()
    assert flow.send(15.0) == Sleep(*leasing.PAUSE)
    assert flow.send(None) == SaveCheckpoint(KEY, FIRST, 1)
    assert flow.send(True) == Now()
    assert flow.send(15.0) == CheckLease(lease())


def test_neither_answer() -> None:
    """Where neither has an answer the save is sent again first."""
    flow = at_the_second_read()
    assert flow.send((UNKNOWN, UNKNOWN)) == SaveCheckpoint(KEY, FIRST, 1)
    assert flow.send(True) == ReadBatch(SOURCE, FIRST, 3)
    assert flow.send(documents(3)) == Now()


@pytest.mark.parametrize("read", [documents(3), UNKNOWN])
@pytest.mark.parametrize("saved", [False, UNKNOWN])
def test_save_refused_beside_a_read(read: object, saved: object) -> None:
    """That the checkpoint is another run's by now ends the pass, whatever was read, and however that is learnt."""
    flow = at_the_second_read()
    assert flow.send((read, saved)) == SaveCheckpoint(KEY, FIRST, 1)
    with pytest.raises(LeaseLostError) as caught:
        flow.send(False)
    assert (caught.value.migration, caught.value.in_batches) == ("m", True)


def test_steps_of_a_loop() -> None:
    """A loop goes the same way, but that it is handed its batches by itself, and the pass stands still meanwhile."""
    loop = Loop(fed().over(SOURCE, Pace(2)))
    steps = [(None, FindPasses("m", False)), ({}, IdentifyCollection(SOURCE)), *steps_of_batches(list)]
    batches: list[list[Document] | None] = []
    asked: Generator[PassEffect, object, list[Document] | None] = loop.next()
    for answer, expected in steps:
        if isinstance(expected, HandOver):
            with pytest.raises(StopIteration) as end:
                asked.send(answer)
            batches.append(end.value.value)
            asked = loop.next()
        else:
            assert asked.send(answer) == expected
    with pytest.raises(StopIteration) as end:
        asked.send(True)
    assert [*batches, end.value.value] == [documents(1, 2), documents(3), None]


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, Crash])
def test_what_goes_wrong_at_a_step_of_a_loop(kind: type[BaseException]) -> None:
    """It is thrown into the pass at that place, and comes out as it is."""
    error = kind()
    asked = Loop(fed().over(SOURCE, Pace(2))).next()
    assert next(asked) == FindPasses("m", False)
    with pytest.raises(kind) as caught:
        asked.throw(error)
    assert caught.value is error


def test_steps_of_transactions() -> None:
    """The session stands in the lock before it is used; the lease is checked before each transaction, which has the
    batch and its checkpoint: no other one is kept but that the pass is finished.
    """
    flow = fed().over(SOURCE, Pace(2), list, transaction=True)
    done = {
        "first": Attempt(Ending.COMMITTED, 0.5, None, FIRST),
        "second": Attempt(Ending.COMMITTED, 0.5, None, SECOND),
    }
    follow(
        flow,
        [
            (None, FindPasses("m", False)),
            ({}, AskForTransactions()),
            (True, TakeSession()),
            ((b"s",), Now()),
            (10.0, CheckLease(lease(), sessions=(b"s",))),
            (True, Now()),
            (10.0, IdentifyCollection(SOURCE)),
            *beginning(),
            (None, Now()),
            (11.0, CheckLease(lease())),
            (True, Now()),
            (11.0, Now()),
            (11.0, Now()),
            (11.0, TransactBatch(KEY, 1, SOURCE, FRESH, 2, list)),
            (done["first"], Now()),
            (14.0, progressed(2, 0.5)),
            (None, Now()),
            (15.0, CheckLease(lease())),
            (True, Now()),
            (15.0, Now()),
            (15.0, Now()),
            (15.0, TransactBatch(KEY, 1, SOURCE, FIRST, 2, list)),
            (done["second"], Now()),
            (16.0, progressed(3, 0.5)),
            (None, IdentifyCollection(SOURCE)),
            (b"one", SaveCheckpoint(KEY, replace(SECOND, finished=True), 1)),
        ],
    )


def test_steps_in_a_transaction() -> None:
    """The batch is read in it and handed over; what the driver raises is never waited out there."""
    flow = passes.batch(KEY, SOURCE, FRESH, 2, list)
    assert next(flow) == ReadBatch(SOURCE, FRESH, 3)
    assert flow.send(documents(1, 2, 3)) == HandOver(documents(1, 2), list, "all 0 0")
    with pytest.raises(StopIteration) as end:
        flow.send(None)
    assert end.value.value == FIRST

    flow = passes.batch(KEY, SOURCE, FRESH, 2, list)
    assert next(flow) == ReadBatch(SOURCE, FRESH, 3)
    with pytest.raises(StopIteration) as end:
        flow.send([])  # nothing to hand over
    assert end.value.value == replace(FRESH, bounds=(), batches=1)


def test_steps_with_rests() -> None:
    """The lag is asked for before anything is done; the checkpoint is kept before a pause, and not once more after it.
    After the last batch there is no pause, but the rate has one for each batch.
    """
    flow = fed().over(SOURCE, Pace(2, pause=0.5, max_lag=3), list)
    follow(
        flow,
        [
            (None, FindPasses("m", False)),
            ({}, ReadLag()),
            (99.0, IdentifyCollection(SOURCE)),
            *steps_of_batches(list, 0.5)[:16],
            (None, SaveCheckpoint(KEY, FIRST, 1)),
            (True, Sleep(0.5, 0.5)),
            (None, Now()),
            (14.0, ReadLag()),
            (2.0, ReadBatch(SOURCE, FIRST, 3)),
            (documents(3), Now()),
            *steps_of_batches(list, 0.5)[18:],
        ],
    )


@each_mode
def test_all_documents(mode: Mode) -> None:
    """Each document is seen once, in order; no batch has two types in it, and none is empty."""
    collection = Collection(MIXED)
    passing = attempt(Server())

    mode(passing, collection.source(), 2)

    assert collection.done == [[None], [1, 2.5], [3, 7], ["a", "b"], ["c"], [b"x", b"y"]]
    (kept,) = passing.world.server.progress.values()
    assert kept == Kept(Checkpoint((), batches=6, done=10, total=10, collection_id=b"one", finished=True), 1, "orders")
    assert [event.done for event in told(passing, MigrationProgressed)] == [1, 3, 5, 7, 8, 10]


@each_mode
def test_nothing_there(mode: Mode) -> None:
    """A pass over an empty collection, or one in which nothing matches, is finished without a batch."""
    passing = attempt(Server())
    empty, other = Collection(), Collection(MIXED)

    mode(passing, empty.source("empty"), 2)
    mode(passing, other.source("other", kind="none"), 2)

    assert (empty.done, other.done) == ([], [])
    assert [kept.checkpoint.finished for kept in passing.world.server.progress.values()] == [True, True]
    assert [event.whole for event in told(passing, PassStarted)] == [0, 0]


@each_mode
def test_filter(mode: Mode) -> None:
    """Only what matches is seen; types in which nothing does make no batch."""
    collection = Collection(MIXED)
    collection.insert(2, 4, "d", kind="new")
    mode(attempt(Server()), collection.source(kind="new"), 5)
    assert collection.done == [[2, 4], ["d"]]


@each_mode
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("size", [1, 3, 20])
def test_crash_at_every_effect(mode: Mode, after: bool, size: int) -> None:
    """Wherever a process dies, the next run goes on from there: at most one batch is seen twice, and none where a
    batch is one transaction.
    """
    whole = attempt(Server())
    mode(whole, Collection(MIXED).source(), size)

    for crash_at in range(whole.world.performed):
        server, collection = Server(), Collection(MIXED)
        with pytest.raises(Crash):
            mode(crashing(server, crash_at, after=after), collection.source(), size)
        reached = check(collection, MIXED, size=size, first=0, reached=0, exactly=True)
        first = len(collection.done)
        successor = attempt(server)

        mode(successor, collection.source(), size)

        check(collection, MIXED, size=size, first=first, reached=reached, exactly=mode in TRANSACTIONAL)
        assert set(collection.ids_done) == set(MIXED)
        assert all(kept.checkpoint.finished for kept in server.progress.values())
        assert not told(successor, PassChanged)


def check(collection: Collection, expected: list[object], *, size: int, first: int, reached: int, exactly: bool) -> int:
    """Check that the batches from the `first` on are documents in order, from where an earlier attempt has `reached`;
    or from the batch before, the last one done, where that may be seen again. Returns how far that is.
    """
    batches = collection.done[first:]
    if not batches:
        return reached
    assert max(map(len, batches)) <= size
    again = len(collection.done[first - 1]) if first and not exactly else 0
    begins = expected.index(batches[0][0])
    assert begins in {reached, reached - again}
    ids = [one for batch in batches for one in batch]
    assert ids == expected[begins : begins + len(ids)]
    return max(reached, begins + len(ids))


IDS = st.one_of(st.none(), st.integers(-50, 50), st.text("abc", max_size=3), st.binary(max_size=2))


@given(
    ids=st.sets(IDS, max_size=25),
    sizes=st.lists(st.integers(1, 9), min_size=5, max_size=5),
    crashes=st.lists(st.tuples(st.integers(0, 60), st.booleans()), max_size=4),
    mode=st.sampled_from(PLAIN + TRANSACTIONAL),
)
def test_any_crashes(ids: set[object], sizes: list[int], crashes: list[tuple[int, bool]], mode: Mode) -> None:
    """However often processes die, and whatever size of batches they were told: each document is seen, in order, and
    each death repeats one batch at most; with transactions nothing is seen twice.
    """
    server, collection, expected = Server(), Collection(ids), sorted(ids, key=order)
    reached = 0
    for (crash_at, after), size in zip([*crashes, (10_000, False)], sizes, strict=False):
        first = len(collection.done)
        passing = crashing(server, crash_at, after=after)
        try:
            mode(passing, collection.source(), size)
        except Crash:
            assert passing.world.performed > crash_at
        exactly = mode in TRANSACTIONAL
        reached = check(collection, expected, size=size, first=first, reached=reached, exactly=exactly)
    assert set(collection.ids_done) == ids
    assert reached == len(expected)
    if mode in TRANSACTIONAL:
        assert collection.ids_done == expected


@each_mode
@pytest.mark.parametrize("after", [False, True])
def test_crash_in_several_passes(mode: Mode, after: bool) -> None:
    """Passes of one migration are kept apart, over the same documents as well: what is finished is not done again."""

    def migration(passing: Passing) -> None:
        for source in (one.source("one"), two.source("two"), two.source("two")):
            mode(passing, source, 2)

    one, two = Collection(MIXED), Collection([1, 2, 3])
    whole = attempt(Server())
    migration(whole)
    assert (one.ids_done, two.ids_done) == (MIXED, [1, 2, 3, 1, 2, 3])

    for crash_at in range(whole.world.performed):
        one, two, server = Collection(MIXED), Collection([1, 2, 3]), Server()
        with pytest.raises(Crash):
            migration(crashing(server, crash_at, after=after))
        successor = attempt(server)
        migration(successor)

        assert sorted(set(one.ids_done), key=order) == MIXED
        assert [two.ids_done.count(number) >= 2 for number in (1, 2, 3)] == [True] * 3
        twice = len(one.ids_done) + len(two.ids_done) - len(MIXED) - 6
        assert 0 <= twice <= (0 if mode in TRANSACTIONAL else 2)
        assert not told(successor, PassChanged)


def test_body_that_fails() -> None:
    """What it raises comes out as it is; its batch is handed over again in the next attempt."""
    server, collection = Server(), Collection([1, 2, 3, 4])
    error = ValueError()

    def fail(batch: list[Document]) -> None:
        if batch[0]["_id"] == 3:
            raise error

    for transactional in (False, True):
        with pytest.raises(ValueError) as caught:  # noqa: PT011 - it is looked at
            attempt(server).each(collection.source(), 2, fail, transaction=transactional)
        assert caught.value is error
        assert collection.done == [[1, 2]]
    attempt(server).loop(collection.source(), 2)
    assert collection.done == [[1, 2], [3, 4]]


def test_loop_that_is_left() -> None:
    """A loop that is left in the middle has not done its last batch, nor the pass."""
    server, collection = Server(), Collection([1, 2, 3, 4, 5])
    passing = attempt(server)
    loop = Loop(passing.passes.over(collection.source(), Pace(2)))
    assert drive(loop.next(), passing.perform) == documents(1, 2)
    assert drive(loop.next(), passing.perform) == documents(3, 4)

    attempt(server).loop(collection.source(), 2)

    assert collection.done == [[3, 4], [5]]


# The lease, and holders that have lost it


class Losing(Passing):
    """A run that loses its lease just before one of its checks: it was frozen, or somebody has freed it."""

    lost_at = 0

    def perform(self, effect: PassEffect) -> object:
        if isinstance(effect, CheckLease):
            self.lost_at -= 1
            if self.lost_at == 0:
                self.world.server.ends_at = self.world.server.now
        return super().perform(effect)


@each_mode
def test_lease_lost_at_each_check(mode: Mode) -> None:
    """The pass ends before the next batch, with an error that names the migration; nothing is seen twice."""
    whole = attempt(Server())
    mode(whole, Collection(MIXED).source(), 2)
    checks = sum(isinstance(effect, CheckLease) for effect in whole.asked)
    assert checks >= 6

    for lost_at in range(1, checks + 1):
        server, collection = Server(), Collection(MIXED)
        usual = attempt(server)
        losing = Losing(usual.world, usual.turn)
        losing.lost_at = lost_at
        with pytest.raises(LeaseLostError) as caught:
            mode(losing, collection.source(), 2)
        assert (caught.value.migration, caught.value.in_batches) == ("m", True)
        before = 2 if mode in TRANSACTIONAL else 1  # that it has a session, and that it claims the checkpoint
        assert len(collection.done) == max(0, lost_at - 1 - before)

        mode(attempt(server), collection.source(), 2)
        assert collection.ids_done == MIXED


@each_mode
@pytest.mark.parametrize("is_new", [False, True])
def test_claim_by_force(mode: Mode, is_new: bool) -> None:
    """Where the lock was dropped its tokens began again: what bears a higher one than that of the holder of the lease
    is no later run's, and the pass goes on from there.
    """
    server, collection = Server(), Collection(MIXED)
    bound, later = ((9,), (b"y",)), 7
    server.progress[KEY] = Kept(Checkpoint(bound[0], (3,), 2, 3), later, "orders")
    passing = attempt(server)
    if is_new:  # it came after this run had looked

        class Late(Passing):
            def perform(self, effect: PassEffect) -> object:
                answer = super().perform(effect)
                return {} if isinstance(effect, FindPasses) else answer

        passing = Late(passing.world, passing.turn)

    mode(passing, collection.source(), 2)

    assert collection.ids_done == (MIXED if is_new else [3, 7])
    claims = [effect for effect in passing.asked if isinstance(effect, ClaimCheckpoint)]
    assert [claim.by_force for claim in claims] == [False, True]
    assert (server.progress[KEY].token, server.progress[KEY].checkpoint.finished) == (1, True)


@each_mode
def test_no_claim_by_force_without_the_lease(mode: Mode) -> None:
    """Where a later run has the checkpoint because it has the lease, nothing is taken from it, and nothing is seen."""

    class Overtaken(Passing):
        def perform(self, effect: PassEffect) -> object:
            if isinstance(effect, ClaimCheckpoint):  # it was frozen just before
                attempt(server).loop(other.source())
            return super().perform(effect)

    server, collection, other = Server(), Collection(MIXED), Collection(MIXED)
    usual = attempt(server)
    frozen = Overtaken(usual.world, usual.turn)
    with pytest.raises(LeaseLostError) as caught:
        mode(frozen, collection.source(), 2)

    assert (caught.value.migration, caught.value.in_batches) == ("m", True)
    assert (collection.done, other.ids_done) == ([], MIXED)
    assert [effect.by_force for effect in frozen.asked if isinstance(effect, ClaimCheckpoint)] == [False]
    assert server.progress[KEY].token == 2


@each_mode
def test_checkpoint_that_is_gone(mode: Mode) -> None:
    """A checkpoint that was there and that somebody has removed by the time it is claimed ends the pass: nobody but a
    run that holds the lease does that.
    """

    class Removed(Passing):
        def perform(self, effect: PassEffect) -> object:
            answer = super().perform(effect)
            if isinstance(effect, FindPasses):
                self.world.server.progress.clear()
            return answer

    server, collection = Server(), Collection(MIXED)
    server.progress[KEY] = Kept(Checkpoint((9,)), 0, "orders")
    usual = attempt(server)
    with pytest.raises(LeaseLostError) as caught:
        mode(Removed(usual.world, usual.turn), collection.source(), 2)
    assert (caught.value.migration, caught.value.in_batches) == ("m", True)
    assert (collection.done, server.progress) == ([], {})


@each_mode
def test_save_refused(mode: Mode) -> None:
    """Where a later run has claimed the checkpoint meanwhile nothing more is handed over; the later run's stays."""
    server, collection = Server(), Collection(MIXED)
    passing = attempt(server)
    before: list[Kept] = []

    def claimed(batch: list[Document]) -> None:
        before.append(server.progress[KEY])
        server.progress[KEY] = replace(server.progress[KEY], token=7)

    go_over = passing.each if mode in TRANSACTIONAL else passing.loop
    with pytest.raises(LeaseLostError) as caught:
        go_over(collection.source(), 2, claimed)

    assert (caught.value.migration, caught.value.in_batches) == ("m", True)
    assert collection.done == ([] if mode in TRANSACTIONAL else [[None]])
    assert server.progress[KEY] == replace(before[0], token=7)
    assert len(before) == 1


def frozen_at(flow: PassFlow[None], perform: Callable[[PassEffect], object], steps: int) -> PassEffect | None:
    """Drive a flow for so many effects. Returns the next one, which it has asked for; None: it has ended."""
    effect = next(flow)
    for _ in range(steps):
        try:
            effect = flow.send(perform(effect))
        except StopIteration:
            return None
    return effect


def awakened(flow: PassFlow[None], effect: PassEffect, perform: Callable[[PassEffect], object]) -> None:
    """Go on from there to the end."""
    while True:
        try:
            effect = flow.send(perform(effect))
        except StopIteration:
            return


@pytest.mark.parametrize("transactional", [False, True])
@pytest.mark.parametrize("batches", [0, 1, 99])
def test_frozen_holder_wakes(transactional: bool, batches: int) -> None:
    """Wherever a process is frozen past its lease, when it wakes it can neither save nor commit: what the next holder
    has done, be it some batches or all, stays as it is. Outside a transaction the batch that was handed over when it
    froze is done.
    """
    for steps in itertools.count():
        server, collection = Server(), Collection(MIXED)
        frozen = attempt(server)
        flow = frozen.flow(collection.source(), Pace(2), transaction=transactional)
        effect = frozen_at(flow, frozen.perform, steps)
        if effect is None:
            break
        successor = attempt(server)
        seen: list[int] = []

        def some(batch: list[Document], seen: list[int] = seen) -> None:
            seen.append(len(batch))
            if len(seen) > batches:
                raise Crash

        with contextlib.suppress(Crash):
            successor.each(collection.source(), 2, some, transaction=transactional)
        theirs, progress = list(collection.done), dict(server.progress)

        with pytest.raises(LeaseLostError):
            awakened(flow, effect, frozen.perform)

        assert server.progress == progress
        assert progress[KEY].token == 2
        assert len(collection.done) - len(theirs) == isinstance(effect, HandOver)
        attempt(server).each(collection.source(), 2, transaction=transactional)
        if transactional:
            assert collection.ids_done == MIXED
        assert set(collection.ids_done) == set(MIXED)


# Answers that are lost


@each_mode
@pytest.mark.parametrize("fault", ["request lost", "answer lost"])
def test_answer_lost_at_each_command(mode: Mode, fault: str) -> None:
    """Each command can be sent again: the pass goes on as if nothing had been, and sees each document once."""
    whole = attempt(Server())
    mode(whole, Collection(MIXED).source(kind="new"), 2)
    commands = sum(isinstance(effect, Command) for effect in whole.asked)

    for lost in range(commands):
        collection = Collection(MIXED, kind="new")
        passing = attempt(Server(), faults={lost: fault})
        if (error := passing_read_in_transaction(passing, collection, mode)) is not None:
            assert mode in TRANSACTIONAL, error
            continue
        assert collection.ids_done == MIXED
        assert all(kept.checkpoint.finished for kept in passing.world.server.progress.values())


def passing_read_in_transaction(passing: Passing, collection: Collection, mode: Mode) -> Exception | None:
    """Go over it. Returns the error of a read in a transaction, which a runner makes an ending of the attempt."""
    try:
        mode(passing, collection.source(kind="new"), 2)
    except ConnectionError as error:
        assert isinstance(passing.asked[-2], ReadBatch)
        return error
    return None


@each_mode
def test_no_answers_any_more(mode: Mode) -> None:
    """Where none ever comes the driver's error does, at last; the next run goes on from there."""
    whole = attempt(Server())
    mode(whole, Collection(MIXED).source(), 2)
    commands = sum(isinstance(effect, Command) for effect in whole.asked)

    for lost in range(commands):
        server, collection = Server(), Collection(MIXED)
        faults = dict.fromkeys(range(lost, 10_000), "request lost")
        passing = attempt(server, faults=faults)
        with pytest.raises(ConnectionError, match="request lost"):
            mode(passing, collection.source(), 2)
        first, reached = len(collection.done), len(collection.ids_done)
        mode(attempt(server), collection.source(), 2)
        exactly = mode in TRANSACTIONAL
        check(collection, MIXED, size=2, first=first, reached=reached, exactly=exactly)
        assert set(collection.ids_done) == set(MIXED)


@given(
    lost=st.dictionaries(st.integers(0, 80), st.sampled_from(["request lost", "answer lost"]), max_size=30),
    mode=st.sampled_from(PLAIN),
    size=st.integers(1, 11),
)
def test_many_answers_lost(lost: dict[int, str], mode: Mode, size: int) -> None:
    """Nothing is seen twice for that."""
    collection = Collection(MIXED)
    mode(attempt(Server(), faults=lost), collection.source(), size)
    assert collection.ids_done == MIXED


# Transactions


@pytest.mark.parametrize("ending", [Ending.ABORTED, Ending.EXPIRED])
def test_aborted(ending: Ending) -> None:
    """A transaction that the server aborts is begun again, and told; its work is there once."""
    collection = Collection([1, 2, 3])
    passing = attempt(Server(), endings=[None, ending, ending, None])
    calls: list[object] = []

    passing.each(collection.source(), 2, lambda batch: calls.append(batch[0]["_id"]))

    assert collection.done == [[1, 2], [3]]
    assert calls == [1, 3, 3, 3]
    assert [event.attempt for event in told(passing, MigrationRetried)] == [2, 3]


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("again", [[], [Ending.UNKNOWN, Ending.UNKNOWN], [Ending.ABORTED], [Ending.EXPIRED]])
def test_commit_whose_answer_is_lost(is_done: bool, again: list[Ending | None]) -> None:
    """The commit is sent again; where that tells nothing of the batch the checkpoint does. It is done once."""
    collection = Collection([1, 2, 3, 4, 5])
    passing = attempt(Server(), endings=[None, Ending.UNKNOWN, *again], is_done_unknown=is_done)

    passing.each(collection.source(), 2)

    assert collection.done == [[1, 2], [3, 4], [5]]
    (kept,) = passing.world.server.progress.values()
    assert (kept.checkpoint.batches, kept.checkpoint.finished) == (3, True)
    assert bool(told(passing, MigrationRetried)) is not is_done


def test_commit_that_stays_unknown() -> None:
    """The driver's error comes in the end, if the checkpoint does not say that it was done."""
    server, collection = Server(), Collection([1, 2, 3])
    with pytest.raises(Aborted):
        attempt(server, 1_000, endings=[Ending.UNKNOWN] * 1_000).each(collection.source(), 2)
    assert collection.done == []
    passing = attempt(server, 1_000, endings=[Ending.UNKNOWN] * 10_000, is_done_unknown=True)
    passing.each(collection.source(), 2)
    assert collection.done == [[1, 2], [3]]
    assert not told(passing, MigrationRetried)


def test_aborted_again_and_again() -> None:
    """After many attempts the error says that it was a batch; the batches before it stay."""
    server, collection = Server(), Collection([1, 2, 3])
    passing = attempt(server, endings=[None, *[Ending.EXPIRED] * 1_000])
    with pytest.raises(TransactionFailedError) as caught:
        passing.each(collection.source(), 2)
    assert (caught.value.name, caught.value.expired, caught.value.in_batches) == ("m", True, True)
    assert caught.value.seconds >= transaction.LONGEST or caught.value.attempts == transaction.MOST_ATTEMPTS
    assert isinstance(caught.value.__cause__, Aborted)
    assert collection.done == [[1, 2]]
    attempt(server).each(collection.source(), 2)
    assert collection.done == [[1, 2], [3]]


def test_lease_lost_between_attempts() -> None:
    """No second attempt is begun without the lease."""
    server, collection = Server(), Collection([1, 2, 3])
    passing = attempt(server, endings=[Ending.ABORTED])

    def lose(_: list[Document]) -> None:
        server.ends_at = server.now

    with pytest.raises(LeaseLostError):
        passing.each(collection.source(), 2, lose)
    assert collection.done == []


def test_no_transactions() -> None:
    """A server without transactions is found before anything is done, and the error says that it was a pass."""
    passing = attempt(Server(), has_transactions=False)
    with pytest.raises(TransactionsUnsupportedError) as caught:
        passing.each(Collection(MIXED).source(), 2)
    assert (caught.value.migrations, caught.value.in_batches) == (["m"], True)
    assert passing.world.server.progress == {}


def test_session_is_named_in_the_lock() -> None:
    """Before the first transaction, so that a successor can end what this run leaves open."""
    passing = attempt(Server())
    seen: list[frozenset[bytes]] = []
    passing.each(Collection([1, 2, 3]).source(), 2, lambda _: seen.append(passing.world.server.sessions))
    assert seen == [frozenset({b"run 0"})] * 2


# What changes under a pass


@each_mode
def test_what_is_inserted_meanwhile(mode: Mode) -> None:
    """Documents that come in behind, right behind the last one, beyond the bounds, or with a type of `_id` that was
    not there, do not prolong the pass; those ahead are seen.
    """
    collection = Collection([1, 3, 5, 7, 9, "b"])

    def insert(batch: list[Document]) -> None:
        last = batch[-1]["_id"]
        collection.insert(0, 1.5, b"new", None)
        if isinstance(last, (int, float)):
            collection.insert(last + 0.5, 10 + last, 8.5)
        else:
            collection.insert("c" * len(collection.documents))

    passing = attempt(Server())
    go_over = passing.each if mode in TRANSACTIONAL else passing.loop
    go_over(collection.source(), 2, insert)

    assert collection.done == [[1, 3], [5, 7], [8.5, 9], ["b"]]


def test_what_is_removed_meanwhile() -> None:
    """A pass goes on behind a document that is gone, also where the next batch was to begin at it."""
    collection = Collection([1, 2, 3, 4, 5])
    attempt(Server()).loop(collection.source(), 2, lambda _: collection.documents.pop(3, None))
    assert collection.done == [[1, 2], [4, 5]]

    collection = Collection([1, 2, 3, "a"])
    attempt(Server()).loop(collection.source(), 2, lambda _: collection.documents.clear())
    assert collection.done == [[1, 2]]


@each_mode
def test_collection_replaced(mode: Mode) -> None:
    """That it is another one by now is found in the end; the next run begins anew over the new one, and says so."""
    server, collection = Server(), Collection([1, 2, 3])

    def replaced(_: object) -> None:
        collection.identity = b"two"

    passing = attempt(server)
    go_over = passing.each if mode in TRANSACTIONAL else passing.loop
    with pytest.raises(CollectionChangedError) as caught:
        go_over(collection.source(), 2, replaced)
    assert (caught.value.name, caught.value.collection) == ("m", "orders")
    collection.done.clear()

    successor = attempt(server)
    mode(successor, collection.source(), 2)

    assert collection.done == [[1, 2], [3]]
    assert told(successor, PassChanged) == [PassChanged(*WHERE, "orders")]
    (kept,) = server.progress.values()
    assert (kept.checkpoint.collection_id, kept.checkpoint.done, kept.token) == (b"two", 3, 2)


@each_mode
def test_collection_replaced_before_it_goes_on(mode: Mode) -> None:
    """A pass that was cut off begins anew where its name stands for another collection; a finished one is done."""
    server, collection = Server(), Collection([1, 2, 3])
    cut_off(server, collection.source())
    collection.identity = b"two"

    successor = attempt(server)
    mode(successor, collection.source(), 2)
    assert collection.done == [[1, 2], [1, 2], [3]]
    assert told(successor, PassChanged) == [PassChanged(*WHERE, "orders")]

    collection.identity = b"three"
    third = attempt(server)
    mode(third, collection.source(), 2)
    assert len(collection.done) == 3
    assert third.world.events == []


@each_mode
def test_collection_that_the_server_does_not_tell(mode: Mode) -> None:
    """What the server knows a collection by is compared only where it tells it, then and now; that a collection is not
    there (any more) is told.
    """
    server, collection = Server(), Collection([1, 2, 3])
    cut_off(server, collection.source())
    collection.identity = None
    successor = attempt(server)
    mode(successor, collection.source(), 2)
    assert collection.done == [[1, 2], [3]]
    assert not told(successor, PassChanged)

    def dropped(_: object) -> None:
        other.identity = b""

    server, other = Server(), Collection([1, 2, 3])
    passing = attempt(server)
    with pytest.raises(CollectionChangedError):
        (passing.each if mode in TRANSACTIONAL else passing.loop)(other.source(), 2, dropped)


def cut_off(server: Server, *sources: Source) -> Passing:
    """An attempt that goes over these, and dies in the second batch of the last."""
    passing = attempt(server)
    for source in sources[:-1]:
        passing.loop(source, 2)
    loop = Loop(passing.passes.over(sources[-1], Pace(2)))
    for _ in range(2):
        batch = drive(loop.next(), passing.perform)
        assert batch is not None
        if not sources[-1].collection.done:
            sources[-1].collection.done.append([one["_id"] for one in batch])
    return passing


def test_filter_changed() -> None:
    """Where an attempt has ended in a pass that does not come again another pass begins from its start, and the first
    of these says so, once.
    """
    server, collection, other = Server(), Collection([1, 2, 3], kind="new"), Collection([4])
    cut_off(server, collection.source("old"))
    collection.done.clear()

    passing = attempt(server)
    passing.loop(collection.source("new", kind="new"), 2)
    passing.loop(other.source("other"), 2)

    assert collection.done == [[1, 2], [3]]
    assert other.done == [[4]]
    assert told(passing, PassChanged) == [PassChanged(*WHERE, "orders")]
    events = passing.world.events
    assert [type(event) for event in events[:2]] == [PassChanged, PassStarted]


def test_nothing_changed() -> None:
    """A new pass after finished ones, or after one that went on, is nothing to tell."""
    server, one, two, three = Server(), Collection([1]), Collection([1, 2, 3]), Collection([1])
    cut_off(server, one.source("one"), two.source("two"))

    passing = attempt(server)
    for collection, fingerprint in ((one, "one"), (two, "two"), (three, "three")):
        passing.loop(collection.source(fingerprint), 2)

    assert not told(passing, PassChanged)
    assert (one.done, two.done, three.done) == ([[1]], [[1, 2], [3]], [[1]])
    assert [event.done for event in told(passing, PassStarted)] == [2, 0]


def test_other_order() -> None:
    """A pass that now comes after another one goes on all the same."""
    server, one, two = Server(), Collection([1, 2, 3]), Collection([4])
    cut_off(server, one.source("one"))

    passing = attempt(server)
    passing.loop(two.source("two"), 2)
    passing.loop(one.source("one"), 2)

    assert (one.done, two.done) == ([[1, 2], [3]], [[4]])
    assert len(told(passing, PassChanged)) == 1


def test_change_is_told_once() -> None:
    """Of passes that change, and of those whose collection is another one, an attempt tells the first."""
    server, one, two, three = Server(), Collection([1, 2, 3]), Collection([1, 2, 3]), Collection([1, 2, 3])
    attempt(server).loop(three.source("three"), 2)
    cut_off(server, one.source("one"))
    three.identity = b"two"

    passing = attempt(server)
    for collection, fingerprint in ((two, "two"), (three, "three"), (two, "new"), (one, "new one")):
        passing.loop(collection.source(fingerprint), 2)

    assert told(passing, PassChanged) == [PassChanged(*WHERE, "orders")]


# Passes inside others, and in one attempt again


def nested(passing: Passing, mode: Mode, outer: Source, inner: Source, work: Callable[[], object] = int) -> None:
    """A migration that goes over a collection at each batch of another one, and does something before that."""

    def go_over_other(_: list[Document]) -> None:
        work()
        mode(passing, inner, 1)

    passing.loop(outer, 1, go_over_other)


@each_mode
@pytest.mark.parametrize("after", [False, True])
def test_crash_in_nested_passes(mode: Mode, after: bool) -> None:
    """A pass that is begun inside a batch of another one is known by that batch: wherever a process dies, what was
    finished in another batch, or this one's own, is not done again, and what was not is.
    """
    outer, inner = Collection([1, 2, 3]), Collection([7, 8])
    whole = attempt(Server())
    nested(whole, mode, outer.source("outer"), inner.source("inner"))
    assert (outer.done, inner.done) == ([[1], [2], [3]], [[7], [8]] * 3)

    for crash_at in range(whole.world.performed):
        server, outer, inner = Server(), Collection([1, 2, 3]), Collection([7, 8])
        with pytest.raises(Crash):
            nested(crashing(server, crash_at, after=after), mode, outer.source("outer"), inner.source("inner"))
        successor = attempt(server)
        nested(successor, mode, outer.source("outer"), inner.source("inner"))

        assert set(outer.ids_done) == {1, 2, 3}
        assert len(outer.done) <= 4
        assert [inner.ids_done.count(one) >= 3 for one in (7, 8)] == [True, True]
        assert len(inner.done) <= (6 if mode in TRANSACTIONAL else 7)
        assert not told(successor, PassChanged)
        assert all(kept.checkpoint.finished for kept in server.progress.values())
        assert len(server.progress) == 4


def test_key_of_a_nested_pass() -> None:
    """It says in which batch of which pass it was begun, however deep; two in one batch are told apart."""
    server, collection = Server(), Collection([1, 2])
    passing = attempt(server)

    def deeper(batch: list[Document]) -> None:
        if batch[0]["_id"] == 2:
            passing.loop(collection.source("b"), 2, lambda _: passing.each(collection.source("c"), 2))
            passing.loop(collection.source("b"), 2)

    passing.loop(collection.source("a"), 1, deeper)
    passing.loop(collection.source("b"), 1)

    assert [(key.fingerprint, key.number) for key in server.progress] == [
        ("a", 0),
        ("b in a 0 1", 0),
        ("c in b in a 0 1 0 0", 0),
        ("b in a 0 1", 1),
        ("b", 0),
    ]


@each_mode
def test_again_in_one_attempt(mode: Mode) -> None:
    """A migration that takes an error of its pass and goes over it again goes on from there, in this attempt and in
    the next; a pass after that has a number of its own.
    """

    def again(passing: Passing, source: Source) -> None:
        try:
            go_over(passing)(source, 2, fail)
        except ValueError:
            mode(passing, source, 2)
        mode(passing, source, 2)

    def go_over(passing: Passing) -> Callable[[Source, int, Callable[[list[Document]], object]], None]:
        return partial(passing.each, transaction=mode in TRANSACTIONAL)

    def fail(batch: list[Document]) -> None:
        if batch[0]["_id"] == 3:
            raise ValueError

    server, collection = Server(), Collection([1, 2, 3, 4, 5])
    passing = attempt(server)
    again(passing, collection.source())
    assert collection.done == [[1, 2], [3, 4], [5], [1, 2], [3, 4], [5]]
    assert [event.done for event in told(passing, PassStarted)] == [0, 2, 0]
    assert [key.number for key in server.progress] == [0, 1]
    assert not told(passing, PassChanged)

    collection.done.clear()
    successor = attempt(server)
    again(successor, collection.source())
    assert (collection.done, successor.world.events) == ([], [])


def test_other_pass_after_an_error() -> None:
    """A migration that takes an error may go over something else instead: nothing is said of an earlier attempt."""
    server, one, two = Server(), Collection([1, 2, 3]), Collection([4])
    passing = attempt(server)
    with pytest.raises(ZeroDivisionError):
        passing.each(one.source("one"), 2, lambda _: 1 // 0)
    passing.loop(two.source("two"), 2)
    assert two.done == [[4]]
    assert not told(passing, PassChanged)


@pytest.mark.parametrize("transactional", [False, True])
def test_error_before_the_first_batch(transactional: bool) -> None:
    """An error that comes before there is a checkpoint leaves nothing to go on from: the next pass begins anew."""
    server, collection = Server(), Collection([1, 2, 3])
    passing = attempt(server)
    flow = passing.flow(collection.source(), Pace(2), transaction=transactional)
    assert next(flow) == FindPasses("m", False)
    flow.send({})
    error = ConnectionError()
    with pytest.raises(ConnectionError):
        flow.throw(error)
    passing.each(collection.source(), 2, transaction=transactional)
    assert collection.done == [[1, 2], [3]]
    assert not told(passing, PassChanged)


def test_loop_left_and_begun_again() -> None:
    """A loop that is left has had its number: another one over the same is another pass."""
    server, collection = Server(), Collection([1, 2, 3])
    passing = attempt(server)
    flow = passing.passes.over(collection.source(), Pace(2))
    assert drive(Loop(flow).next(), passing.perform) == documents(1, 2)
    flow.close()
    passing.loop(collection.source(), 2)
    assert collection.done == [[1, 2], [3]]
    assert [(key.number, kept.checkpoint.finished) for key, kept in server.progress.items()] == [(0, False), (1, True)]


def test_rollback_keeps_its_own() -> None:
    """What the function of a migration has left is nothing to its rollback, and the other way round."""
    server, collection = Server(), Collection([1, 2, 3])
    cut_off(server, collection.source())

    undoing = attempt(server, undo=True)
    undoing.loop(collection.source(), 2)

    assert collection.done == [[1, 2], [1, 2], [3]]
    assert [event.undo for event in told(undoing, PassStarted)] == [True]
    assert [event.undo for event in told(undoing, MigrationProgressed)] == [True, True]
    assert {key.undo: kept.checkpoint.finished for key, kept in server.progress.items()} == {False: False, True: True}


def test_id_that_comes_twice() -> None:
    """A pass whose next batch would begin at the `_id` with which the last one ended is refused before it is handed
    over, and not gone over for ever.
    """

    class Twice(Passing):
        def perform(self, effect: PassEffect) -> object:
            answer = super().perform(effect)
            return documents(1, 2, 2) if isinstance(effect, ReadBatch) else answer

    usual, collection = attempt(Server()), Collection([1, 2])
    for mode in PLAIN + TRANSACTIONAL:
        with pytest.raises(InvalidOptionError, match="cannot tell them apart"):
            mode(Twice(usual.world, usual.turn), collection.source(), 2)
    assert collection.done == []


@each_mode
def test_insert_while_the_highest_are_looked_for(mode: Mode) -> None:
    """What comes in above a bound between two looks is no second bound of its type: each document is seen once, and
    what came in is beyond the end.
    """

    class Inserting(Passing):
        def perform(self, effect: PassEffect) -> object:
            answer = super().perform(effect)
            if isinstance(effect, FindHighest):
                collection.insert(100 + len(collection.documents), "z" * len(collection.documents))
            return answer

    usual, collection = attempt(Server()), Collection([1, 2, 3, "a", "b"])
    mode(Inserting(usual.world, usual.turn), collection.source(), 2)
    assert collection.ids_done[:3] == [1, 2, 3]
    kinds = [order(one)[0] for one in collection.ids_done]
    assert kinds == sorted(kinds)
    assert len(set(collection.ids_done)) == len(collection.ids_done)
    (kept,) = usual.world.server.progress.values()
    assert (kept.checkpoint.bounds, kept.checkpoint.done) == ((), len(collection.ids_done))


def test_ids_that_do_not_survive() -> None:
    """Where the highest `_id` as it was read is never found again the pass does not look for ever."""

    class Lossy(Passing):
        def perform(self, effect: PassEffect) -> object:
            return (0.5,) if isinstance(effect, FindHighest) else super().perform(effect)

    usual = attempt(Server())
    passing = Lossy(usual.world, usual.turn)
    with pytest.raises(InvalidOptionError, match="codec options"):
        passing.loop(SOURCE)
    assert passing.world.server.progress == {}


# How far it is


def total_of(*answers: object, **filter: int) -> tuple[int | None, list[PassEffect]]:  # noqa: A002 - PyMongo's word
    """The total of a pass, and what was asked for it, with these answers."""
    source = Collection([1]).source("all", **filter)
    flow = fed().over(source, Pace())
    asked: list[PassEffect] = []
    effect: PassEffect = next(flow)
    for answer in ({}, None, (1,), (), *answers):
        effect = flow.send(answer)
        asked.append(effect)
    assert effect == Now()
    for answer in (10.0, True, 10.0):
        effect = flow.send(answer)
    assert isinstance(effect, ClaimCheckpoint)
    assert effect.checkpoint is not None
    return effect.checkpoint.total, asked[3:-1]


def test_total() -> None:
    """Without a filter the server knows; with one a small collection is counted and a large one sampled. Where the
    server cannot say it stays unknown.
    """
    source = Collection([1]).source()
    matching = replace(source, filter={"a": 1})
    assert total_of(7)[0] == 7
    assert [type(effect) for effect in total_of(7)[1]] == [CountAll]
    assert total_of(None) == (None, [CountAll(ANY)])
    assert total_of(None, a=1) == (None, [CountAll(ANY)])
    total, asked = total_of(COUNTED, 7, a=1)
    assert (total, [type(effect) for effect in asked]) == (7, [CountAll, CountMatching])
    assert isinstance(asked[1], CountMatching)
    assert asked[1].source.filter == matching.filter
    assert total_of(COUNTED, None, a=1)[0] is None
    total, asked = total_of(COUNTED + 1, 250, a=1)
    assert (total, asked[1:]) == ((COUNTED + 1) * 250 // SAMPLE, [CountSampled(ANY, SAMPLE)])
    assert total_of(COUNTED + 1, 0, a=1)[0] == 0
    assert total_of(COUNTED + 1, None, a=1)[0] is None


def test_total_is_kept() -> None:
    """A pass that goes on does not count again; it tells what was done before, and its rate is that of this attempt."""
    server, collection = Server(), Collection([1, 2, 3, 4, 5])
    cut_off(server, collection.source())
    collection.insert(6)

    passing = attempt(server, latency=0.5)
    passing.loop(collection.source(), 2)

    assert not [effect for effect in passing.asked if isinstance(effect, (CountAll, FindHighest))]
    assert told(passing, PassStarted) == [PassStarted(*WHERE, "orders", 2, 5)]
    # A read and a check each; then a read, a save beside it and a check.
    assert told(passing, MigrationProgressed) == [
        MigrationProgressed(*WHERE, 4, 5, 2 / 1.0),
        MigrationProgressed(*WHERE, 5, 5, 3 / 2.5),
    ]


def test_rate_at_once() -> None:
    """Where no time has gone by there is no rate."""
    passing = attempt(Server())
    passing.loop(Collection([1, 2, 3]).source(), 2)
    assert [event.rate for event in told(passing, MigrationProgressed)] == [None, None]


def test_due() -> None:
    """Of a pass that goes on one batch in 30 s is due to be logged."""
    server = Server()
    passing = attempt(server)

    def work(_: object) -> None:
        server.renew(passing.turn.lease, TTL)
        server.now += 12

    passing.loop(Collection(range(10)).source(), 1, work)
    assert [event.due for event in told(passing, MigrationProgressed)] == [False, False, True] * 3 + [False]


def test_lag() -> None:
    """A pass waits until its replicas have caught up; it says so at once, and then every 30 s."""
    passing = attempt(Server(), lags=[99.0, *[7.0] * 62, 5.0, 6.0, 0.0])

    def renew(_: object) -> None:
        passing.world.server.ends_at = passing.world.server.now + 1_000

    passing.loop(Collection([1, 2, 3]).source(), 1, renew, Pace(1, max_lag=5.0))

    assert told(passing, ReplicasAwaited) == [
        ReplicasAwaited(*WHERE, 7.0, 0.0),
        ReplicasAwaited(*WHERE, 7.0, 30.0),
        ReplicasAwaited(*WHERE, 7.0, 60.0),
        ReplicasAwaited(*WHERE, 6.0, 0.0),
    ]
    assert [effect for effect in passing.asked if isinstance(effect, Sleep)] == [Sleep(*LOOKED_EVERY)] * 63
    assert not passing.lags


def test_pause() -> None:
    """Between two batches a pass waits for as long as it was told to, and does not ask for replicas."""
    passing = attempt(Server())
    passing.loop(Collection([1, 2, 3]).source(), 1, list, Pace(1, pause=2.5))
    assert [effect for effect in passing.asked if isinstance(effect, Sleep)] == [Sleep(2.5, 2.5)] * 2
    assert not [effect for effect in passing.asked if isinstance(effect, ReadLag)]
