"""The app of INSTALLED_APPS."""

from django.apps import AppConfig
from django.core.checks import register

from quaestor.contrib.django.checks import check_migrations


class QuaestorConfig(AppConfig):
    """Registers the system check."""

    name = "quaestor.contrib.django"
    label = "quaestor"
    verbose_name = "quaestor"

    def ready(self) -> None:
        """Register the system check for pending migrations."""
        register(check_migrations, "quaestor")
