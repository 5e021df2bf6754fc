"""How far a migration is, how fast it goes, and how long it may still take."""

from dataclasses import dataclass

from quaestor.cli.sentences import amount, speed


@dataclass(frozen=True, slots=True)
class Pace:
    """The last report of a migration, and the first to measure it by: one that was resumed does not begin at 0.

    Attributes:
        done: How much is done (int), in whatever it counts.
        whole: How much there is to do in all (int); None where nobody knows.
        time: When that was so (float, seconds of some clock).
        first_done: What was done at the first report (int), or at the one with which it went back.
        first_time: When that was (float, likewise).
    """

    done: int
    whole: int | None
    time: float
    first_done: int
    first_time: float

    def then(self, done: int, whole: int | None, time: float) -> "Pace":
        """The pace with one more report."""
        if done < self.done:
            return begun(done, whole, time)
        return Pace(done, whole, time, self.first_done, self.first_time)

    def __str__(self) -> str:
        words = [amount(self.done, self.whole)]
        if self.whole:
            words.insert(0, f"{max(0, min(100, 100 * self.done // self.whole))}%")
        if self.done > self.first_done and self.time > self.first_time:
            rate = (self.done - self.first_done) / (self.time - self.first_time)
            words.append(speed(self.done, self.whole, rate))
        return ", ".join(words)


def begun(done: int, whole: int | None, time: float) -> Pace:
    """The pace of a migration with its first report."""
    return Pace(done, whole, time, done, time)
