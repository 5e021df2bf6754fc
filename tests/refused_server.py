"""A server that imitates MongoDB, but not well enough, is refused: `nox -s "servers(nx-27017)"` runs this on one."""

import pytest

from quaestor import MigrationRegistry, ServerUnsupportedError
from tools.mongod import client_to, server


def test_refused() -> None:
    """The run says what the server does differently; nothing has run, and nothing is recorded."""
    ran: list[str] = []
    registry = MigrationRegistry()
    registry.register("a")(lambda _: ran.append("a"))

    with server() as uri, client_to(uri) as client:
        db = client["quaestor_test_refused"]
        with pytest.raises(ServerUnsupportedError, match=r"\$addToSet differently"):
            registry.run_sync(db, "app")
        assert not ran
        assert db.app_migrations.count_documents({}) == 0
