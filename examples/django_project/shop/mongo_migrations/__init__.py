"""The migrations of this app in MongoDB. `manage.py quaestor new` adds a module."""
