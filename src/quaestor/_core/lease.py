"""The lease: its rules, and the steps to acquire, check and renew it.

Whoever holds the lease of a database and prefix is the instance that migrates. The lease belongs to an `owner`, an id
made for one run. Its `token` rises with every acquisition, so a holder that was frozen can't be mistaken for its
successor (fencing: Kleppmann, "How to do distributed locking", 2016). Its `beat` rises with every renewal.

No wall clock decides. Whoever waits watches the lease: if owner, token and beat stay the same for the lease's `ttl` on
the waiter's own monotonic clock, the holder is dead, and the waiter replaces it by compare-and-set on these three. A
holder that nobody has replaced continues, however long it couldn't renew. It starts nothing unless a majority confirmed
the lease within 0.4 of a `ttl`, and records nothing unless the server has just confirmed it as well. Nobody can have
watched for half a `ttl` by then, even if the clocks of the two run at rates that differ by a fifth.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import TypeVar

from quaestor._core.plan import StartMark
from quaestor._core.store import OutcomeUnknown, Store, Surroundings
from quaestor.errors import InvalidOptionError, LeaseLostError, LeaseTimeoutError, OutageError, ServerUnsupportedError
from quaestor.events import LONG_WAIT, LeaseAwaited, MajorityAwaited, ServerAwaited
from quaestor.status import Lease

T = TypeVar("T")

LONGEST_TTL = 86_400.0
"""In seconds: a day."""

REPORT_INTERVAL = 30.0
"""The interval between reports of a wait or a long backfill, in seconds."""

PAUSE = (0.05, 0.2)
"""The shortest and the longest pause before a retry, in seconds."""

_SHORTEST_TTL = 1.0  # seconds: a slow network alone would lose a shorter lease
_LONGEST_WAIT = 1e9  # seconds: thirty years
_LONGEST_ATTEMPT = 10.0  # seconds: an interruption may have to wait for its end
_FIRST_POLL = 0.05
_LAST_POLL = 1.0

_CONFIRMED = 0.4  # of a ttl: less than the half that others watch at least, by clocks whose rates differ by a fifth
_SAFE = 0.45  # of a ttl: less than the half that others watch at least, by a clock that runs faster by a tenth
_LONG_DEAD = 60.0  # seconds; the clocks of two servers may differ as much


@dataclass(frozen=True, slots=True)
class Terms:
    """The options of a run for acquiring and holding the lease, in seconds. Making one checks them."""

    ttl: float
    timeout: float | None  # of the wait for another holder
    patience: float  # with an unreachable server, or without a majority
    owner: str = ""  # the id of this holder: of its run, and in a run over many databases of its database too
    is_concurrent: bool = False  # whether several of its migrations may be in progress at once

    def __post_init__(self) -> None:
        check_seconds("lease_ttl", self.ttl, _SHORTEST_TTL, LONGEST_TTL)
        check_seconds("patience", self.patience, 0, _LONGEST_WAIT)
        if self.timeout is not None:
            check_seconds("lease_timeout", self.timeout, 0, _LONGEST_WAIT)


@dataclass(frozen=True, slots=True)
class Author:
    """Who writes records and history."""

    run: str  # the id of the run, rollback or mark; one for all databases of a run over many
    host: str = ""
    user: str | None = None  # of the operating system; None: it has no name
    release: str | None = None  # of the application
    quaestor: str | None = None  # the version of quaestor


@dataclass(frozen=True, slots=True)
class Location:
    """Where a run is, for the lease document. The fields are those of `Lease`."""

    migrations: tuple[str, ...]
    recording: str | None = None
    upcoming: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeaseState:
    """The state of the lease, the start marks beside it, and the label of a protected database."""

    holder: Lease | None = None  # dead or alive
    expired: Lease | None = None  # the last holder, if it lost the lease, and nobody has acquired it since
    marks: Mapping[str, StartMark] = field(default_factory=dict)  # by migration
    protected_as: str | None = None

    def find_interrupted(self) -> dict[str, StartMark]:
        """Find the marks that the holder hasn't written, whose migrations aren't in progress."""
        owner = None if self.holder is None else self.holder.owner
        return {name: mark for name, mark in self.marks.items() if mark.owner != owner}


@dataclass(slots=True)
class Patience:
    """The limits of a run in progress on waiting for an unreachable server or a missing majority."""

    seconds: float  # of each wait
    ends_at: float = float("inf")  # of all waits, on the run's clock: soon after an interruption

    def cut(self, now: float) -> None:
        """Let all waits end soon, because the run is interrupted."""
        self.ends_at = min(self.ends_at, now + LONG_WAIT)


@dataclass(slots=True)
class HeldLease:
    """The lease while this run holds it. Only the server can say that it is lost; a missing answer doesn't."""

    lease: Lease  # as it was acquired
    confirmed_at: float  # when the last renewal that a majority has confirmed was sent, on the run's clock
    patience: Patience
    named: tuple[str, ...]  # the migrations that the lease document names as in progress or next
    is_cut_off: bool = False  # whether the last renewal of the heartbeat failed

    def time_left(self, now: float) -> float:
        """Return for how long nobody else can have acquired it, in seconds."""
        return max(self.confirmed_at + self.lease.ttl * _SAFE - now, 0.1)

    def is_stale(self, now: float) -> bool:
        """Say whether another run may have acquired it, because the process was frozen, say."""
        return now - self.confirmed_at >= self.lease.ttl * _CONFIRMED


@dataclass(slots=True)
class Reminder:
    """Says when to report again. `reported_at` is the last time, in seconds of some clock."""

    reported_at: float

    def is_due(self, now: float) -> bool:
        """Say whether to report now. If so, it counts as reported."""
        due = now - self.reported_at >= REPORT_INTERVAL
        self.reported_at = now if due else self.reported_at
        return due


def renew_interval(ttl: float) -> float:
    """Return how long to wait after a renewal, in seconds: if one fails, there is time for another."""
    return ttl / 3


def check_seconds(option: str, value: object, least: float, most: float) -> None:
    """Check an option that is a number of seconds."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise InvalidOptionError(
            f"{option} must be a number of seconds, from {least:,.12g} to {most:,.12g}, not {value!r:.40}."
        )


async def acquire(
    store: Store,
    terms: Terms,
    patience: Patience,
    claim: Callable[[Lease | None], Awaitable[Lease | None]],
) -> HeldLease:
    """Acquire the lease, waiting for its holder. `claim` is `Store.acquire_lease`, given a dead holder or None."""
    what = "to acquire the lease"
    asked_at = began = store.now()
    lease = await retry_until_known(store, what, partial(claim, None), patience)
    watch = _Watch(store, patience)
    reminder: Reminder | None = None
    unseen: Wait | None = None
    while lease is None:
        holder = (await retry_until_known(store, what, store.read_lease, patience)).holder
        now = store.now()
        left = float("inf") if terms.timeout is None else began + terms.timeout - now
        if holder is not None:
            unseen = None
            if holder.owner == terms.owner:  # the answer to the claim was lost, and it isn't known when it took effect
                return HeldLease(holder, float("-inf"), patience, holder.migrations)
            if left <= 0:
                raise LeaseTimeoutError(now - began, holder)
            if reminder is None or reminder.is_due(now):
                store.emit(LeaseAwaited(*store.where, holder, now - began))
            reminder = reminder or Reminder(began - REPORT_INTERVAL + LONG_WAIT)
        if holder is None or await watch.is_dead(holder, now):
            asked_at = store.now()
            lease = await retry_until_known(store, what, partial(claim, holder), patience)
        if lease is None and holder is None:
            # Somebody has just released it and another one acquired it, or a majority doesn't know the holder yet.
            unseen = unseen or Wait(store, what, patience)
            await unseen.pause(OutcomeUnknown(TimeoutError("The holder of the lease is unknown."), no_majority=True))
        elif lease is None:
            longest, until = watch.next_interval(), min(max(left, 0), watch.time_left(store.now()))
            await store.sleep(min(longest / 2, until), min(longest, until))
    return HeldLease(lease, asked_at, patience, lease.migrations)


class _Watch:
    """A waiting run's watch over the lease, on its own clock."""

    def __init__(self, store: Store, patience: Patience) -> None:
        self._store = store
        self._patience = patience
        self._seen: tuple[str, int, int] | None = None
        self._since = 0.0
        self._ttl = float("inf")
        self._polls = 0
        self._has_read_clock = False

    async def is_dead(self, holder: Lease, now: float) -> bool:
        """Say whether the holder is dead, given its lease as it was just read."""
        seen = (holder.owner, holder.token, holder.beat)
        if seen != self._seen:
            if self._seen is None or seen[:2] != self._seen[:2]:  # another holder, whose run may be a short one
                self._polls = 0
            self._seen, self._since, self._ttl, self._has_read_clock = seen, now, holder.ttl, False
        unchanged = now - self._since
        if unchanged >= holder.ttl or unchanged < holder.ttl / 2 or self._has_read_clock:
            return unchanged >= holder.ttl
        self._has_read_clock = True
        clock = await retry_until_known(self._store, "to read the clock", self._store.read_clock, self._patience)
        return (clock - holder.expires_at).total_seconds() > _LONG_DEAD

    def next_interval(self) -> float:
        """Count a poll, and return the longest wait before the next one, in seconds.

        Short at first, because most runs are short; later longer, so many waiting instances don't load the server.
        """
        polls, self._polls = self._polls, self._polls + 1
        return float(min(_FIRST_POLL * 1.5 ** min(polls, 10), _LAST_POLL, self._ttl / 10))

    def time_left(self, now: float) -> float:
        """Return the time until there is something to decide, in seconds."""
        left = self._since + (self._ttl if self._has_read_clock else self._ttl / 2) - now
        return left if left > 0 else float("inf")


async def prove(store: Store, held: HeldLease, claim: Callable[[Lease | None], Awaitable[Lease | None]]) -> None:
    """Prove that a server that imitates MongoDB excludes a second holder, which some of them don't."""
    lease, send = held.lease, partial(retry_until_known, store, "to check the lease", patience=held.patience)
    forged = replace(lease, token=lease.token + 1)
    differs = {
        "an upsert of a document that exists": await send(partial(claim, None)) is not None,
        "an update that matches the lease": not await send(partial(store.renew_lease, lease)),
        "an update that doesn't match the lease": await send(partial(store.renew_lease, forged)),
    }
    after = (await send(store.read_lease)).holder
    differs["$inc"] = after is None or after.token != lease.token or after.beat <= lease.beat
    differs["$currentDate"] = after is None or not isinstance(after.renewed_at, datetime)
    if commands := [command for command, is_different in differs.items() if is_different]:
        raise ServerUnsupportedError(commands)


async def keep_alive(store: Store, held: HeldLease, sleep: Callable[[float], Awaitable[bool]]) -> None:
    """Renew the lease until it is lost or the run ends. The run's own checks find a loss."""
    pause = renew_interval(held.lease.ttl)
    while not await sleep(pause):
        asked_at = store.now()
        try:
            with store.limit(min(renew_interval(held.lease.ttl), LONG_WAIT)):  # another one must follow soon
                if not await store.renew_lease(held.lease):
                    return
            held.confirmed_at = max(held.confirmed_at, asked_at)
            held.is_cut_off = False
            pause = renew_interval(held.lease.ttl)
        except Exception:  # noqa: BLE001 - whatever it is, another renewal may succeed
            held.is_cut_off = True
            pause = held.lease.ttl / 10


async def check_lease(
    surroundings: Surroundings,
    held: HeldLease,
    locate: Callable[[], Location] | None = None,
    *,
    sessions: tuple[bytes, ...] = (),
) -> None:
    """Check on the server that the lease is held, and renew it.

    A majority has to confirm it only if the heartbeat couldn't have that done recently: with a majority for every
    check, small migrations would take one and a half times as long.

    The lease document gets the location and the sessions as well, and `held` what was named and confirmed.
    """
    asked_at = 0.0
    wait: Wait | None = None

    async def renew(location: Location | None, majority: bool) -> bool:  # noqa: FBT001 - for the loop below
        nonlocal asked_at
        asked_at = surroundings.now()  # when the answered attempt was sent
        return await surroundings.renew_lease(held.lease, location, sessions, majority=majority)

    while True:
        majority = held.is_stale(surroundings.now())
        location = None if locate is None else locate()
        command = partial(renew, location, majority)
        if not await retry_until_known(surroundings, "to check the lease", command, held.patience):
            raise LeaseLostError(None if location is None else location.recording)
        if majority:
            held.confirmed_at = max(held.confirmed_at, asked_at)
        if location is not None:
            held.named = location.migrations
        if not held.is_stale(surroundings.now()):
            return
        if wait is None:  # the process may have been frozen meanwhile
            wait = Wait(surroundings, "to check the lease", held.patience)
        else:
            await wait.pause(
                OutcomeUnknown(TimeoutError("A majority takes longer than the ttl allows."), no_majority=True)
            )


async def check_stale_lease(surroundings: Surroundings, held: HeldLease) -> None:
    """Check the lease if another run may have acquired it since the last confirmation.

    Otherwise that confirmation also counts for the start of the next migration.
    """
    if held.is_stale(surroundings.now()):
        await check_lease(surroundings, held)


async def retry_until_known(
    surroundings: Surroundings,
    what: str,
    command: Callable[[], Awaitable[T]],
    patience: Patience,
    *,
    has_started: bool = True,
    is_slow: bool = False,
) -> T:
    """Send an idempotent command until its outcome is known. `what` is for a message: "to read the records".

    Unless the run has started, it isn't retried when the driver finds no server. A slow command, such as a query of
    the application's documents, has no time limit.
    """
    wait = Wait(surroundings, what, patience)
    while True:
        try:
            # The limit also applies to finding a server, instead of the application's own.
            with surroundings.limit(wait.limit if has_started and not is_slow else None):
                return await command()
        except OutcomeUnknown as unknown:
            if unknown.no_server and not has_started:
                raise unknown.error from unknown.error.__cause__
            lost = unknown
        await wait.pause(lost)


class Wait:
    """A wait for the server, or a majority, which began `waited` seconds ago. It reports itself, and ends."""

    def __init__(self, surroundings: Surroundings, what: str, patience: Patience, waited: float = 0.0) -> None:
        self._surroundings = surroundings
        self._what = what
        self._patience = patience
        self._began = surroundings.now() - waited
        self._reminder = Reminder(self._began - REPORT_INTERVAL + LONG_WAIT)
        self._attempts = 0

    @property
    def limit(self) -> float:
        """The limit of the next attempt, in seconds. It grows, because a majority may be slower than the first one."""
        now, patience = self._surroundings.now(), self._patience
        left = min(self._began + patience.seconds, patience.ends_at) - now
        return min(_LONGEST_ATTEMPT if self._attempts else LONG_WAIT, max(left, 1.0))

    async def pause(self, unknown: OutcomeUnknown) -> None:
        """Pause before the next attempt, or raise an `OutageError` when patience is over."""
        self._attempts += 1
        now = self._surroundings.now()
        waited = now - self._began
        if waited >= self._patience.seconds or now >= self._patience.ends_at:
            raise OutageError(self._what, waited, unknown.no_majority) from unknown.error
        if self._reminder.is_due(now):
            event = MajorityAwaited if unknown.no_majority else ServerAwaited
            self._surroundings.emit(event(*self._surroundings.where, self._what, waited, unknown.error))
        await self._surroundings.sleep(*PAUSE)
