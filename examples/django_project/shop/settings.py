"""The least that Django needs here."""

import os

QUAESTOR = {"URI": os.environ.get("MONGODB_URI", "mongodb://127.0.0.1/shop")}
TEST_RUNNER = "quaestor.contrib.django.testing.MigratingRunner"

INSTALLED_APPS = ["quaestor.contrib.django", "shop"]
SECRET_KEY = "for this example only"
ROOT_URLCONF = "shop.urls"
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
