"""Migrations that do nothing, of both colours."""


def nothing(db: object) -> None:
    """A `def` migration."""


async def nothing_async(db: object) -> None:
    """An `async def` migration."""
