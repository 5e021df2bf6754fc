"""Chaos: 8 processes migrate at once and are killed and frozen at random, on one node and on three with step-downs.

    python -m tests.faults.chaos                      # the short form: 4 rounds on one node, 2 on three
    python -m tests.faults.chaos --rounds 26          # the long form: 26 rounds on each
    python -m tests.faults.chaos --rounds 26 --write  # likewise, and the figures go to docs/reliability.md
    python -m tests.faults.chaos --nodes 3 --rounds 1 --seed 7   # one round again, with the faults that it had
    python -m tests.faults.chaos --rollbacks          # likewise, and other processes roll back meanwhile

A round is a new database and 20 migrations, half of them in transactions, half of them in a chain. What is killed is
replaced by a new process, and so is what lost its lease while it was frozen, until all have returned. A fault comes
when so many migrations have begun, after a random pause, so that it meets bodies, checks, records and commits alike.
With rollbacks, further processes come in the same way: each undoes a migration, with all that depend on it, and then
runs what is pending. In the end all is applied.
"""

import argparse
import itertools
import queue
import random
import secrets
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias

from quaestor import LeaseTimeoutError, MigrationRegistry
from tests.faults.instance import Instance, Line, Orders
from tests.faults.works import Work, left, prepared
from tools.replica_set import ReplicaSet, replica_set

PROCESSES = 8
MIGRATIONS = 20
DRIVERS = ("pymongo", "pymongo-async", "motor")

Kind: TypeAlias = Literal["kill", "freeze", "step down", "roll back"]

FAULTS: dict[int, dict[Kind, int]] = {1: {"kill": 4, "freeze": 3}, 3: {"kill": 3, "freeze": 2, "step down": 3}}
"""The faults of a round, by the number of nodes."""

ROLLBACKS: dict[Kind, int] = {"roll back": 4}
"""What comes to the faults of a round with rollbacks."""

TTL = {1: 1.0, 3: 5.0}
"""The lease, in seconds, by the number of nodes: on three it has to last while they elect a new primary."""

SHORT, LONG = {1: 4, 3: 2}, {1: 26, 3: 26}
"""How many rounds, by the number of nodes."""

LONGEST_ROUND = 180.0
"""After so many seconds a round counts as hung."""

PAGE = Path("docs/reliability.md")
BEGIN = "<!-- figures: written by tests/faults/chaos.py -->"
END = "<!-- end of figures -->"


@dataclass
class Figures:
    """What happened in some rounds on so many nodes.

    Attributes:
        undone: Migrations that a process saw undone.
        again: Calls of plain functions beyond the first of each. (Not counted with rollbacks.)
        take_overs: From the death, or the freezing, of a holder to the start of the next one, in seconds.
        wrong: All that should not have been, in words.
    """

    nodes: int
    rounds: int = 0
    processes: int = 0
    migrations: int = 0
    transactions: int = 0
    kills: int = 0
    freezes: int = 0
    step_downs: int = 0
    lost: int = 0
    doubled: int = 0
    stuck: int = 0
    errors: int = 0
    not_once: int = 0
    again: int = 0
    undone: int = 0
    take_overs: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def rows(self) -> dict[str, str]:
        """What stands in the table."""
        return {
            "`lease_ttl`": f"{TTL[self.nodes]:g} s",
            "rounds of 8 processes and 20 migrations": f"{self.rounds}",
            "processes started": f"{self.processes}",
            "migrations applied": f"{self.migrations}",
            "processes killed": f"{self.kills}",
            "processes frozen": f"{self.freezes}",
            "step-downs of the primary": f"{self.step_downs}",
            "records lost": f"{self.lost}",
            "records doubled": f"{self.doubled}",
            "leases stuck": f"{self.stuck}",
            "errors in a process that wasn't killed or frozen itself": f"{self.errors}",
            "transactions that didn't take effect exactly once": f"{self.not_once} of {self.transactions}",
            "plain functions called again": f"{self.again} of {self.migrations - self.transactions}",
            "take-overs": f"{len(self.take_overs)}",
            "the longest take-over": f"{max(self.take_overs, default=0):.2f} s",
        }


@dataclass(frozen=True)
class Fault:
    """A fault that will come.

    Attributes:
        begun: When so many migrations have begun.
        pause: So many seconds after that.
        holder: It meets the holder of the lease; else any process.
        seconds: How long a process is frozen.
    """

    kind: Kind
    begun: int
    pause: float
    holder: bool
    seconds: float


class Round:
    """One round.

    Args:
        seed: Of all that is random in it, but for the processes' own time.
        group: The server, or servers.
        figures: Count what happens.
        rollbacks: With processes that roll back.
    """

    def __init__(self, seed: int, group: ReplicaSet, figures: Figures, *, rollbacks: bool = False) -> None:
        self._seed = seed
        self._group = group
        self._figures = figures
        self._random = random.Random(seed)  # noqa: S311 - it is to be repeated
        self._works = _works(self._random)
        kinds = FAULTS[figures.nodes] | (ROLLBACKS if rollbacks else {})
        self._faults = _faults(self._random, kinds, TTL[figures.nodes])
        self._database = f"quaestor_chaos_{secrets.token_hex(4)}"
        self._drivers = itertools.cycle(DRIVERS)
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._stack = ExitStack()
        self._stepping = ThreadPoolExecutor(1)
        self._step_downs: list[Future[None]] = []
        self._begun = 0
        self._ready: list[Instance] = []
        self._running: list[Instance] = []
        self._frozen: set[Instance] = set()
        self._said: dict[Instance, Line] = {}
        self._holder: Instance | None = None
        self._fallen: tuple[Instance, float] | None = None

    def play(self) -> None:
        """Let it happen, and look at what it leaves."""
        deadline = time.monotonic() + LONGEST_ROUND
        with prepared(self._group.uri, self._database, self._works) as db, self._stepping, self._stack:
            for _ in range(PROCESSES):
                self._start()
            while self._running:
                try:
                    happens = self._inbox.get(timeout=max(0, deadline - time.monotonic()))
                except queue.Empty:
                    self._tell(f"it hangs, with {len(self._running)} processes")
                    break
                happens()
            for step_down in self._step_downs:
                step_down.result()
                self._figures.step_downs += 1
            self._examine(db)
        self._figures.rounds += 1

    def _start(self, *before: Sequence[Any]) -> None:
        """Start a process that makes these calls, and then a run."""
        orders = Orders(
            driver=next(self._drivers),
            uri=self._group.uri,
            database=self._database,
            works=self._works,
            calls=[*before, ("run",)],
            lease_ttl=TTL[self._figures.nodes],
        )
        instance = Instance(orders, heard=lambda instance, line: self._inbox.put(lambda: self._hear(instance, line)))
        self._stack.enter_context(instance)
        self._running.append(instance)
        self._figures.processes += 1

    def _hear(self, instance: Instance, line: Line) -> None:
        if self._fallen is not None and self._fallen[0] is instance and line["at"] > self._fallen[1]:
            self._fallen = None if line["is"] != "ended" else self._fallen  # it was frozen, and goes on
        match line["is"]:
            case "ready":
                self._let_go(instance)
            case "RunStarted" | "RollbackStarted" if line["plan"]:
                if self._fallen is not None:
                    self._figures.take_overs.append(line["at"] - self._fallen[1])
                    self._fallen = None
                self._holder = instance
            case "MigrationStarted":
                self._begun += 1
                for fault in self._faults:
                    if fault.begun == self._begun:
                        self._after(fault.pause, partial(self._strike, fault))
            case "MigrationRolledBack":
                self._figures.undone += 1
            case "returned" | "raised":
                self._said[instance] = line
            case "ended":
                self._bury(instance)

    def _let_go(self, instance: Instance) -> None:
        """Let it run: the first ones all at once."""
        self._ready.append(instance)
        if len(self._ready) == PROCESSES:
            for each in self._ready:
                each.go()
        elif len(self._ready) > PROCESSES:
            instance.go()

    def _strike(self, fault: Fault) -> None:
        if fault.kind == "step down":
            self._step_downs.append(self._stepping.submit(self._group.step_down))
            return
        if fault.kind == "roll back":
            applied = self._works[: fault.begun]  # or most of them, for they begin in this order
            self._start(("rollback", [self._random.choice(applied).name]))
            return
        able = [instance for instance in self._running if instance not in self._frozen]
        if not able:
            return
        struck = self._holder if fault.holder and self._holder in able else self._random.choice(able)
        assert struck is not None
        if struck is self._holder:
            self._fallen = (struck, time.monotonic())
        if fault.kind == "kill":
            struck.kill()
        else:
            struck.freeze()
            self._frozen.add(struck)
            self._figures.freezes += 1
            self._after(fault.seconds, struck.thaw)

    def _bury(self, instance: Instance) -> None:
        """See why a process has ended, and start another one if that is due to a fault."""
        self._running.remove(instance)
        status = instance.process.wait()
        said = self._said.get(instance, {"is": "nothing", "traceback": ""})
        if status == -signal.SIGKILL:
            self._figures.kills += 1
        if said["is"] == "returned":
            return
        if status == -signal.SIGKILL or (instance in self._frozen and said.get("type") == "LeaseLostError"):
            self._start()
            return
        if instance not in self._frozen:
            self._figures.errors += 1
        whose = "a process that was frozen" if instance in self._frozen else "a process that nothing was done to"
        self._tell(f"{whose} ended with {status} and said {said['is']}\n{said['traceback']}")

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        timer = threading.Timer(seconds, self._inbox.put, [action])
        timer.daemon = True
        timer.start()

    def _examine(self, db: Any) -> None:
        """Compare what is left with what was promised."""
        figures, state = self._figures, left(db)
        recorded = Counter(state.records)
        names = {work.name for work in self._works}
        lost, doubled = names - recorded.keys(), {name for name, times in recorded.items() if times > 1}
        transactions = {work.name for work in self._works if work.transaction}
        not_once = {
            name
            for name in transactions
            if (state.begun[name] - state.undo_begun[name], state.ended[name] - state.undo_ended[name]) != (1, 1)
        }
        not_done = {name for name in names if not state.ended[name]}
        figures.migrations += len(recorded)
        figures.transactions += len(transactions)
        figures.lost += len(lost)
        figures.doubled += len(doubled)
        figures.not_once += len(not_once)
        figures.again += sum(state.begun[name] - 1 for name in names - transactions)
        for what, which in {
            "lost": lost,
            "doubled": doubled,
            "not once, in transactions": not_once,
            "recorded and not done": not_done,
        }.items():
            if which:
                self._tell(f"{what}: {sorted(which)}")
        self._examine_lease(db)

    def _examine_lease(self, db: Any) -> None:
        """The last run finds nothing to do, and one with something to do finds the way free."""
        ttl = TTL[self._figures.nodes]
        registry = MigrationRegistry()
        for work in self._works:
            registry.register(work.name)(lambda _: None)
        if applied := registry.run_sync(db, "app", lease_ttl=ttl):
            self._tell(f"the last run applied {applied}")
        registry.register("one more")(lambda _: None)
        try:
            registry.run_sync(db, "app", lease_ttl=ttl, lease_timeout=ttl + 5)
        except LeaseTimeoutError as error:
            self._figures.stuck += 1
            self._tell(str(error))
        else:
            if (holder := left(db).holder) is not None:
                self._figures.stuck += 1
                self._tell(f"the lease is {holder}'s and nobody runs")

    def _tell(self, problem: str) -> None:
        self._figures.wrong.append(f"--nodes {self._figures.nodes} --rounds 1 --seed {self._seed}: {problem}")


def _works(rng: random.Random) -> list[Work]:
    """The migrations: half of them in transactions, and half of them (others) each depending on the one before."""
    names = [f"m{number:02}" for number in range(MIGRATIONS)]
    transactions = set(rng.sample(names, MIGRATIONS // 2))
    chain = sorted(rng.sample(names, MIGRATIONS // 2))
    before = dict(itertools.pairwise(chain))
    needed = {name: [previous] for previous, name in before.items()}
    return [
        Work(name, transaction=name in transactions, depends_on=needed.get(name, []), seconds=rng.uniform(0, 0.08))
        for name in names
    ]


def _faults(rng: random.Random, numbers: Mapping[Kind, int], ttl: float) -> list[Fault]:
    kinds = list(Counter(numbers).elements())
    rng.shuffle(kinds)
    moments = sorted(rng.sample(range(1, MIGRATIONS), len(kinds)))
    return [
        Fault(
            kind,
            begun,
            pause=rng.uniform(0, 0.1),
            holder=rng.random() < 0.75,
            seconds=ttl * rng.choice([rng.uniform(0.2, 0.8), rng.uniform(1.2, 2)]),
        )
        for kind, begun in zip(kinds, moments, strict=True)
    ]


def play(nodes: int, rounds: int, seed: int, *, rollbacks: bool = False) -> Figures:
    """Play some rounds, the first one with this seed, the next one with the following, and so on."""
    figures = Figures(nodes)
    with replica_set(nodes=nodes) as group:
        for number in range(seed, seed + rounds):
            began, wrong = time.monotonic(), len(figures.wrong)
            Round(number, group, figures, rollbacks=rollbacks).play()
            problems = figures.wrong[wrong:]
            verdict = f"{len(problems)} problems" if problems else "all as promised"
            seconds = time.monotonic() - began
            print(f"--nodes {nodes} --rounds 1 --seed {number} took {seconds:.0f} s: {verdict}", flush=True)
            for problem in problems:
                print(problem, flush=True)
    return figures


def table(played: Iterable[Figures]) -> str:
    """The figures as Markdown."""
    columns = list(played)
    heads = ["one node" if figures.nodes == 1 else f"{figures.nodes} nodes" for figures in columns]
    rows = [figures.rows() for figures in columns]
    lines = [["", *heads], ["---", *(["---:"] * len(heads))]]
    lines += [[what, *(row[what] for row in rows)] for what in rows[0]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(figures: str) -> None:
    """Put the table into the page, in place of the last one."""
    page = PAGE.read_text() if PAGE.exists() else f"{BEGIN}\n{END}\n"
    before, after = page[: page.index(BEGIN)], page[page.index(END) :]
    PAGE.write_text(f"{before}{BEGIN}\n\n{figures}\n\n{after}")


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, help="on each number of nodes (default: the short form)")
    parser.add_argument("--nodes", type=int, choices=(1, 3), action="append", help="default: first 1, then 3")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the first round")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {PAGE}")
    parser.add_argument("--rollbacks", action="store_true", help="some processes roll back meanwhile")
    given = parser.parse_args()
    if given.write and given.rollbacks:
        parser.error("The figures are of rounds without rollbacks.")
    rounds = SHORT if given.rounds is None else dict.fromkeys(SHORT, given.rounds)
    played = [play(nodes, rounds[nodes], given.seed, rollbacks=given.rollbacks) for nodes in given.nodes or SHORT]
    print(f"{sum(figures.undone for figures in played)} were undone" if given.rollbacks else table(played))
    if given.write:
        write(table(played))
    return 1 if any(figures.wrong for figures in played) else 0


if __name__ == "__main__":
    sys.exit(main())
