"""Many runs and rollbacks against one server in memory, their calls in any order, and all that can happen between."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from quaestor._core.definition import MigrationDefinition
from quaestor._core.lease import renew_interval
from quaestor._core.transaction import LONGEST_TRANSACTION
from quaestor.errors import LeaseLostError, OutageError, TransactionFailedError
from quaestor.events import LeaseNotReleased
from tests.fake_store import TTL, FakeCollection, FakeContext, Process, Server, Task
from tests.functions import nothing, take_context

FAULTS = st.sampled_from(["none"] * 6 + ["request lost", "answer lost"])
PLAIN = {"top": [], "right": ["top"]}
TRANSACTIONAL = {"left": ["top"], "end": ["left", "right"]}
NEEDS: dict[str, list[str]] = PLAIN | TRANSACTIONAL
IDS = [1, 2, 3]


@dataclass(eq=False)
class Instance:
    """A process, and what has happened to it.

    Attributes:
        process: The process.
        undoes: What its rollback undoes; None: it is a run.
        is_disturbed: Whether it was frozen, interrupted, or lost its lease by an unlock.
        lost: How many requests and answers it has lost.
    """

    process: Process
    undoes: str | None
    is_disturbed: bool = False
    lost: int = 0

    @property
    def ready(self) -> list[Task]:
        """Its tasks that can go on; functions last, because they take longer."""
        if self.process.is_ended:
            return []
        return sorted(self.process.ready, key=lambda task: task.call is not None and task.call.is_function)

    def pick(self, number: int) -> Task:
        ready = self.ready
        return ready[number % len(ready)]

    def step(self, fault: str, number: int = 0) -> None:
        task = self.pick(number)
        assert task.call is not None
        is_lost = fault != "none" and task.call.lose is not None and task.call.outcome is None
        self.lost += is_lost
        self.process.step(task, fault if is_lost else None)
        self.check()

    def check(self) -> None:
        process = self.process
        assert process.wrong == [], process.wrong
        if process.is_ended and not process.is_dead:
            holder = process.server.holder
            is_released = holder is None or holder.owner != process.terms.owner
            is_reported = LeaseNotReleased in map(type, process.events) or isinstance(
                process.main.error, KeyboardInterrupt
            )
            assert is_released or is_reported
            # A second Ctrl-C doesn't wait for a renewal in progress.
            assert all(task.is_done for task in process.tasks) or isinstance(process.main.error, KeyboardInterrupt)


def list_errors(error: BaseException) -> tuple[BaseException, ...]:
    return error.exceptions if isinstance(error, BaseExceptionGroup) else (error,)


class Instances(RuleBasedStateMachine):
    """Instances that start, are slow, frozen, killed, interrupted and cut off, in any order."""

    @initialize()
    def begin(self) -> None:
        self.server = Server()
        self.instances: list[Instance] = []
        self.disturbances = 0
        self.collection = FakeCollection(IDS)

    @property
    def alive(self) -> list[Instance]:
        return [instance for instance in self.instances if not instance.process.is_ended]

    def add(self, undoes: str | None = None, concurrency: int = 1) -> Instance:
        async def go_over(db: object, context: FakeContext) -> None:
            await context.loop(self.collection)

        functions = {"right": go_over, "left": take_context}
        known = {
            name: MigrationDefinition(
                name, functions.get(name, nothing), needed, transaction=name in TRANSACTIONAL, rollback=nothing
            )
            for name, needed in NEEDS.items()
        }
        process = Process(self.server, known, f"run {len(self.instances)}")
        instance = Instance(process, undoes)
        self.instances.append(instance)
        process.run(concurrency=concurrency) if undoes is None else process.roll_back(undoes)
        return instance

    @precondition(lambda self: len(self.alive) < 3)
    @rule(concurrency=st.integers(1, 3))
    def run(self, concurrency: int) -> None:
        self.add(concurrency=concurrency)

    @precondition(lambda self: len(self.alive) < 3)
    @rule(name=st.sampled_from(sorted(NEEDS)))
    def roll_back(self, name: str) -> None:
        self.add(name)

    @precondition(lambda self: any(instance.ready for instance in self.alive))
    @rule(data=st.data(), fault=FAULTS, steps=st.integers(min_value=1, max_value=8), number=st.integers(0, 2))
    def step(self, data: st.DataObject, fault: str, steps: int, number: int) -> None:
        instance = data.draw(st.sampled_from([instance for instance in self.alive if instance.ready]))
        instance.step(fault, number)
        for _ in range(steps - 1):
            if instance.ready:
                instance.step("none", number)

    @precondition(lambda self: any(instance.ready for instance in self.alive))
    @rule(data=st.data(), answered=st.booleans(), number=st.integers(0, 2))
    def freeze(self, data: st.DataObject, answered: bool, number: int) -> None:
        """Freeze the holder past its lease, before the server gets its request or before it gets the answer; the others
        watch the lease, take it over, and go on; it wakes.
        """
        if len(self.alive) < 2:
            self.add()
        ready = [instance for instance in self.alive if instance.ready]
        frozen = data.draw(st.sampled_from([one for one in ready if one.process.has_lease] or ready))
        task = frozen.pick(number)
        if answered and task.call is not None:
            frozen.process.answer(task.call)
        for _ in range(4):
            for other in self.alive:
                for _ in range(data.draw(st.integers(0, 12), "steps of another")):
                    if other is not frozen and other.ready:
                        other.step("none")
            self.pass_time(TTL / 2 + 1, [frozen])
        self.disturbances += 1
        if frozen.ready:
            frozen.step("none", number)

    @rule(data=st.data(), seconds=st.sampled_from([0.1, 1.0, 29.0]))
    def wait(self, data: st.DataObject, seconds: float) -> None:
        """Time passes. Some are frozen meanwhile; the others renew their leases."""
        frozen = [instance for instance in self.alive if data.draw(st.booleans(), "frozen")]
        self.disturbances += len(frozen)
        self.pass_time(seconds, frozen)

    def pass_time(self, seconds: float, frozen: list[Instance]) -> None:
        for instance in frozen:
            instance.is_disturbed = True
        while seconds > 0:
            moved = min(seconds, renew_interval(TTL))
            self.server.now += moved
            seconds -= moved
            for instance in self.alive:
                while instance not in frozen and (beats := [one for one in instance.ready if one.key == "heartbeat"]):
                    instance.process.step(beats[0])

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.alive)).process.kill()
        self.disturbances += 1

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def interrupt(self, data: st.DataObject) -> None:
        instance = data.draw(st.sampled_from(self.alive))
        instance.is_disturbed = True
        instance.process.interrupt()
        instance.check()
        self.disturbances += 1

    @rule()
    def unlock(self) -> None:
        for instance in self.alive:
            if self.server.holder is not None and self.server.holder.owner == instance.process.terms.owner:
                instance.is_disturbed, instance.process.is_undisturbed = True, False
        self.server.expire()
        self.disturbances += 1

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        for name, needs in NEEDS.items():
            done, is_recorded = self.server.work.count(name), name in self.server.records
            undone = self.server.undone.count(name)
            if name in TRANSACTIONAL:
                assert done - undone == is_recorded, f"{name} was done {done} and undone {undone} times"
            else:
                assert done or not is_recorded, f"{name} is recorded and was not done"
            # A request that a frozen process sent before it lost the lease can still arrive: nobody can prevent that.
            assert not is_recorded or name in self.server.overtaken or self.server.records.issuperset(needs)
        assert "right" not in self.server.records or set(self.collection.ids_done) == set(IDS)

    @invariant()
    def open_transactions_of_the_dead_are_named(self) -> None:
        for instance in self.instances:
            if instance.process.is_ended:
                assert self.server.sessions | self.server.killed >= instance.process.open

    @invariant()
    def no_error_without_a_cause(self) -> None:
        for instance in self.instances:
            if instance.process.main.error is not None and not instance.is_disturbed and not instance.process.is_dead:
                for error in list_errors(instance.process.main.error):
                    is_slow = isinstance(error, TransactionFailedError) and error.seconds >= LONGEST_TRANSACTION
                    # A request of a frozen process, on its way since it held the lease, can remove a checkpoint.
                    is_late = isinstance(error, LeaseLostError) and error.in_batches and self.disturbances > 0
                    assert is_slow or is_late or (isinstance(error, OutageError) and instance.lost), error

    def teardown(self) -> None:
        """Whatever has happened, those that are left and one more finish, and leave a free lease."""
        if not hasattr(self, "server"):
            return
        self.finish()
        last = self.add(concurrency=3)
        self.finish()
        assert last.process.main.error is None
        assert self.server.records == NEEDS.keys()
        began = self.server.now
        after_all = self.add("end")  # somebody who was killed may hold it
        self.finish()
        assert after_all.process.main.error is None
        assert self.server.holder is None
        assert self.server.now - began <= TTL + 2
        rollbacks = sum(instance.undoes is not None for instance in self.instances)
        for name in PLAIN:
            assert self.server.work.count(name) <= 1 + rollbacks + self.disturbances
            assert self.server.undone.count(name) <= rollbacks + self.disturbances
        self.nothing_is_lost_or_doubled()
        self.no_error_without_a_cause()

    def finish(self) -> None:
        for _ in range(1_000):
            for instance in self.alive:
                while instance.ready:
                    instance.step("none")
            if not self.alive:
                return
            self.pass_time(1, [])
        raise AssertionError("somebody never ends")


Instances.TestCase.settings = settings(max_examples=300, stateful_step_count=40)
TestInterleavings = Instances.TestCase
