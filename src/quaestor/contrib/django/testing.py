"""Migrated test databases, for Django's test runner and for pytest."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test.runner import DiscoverRunner
from django.test.utils import override_settings
from pymongo.database import Database

from quaestor.contrib.django.configuration import find_connection, get_database, get_registry, read_setting


@contextmanager
def migrated_database(*, keep: bool = False) -> Iterator[Database[dict[str, Any]]]:
    """Make `get_database` return a test database with all migrations applied.

    With a URI that is `test_` and the name of the database, dropped before and after. The test database of
    django-mongodb-backend is Django's affair, and must be there (`setup_databases`).

    Args:
        keep: Keep the test database of the last run, and apply what is pending there.

    Raises:
        Exception: What `MigrationRegistry.run_sync` raises.
    """
    with ExitStack() as stack:
        connection = find_connection()
        if connection.alias is None:
            stack.enter_context(override_settings(QUAESTOR={**settings.QUAESTOR, "DB": f"test_{connection.name}"}))
            connection = find_connection()
            if not keep:
                get_database().client.drop_database(connection.name)
                stack.callback(get_database().client.drop_database, connection.name)
        db = get_database()
        get_registry().run_sync(db, read_setting("PREFIX"), async_db=connection.open_async_database())
        yield db


class MigratingRunner(DiscoverRunner):
    """Django's test runner, with a migrated MongoDB test database: set it as TEST_RUNNER."""

    def setup_databases(self, **kwargs: Any) -> Any:
        """Create Django's test databases, then migrate the one of MongoDB."""
        if self.parallel > 1:  # a process started anew wouldn't know of the test database
            raise ImproperlyConfigured("The tests share one MongoDB test database: leave out --parallel.")
        created = super().setup_databases(**kwargs)
        self._databases = ExitStack()
        self._databases.enter_context(migrated_database(keep=self.keepdb))
        return created

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        """Drop the MongoDB test database, then Django's."""
        self._databases.close()
        super().teardown_databases(old_config, **kwargs)
