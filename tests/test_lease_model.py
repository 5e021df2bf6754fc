"""A model of the lease: the real rules and steps, in a world of virtual time.

Instances whose clocks run at 0.9 to 1.1 of the true rate acquire, check and renew the lease on a replica set whose
messages are late or lost. Processes freeze and die. Failovers roll back what no majority has, and the old primary goes
on serving instances that don't know yet.
"""

import contextlib
import heapq
import itertools
import types
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quaestor._core.lease import (
    HeldLease,
    LeaseState,
    Patience,
    Terms,
    acquire,
    check_lease,
    check_stale_lease,
    keep_alive,
)
from quaestor._core.store import OutcomeUnknown
from quaestor.errors import LeaseLostError
from quaestor.events import Event
from quaestor.status import Lease

TTL = 3.0
PATIENCE = 1e6
WHERE = ("db", "app", "r1")
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
POLL = TTL / 10
seeds = st.integers(0, 2**32)  # of everything that happens: a world has too many choices to shrink


@dataclass(frozen=True)
class Doc:
    """The lease document."""

    lease: Lease | None = None
    token: int = 0


Change = Callable[[Doc], Doc | None]
"""Makes the document after a write; None: its filter doesn't match."""


class Primary:
    """A primary: what it has written, and how much of that a majority has."""

    def __init__(self, docs: list[Doc], skew: float) -> None:
        self.docs = docs
        self.durable = len(docs) - 1
        self.is_deposed = False
        self.skew = skew


@dataclass
class World:
    """Virtual time, the servers and the network."""

    seed: int
    faulty: bool = True
    time: float = 0.0
    events: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    instances: list["Instance"] = field(default_factory=list)
    takeovers: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = Random(self.seed)  # noqa: S311 - to repeat it, not to hide
        self._numbers = itertools.count()
        self.primary = Primary([Doc()], 0.0)
        self.is_down = False

    def at(self, delay: float, act: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.time + delay, next(self._numbers), act))

    def run(self, until: float) -> None:
        """Let things happen, and check after each that at most one instance believes that it may record."""
        while self.events and self.events[0][0] <= until:
            self.time, _, act = heapq.heappop(self.events)
            act()
            believers = [one.name for one in self.instances if one.may_record()]
            assert len(believers) <= 1, (self.time, believers)
        self.time = until

    def delay(self) -> float:
        return self.random.uniform(0.001, 0.6 if self.faulty and self.random.random() < 0.1 else 0.02)

    def is_lost(self) -> bool:
        return self.is_down or (self.faulty and self.random.random() < 0.05)

    def fail_over(self) -> None:
        """Elect a primary that has everything a majority has, and perhaps more; its clock may be far off."""
        old = self.primary
        kept = self.random.randint(old.durable, len(old.docs) - 1)
        self.primary = Primary(old.docs[: kept + 1], self.random.choice([-600.0, 0.0, 600.0]))
        old.is_deposed = True
        for one in self.instances:  # some go on with the old one until they learn of it
            self.at(self.random.uniform(0, 2 * TTL), one.find_primary)


class Instance:
    """A process: its clock, its coroutines, and what it believes. It is the store of its own steps."""

    def __init__(self, world: World, name: str, *, works: int, has_heartbeat: bool = True) -> None:
        self.world, self.name, self.has_heartbeat = world, name, has_heartbeat
        self.rate, self.offset = world.random.uniform(0.9, 1.1), world.random.uniform(0, 1e6)
        self.server = world.primary
        self.held: HeldLease | None = None
        self.has_stopped = self.is_dead = False
        self.frozen_until = 0.0
        self.lost: LeaseLostError | None = None
        self.checks: list[float] = []
        world.instances.append(self)
        self.start(self.live(works))

    async def live(self, works: int) -> None:
        """Acquire the lease, check it before and after each piece of work, and release it."""
        terms = Terms(TTL, None, PATIENCE, self.name)
        self.held = held = await acquire(self, terms, Patience(PATIENCE), self.claim)
        if self.has_heartbeat:
            self.start(keep_alive(self, held, self.pause))
        try:
            for _ in range(works):
                await check_stale_lease(self, held)
                await self.sleep(0, TTL)
                await check_lease(self, held)
                assert self.may_record(), "the check doesn't say so"
                self.checks.append(self.world.time)
        except LeaseLostError as error:
            self.lost = error
        self.has_stopped = True
        if self.lost is None:
            with contextlib.suppress(OutcomeUnknown):  # then it expires
                await self.send(lambda doc: replace(doc, lease=None) if self.owns(doc) else None)

    def may_record(self) -> bool:
        """Whether it believes so, whether or not it is frozen right now."""
        return not (self.held is None or self.has_stopped or self.is_dead or self.held.is_stale(self.now()))

    def owns(self, doc: Doc) -> bool:
        return doc.lease is not None and self.held is not None and doc.lease.token == self.held.lease.token

    # The store

    where = WHERE

    def limit(self, _seconds: float | None) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()  # `transmit` has a shorter limit for all

    def now(self) -> float:
        return self.offset + self.rate * self.world.time

    async def sleep(self, shortest: float, longest: float) -> None:
        await suspend(partial(self.wait, self.world.random.uniform(shortest, longest) / self.rate))

    async def pause(self, seconds: float) -> bool:
        await self.sleep(seconds, seconds)
        return self.has_stopped

    def emit(self, event: Event) -> None:
        pass

    async def read_lease(self) -> LeaseState:
        return LeaseState(holder=(await self.send(None)).lease)

    async def read_clock(self) -> datetime:
        await self.send(None)
        return EPOCH + timedelta(seconds=self.world.time + self.server.skew)

    async def claim(self, dead: Lease | None) -> Lease | None:
        skew = self.server.skew

        def change(doc: Doc) -> Doc | None:
            expected = None if dead is None else (dead.token, dead.beat)
            if expected != (None if doc.lease is None else (doc.lease.token, doc.lease.beat)):
                return None
            now = EPOCH + timedelta(seconds=self.world.time + skew)
            lease = Lease(self.name, doc.token + 1, "host", 1, now, 0, TTL, now, ())
            return Doc(lease, doc.token + 1)

        lease = (await self.send(change)).lease
        if lease is None or lease.owner != self.name:
            return None
        if dead is not None:
            self.world.takeovers.append(self.world.time)
        return lease

    async def renew_lease(self, lease: Lease, *_: Any, majority: bool = True) -> bool:
        def change(doc: Doc) -> Doc | None:
            if doc.lease is None or doc.lease.token != lease.token:
                return None
            now = EPOCH + timedelta(seconds=self.world.time)
            return replace(doc, lease=replace(doc.lease, beat=doc.lease.beat + 1, renewed_at=now))

        renewed = (await self.send(change, majority=majority)).lease
        return renewed is not None and renewed.token == lease.token

    # The machine

    async def send(self, change: Change | None, *, majority: bool = True) -> Doc:
        """Send a read (None) or a write, and wait for the answer."""
        doc: Doc | None = await suspend(partial(self.transmit, change, majority))
        if doc is None:
            raise OutcomeUnknown(ConnectionError("no answer"))
        return doc

    def transmit(self, change: Change | None, majority: bool, answer: Callable[[Any], None]) -> None:
        world, server = self.world, self.server
        answered = False

        def reply(doc: Doc | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                answer(doc)

        def execute() -> None:
            if change is None:
                world.at(world.delay(), partial(reply, server.docs[server.durable]))
                return
            if (after := change(server.docs[-1])) is not None:
                server.docs.append(after)
            position, doc = len(server.docs) - 1, server.docs[-1]
            if not majority:
                world.at(world.delay(), partial(reply, doc))
            world.at(world.delay(), partial(confirm, position, doc))

        def confirm(position: int, doc: Doc) -> None:
            if not server.is_deposed:  # otherwise nobody ever confirms it
                server.durable = max(server.durable, position)
                if majority:
                    world.at(world.delay(), partial(reply, doc))

        world.at(TTL / 2, partial(reply, None))  # the limit of the command
        if not world.is_lost():
            # A request may arrive when nobody waits for its answer any more.
            world.at(world.delay() + (world.random.choice([0, 0, TTL]) if world.is_lost() else 0), execute)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.world.at(0, partial(self.step, coroutine, None))

    def wait(self, seconds: float, answer: Callable[[Any], None]) -> None:
        self.world.at(seconds, partial(answer, None))

    def step(self, coroutine: Coroutine[Any, Any, None], value: Any) -> None:
        """Go on with a coroutine, unless the process is dead or frozen."""
        if self.is_dead:
            coroutine.close()
        elif self.world.time < self.frozen_until:
            self.world.at(self.frozen_until - self.world.time, partial(self.step, coroutine, value))
        else:
            try:
                act = coroutine.send(value)
            except StopIteration:
                return
            act(partial(self.step, coroutine))

    def find_primary(self) -> None:
        self.server = self.world.primary

    def freeze(self, seconds: float) -> None:
        self.frozen_until = self.world.time + seconds

    def die(self) -> None:
        self.is_dead = True


@types.coroutine
def suspend(act: Callable[[Callable[[Any], None]], None]) -> Generator[Any, Any, Any]:
    """Suspend the instance until what was started here answers."""
    return (yield act)


@settings(max_examples=1_000)
@given(seeds, st.integers(2, 4))
def test_never_two_believe(seed: int, count: int) -> None:
    """Whatever happens, at most one instance believes that it may record, and all come to an end."""
    world = World(seed)
    for number in range(count):
        Instance(world, f"i{number}", works=3)
    for _ in range(world.random.randint(0, 8)):
        one = world.random.choice(world.instances)
        act = world.random.choice(
            [partial(one.freeze, world.random.uniform(0, 3 * TTL)), one.die, world.fail_over, world.fail_over]
        )
        world.at(world.random.uniform(0, 8 * TTL), act)
    world.run(10 * TTL)
    world.faulty = False
    world.run(100 * TTL)

    assert all(one.has_stopped or one.is_dead for one in world.instances)


@settings(max_examples=200)
@given(seeds, st.floats(0, 3 * TTL))
def test_dead_holder_is_replaced(seed: int, killed_after: float) -> None:
    """If somebody waits, a dead holder is replaced within ttl and a poll interval of the waiter's clock."""
    world = World(seed, faulty=False)
    holder = Instance(world, "holder", works=100)
    world.run(1)
    waiter = Instance(world, "waiter", works=1)
    world.run(1 + POLL + killed_after)
    holder.die()
    died = world.time
    world.run(world.time + 3 * TTL)

    assert waiter.checks
    assert world.takeovers[0] - died <= (TTL + POLL) / 0.9 + 0.1


@pytest.mark.parametrize("seconds", [TTL, 10 * TTL])
@given(seed=seeds)
def test_holder_survives_an_outage(seed: int, seconds: float) -> None:
    """A holder that nobody has replaced goes on after an outage, and records nothing during it."""
    world = World(seed, faulty=False)
    holder = Instance(world, "holder", works=20)
    world.run(1)
    world.is_down = True
    start = world.time
    world.run(start + seconds)
    world.is_down = False
    end = world.time
    world.run(end + 100 * TTL)

    assert holder.lost is None
    assert len(holder.checks) == 20
    assert not [check for check in holder.checks if start + 0.1 < check < end]


@settings(max_examples=100)
@given(seeds)
def test_checks_alone_keep_the_lease(seed: int) -> None:
    """A holder whose heartbeat never gets through goes on, because a majority confirms its checks then."""
    world = World(seed, faulty=False)
    holder = Instance(world, "holder", works=10, has_heartbeat=False)
    world.run(20 * TTL)

    assert len(holder.checks) == 10


@settings(max_examples=100)
@given(seeds)
def test_long_dead_holder_is_replaced_sooner(seed: int) -> None:
    """A holder that died long ago is replaced after half a ttl of watching."""
    world = World(seed, faulty=False)
    holder = Instance(world, "holder", works=100)
    world.run(1)
    holder.die()
    world.run(200)
    Instance(world, "waiter", works=1)
    world.run(300)

    assert TTL / 2 / 1.1 <= world.takeovers[0] - 200 <= (TTL / 2 + POLL) / 0.9 + 0.1
