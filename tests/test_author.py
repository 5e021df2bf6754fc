"""Who writes records: what the process knows of itself, and the release of the application."""

import os
import pwd
from typing import Any, NoReturn

import pytest
from mongomock import MongoClient

from quaestor import InvalidOptionError, MigrationRegistry, _author
from tests.functions import nothing


@pytest.mark.parametrize("wrong", [7, "", " 1.4", "1\n4", "x" * 201, "\ud800"])
def test_invalid_release(wrong: Any) -> None:
    """A release that can't be stored, or shown in one line, is refused before the first command."""
    db: Any = MongoClient().shop
    with pytest.raises(InvalidOptionError, match="release"):
        MigrationRegistry().run_sync(db, release=wrong)
    with pytest.raises(InvalidOptionError, match="release"):
        MigrationRegistry().run_many_sync([db], release=wrong)


def test_release_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """QUAESTOR_RELEASE is the release of a run that isn't given another one. Empty counts as not set."""
    db: Any = MongoClient().shop
    migrations = MigrationRegistry()
    for name in ("a", "b", "c"):
        migrations.register(name)(nothing)
    monkeypatch.setenv("QUAESTOR_RELEASE", "7")

    migrations.run_sync(db, targets=["a"])
    migrations.run_sync(db, targets=["b"], release="8")
    monkeypatch.setenv("QUAESTOR_RELEASE", "")
    migrations.run_many_sync([db])

    assert [record.get("release") for record in db.app_migrations.find()] == ["7", "8", None]


def test_process_without_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an entry in the password database is recorded by number, an unknown version not at all."""

    def fail(_: object) -> NoReturn:
        raise KeyError

    db: Any = MongoClient().shop
    migrations = MigrationRegistry()
    migrations.register("a")(nothing)
    monkeypatch.setattr(pwd, "getpwuid", fail)
    monkeypatch.setattr(_author, "version", fail)
    _author.find_name.cache_clear()
    _author.find_version.cache_clear()
    try:
        assert migrations.run_sync(db) == ["a"]
    finally:
        _author.find_name.cache_clear()
        _author.find_version.cache_clear()

    (record,) = db.app_migrations.find()
    assert record["user"] == str(os.geteuid())
    assert "quaestor" not in record
