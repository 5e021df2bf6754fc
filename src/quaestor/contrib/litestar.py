"""Litestar: migrate when the application starts, and report when it's ready."""

from collections.abc import Callable, Coroutine
from typing import Any

from litestar.exceptions import ServiceUnavailableException

from quaestor import MigrationRegistry
from quaestor.contrib._asgi import make_check, migrate

__all__ = ["migrate", "ready"]


def ready(
    registry: MigrationRegistry, client: Any, db: str, *, prefix: str = "app"
) -> Callable[[], Coroutine[Any, Any, str]]:
    """Return a handler, or a dependency, for readiness probes: 503 while migrations are pending, then 200.

    Unknown migrations don't count: a newer release may have applied them. Nor do pending ones of phase "post_deploy",
    which run after the rollout. Once nothing else is pending, it reads nothing more. Takes the arguments of `migrate`.
    """
    return make_check(registry, client, db, prefix, ServiceUnavailableException)
