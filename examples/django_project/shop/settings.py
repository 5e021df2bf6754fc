"""The least that Django needs here; the logger of quaestor writes to the terminal."""

import os

MONGODB_URI = os.environ.get("MONGODB_URI", "mongodb://127.0.0.1/shop")

INSTALLED_APPS = ["shop"]
SECRET_KEY = "for this example only"
ROOT_URLCONF = "shop.urls"
ALLOWED_HOSTS = ["127.0.0.1"]
USE_TZ = True
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "loggers": {"quaestor": {"handlers": ["console"], "level": "INFO"}},
}
