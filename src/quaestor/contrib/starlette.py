"""Starlette: migrate when the application starts, and report when it's ready."""

from collections.abc import Callable, Coroutine
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse

from quaestor import MigrationRegistry
from quaestor.contrib._asgi import make_check, migrate

__all__ = ["migrate", "ready"]


def ready(
    registry: MigrationRegistry, client: Any, db: str, *, prefix: str = "app"
) -> Callable[[Request], Coroutine[Any, Any, PlainTextResponse]]:
    """Return an endpoint for readiness probes: 503 while migrations are pending, then 200 for good.

    Unknown migrations don't count: a newer release may have applied them. Nor do pending ones of phase "post_deploy",
    which run after the rollout. Takes the arguments of `migrate`.
    """
    check = make_check(registry, client, db, prefix, lambda reason: HTTPException(503, reason))

    async def endpoint(_: Request) -> PlainTextResponse:
        return PlainTextResponse(await check())

    return endpoint
