"""A migration that runs, as its events tell of it, for the live displays."""

from dataclasses import dataclass

from quaestor.cli.marks import shown
from quaestor.cli.pace import Pace, begun
from quaestor.cli.sentences import Clean, duration, reason
from quaestor.events import MigrationProgressed, MigrationRetried, PassStarted, ReplicasAwaited


@dataclass(slots=True)
class Running:
    """A migration that runs. Every change is one assignment, so that another thread may draw it meanwhile.

    Attributes:
        name: As it is shown (str).
        since: When it began (float, seconds of some clock).
        attempt: Which attempt at its transaction, or that of a batch, this is (int, from 1).
        trouble: Why the attempt before came to nothing, or what it waits for, as it is shown (str).
        pace: What it has said about how far it is (Pace); None before it has.
        passes: Whether it goes over a collection (bool): what is attempted again is a batch then.
    """

    name: str
    since: float
    attempt: int = 1
    trouble: str = ""
    pace: Pace | None = None
    passes: bool = False

    def tell(
        self, event: MigrationRetried | MigrationProgressed | PassStarted | ReplicasAwaited, now: float, clean: Clean
    ) -> None:
        """Take an event up."""
        match event:
            case MigrationRetried(attempt=attempt, error=error):
                self.attempt, self.trouble = attempt, "" if error is None else shown(reason(error, clean))
                if not self.passes:
                    self.pace = None
            case ReplicasAwaited(lag=lag):
                self.trouble = f"Waiting for replicas that are {duration(lag)} behind"
            case PassStarted(done=done, whole=whole):
                self.pace, self.passes = begun(done, whole, now), True
                self.attempt, self.trouble = 1, ""
            case MigrationProgressed(done=done, whole=whole):
                self.pace = begun(done, whole, now) if self.pace is None else self.pace.then(done, whole, now)
                if self.passes:
                    self.attempt, self.trouble = 1, ""

    @property
    def attempts(self) -> str:
        """That it is not the first (str); else nothing."""
        return f" ({self.attempt} attempts)" if self.attempt > 1 else ""
