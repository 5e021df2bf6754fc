"""The lease, lost answers and transactions: their flows, with the answers of a hand and a clock that sleeps move."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest

from quaestor._core import flows, leasing, transaction
from quaestor._core import lease as rules
from quaestor._core.effects import (
    AcquireLease,
    AskForTransactions,
    BreakLease,
    CheckLease,
    CommitAgain,
    Effect,
    Emit,
    EndSessions,
    Execute,
    FindRecord,
    Flow,
    FreeLease,
    KeepLease,
    Now,
    OpenSessions,
    ReadRecords,
    Record,
    ReleaseLease,
    RenewLease,
    Sleep,
    Transact,
    Unknown,
)
from quaestor._core.flows import Scope
from quaestor._core.lease import Terms
from quaestor._core.records import Records
from quaestor._core.transaction import Attempt, Ending, Step
from quaestor._hosts.drive import drive
from quaestor.errors import LeaseLostError, LeaseTimeoutError, TransactionFailedError
from quaestor.events import (
    Event,
    LeaseAwaited,
    LeaseNotReleased,
    MigrationApplied,
    MigrationFailed,
    MigrationRetried,
    RunFinished,
    SessionsNotEnded,
)
from quaestor.status import Lease
from tests.functions import definitions
from tests.world import lease

WHERE = ("shop", "app")
NONE = Records({})
OTHERS = lease("other")
ERROR = ConnectionError("lost")
LOST = Unknown(ERROR)
AWAY = Unknown(ERROR, away=True)
COMMITTED: Attempt[None] = Attempt(Ending.COMMITTED, 0.5)


@dataclass
class Hand:
    """Answers effects.

    Attributes:
        answers: By the kind of effect, one after the other, the last one from then on.
        now: The time, in seconds; sleeps move it.
        asked: All effects, in order.
    """

    answers: dict[type, list[Any]]
    now: float = 1_000.0
    asked: list[Effect] = field(default_factory=list)

    def perform(self, effect: Effect) -> object:
        self.asked.append(effect)
        if isinstance(effect, Sleep):
            self.now += effect.longest
        if isinstance(effect, Now):
            return self.now
        answers = self.answers.get(type(effect), [None])
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def kinds(self, *left_out: type) -> list[str]:
        """The kinds of the effects, but for those that only look at the clock or tell."""
        return [type(effect).__name__ for effect in self.asked if not isinstance(effect, (Now, Emit, *left_out))]

    def events(self, *kinds: type[Event]) -> list[Event]:
        return [effect.event for effect in self.asked if isinstance(effect, Emit) and isinstance(effect.event, kinds)]


def hand(**answers: Sequence[object]) -> Hand:
    """A hand for a run that goes well, but for these answers (by the name of the effect)."""
    usual: dict[type, list[Any]] = {
        ReadRecords: [NONE],
        AcquireLease: [lease()],
        CheckLease: [True],
        Execute: [0.5],
        Record: [True],
        FindRecord: [True],
        AskForTransactions: [True],
        OpenSessions: [()],
        Transact: [COMMITTED],
        CommitAgain: [Attempt(Ending.COMMITTED)],
    }
    named = {cls.__name__: cls for cls in [*usual, EndSessions, RenewLease, FreeLease, ReleaseLease, BreakLease]}
    return Hand(usual | {named[name]: list(given) for name, given in answers.items()})


def run(*names: str, transactional: bool = False, timeout: float | None = None) -> Flow[list[str]]:
    known = definitions({name: [] for name in names or ("a",)}, transactional=transactional)
    return flows.run(Scope(known, *WHERE, {"sync"}, Terms("me", 30, timeout)))


def renewed(looks: int) -> list[Lease]:
    """The lease of another, as it is seen in so many looks while that one is alive."""
    return [replace(OTHERS, expires_at=OTHERS.expires_at + timedelta(seconds=look)) for look in range(looks)]


def test_holder_in_words() -> None:
    """For people: where, since when, and in which migrations, as far as it has said."""
    since = "host (process 7), since 2026-01-01 00:00:00 UTC"
    assert str(lease()) == f"{since}, in migration 'a'"
    assert str(lease(migrations=())) == since
    assert str(lease(migrations=("a", "b"))) == f"{since}, in migrations 'a', 'b'"
    assert str(replace(lease(migrations=("a", "b")), work="rollback")) == f"{since}, undoing migrations 'a', 'b'"
    assert str(replace(lease(), work="mark")) == f"{since}, marking migration 'a'"


# Waiting


def test_waiting_is_announced() -> None:
    """A run that waits says so at once and then every 30 s, with the holder; it takes the lease when it can."""
    by_hand = hand(AcquireLease=[*renewed(100), lease()])

    assert drive(run(), by_hand.perform) == ["a"]

    waited = [event.seconds for event in by_hand.events(LeaseAwaited) if isinstance(event, LeaseAwaited)]
    assert waited == pytest.approx([0, 30, 60, 90], abs=1.5)


def test_pauses_between_looks() -> None:
    """Looks begin 50 ms apart and grow to a second, with jitter; another holder brings them back to the start."""
    by_hand = hand(AcquireLease=[OTHERS] * 20 + [lease("third"), lease()])

    drive(run(), by_hand.perform)

    pauses = [effect for effect in by_hand.asked if isinstance(effect, Sleep)]
    assert [pause.longest for pause in pauses[:3]] == pytest.approx([0.05, 0.075, 0.1125])
    assert [pause.longest for pause in pauses[15:]] == pytest.approx([1, 1, 1, 1, 1, 0.05])
    assert all(pause.shortest == pause.longest / 2 for pause in pauses)
    assert rules.looked_again_within(10**9, 0, 30) == 1


def test_looks_at_a_dead_holder() -> None:
    """When a holder has missed a renewal the looks come closer: its lease is taken soon after its end."""
    assert [rules.looked_again_within(20, unchanged, 30) for unchanged in (0, 19, 20, 29)] == [1, 1, 0.25, 0.25]
    assert rules.looked_again_within(20, 0, 1) == pytest.approx(1 / 3)

    alive = renewed(60)
    by_hand = hand(AcquireLease=[*alive, *[alive[-1]] * 40, lease()])
    drive(run(), by_hand.perform)
    pauses = [effect.longest for effect in by_hand.asked if isinstance(effect, Sleep)]
    assert set(pauses[20:79]) == {1}
    assert set(pauses[81:]) == {0.25}


def test_timeout() -> None:
    """The last look is at the end of the time, not after it; the error has the holder; nothing has run."""
    by_hand = hand(AcquireLease=[OTHERS])

    with pytest.raises(LeaseTimeoutError) as caught:
        drive(run(timeout=0.3), by_hand.perform)

    assert caught.value.holder == OTHERS
    assert caught.value.seconds == pytest.approx(0.3)
    assert by_hand.now == pytest.approx(1_000.3)
    assert set(by_hand.kinds()) == {"ReadRecords", "AcquireLease", "Sleep", "ReleaseLease"}


def test_work_of_another() -> None:
    """A run that finds, under the lease, that another instance has done all of it, does nothing."""
    by_hand = hand(ReadRecords=[NONE, Records(dict.fromkeys({"a"}, ()))])

    assert drive(run(), by_hand.perform) == []
    assert by_hand.kinds() == ["ReadRecords", "AcquireLease", "KeepLease", "ReadRecords", "ReleaseLease"]
    assert by_hand.events(RunFinished) == [RunFinished(*WHERE, ())]


def test_work_of_another_in_part() -> None:
    """The plan is made again from what is recorded by then."""
    by_hand = hand(ReadRecords=[NONE, Records(dict.fromkeys({"a"}, ()))])

    assert drive(run("a", "b"), by_hand.perform) == ["b"]


# Losing it


def test_lost_before_the_record() -> None:
    """No record without the lease, and no further step."""
    by_hand = hand(CheckLease=[False])

    with pytest.raises(LeaseLostError) as caught:
        drive(run("a", "b"), by_hand.perform)

    assert caught.value.migration == "a"
    assert by_hand.kinds()[-3:] == ["Execute", "CheckLease", "ReleaseLease"]
    assert isinstance(by_hand.events(MigrationFailed)[0], MigrationFailed)


def test_lost_after_a_transaction() -> None:
    """What is committed is applied; the next one is not started."""
    by_hand = hand(CheckLease=[False])

    with pytest.raises(LeaseLostError) as caught:
        drive(run("a", "b", transactional=True), by_hand.perform)

    assert caught.value.migration is None
    assert by_hand.kinds().count("Transact") == 1
    assert by_hand.events(MigrationApplied, MigrationFailed) == [MigrationApplied(*WHERE, "a", 1, 2, 0.5)]


def test_frozen_between_record_and_next() -> None:
    """A process that was frozen after a record looks at the lease before it starts anything."""
    by_hand = hand(CheckLease=[True, False])

    def tell(effect: Effect) -> object:
        if isinstance(effect, Emit) and isinstance(effect.event, MigrationApplied):
            by_hand.now += 31
        return by_hand.perform(effect)

    with pytest.raises(LeaseLostError) as caught:
        drive(run("a", "b"), tell)

    assert caught.value.migration is None
    assert by_hand.kinds().count("Execute") == 1


def test_answer_that_comes_late() -> None:
    """What a check was told before the process was frozen does not count: it is asked again."""
    by_hand = hand(CheckLease=[True, False])

    def frozen(effect: Effect) -> object:
        answer = by_hand.perform(effect)
        if isinstance(effect, CheckLease):
            by_hand.now += 31
        return answer

    with pytest.raises(LeaseLostError):
        drive(run(), frozen)
    assert "Record" not in by_hand.kinds()


def test_record_is_there() -> None:
    """A record that somebody else has written ends the run; after a take-over it can be that of a holder that woke."""
    by_hand = hand(Record=[False])
    with pytest.raises(LeaseLostError):
        drive(run("a", "b"), by_hand.perform)

    by_hand = hand(Record=[False, True], AcquireLease=[lease(previous="dead")])
    assert drive(run("a", "b"), by_hand.perform) == ["a", "b"]

    by_hand = hand(Record=[False, True], AcquireLease=[lease(previous="dead")], CheckLease=[True, False])
    with pytest.raises(LeaseLostError):
        drive(run("a", "b"), by_hand.perform)


# Lost answers


@pytest.mark.parametrize("found", [True, False])
def test_outcome_of_the_record_unknown(found: bool) -> None:
    """It is read back by name; if it is not there it is written again, after another look at the lease."""
    by_hand = hand(Record=[LOST, True], FindRecord=[found])

    assert drive(run(), by_hand.perform) == ["a"]

    tail = by_hand.kinds()[by_hand.kinds().index("Record") : -1]
    assert tail == ["Record", "FindRecord"] + (["CheckLease"] if found else ["Sleep", "CheckLease", "Record"])


def test_record_thought_lost_is_there() -> None:
    """A second insert that finds the first one is not a sign of somebody else; the record counts once it is to stay."""
    by_hand = hand(Record=[LOST, False], FindRecord=[False, False, True])
    assert drive(run(), by_hand.perform) == ["a"]


def test_record_of_another_found() -> None:
    """A record that is found after an outcome was unknown may be that of another: the lease tells."""
    by_hand = hand(Record=[LOST], CheckLease=[True, False])
    with pytest.raises(LeaseLostError):
        drive(run(), by_hand.perform)


def test_record_unknown_and_lease_lost() -> None:
    """A record is written again only while the lease lasts."""
    by_hand = hand(Record=[LOST], FindRecord=[False], CheckLease=[True, False])
    with pytest.raises(LeaseLostError) as caught:
        drive(run(), by_hand.perform)
    assert caught.value.migration == "a"


def test_record_unknown_for_long() -> None:
    """After a ttl the driver's own error is given to the caller."""
    by_hand = hand(Record=[LOST], FindRecord=[False])
    with pytest.raises(ConnectionError):
        drive(run(), by_hand.perform)
    assert by_hand.now == pytest.approx(1_030, abs=1)
    assert by_hand.kinds()[-1] == "ReleaseLease"


@pytest.mark.parametrize("command", ["ReadRecords", "AcquireLease", "CheckLease"])
def test_outcome_of_a_command_unknown(command: str) -> None:
    """All other commands are sent again, after a pause."""
    usual = {"ReadRecords": NONE, "AcquireLease": lease(), "CheckLease": True}
    by_hand = hand(**{command: [LOST, LOST, usual[command]]})

    assert drive(run(), by_hand.perform) == ["a"]
    assert by_hand.kinds().count("Sleep") == 2


@pytest.mark.parametrize("command", ["ReadRecords", "AcquireLease", "CheckLease"])
def test_command_that_never_succeeds(command: str) -> None:
    """After a ttl the driver's own error is given to the caller."""
    by_hand = hand(**{command: [LOST]})
    with pytest.raises(ConnectionError):
        drive(run(), by_hand.perform)
    assert by_hand.now == pytest.approx(1_030, abs=1)


def test_no_server() -> None:
    """At the start nobody waits for longer than the driver does; later a server may come back."""
    by_hand = hand(ReadRecords=[AWAY])
    with pytest.raises(ConnectionError):
        drive(run(), by_hand.perform)
    assert by_hand.now == 1_000

    by_hand = hand(AcquireLease=[AWAY, lease()], CheckLease=[AWAY, True])
    assert drive(run(), by_hand.perform) == ["a"]


def test_lease_not_released() -> None:
    """A lease that could not be given back is told, and does not change how the run ends."""
    by_hand = hand(ReleaseLease=[ERROR])
    assert drive(run(), by_hand.perform) == ["a"]
    assert by_hand.events(LeaseNotReleased) == [LeaseNotReleased(*WHERE, 30, ERROR)]

    by_hand = hand(ReleaseLease=[ERROR], CheckLease=[False])
    with pytest.raises(LeaseLostError):
        drive(run(), by_hand.perform)
    assert len(by_hand.events(LeaseNotReleased)) == 1


# Sessions of those who died


def test_sessions_of_the_dead_are_ended() -> None:
    """Before the first step, and then they leave the lock; our own stay."""
    by_hand = hand(OpenSessions=[(b"own",)], AcquireLease=[lease(sessions=(b"dead", b"own"))])

    drive(run(transactional=True), by_hand.perform)

    assert EndSessions((b"dead",)) in by_hand.asked
    checks = [effect for effect in by_hand.asked if isinstance(effect, CheckLease)]
    assert checks == [CheckLease(lease(sessions=(b"dead", b"own")), sessions=(b"own",), ended=(b"dead",))]
    assert by_hand.kinds().index("EndSessions") < by_hand.kinds().index("Transact")


def test_sessions_that_may_not_be_ended() -> None:
    """Where the right is missing it is told, and the run goes on."""
    refused = PermissionError("not authorized")
    by_hand = hand(AcquireLease=[lease(sessions=(b"dead",))], EndSessions=[refused])

    assert drive(run(), by_hand.perform) == ["a"]
    assert by_hand.events(SessionsNotEnded) == [SessionsNotEnded(*WHERE, refused)]


def test_sessions_of_the_dead_stay_named() -> None:
    """A run that fails before it could end them leaves them in the lock, for the next one."""
    by_hand = hand(OpenSessions=[(b"own",)], AcquireLease=[lease(sessions=(b"dead", b"own"))], ReadRecords=[NONE, LOST])
    with pytest.raises(ConnectionError):
        drive(run(transactional=True), by_hand.perform)
    assert not {"EndSessions", "CheckLease"} & set(by_hand.kinds())

    by_hand = hand()
    assert drive(leasing.give_back((b"own",), ()), by_hand.perform) is None
    assert by_hand.asked == [FreeLease((b"own",))]


@pytest.mark.parametrize(("answer", "freed"), [(None, (b"a", b"b")), (ERROR, (b"a",)), (LOST, (b"a",))])
def test_own_transaction_that_was_interrupted(answer: object, freed: tuple[bytes, ...]) -> None:
    """It is ended before the lease is given back; where that fails the lock goes on naming it."""
    by_hand = hand(EndSessions=[answer])
    assert drive(leasing.give_back((b"a", b"b"), (b"b",)), by_hand.perform) is None
    assert by_hand.asked == [EndSessions((b"b",)), FreeLease(freed)]


def test_lease_that_cannot_be_freed() -> None:
    """What made it fail is the answer."""
    assert drive(leasing.give_back((), ()), hand(FreeLease=[LOST]).perform) is ERROR


def test_session_that_is_new() -> None:
    """A session that the lock does not name yet is written there before the first step."""
    by_hand = hand(OpenSessions=[(b"own",)])
    drive(run(transactional=True), by_hand.perform)
    checks = [effect for effect in by_hand.asked if isinstance(effect, CheckLease)]
    assert checks == [CheckLease(lease(), sessions=(b"own",))]
    assert by_hand.kinds().index("CheckLease") < by_hand.kinds().index("Transact")


def test_lease_lost_while_sessions_are_ended() -> None:
    """Ending them may take its time: the lease is checked before the first step."""
    by_hand = hand(AcquireLease=[lease(sessions=(b"dead",))], CheckLease=[False])
    with pytest.raises(LeaseLostError) as caught:
        drive(run(), by_hand.perform)
    assert caught.value.migration is None
    assert "Execute" not in by_hand.kinds()


# Transactions


def test_attempt() -> None:
    """Begin, execute, record, commit; a record that is there, or a failure, is followed by an abort."""
    steps = transaction.attempt()
    assert [steps.send(answer) for answer in (None, None, None)] == [Step.BEGIN, Step.EXECUTE, Step.RECORD]
    assert steps.send(True) is Step.COMMIT
    with pytest.raises(StopIteration) as end:
        steps.send(None)
    assert end.value.value is Ending.COMMITTED

    steps = transaction.attempt()
    assert [steps.send(answer) for answer in (None, None, None, False)][-1] is Step.ABORT
    with pytest.raises(StopIteration) as end:
        steps.send(None)
    assert end.value.value is Ending.RECORDED

    steps = transaction.attempt()
    assert [steps.send(answer) for answer in (None, None)][-1] is Step.EXECUTE
    assert steps.throw(KeyboardInterrupt()) is Step.ABORT
    with pytest.raises(KeyboardInterrupt):
        steps.send(None)

    steps = transaction.attempt()
    assert [steps.send(answer) for answer in (None, None)][-1] is Step.EXECUTE
    steps.close()  # thrown away, it asks for nothing more


@pytest.mark.parametrize("ending", [Ending.ABORTED, Ending.EXPIRED, Ending.RECORDED])
def test_run_again(ending: Ending) -> None:
    """What was aborted is run again, once the lease is checked and no record of it is found."""
    by_hand = hand(Transact=[Attempt(ending, 0.1, ERROR), COMMITTED], FindRecord=[False])

    assert drive(run(transactional=True), by_hand.perform) == ["a"]

    begun = by_hand.kinds().index("Transact")
    assert by_hand.kinds()[begun:-1] == ["Transact", "CheckLease", "FindRecord", "Sleep", "Transact"]
    assert by_hand.events(MigrationRetried) == [MigrationRetried(*WHERE, "a", 1, 1, 2, ERROR)]


def test_recorded_by_a_holder_that_woke() -> None:
    """A migration that is recorded by now is not run again."""
    by_hand = hand(Transact=[Attempt(Ending.ABORTED, 0.1, ERROR)], FindRecord=[True])

    assert drive(run("a", "b", transactional=True), by_hand.perform) == ["a", "b"]
    assert by_hand.kinds().count("Transact") == 2


def test_lost_between_attempts() -> None:
    """Nothing is run again without the lease; nothing is left half done, for it was aborted."""
    by_hand = hand(Transact=[Attempt(Ending.ABORTED, 0.1, ERROR)], CheckLease=[False])
    with pytest.raises(LeaseLostError) as caught:
        drive(run(transactional=True), by_hand.perform)
    assert caught.value.migration is None
    assert by_hand.kinds().count("Transact") == 1


def test_commit_unknown() -> None:
    """A commit whose answer was lost is sent again until it is known; the time told is that of the attempt."""
    unknown: Attempt[None] = Attempt(Ending.UNKNOWN, 0.75, ERROR)
    by_hand = hand(Transact=[unknown], CommitAgain=[unknown, Attempt(Ending.COMMITTED)])

    assert drive(run(transactional=True), by_hand.perform) == ["a"]
    assert by_hand.kinds()[-6:-1] == ["Transact", "Sleep", "CommitAgain", "Sleep", "CommitAgain"]
    assert by_hand.events(MigrationApplied) == [MigrationApplied(*WHERE, "a", 1, 1, 0.75)]


def test_commit_unknown_then_aborted() -> None:
    """A commit that turns out not to have happened: all of it is run again."""
    by_hand = hand(
        Transact=[Attempt(Ending.UNKNOWN, 0.75, ERROR), COMMITTED],
        CommitAgain=[Attempt(Ending.EXPIRED, 0, ERROR)],
        FindRecord=[False],
    )
    assert drive(run(transactional=True), by_hand.perform) == ["a"]
    assert by_hand.kinds().count("Transact") == 2


@pytest.mark.parametrize("found", [True, False])
def test_commit_unknown_for_long(found: bool) -> None:
    """After two minutes the record tells; without one the driver's own error is given to the caller."""
    unknown: Attempt[None] = Attempt(Ending.UNKNOWN, 0.75, ERROR)
    by_hand = hand(Transact=[unknown], CommitAgain=[unknown], FindRecord=[found])

    if found:
        assert drive(run(transactional=True), by_hand.perform) == ["a"]
    else:
        with pytest.raises(ConnectionError):
            drive(run(transactional=True), by_hand.perform)
    assert by_hand.now == pytest.approx(1_000 + transaction.LONGEST, abs=1)


@pytest.mark.parametrize(("ending", "expired"), [(Ending.ABORTED, False), (Ending.EXPIRED, True)])
def test_aborted_for_ever(ending: Ending, expired: bool) -> None:
    """There is an end to trying: by the number of attempts, or by the time that they take."""
    by_hand = hand(Transact=[Attempt(ending, 0.1, ERROR)], FindRecord=[False])
    with pytest.raises(TransactionFailedError) as caught:
        drive(run(transactional=True), by_hand.perform)
    assert caught.value.__cause__ is ERROR
    assert caught.value.expired is expired
    assert caught.value.attempts == by_hand.kinds().count("Transact") <= transaction.MOST_ATTEMPTS

    by_hand = hand(Transact=[Attempt(ending, 70, ERROR)], FindRecord=[False])

    def slow(effect: Effect) -> object:
        if isinstance(effect, Transact):
            by_hand.now += 70
        return by_hand.perform(effect)

    with pytest.raises(TransactionFailedError) as caught:
        drive(run(transactional=True), slow)
    assert (caught.value.attempts, round(caught.value.seconds)) == (2, 140)


# Keeping it


def test_keep() -> None:
    """Renewed every third of a ttl; sooner after a failure; no more once it is lost."""
    by_hand = hand(RenewLease=[True, LOST, True, False])

    drive(leasing.keep(lease(), 30), by_hand.perform)

    assert [effect.longest for effect in by_hand.asked if isinstance(effect, Sleep)] == [10, 10, 3, 10]
    assert by_hand.kinds().count("RenewLease") == 4


def test_unlock() -> None:
    """One command, sent again if its answer is lost."""
    by_hand = hand(BreakLease=[LOST, OTHERS])
    assert drive(flows.unlock(Scope({}, *WHERE, {"sync"}, Terms("me"))), by_hand.perform) == OTHERS


def test_kept_from_the_start() -> None:
    """The lease is kept from the moment it is taken."""
    by_hand = hand()
    drive(run(), by_hand.perform)
    assert by_hand.asked[by_hand.asked.index(AcquireLease("run", ("a",), ())) + 1] == KeepLease(lease())
