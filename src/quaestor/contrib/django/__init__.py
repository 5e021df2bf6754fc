"""quaestor for Django: `manage.py quaestor`, a system check for pending migrations, and migrated test databases.

Add "quaestor.contrib.django" to INSTALLED_APPS, and name the database in the settings:

    QUAESTOR = {"URI": "mongodb://127.0.0.1:27017/shop"}

Its keys, all optional:

- URI: The MongoDB URI. By default the connection of django-mongodb-backend is used.
- DB: One database, if the URI names none. Without a URI, the alias in DATABASES, if several have that backend.
- PREFIX: The prefix of quaestor's collections. Defaults to "app".
- REGISTRY: Your own registry, as "package.module:attribute". Defaults to `registry` of this package.

The migrations of an app are in its module or package `mongo_migrations`.
"""

from quaestor import MigrationRegistry
from quaestor.contrib.django.configuration import get_database, get_registry

__all__ = ["get_database", "get_registry", "registry"]

registry: MigrationRegistry = MigrationRegistry()
"""The registry for the migrations of all apps. `get_registry` imports them first."""
