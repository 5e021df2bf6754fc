"""Collections in memory, and passes over them whose processes can crash at any effect. Their server: `world.py`."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from quaestor._core import passes, transaction
from quaestor._core.checkpoint import Checkpoint, Document, Pace, Source
from quaestor._core.effects import (
    AcquireLease,
    AskForTransactions,
    CheckLease,
    Command,
    Emit,
    Execute,
    Now,
    Sleep,
    Transact,
    Unknown,
)
from quaestor._core.lease import Turn
from quaestor._core.pass_effects import (
    ClaimCheckpoint,
    CommitBatchAgain,
    CountAll,
    CountMatching,
    CountSampled,
    FindCheckpoint,
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
from quaestor._core.transaction import Attempt, Ending, Step
from quaestor._hosts.drive import drive
from quaestor.events import Place
from tests.world import World

_TYPES: list[tuple[type, ...]] = [(type(None),), (int, float), (str,), (bytes,)]


def kind(value: object) -> int:
    """The place of its type in the order of MongoDB."""
    return next(place for place, types in enumerate(_TYPES) if isinstance(value, types))


def order(value: object) -> tuple[int, Any]:
    """Its place among all `_id`s."""
    return kind(value), 0 if value is None else value


class Collection:
    """A collection, and what was done with its documents.

    Attributes:
        documents: By their `_id`s.
        identity: By what the server knows it; b"": it is not there; None: the server does not tell.
        count: How many documents it has, as the server believes; None: as many as it has.
        done: The `_id`s of the documents of each batch whose work is there.
    """

    def __init__(self, ids: Iterable[object] = (), identity: bytes | None = b"one", **fields: object) -> None:
        self.documents: dict[object, Document] = {}
        self.identity = identity
        self.count: int | None = None
        self.done: list[list[object]] = []
        self.insert(*ids, **fields)

    def insert(self, *ids: object, **fields: object) -> None:
        self.documents |= {one: {"_id": one, **fields} for one in ids}

    def source(self, fingerprint: str = "all", **filter: object) -> Source:  # noqa: A002 - PyMongo's word
        """A pass over it."""
        return Source(self, "orders", filter, None, fingerprint)

    def find(self, source: Source) -> list[Document]:
        """All documents of a source, in order."""
        found = [one for one in self.documents.values() if source.filter.items() <= one.items()]
        return sorted(found, key=lambda one: order(one["_id"]))

    @property
    def ids_done(self) -> list[object]:
        """The `_id`s of all documents whose work is there, in the order in which it was done."""
        return [one for batch in self.done for one in batch]


class Aborted(Exception):
    """The server has ended the transaction."""


@dataclass
class Passing:
    """A migration that goes over collections, as its run sees a server; performs the effects of its passes.

    Attributes:
        world: The run.
        turn: The lease that it is under.
        has_transactions: Whether the server has them.
        latency: How long each command takes, in seconds.
        faults: What becomes of a command, by its number: "request lost" or "answer lost".
        endings: What becomes of the commits that come: None: it is done; an ending: it is not; UNKNOWN with True: it is
            done, and the answer is lost.
        lags: How far the replicas are behind, at each look; then not at all.
        asked: All effects, in order.
        undo: Whether it is a rollback.
    """

    world: World
    turn: Turn
    has_transactions: bool = True
    latency: float = 0.0
    faults: dict[int, str] = field(default_factory=dict)
    endings: list[Ending | None] = field(default_factory=list)
    is_done_unknown: bool = False
    lags: list[float] = field(default_factory=list)
    asked: list[PassEffect] = field(default_factory=list)
    undo: bool = False

    def __post_init__(self) -> None:
        self.passes = Passes(Place("shop", "app", "m", 1, 1), self.turn, undo=self.undo)
        self._staged: list[tuple[Collection, list[object]]] | None = None
        self._is_committed = False
        self._commands = 0
        self._where = ""
        self.session: bytes | None = None

    def loop(
        self, source: Source, size: int = 2, work: Callable[[list[Document]], object] = list, pace: Pace | None = None
    ) -> None:
        """The migration's own loop over a pass."""
        loop = Loop(self.passes.over(source, pace or Pace(size), within=self._where))
        while (documents := drive(loop.next(), self.perform)) is not None:
            with self._inside(loop.where):
                self.world.counted(partial(self._work, source, work, documents))

    def each(
        self,
        source: Source,
        size: int = 2,
        work: Callable[[list[Document]], object] = list,
        pace: Pace | None = None,
        *,
        transaction: bool = True,
    ) -> None:
        """The pass whose batches are given to a function."""
        drive(self.flow(source, pace or Pace(size), work, transaction=transaction), self.perform)

    def flow(
        self, source: Source, pace: Pace, work: Callable[[list[Document]], object] = list, *, transaction: bool
    ) -> PassFlow[None]:
        """The flow of that."""
        body = partial(self._work, source, work)
        return self.passes.over(source, pace, body, transaction=transaction, within=self._where)

    @contextlib.contextmanager
    def _inside(self, where: str) -> Iterator[None]:
        """What is begun here is begun inside a batch."""
        before, self._where = self._where, where
        try:
            yield
        finally:
            self._where = before

    def _work(self, source: Source, work: Callable[[list[Document]], object], documents: list[Document]) -> None:
        assert documents, "an empty batch"
        work(documents)
        batch = [one["_id"] for one in documents]
        if self._staged is None:
            source.collection.done.append(batch)
        else:
            self._staged.append((source.collection, batch))

    def perform(self, effect: PassEffect) -> object:
        self.asked.append(effect)
        return self.world.counted(partial(self._settled, effect))

    def _settled(self, effect: PassEffect) -> object:
        if not isinstance(effect, Command):
            return self._answer(effect)
        self.world.server.now += self.latency
        fault = self.faults.get(self._commands)
        self._commands += 1
        answer = None if fault == "request lost" else self._answer(effect)
        return answer if fault is None else Unknown(ConnectionError(fault))

    def _answer(self, effect: PassEffect) -> object:
        server = self.world.server
        match effect:
            case FindPasses(migration, undo):
                kept = {key: one.checkpoint.finished for key, one in server.progress.items()}
                return {key: kept[key] for key in kept if (key.migration, key.undo) == (migration, undo)}
            case ClaimCheckpoint():
                return server.claim(effect)
            case SaveCheckpoint(key, checkpoint, token):
                return server.save(key, checkpoint, token)
            case FindCheckpoint(key, token):
                return server.checkpoint(key, token)
            case IdentifyCollection(source):
                return source.collection.identity
            case FindHighest(source, others):
                found = [one for one in source.collection.documents if kind(one) not in map(kind, others)]
                return tuple(sorted(found, key=order)[-1:])
            case CountAll(source):
                there: Collection = source.collection
                return len(there.documents) if there.count is None else there.count
            case CountMatching(source):
                return len(source.collection.find(source))
            case CountSampled(source, size):
                return len(source.collection.find(source)) * size // len(source.collection.documents)
            case ReadBatch(source, checkpoint, limit):
                bound, start = checkpoint.bounds[0], checkpoint.start
                rest = [one for one in source.collection.find(source) if kind(one["_id"]) == kind(bound)]
                rest = [one for one in rest if order(one["_id"]) <= order(bound)]
                return [one for one in rest if not start or order(one["_id"]) >= order(start[0])][:limit]
            case ReadBeside(read, save):
                return self.perform(read), self.perform(save)
            case HandOver(documents, body, where):
                assert body is not None, "a loop is handed its batches by itself"
                with self._inside(where):
                    return body(documents)
            case TakeSession():
                self.session = self.session or self.world.take_session()
                return tuple(self.world.sessions)
            case TransactBatch():
                return self._attempt(effect)
            case CommitBatchAgain():
                if (ending := self._ending()) is not None:
                    return Attempt(ending, error=Aborted())
                return Attempt(Ending.COMMITTED if self._is_committed else Ending.ABORTED, error=Aborted())
            case ReadLag():
                return self.lags.pop(0) if self.lags else 0.0
            case AskForTransactions():
                return self.has_transactions
            case CheckLease() | Now() | Sleep() | Emit():
                return self.world.answer(effect)

    def _ending(self) -> Ending | None:
        return self.endings.pop(0) if self.endings else None

    def _attempt(self, effect: TransactBatch) -> Attempt[Checkpoint]:
        server, key, token = self.world.server, effect.key, effect.token
        work = partial(passes.batch, key, effect.source, effect.checkpoint, effect.size, effect.body)
        staged: list[tuple[Collection, list[object]]] = []
        done: list[Checkpoint] = []
        unknown: list[Ending] = []
        session = self.session
        assert session is not None, "a transaction without a session"

        def perform(step: Step) -> object:
            match step:
                case Step.BEGIN:
                    self._is_committed = False
                    self.world.open.add(session)
                case Step.EXECUTE:
                    self._staged = staged
                    try:
                        done.append(drive(work(), self.perform))
                    finally:
                        self._staged = None
                case Step.RECORD:
                    return server.checkpoint(key, token) is not None
                case Step.COMMIT:
                    ending = self._ending()
                    if session in server.ended:
                        ending = Ending.EXPIRED
                    if ending is None or (ending is Ending.UNKNOWN and self.is_done_unknown):
                        # Of two that write the same document one goes: so nobody has claimed it meanwhile.
                        assert server.save(key, done[0], token)
                        for collection, batch in staged:
                            collection.done.append(batch)
                        self._is_committed = True
                        self.world.open.discard(session)
                    if ending is not None:
                        unknown.append(ending)
                case Step.ABORT:
                    pass
            return None

        ending = drive(transaction.attempt(), lambda step: self.world.counted(partial(perform, step)))
        if unknown:
            return Attempt(unknown[0], 0.5, Aborted(), done[0])
        return Attempt(ending, 0.5, None, *done)


def begun(world: World, **options: Any) -> Passing:
    """A migration in a run that takes the lease now."""
    lease = world.server.acquire(world.terms, AcquireLease("run", ("m",), ()))
    assert lease.owner == world.terms.owner, "another holds the lease"
    return Passing(world, Turn(lease, world.terms.ttl, world.server.now), **options)


@dataclass
class PassingWorld(World):
    """A run whose migrations are given their passes beside the database."""

    def execute(self, effect: Execute | Transact) -> None:
        passing = Passing(self, effect.turn, undo=not effect.change.applies)
        passing.passes = Passes(effect.place, effect.turn, undo=passing.undo)
        try:
            effect.change.function(self, *([passing] if effect.change.wants_context else []))
        finally:
            self.in_use.discard(passing.session or b"")
