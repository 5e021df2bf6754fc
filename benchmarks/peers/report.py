"""What is measured, how often, and what was seen."""

from dataclasses import dataclass, field

MIGRATIONS = 200
ROUNDS = 7
PROCESSES = 8
SLOW = 20
SLOW_SECONDS = 0.02
ROUNDS_AT_ONCE = 5
ROUNDS_OF_IMPORTS = 15
NOTHING = "Python alone"


@dataclass(frozen=True)
class AtOnce:
    """One round of processes that start at once.

    Attributes:
        ran: How many times a migration ran, in all processes together.
        errors: The names of the errors that processes ended with.
        seconds: From the first start to the last end.
    """

    ran: int
    errors: list[str]
    seconds: float


@dataclass
class Report:
    """What was measured. Where a tool has no figures, it has the reason, in words.

    Attributes:
        ours: The names of quaestor's own; the first is what the others are compared with.
        called: For each tool, how it was called.
        connects: The tools that opened connections of their own in the call.
        versions: For each tool, the versions of Python, itself and its drivers.
        applied: For each tool, the seconds in which it applied all migrations, one for each round.
        idle: Likewise, with nothing to do.
        process: Likewise, from the start of a new process that finds nothing to do to the end of the call.
        imported: The seconds of a new process that imports it, and nothing else; once, where several import the same.
        commands: For each tool, what it sent to apply all, and to find nothing to do.
        at_once: For each tool, the rounds of processes at once.
    """

    ours: list[str]
    called: dict[str, str]
    connects: list[str]
    versions: dict[str, dict[str, str] | str] = field(default_factory=dict)
    applied: dict[str, list[float] | str] = field(default_factory=dict)
    idle: dict[str, list[float] | str] = field(default_factory=dict)
    process: dict[str, list[float] | str] = field(default_factory=dict)
    imported: dict[str, list[float] | str] = field(default_factory=dict)
    commands: dict[str, tuple[int, int] | str] = field(default_factory=dict)
    at_once: dict[str, list[AtOnce] | str] = field(default_factory=dict)
