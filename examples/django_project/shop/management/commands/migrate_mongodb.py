"""`manage.py migrate_mongodb`: apply the pending migrations of the MongoDB database."""

from django.core.management.base import BaseCommand

from shop.mongodb import database
from shop.mongodb_migrations import registry


class Command(BaseCommand):
    """Run it where a deploy runs Django's own `migrate`, in one place or in many: one migrates, the others wait."""

    help = "Apply the pending migrations of the MongoDB database."

    def handle(self, *_arguments: object, **_options: object) -> None:
        applied = registry.run_sync(database(), "products")
        self.stdout.write(f"Applied {len(applied)}: {', '.join(applied)}" if applied else "Nothing to apply.")
