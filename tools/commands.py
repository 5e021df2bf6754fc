"""Watching what a driver sends, without the housekeeping of sessions and monitoring."""

from typing import Any

from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent


class Commands(CommandListener):
    """Give it to a client as `event_listeners=[commands]`.

    Attributes:
        sent: The commands as documents, in order.
    """

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    def started(self, event: CommandStartedEvent) -> None:
        """Keep the command."""
        if event.command_name not in {"ping", "endSessions"}:
            self.sent.append(dict(event.command))

    def succeeded(self, event: CommandSucceededEvent) -> None:
        """Nothing to keep."""

    def failed(self, event: CommandFailedEvent) -> None:
        """Nothing to keep."""

    @property
    def names(self) -> list[str]:
        """The first word of each command: find, insert, ..."""
        return [next(iter(command)) for command in self.sent]
