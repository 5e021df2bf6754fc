"""Partitions: six workers migrate at once, on three servers of one network, while links and servers fail.

    python -m tests.faults.partitions                      # the short form: one round
    python -m tests.faults.partitions --rounds 100         # the long form: 300 faults
    python -m tests.faults.partitions --rounds 1 --seed 7  # one round again, with the faults that it had
    python -m tests.faults.partitions --clocks             # likewise, and the servers' clocks are ten minutes apart

A round is a new database, 20 migrations, half of them in transactions, and three faults of KINDS, one after the other.
Each comes when so many migrations have started, and lasts up to 12 s, or until the next one is due. A worker whose run
fails is replaced, until all have returned. Then `problems` compares what the workers said with the oplog of the
servers, which has every write in its order. In tools/network.py: how links fail.
"""

import argparse
import itertools
import queue
import random
import secrets
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pymongo.errors

import quaestor
from quaestor import MigrationRegistry
from tests.faults.applications import DRIVERS
from tests.faults.instance import Instance, Line, Orders
from tests.faults.works import Left, Work, left, prepared
from tools.cluster import SERVERS, Cluster, Member, clock_ahead, cluster
from tools.mongod import client_to
from tools.network import DOWN, Link, Network, network

WORKERS = ("w0", "w1", "w2", "w3", "w4", "w5")
MIGRATIONS = 20
FAULTS = 3
LASTING = (1.0, 12.0)
"""Seconds: shorter than the lease, and longer."""

TTL = 5.0
SHORT, LONG = 1, 100
"""How many rounds."""

LONGEST_ROUND = 300.0
"""After so many seconds a round counts as stuck."""

TIMEOUT = 20_000
"""The client's timeoutMS. Without one, a function's own command waits in a black hole until TCP gives up."""


@dataclass(frozen=True)
class Field:
    """Where a fault strikes: the network and its servers, and the primary and the worker that it is meant for."""

    network: Network
    group: Cluster
    primary: Member
    worker: str
    random: random.Random


def _drop(sources: Sequence[str], targets: Sequence[str], field: Field) -> None:
    field.network.shape(DOWN, sources, targets)


def _split(field: Field, *bridge: str) -> None:
    nodes = [node for node in (*SERVERS, *WORKERS) if node not in bridge]
    half = set(field.random.sample(nodes, len(nodes) // 2))
    field.network.partition({*half, *bridge}, {*nodes, *bridge} - half)


def _everywhere(field: Field, link: Link) -> None:
    field.network.shape(link, (*SERVERS, *WORKERS), (*SERVERS, *WORKERS))


KINDS: Mapping[str, Callable[[Field], object]] = {
    "primary cut off from the servers": lambda field: field.network.isolate(field.primary.node, *SERVERS),
    "packets of the primary lost": lambda field: _drop([field.primary.node], (*SERVERS, *WORKERS), field),
    "worker cut off": lambda field: field.network.isolate(field.worker),
    "requests of a worker lost": lambda field: _drop([field.worker], SERVERS, field),
    "replies to a worker lost": lambda field: _drop(SERVERS, [field.worker], field),
    "delay": lambda field: _everywhere(field, Link(delay=field.random.uniform(0.05, 0.4))),
    "loss": lambda field: _everywhere(field, Link(loss=field.random.uniform(0.05, 0.3))),
    "halves": _split,
    "halves with a bridge": lambda field: _split(field, field.random.choice(SERVERS)),
    "everyone alone": lambda field: field.network.partition(),
    "connections forgotten": lambda field: field.network.forget(*field.random.choice([SERVERS, WORKERS])),
    "primary paused": lambda field: field.primary.pause(),
    "primary killed": lambda field: field.primary.kill(),
    "step-down": lambda field: field.group.step_down(),
}
"""The kinds of faults. `_mend` ends each of them."""


def _mend(field: Field) -> None:
    field.network.heal()
    field.primary.resume()
    if field.primary.process.poll() is not None:
        field.primary.launch()
        field.primary.ready()


@dataclass(frozen=True)
class Fault:
    """A fault that will come: when so many migrations have started, for so long.

    Attributes:
        holder: It is meant for the holder of the lease, not for any worker.
    """

    kind: str
    started: int
    seconds: float
    holder: bool


@dataclass
class Figures:
    """What happened in some rounds.

    Attributes:
        again: Plain functions that were started once more.
        longest: From the end of a round's last fault until all workers had returned, in seconds.
        wrong: All that should not have been, in words.
    """

    rounds: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    migrations: int = 0
    runs: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    again: int = 0
    longest: float = 0
    wrong: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """The figures, to be printed."""
        return [
            f"{self.rounds} rounds, {self.faults.total()} faults, {self.migrations} migrations, {self.runs} runs",
            *(f"  {number:4} x {kind}" for kind, number in sorted(self.faults.items())),
            f"runs that failed: {dict(self.errors)}",
            f"plain functions started once more: {self.again}",
            f"longest time from the last fault to the last worker's end: {self.longest:.1f} s",
            f"wrong: {len(self.wrong)}",
        ]


@dataclass(frozen=True)
class Write:
    """A write in the oplog: `begun` and `ended` by this process, or `recorded`."""

    what: str
    name: str
    pid: int | None = None


Said: TypeAlias = Sequence[tuple[int, Line]]
"""What the workers said, with their process ids, in order."""


def problems(works: Iterable[Work], said: Said, writes: Sequence[Write], state: Left) -> Iterator[str]:
    """Compare what was promised with what the workers said, what the oplog has, and what there is in the end."""
    applied: dict[str, list[int]] = {}
    for pid, line in said:
        if line["is"] == "MigrationApplied":
            applied.setdefault(line["name"], []).append(pid)
    for pid, line in said:
        if line["is"] == "returned" and line["names"] != [name for name, pids in applied.items() if pid in pids]:
            yield f"{pid} returned {line['names']} and applied others: {applied}"
    recorded = Counter(state.records)
    for work in works:
        name = work.name
        if len(applied.get(name, ())) > 1:
            yield f"{name} was applied by {applied[name]}"
        if recorded[name] != 1:
            yield f"{name} is recorded {recorded[name]} times"
        if writes.count(Write("recorded", name)) != 1:
            yield f"{name} was recorded {writes.count(Write('recorded', name))} times"
        if work.transaction and (state.begun[name], state.ended[name]) != (1, 1):
            yield f"{name}, in a transaction, took effect {state.begun[name]}, {state.ended[name]} times"
        if not state.ended[name]:
            yield f"{name} is recorded and not done"
    yield from _executors(applied, writes)


def _executors(applied: Mapping[str, Sequence[int]], writes: Sequence[Write]) -> Iterator[str]:
    """No two at once: what one process recorded begins after all that the one before it recorded."""
    begun: dict[tuple[str, int | None], int] = {}
    ended: dict[str, int | None] = {}
    executor, done, last = None, set[int | None](), -1
    for number, write in enumerate(writes):
        if write.what == "begun":
            begun.setdefault((write.name, write.pid), number)
        elif write.what == "ended":
            ended[write.name] = write.pid
        else:
            pid = applied[write.name][0] if write.name in applied else ended.get(write.name)
            if pid != executor and (pid in done or begun.get((write.name, pid), -1) < last):
                yield f"{write.name} was recorded by {pid}, and {executor} was executing"
            done |= {executor} if pid != executor else set()
            executor, last = pid, number


def read_writes(client: Any, database: str) -> list[Write]:
    """The writes to a database that the oplog has, in its order."""
    found: list[Write] = []
    pids: dict[str, int] = {}  # an update has a field only if that changes
    of_database = {"$regex": f"^{database}\\."}
    query = {"$or": [{"ns": of_database}, {"o.applyOps.ns": of_database}]}
    for entry in client.local["oplog.rs"].find(query).sort("$natural", 1):
        for operation in entry["o"].get("applyOps", [entry]):
            o, collection = operation.get("o", {}), operation.get("ns", "").partition(".")[2]
            if collection == "app_migrations" and operation["op"] == "i":
                found.append(Write("recorded", o["name"]))
            elif collection == "work" and operation["op"] == "u":
                name, changed = operation["o2"]["_id"], o["diff"].get("u", {}) | o["diff"].get("i", {})
                pids |= {name: changed["pid"]} if "pid" in changed else {}
                found += [Write(what, name, pids[name]) for what in ("begun", "ended") if what in changed]
    return found


def script(rng: random.Random) -> tuple[list[Work], list[Fault]]:
    """The migrations of a round, and its faults."""
    names = [f"m{number:02}" for number in range(MIGRATIONS)]
    transactions = set(rng.sample(names, MIGRATIONS // 2))
    works = [Work(name, name in transactions, seconds=rng.uniform(0, 0.5)) for name in names]
    moments = sorted(rng.sample(range(1, MIGRATIONS), FAULTS))
    kinds = rng.sample(list(KINDS), FAULTS)
    return works, [
        Fault(kind, moment, rng.uniform(*LASTING), rng.random() < 0.75)
        for kind, moment in zip(kinds, moments, strict=True)
    ]


class Round:
    """One round.

    Args:
        seed: Of all that is random in it, but for the processes' own time.
        group: The servers.
        figures: Count what happens.
    """

    def __init__(self, seed: int, network: Network, group: Cluster, figures: Figures) -> None:
        self._network = network
        self._group = group
        self._figures = figures
        self._random = random.Random(seed)  # noqa: S311 - it is to be repeated
        self._works, self._faults = script(self._random)
        self._database = f"quaestor_partitions_{secrets.token_hex(4)}"
        self._inbox: queue.SimpleQueue[tuple[Instance, Line]] = queue.SimpleQueue()
        self._due = [threading.Event() for _ in (*self._faults, None)]  # the last one: the round has ended
        self._nodes: dict[Instance, str] = {}
        self._drivers = dict(zip(WORKERS, itertools.cycle(DRIVERS), strict=False))
        self._holder: str | None = None
        self._mended = 0.0
        self._said: list[tuple[int, Line]] = []

    def play(self) -> list[str]:
        """Let it happen, and return what is wrong with it."""
        with (
            prepared(self._group.uri, self._database, self._works) as db,
            ThreadPoolExecutor(1) as nemesis,
            ExitStack() as stack,
        ):
            stack.callback(self._end)
            striking = nemesis.submit(self._strike)
            wrong = list(self._run(stack))
            returned = time.monotonic()
            self._end()
            striking.result()
            self._group.wait()
            self._figures.longest = max(self._figures.longest, returned - self._mended)
            wrong += self._examine(db)
        self._figures.rounds += 1
        return wrong

    def _end(self) -> None:
        for due in self._due:
            due.set()

    def _run(self, stack: ExitStack) -> Iterator[str]:
        """Let the workers run until all have returned."""
        deadline = time.monotonic() + LONGEST_ROUND
        running = {self._start(node, stack) for node in WORKERS}
        waiting: list[Instance] = []
        ready = started = 0
        ends: dict[Instance, Line] = {}
        while running:
            try:
                instance, line = self._inbox.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                yield f"stuck, with {len(running)} workers: {[self._nodes[instance] for instance in running]}"
                return
            self._said.append((instance.process.pid, line))
            match line["is"]:
                case "ready":
                    ready += 1
                    waiting.append(instance)
                    while ready >= len(WORKERS) and waiting:
                        waiting.pop().go()
                case "RunStarted" if line["plan"]:
                    self._holder = self._nodes[instance]
                case "MigrationStarted":
                    started += 1
                    for fault, due in zip(self._faults, self._due, strict=False):
                        if fault.started <= started:
                            due.set()
                case "returned" | "raised":
                    ends[instance] = line
                case "ended":
                    running.remove(instance)
                    end = ends.get(instance, {"is": "nothing", "traceback": ""})
                    if end["is"] != "returned":
                        self._figures.errors.update(end.get("each", ["none"]))
                        if not all(_is_known(kind) for kind in end.get("each", ["none"])):
                            yield f"{self._nodes[instance]} said {end['is']}\n{end['traceback']}"
                        running.add(self._start(self._nodes[instance], stack))

    def _start(self, node: str, stack: ExitStack) -> Instance:
        uri = f"{self._group.uri}&timeoutMS={TIMEOUT}"
        orders = Orders(driver=self._drivers[node], uri=uri, database=self._database, works=self._works, lease_ttl=TTL)
        with self._network.inside(node):
            instance = Instance(orders, heard=lambda instance, line: self._inbox.put((instance, line)))
        self._network.adopt(node, instance.process.pid)
        self._nodes[stack.enter_context(instance)] = node
        self._figures.runs += 1
        return instance

    def _strike(self) -> None:
        """In a thread of its own: wait for each fault, let it happen, and end it."""
        for number, fault in enumerate(self._faults):
            self._due[number].wait()
            if self._due[-1].is_set():
                return
            worker = self._holder if fault.holder and self._holder else self._random.choice(WORKERS)
            field = Field(self._network, self._group, self._group.primary(), worker, self._random)
            try:
                KINDS[fault.kind](field)
                self._figures.faults[fault.kind] += 1
                self._due[number + 1].wait(fault.seconds)
            finally:
                _mend(field)
                self._mended = time.monotonic()

    def _examine(self, db: Any) -> list[str]:
        state = left(db)
        with client_to(self._group.uri) as client:
            writes = read_writes(client, self._database)
        for what in ("begun", "ended"):  # it has read all of them
            assert Counter(write.name for write in writes if write.what == what) == Counter(getattr(state, what)), (
                writes
            )
        wrong = list(problems(self._works, self._said, writes, state))
        self._figures.migrations += len(set(state.records))
        self._figures.again += sum(state.begun[work.name] - 1 for work in self._works if not work.transaction)
        registry = MigrationRegistry()
        for name in (*(work.name for work in self._works), "one more"):
            registry.register(name)(lambda _: None)
        try:
            if (applied := registry.run_sync(db, "app", lease_ttl=TTL, lease_timeout=2 * TTL)) != ["one more"]:
                wrong.append(f"the last run applied {applied}")
        except quaestor.LeaseTimeoutError as error:
            wrong.append(f"stuck: {error}")
        return wrong


def _is_known(error: str) -> bool:
    """Say whether a run may end with an error of this name: a public one, of the driver's or of quaestor's."""
    return not error.startswith("_") and (hasattr(pymongo.errors, error) or hasattr(quaestor, error))


def play(rounds: int, seed: int, *, clocks: bool = False) -> Figures:
    """Play some rounds, the first one with this seed, the next one with the following, and so on."""
    figures = Figures()
    prefixes = {"s1": clock_ahead(600), "s2": clock_ahead(-600)} if clocks else {}
    with network([*SERVERS, *WORKERS]) as net, cluster(net, prefixes=prefixes) as group:
        print(f"a {type(net).__name__}, three servers, six workers, {rounds} rounds", flush=True)
        for number in range(seed, seed + rounds):
            began = time.monotonic()
            before = figures.faults.copy()
            wrong = Round(number, net, group, figures).play()
            kinds = ", ".join(figures.faults - before)
            verdict = "; ".join(wrong) or "all as promised"
            print(f"--seed {number} took {time.monotonic() - began:.0f} s: {kinds}: {verdict}", flush=True)
            figures.wrong += [f"--rounds 1 --seed {number}: {problem}" for problem in wrong]
    return figures


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=SHORT)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the first round")
    parser.add_argument("--clocks", action="store_true", help="the servers' clocks are ten minutes apart")
    given = parser.parse_args()
    figures = play(given.rounds, given.seed, clocks=given.clocks)
    print("\n".join(figures.lines()))
    return 1 if figures.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
